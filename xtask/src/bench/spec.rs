//! SPEC.md: figures that are promised. A rise above one by more than 2 % fails `bench --check`.

use super::report::Figure;
use crate::place::Place;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The page with the table.
pub const PAGE: &str = "SPEC.md";
/// How far a figure may rise above what was promised.
const SLACK: f64 = 1.02;

/// A row: `| name | unit | promised | goal | xen |`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise {
    /// What it is held to.
    pub promised: f64,
    /// What it should come to.
    pub goal: Option<f64>,
}

/// The promises, by figure.
pub fn read(place: &Place) -> Result<BTreeMap<String, Promise>> {
    let text = std::fs::read_to_string(place.root.join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    Ok(parse(&text))
}

/// The rows of a page whose third column is a number.
pub fn parse(text: &str) -> BTreeMap<String, Promise> {
    let number = |cell: &str| cell.replace(',', "").parse::<f64>().ok();
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (name, _, promised, goal) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
        Some((name.to_string(), Promise { promised: number(promised)?, goal: number(goal) }))
    };
    text.lines().filter_map(row).collect()
}

/// The compiler that the figures are of: what stands in backquotes and begins with `rustc`.
fn compiler(text: &str) -> Option<&str> {
    let at = text.find("`rustc ")?;
    text.get(at + 1..)?.split('`').next()
}

/// Whether the page's figures can be held against images of this compiler, as its route describes it.
pub fn holds_for(place: &Place, described: &str) -> Result<bool> {
    let text = std::fs::read_to_string(place.root.join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    let of = compiler(&text).with_context(|| format!("{PAGE} names no `rustc VERSION`"))?;
    Ok(described.starts_with(of))
}

/// What breaks a promise, a line each: a figure above it, or one that a bench of these (`core/`...) did not give.
pub fn broken(promises: &BTreeMap<String, Promise>, figures: &[Figure], benches: &[&str]) -> String {
    let mut text = String::new();
    for (name, Promise { promised, .. }) in promises {
        if !benches.iter().any(|bench| name.starts_with(bench)) {
            continue;
        }
        let _ = match figures.iter().find(|figure| figure.name == *name) {
            None => writeln!(text, "{name}: {PAGE} promises it, and nothing measured it"),
            Some(figure) if figure.value <= promised * SLACK => Ok(()),
            Some(Figure { value, unit, .. }) => {
                let more = (value / promised - 1.0) * 100.0;
                writeln!(text, "{name}: {value:.1} {unit}, {more:.1} % more than the {promised} that {PAGE} promises")
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::report::INSTRUCTIONS;
    use super::*;

    const TABLE: &str = "\
| figure | unit | promised | goal | xen |
|---|---|---|---|---|
| core/a | instructions | 1,000 | 500 | 2000 |
| core/b | instructions | 50 | | |
| blk/c | instructions | 7 | | |
";

    fn of(figures: &[(&str, f64)]) -> String {
        let figures: Vec<Figure> =
            figures.iter().map(|(name, value)| Figure::new(name.to_string(), *value, INSTRUCTIONS)).collect();
        broken(&parse(TABLE), &figures, &["core/"])
    }

    #[test]
    fn the_table_is_read() {
        let promises = parse(TABLE);
        assert_eq!(promises.len(), 3);
        assert_eq!(promises["core/a"], Promise { promised: 1000.0, goal: Some(500.0) });
        assert_eq!(promises["core/b"].goal, None);
    }

    #[test]
    fn the_compiler_is_named() {
        assert_eq!(compiler("of `rustc 1.95.0`; with"), Some("rustc 1.95.0"));
        assert_eq!(compiler("`cargo`"), None);
    }

    #[test]
    fn two_per_cent_are_forgiven_and_more_is_not() {
        assert_eq!(of(&[("core/a", 1020.0), ("core/b", 1.0)]), "");
        assert!(of(&[("core/a", 1021.0), ("core/b", 50.0)]).starts_with("core/a: 1021.0 instructions, 2.1 % more"));
    }

    #[test]
    fn a_figure_that_is_gone_is_a_broken_promise() {
        assert_eq!(of(&[("core/a", 1.0)]).lines().count(), 1);
    }
}
