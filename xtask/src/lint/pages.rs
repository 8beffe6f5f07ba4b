//! The book's pages of hypercalls: one for each call of the dispatch table, all in one form, and none for a call that is
//! not there. And tests and links that the book names and that are not there.

use super::limits::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

const DISPATCH: &str = "kernel/core/src/dispatch.rs";
const NUMBERS: &str = "abi/src/hypercall.rs";
const GUESTS: &str = "tests/guests/LIST.toml";
const PAGES: &str = "docs/hypercalls/";
const INDEX: &str = "docs/hypercalls/README.md";
const MAP: &str = "ARCHITECTURE.md";
const SOUNDNESS: &str = "docs/soundness.md";

/// The sections that every page has, in this order; only the third may be left out.
const SECTIONS: [&str; 7] = [
    "Who may call",
    "Arguments",
    "Sub-operations",
    "Returns and errors",
    "Preemption",
    "Differences from Xen 4.17",
    "Exercised by",
];
const OPTIONAL: &str = SECTIONS[2];

/// Holds the pages against the dispatch table, the numbers and the list of guests.
pub fn check_pages(sources: &[Source]) -> Vec<String> {
    let calls = dispatched(text_of(sources, DISPATCH));
    let numbers = numbers(text_of(sources, NUMBERS));
    let listed = text_of(sources, GUESTS).lines();
    let guests: BTreeSet<&str> = listed.filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    let pages: BTreeMap<&str, &str> = sources.iter().filter_map(|(path, text)| Some((page(path)?, &**text))).collect();
    let mut findings = Vec::new();
    if calls.is_empty() {
        findings.push(format!("{DISPATCH}: no row of the form `(Hypercall::NAME, HANDLER)` found"));
    }
    for call in &calls {
        let Some(text) = pages.get(call.as_str()) else {
            findings.push(format!("{PAGES}{call}.md: no page for this call of {DISPATCH}"));
            continue;
        };
        let title = numbers.get(call).map(|number| format!("# {call} ({number})"));
        if title.as_deref() != text.lines().next() {
            findings.push(format!("{PAGES}{call}.md:1: is not `{}`", title.unwrap_or_default()));
        }
        findings.extend(check_sections(text).map(|what| format!("{PAGES}{call}.md: {what}")));
        let unknown = exercised_by(text).into_iter().filter(|guest| !guests.contains(guest));
        findings.extend(unknown.map(|guest| format!("{PAGES}{call}.md: no guest `{guest}` in {GUESTS}")));
        if !text_links(text_of(sources, INDEX)).any(|to| to == format!("{call}.md")) {
            findings.push(format!("{INDEX}: does not name {call}"));
        }
    }
    let gone = pages.keys().filter(|page| !calls.contains(**page));
    findings.extend(gone.map(|page| format!("{PAGES}{page}.md: {DISPATCH} has no such call")));
    findings
}

/// The tests that the page of invariants names, in the last columns of its tables, have to be there: a function or a guest.
/// A table whose last column is headed "where" names none.
pub fn check_tests(sources: &[Source]) -> Vec<String> {
    let guests = guests(sources);
    let is_test = |name: &str| {
        let rust = sources.iter().filter(|(path, _)| path.ends_with(".rs"));
        guests.contains(name) || rust.clone().any(|(_, text)| text.contains(&format!("fn {name}(")))
    };
    let mut findings = Vec::new();
    let mut named = false;
    for (index, line) in text_of(sources, SOUNDNESS).lines().enumerate() {
        let Some(last) = line.strip_suffix(" |").and_then(|line| line.rsplit(" | ").next()) else { continue };
        if last == "noticed by" || last == "where" {
            named = last == "noticed by";
            continue;
        }
        let names = last.split('`').skip(1).step_by(2).filter(|name| named && !is_test(name));
        findings.extend(names.map(|name| format!("{SOUNDNESS}:{}: no test `{name}`", index + 1)));
    }
    findings
}

/// Crates that the map does not show; `folders` are theirs, from the root. Those of examples/ are many, and alike.
pub fn check_map(sources: &[Source], folders: &[String]) -> Vec<String> {
    let map = text_of(sources, MAP);
    let missing = folders.iter().filter(|folder| !folder.starts_with("examples/"));
    missing
        .filter(|folder| !map.contains(&format!("`{folder}/`")))
        .map(|folder| format!("{MAP}: does not show {folder}/"))
        .collect()
}

/// Relative links of pages in Markdown that lead to no file of the project.
pub fn check_links(sources: &[Source], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (index, line) in text.lines().enumerate() {
            for link in text_links(line).filter(|link| !link.contains("://") && !link.starts_with('#')) {
                let file = link.split('#').next().unwrap_or(link);
                if !exists(&beside(path, file)) {
                    findings.push(format!("{path}:{}: `{link}` leads nowhere", index + 1));
                }
            }
        }
    }
    findings
}

/// The names of the conformance guests.
fn guests(sources: &[Source]) -> BTreeSet<&str> {
    let lines = text_of(sources, GUESTS).lines();
    lines.filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect()
}

/// A file's text; nothing where it is not there.
fn text_of<'a>(sources: &'a [Source], wanted: &str) -> &'a str {
    sources.iter().find(|(path, _)| path == wanted).map_or("", |(_, text)| text)
}

/// The call that a file is the page of.
fn page(path: &str) -> Option<&str> {
    path.strip_prefix(PAGES)?.strip_suffix(".md").filter(|name| *name != "README")
}

/// The calls that the dispatch table has, by their names in lower case.
fn dispatched(text: &str) -> BTreeSet<String> {
    let row = |line: &str| Some(line.trim().strip_prefix("(Hypercall::")?.split_once(", ")?.0.to_lowercase());
    text.lines().filter_map(row).collect()
}

/// Name and number of each call, from lines of the form `NAME = 1;`.
fn numbers(text: &str) -> BTreeMap<String, u32> {
    let entry = |line: &str| {
        let (name, number) = line.trim().strip_suffix(';')?.split_once(" = ")?;
        Some((name.to_lowercase(), number.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

/// What is wrong with a page's sections, if anything.
fn check_sections(text: &str) -> Option<String> {
    let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let wanted = SECTIONS.iter().filter(|name| **name != OPTIONAL || found.contains(name));
    let same = wanted.clone().eq(found.iter());
    (!same).then(|| format!("its sections are not {}", wanted.copied().collect::<Vec<_>>().join(", ")))
}

/// The words in backticks of the last section.
fn exercised_by(text: &str) -> Vec<&str> {
    let section = text.split_once("## Exercised by").map_or("", |(_, section)| section);
    section.split('`').skip(1).step_by(2).collect()
}

/// What the links of a text point to.
fn text_links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// A path relative to a file's folder, without `..`.
fn beside(file: &str, link: &str) -> PathBuf {
    let mut path = PathBuf::from(file);
    path.pop();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# sysctl (35)\n## Who may call\n## Arguments\n## Returns and errors\n## Preemption\n\
                        ## Differences from Xen 4.17\n## Exercised by\n`control`.\n";

    fn sources(page: &str, text: &str) -> Vec<Source> {
        [
            (DISPATCH, "            (Hypercall::SYSCTL, h::sysctl::call),\n"),
            (NUMBERS, "        SYSCTL = 35;\n"),
            (GUESTS, "[[guest]]\nname = \"control\"\n"),
            (INDEX, "| 35 | [sysctl](sysctl.md) |"),
            (page, text),
        ]
        .map(|(path, text)| (path.to_string(), text.to_string()))
        .into()
    }

    #[test]
    fn a_page_in_form_passes() {
        assert_eq!(check_pages(&sources("docs/hypercalls/sysctl.md", PAGE)), Vec::<String>::new());
        let with_more = PAGE.replace("## Returns", "## Sub-operations\n## Returns");
        assert_eq!(check_pages(&sources("docs/hypercalls/sysctl.md", &with_more)), Vec::<String>::new());
    }

    #[test]
    fn a_call_without_a_page_and_a_page_without_a_call_are_found() {
        let found = check_pages(&sources("docs/hypercalls/tmem_op.md", PAGE));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("no page") && found[1].contains("no such call"), "{found:?}");
        assert_eq!(check_pages(&[]).len(), 1, "a table that is not found is no success");
    }

    #[test]
    fn what_a_page_must_have_is_missed() {
        let broken = |from: &str, to: &str| {
            let found = check_pages(&sources("docs/hypercalls/sysctl.md", &PAGE.replace(from, to)));
            assert_eq!(found.len(), 1, "{from}: {found:?}");
        };
        broken("(35)", "(36)");
        broken("## Preemption\n", "");
        broken("## Arguments\n", "## Parameters\n");
        broken("`control`", "`nothing`");
        let mut unlisted = sources("docs/hypercalls/sysctl.md", PAGE);
        unlisted.retain(|(path, _)| path != INDEX);
        assert_eq!(check_pages(&unlisted), [format!("{INDEX}: does not name sysctl")]);
    }

    #[test]
    fn tests_that_are_not_there_are_missed() {
        let page = "| a | b | noticed by |\n|---|---|---|\n| x | `y` | `control`, `held`, `lost` |\n\n\
                    | a | where |\n|---|---|\n| z | `z.rs` |\n";
        let mut all = sources(SOUNDNESS, page);
        all.push(("a.rs".into(), "    fn held() {}".into()));
        assert_eq!(check_tests(&all), [format!("{SOUNDNESS}:3: no test `lost`")]);
    }

    #[test]
    fn a_crate_that_is_not_in_the_map_is_missed() {
        let map = [(MAP.to_string(), "| [`abi/`](abi/src/lib.rs) |".to_string())];
        let folders = ["abi", "kernel/core", "examples/guests/first"].map(str::to_string);
        assert_eq!(check_map(&map, &folders), [format!("{MAP}: does not show kernel/core/")]);
    }

    #[test]
    fn links_are_followed() {
        let sources = [("docs/a.md".to_string(), "[b](b.md#top) [c](../c.md) [d](https://d/) [e](#e)\n[f](f/)".into())];
        let there = |path: &Path| path == Path::new("docs/b.md") || path == Path::new("c.md");
        assert_eq!(check_links(&sources, there), ["docs/a.md:2: `f/` leads nowhere"]);
    }
}
