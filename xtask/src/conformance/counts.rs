//! Which operations, errors and continuations the guests took: the core counts them (its option `tally`) and prints them
//! at the machine's end. What the book's pages promise and no guest takes is listed in docs/conformance.md, with the reason.

use crate::place::Place;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};

const PAGES: &str = "docs/hypercalls";
const ERRNOS: &str = "abi/src/errno.rs";
const LIST: &str = "docs/conformance.md";
const HEADING: &str = "Taken by no guest";
/// What the core adds to the status of a grant operation that failed.
const STATUS: i64 = -1000;
/// The core's mark of a call that was preempted.
const CONTINUED: i64 = 1;

/// The row of operations that are none.
const OTHER: u32 = u32::MAX;

/// How often each call was made: by number, operation and outcome.
pub type Taken = BTreeMap<(u32, u32, i64), u64>;

/// Adds a machine's counts: lines `(core) tally: CALL OPERATION OUTCOME COUNT`.
pub fn add(taken: &mut Taken, log: &str) {
    let parse = |line: &str| {
        let mut words = line.split_once("tally: ")?.1.split_whitespace();
        let key = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((key, words.next()?.parse::<u64>().ok()?))
    };
    for (key, count) in log.lines().filter_map(parse) {
        *taken.entry(key).or_default() += count;
    }
}

/// What a page of docs/hypercalls says that its call has.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    name: String,
    number: u32,
    operations: BTreeSet<u32>,
    /// Errors, statuses (as `status -3`), and `continued`: by outcome.
    outcomes: BTreeMap<i64, String>,
}

/// All pages, by name.
pub fn pages(place: &Place) -> Result<Vec<Page>> {
    let text = |path: &str| std::fs::read_to_string(place.root.join(path)).with_context(|| format!("reading {path}"));
    let errnos = errnos(&text(ERRNOS)?);
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(place.root.join(PAGES)).context("listing the pages of hypercalls")? {
        pages.extend(page(&std::fs::read_to_string(entry?.path())?, &errnos));
    }
    pages.sort_by_key(|page| page.number);
    Ok(pages)
}

/// Numbers by name, from lines `NAME = 1;`.
fn errnos(text: &str) -> BTreeMap<String, i64> {
    let entry = |line: &str| {
        let (name, number) = line.trim().strip_suffix(';')?.split_once(" = ")?;
        Some((name.to_string(), number.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

fn page(text: &str, errnos: &BTreeMap<String, i64>) -> Option<Page> {
    let (name, number) = text.lines().next()?.strip_prefix("# ")?.strip_suffix(')')?.split_once(" (")?;
    let section = |title: &str| text.split("\n## ").find(|section| section.starts_with(title)).unwrap_or("");
    let rows = |title| section(title).lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let operations = rows("Sub-operations").flat_map(|(first, _)| numbers(first)).collect();
    let answers = format!("{}{}", section("Sub-operations"), section("Returns and errors"));
    let named = answers.split('`').skip(1).step_by(2).filter_map(|word| Some((-errnos.get(word)?, word.to_string())));
    let status = |(first, _): (&str, &str)| first.split_once(' ')?.0.parse::<i64>().ok();
    let statuses = rows("Returns and errors").filter_map(status).map(|n| (STATUS + n, format!("status {n}")));
    let preempted = section("Preemption").lines().nth(1).is_some_and(|line| !line.starts_with("None"));
    let continued = preempted.then(|| (CONTINUED, "continued".to_string()));
    let outcomes = named.chain(statuses).chain(continued).collect();
    Some(Page { name: name.into(), number: number.parse().ok()?, operations, outcomes })
}

/// The numbers of `1`, `3, 4` and `0-3`.
fn numbers(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// What the pages promise and nobody took, as `call` and what: each operation is to succeed once, and each error, status
/// and continuation of a call to be seen once.
pub fn missing(pages: &[Page], taken: &Taken) -> BTreeSet<(String, String)> {
    let mut missing = BTreeSet::new();
    for page in pages {
        let of_it = || taken.keys().filter(|(number, ..)| *number == page.number);
        let mut lacks = |what: String| missing.insert((page.name.clone(), what));
        for op in page.operations.iter().filter(|op| !of_it().any(|(_, took, outcome)| took == *op && *outcome == 0)) {
            lacks(format!("operation {op}"));
        }
        for (_, name) in page.outcomes.iter().filter(|(code, _)| !of_it().any(|(.., outcome)| outcome == *code)) {
            lacks(name.clone());
        }
        if page.operations.is_empty() && of_it().next().is_none() {
            lacks("the call".into());
        }
    }
    missing
}

/// The operations of the pages that nobody asked for, however it went.
pub fn unasked<'a>(pages: &'a [Page], taken: &Taken) -> Vec<(&'a str, u32)> {
    let asked = |number, op| taken.keys().any(|(call, operation, _)| (*call, *operation) == (number, op));
    let of = |page: &'a Page| page.operations.iter().map(move |op| (page, *op));
    let missed = pages.iter().flat_map(of).filter(|(page, op)| !asked(page.number, *op));
    missed.map(|(page, op)| (page.name.as_str(), op)).collect()
}

/// The rows that docs/conformance.md has under its heading: call and what; the third column is the reason.
pub fn listed(page: &str) -> BTreeSet<(String, String)> {
    let section = page.split("\n## ").find(|section| section.starts_with(HEADING)).unwrap_or("");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (call, what) = (cells.next()?.trim_end_matches('`'), cells.next()?);
        let reason = cells.next()?.trim_end_matches('|').trim();
        (!reason.is_empty()).then(|| (call.to_string(), what.to_string()))
    };
    section.lines().filter_map(row).collect()
}

/// Prints a row an operation, and one (`*`) for all numbers that are none: its successes, then how often each error was seen.
pub fn print(pages: &[Page], taken: &Taken) {
    let mut rows: BTreeMap<(u32, u32), BTreeMap<i64, u64>> = BTreeMap::new();
    for ((number, op, outcome), count) in taken {
        let known = pages.iter().any(|page| page.number == *number && page.operations.contains(op));
        *rows.entry((*number, if known { *op } else { OTHER })).or_default().entry(*outcome).or_default() += count;
    }
    for ((number, op), outcomes) in rows {
        let Some(page) = pages.iter().find(|page| page.number == number) else { continue };
        let op = if op != OTHER {
            op.to_string()
        } else if page.operations.is_empty() {
            String::new()
        } else {
            "*".into()
        };
        let name = |outcome| match outcome {
            0 => "ok".into(),
            _ => page.outcomes.get(&outcome).cloned().unwrap_or_else(|| outcome.to_string()),
        };
        let cells: Vec<String> =
            outcomes.iter().rev().map(|(outcome, count)| format!("{} {count}", name(*outcome))).collect();
        println!("{:30} {op:>3}  {}", page.name, cells.join(", "));
    }
}

/// Holds the list of docs/conformance.md against what a whole run took; prints what differs, and says whether it is the same.
pub fn check(place: &Place, pages: &[Page], taken: &Taken) -> Result<bool> {
    let listed = listed(&std::fs::read_to_string(place.root.join(LIST)).unwrap_or_default());
    let missing = missing(pages, taken);
    for (call, what) in missing.difference(&listed) {
        println!("FAIL {call}: {what} is taken by no guest, and {LIST} does not say so");
    }
    for (call, what) in listed.difference(&missing) {
        println!("FAIL {call}: {what} is taken, and {LIST} says that no guest does");
    }
    Ok(missing == listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# grant_table_op (20)\n\n## Sub-operations\n| op | name |\n|---|---|\n| 0-1 | a |\n| 5, 7 | b |\n\n\
        ## Returns and errors\n0. `EFAULT`: no.\n\n| status | when |\n|---|---|\n| -3 `bad_gntref` | x |\n\n## Preemption\nSome.\n";

    fn pages() -> Vec<Page> {
        page(PAGE, &errnos("  EFAULT = 14;\n")).into_iter().collect()
    }

    #[test]
    fn a_page_says_what_its_call_has() {
        let outcomes = [(-1003, "status -3"), (-14, "EFAULT"), (1, "continued")];
        let outcomes = outcomes.map(|(code, name)| (code, name.to_string())).into();
        let wanted = Page { name: "grant_table_op".into(), number: 20, operations: [0, 1, 5, 7].into(), outcomes };
        assert_eq!(pages(), [wanted]);
        let plain = page("# iret (23)\n\n## Preemption\nNone: it is short.\n", &BTreeMap::new()).unwrap();
        assert_eq!((plain.operations.len(), plain.outcomes.len()), (0, 0));
    }

    #[test]
    fn what_no_line_shows_is_missing() {
        let mut taken = Taken::new();
        add(&mut taken, "(core) tally: 20 0 0 3\n(core) tally: 20 0 0 1\n(core) tally: 20 7 -1003 1\nSUCCESS\n");
        assert_eq!(taken.get(&(20, 0, 0)), Some(&4));
        let what: Vec<String> = missing(&pages(), &taken).into_iter().map(|(_, what)| what).collect();
        assert_eq!(what, ["EFAULT", "continued", "operation 1", "operation 5", "operation 7"]);
    }

    #[test]
    fn a_row_without_a_reason_is_none() {
        let page = "# x\n\n## Taken by no guest\n| call | what | why |\n|---|---|---|\n| `iret` | EFAULT | never |\n| `iret` | x | |\n";
        assert_eq!(listed(page), [("iret".to_string(), "EFAULT".to_string())].into());
    }
}
