//! The lines of dom0's log on the serial line (docs/console-protocol.md), and the core's own.

use crate::qemu::Line;

/// One line of dom0's log: `[  1.104] netback: up`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    /// Seconds since the machine started.
    pub at: f64,
    /// The domain, `dom0` or `store`.
    pub who: &'a str,
    /// What it says.
    pub what: &'a str,
}

impl<'a> Entry<'a> {
    /// Reads one line; `None` for any other.
    pub fn parse(line: &'a str) -> Option<Entry<'a>> {
        let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
        let (who, what) = rest.split_once(": ")?;
        let is_name = !who.is_empty() && !who.contains(' ');
        Some(Entry { at: time.trim().parse().ok()?, who, what }).filter(|_| is_name)
    }

    /// What the domain itself printed, if this is a line of its console.
    pub fn console(&self) -> Option<&'a str> {
        self.what.strip_prefix("console: ")
    }
}

/// The last `count` lines about a domain; the core's own where it has none.
pub fn last_about(lines: &[Line], who: &str, count: usize) -> Vec<String> {
    let about = |line: &&Line| Entry::parse(&line.text).is_some_and(|entry| entry.who == who);
    let mut last: Vec<String> = lines.iter().rev().filter(about).take(count).map(|line| line.text.clone()).collect();
    if last.is_empty() {
        last = lines.iter().rev().take(count).map(|line| line.text.clone()).collect();
    }
    last.reverse();
    last
}

/// The number before `unit` in a text: `number_before("d0 starts after 12.5 ms", "ms")` is 12.5.
pub fn number_before(text: &str, unit: &str) -> Option<f64> {
    let words: Vec<&str> = text.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|word| *word == unit)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_log_s_form_is_read_and_nothing_else() {
        let entry = Entry::parse("[  1.104] web: console: up: 3").unwrap();
        assert_eq!((entry.at, entry.who, entry.console()), (1.104, "web", Some("up: 3")));
        for other in ["(core) d0 starts", "[x] a: b", "[  1.0] no colon", "[  1.0] two words: x", "dom0# list"] {
            assert_eq!(Entry::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_last_lines_are_those_of_the_domain_at_fault() {
        let line = |text: String| Line { at: Duration::ZERO, text };
        let mut lines: Vec<Line> = (0..30).map(|n| line(format!("[  0.{n:03}] web: {n}"))).collect();
        lines.push(line("[  1.000] dom0: ready".into()));
        let last = last_about(&lines, "web", 20);
        assert_eq!((last.len(), last[19].as_str()), (20, "[  0.029] web: 29"));
        assert_eq!(last_about(&lines, "nobody", 2)[1], "[  1.000] dom0: ready");
    }

    #[test]
    fn numbers_are_read_by_their_unit() {
        let line = "(core) d0 starts after 1182.530 ms; the core has 5788 KiB";
        assert_eq!((number_before(line, "ms"), number_before(line, "KiB")), (Some(1182.53), Some(5788.0)));
        assert_eq!(number_before("no number ms", "ms"), None);
    }
}
