//! What a guest's run came to, read off the serial line.

use super::Side;
use crate::iso;
use crate::qemu::{Ending, Line};

/// What a run came to. Two runs agree when these are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `SUCCESS`: every property holds.
    Success,
    /// `SKIP reason`: the property cannot be seen on this machine.
    Skip(String),
    /// `FAILURE what`: one does not, and what it was.
    Failure(String),
    /// The initial domain crashed instead, which some guests are there to do.
    Crash,
    /// No verdict: the hypervisor died, the guest hung, or QEMU would not start.
    Nothing(String),
}

impl Verdict {
    /// In a few words, for the table.
    pub fn short(&self) -> String {
        match self {
            Verdict::Success => "success".into(),
            Verdict::Skip(why) => format!("skip: {why}"),
            Verdict::Failure(what) => format!("failure: {what}"),
            Verdict::Crash => "crash".into(),
            Verdict::Nothing(why) => why.clone(),
        }
    }
}

/// The verdict that a line gives, if it does.
fn given(line: &str) -> Option<Verdict> {
    let line = line.trim_end();
    match line.split_once(' ') {
        None if line == "SUCCESS" => Some(Verdict::Success),
        Some(("SKIP", why)) => Some(Verdict::Skip(why.into())),
        Some(("FAILURE", what)) => Some(Verdict::Failure(what.into())),
        _ => None,
    }
}

/// Whether a line is a guest's last: its verdict.
pub fn is_verdict(line: &str) -> bool {
    given(line).is_some()
}

/// Whether this line ends the run on that side.
pub fn is_last(side: Side, line: &str) -> bool {
    let died = match side {
        Side::Xen => crashed(line) || line.contains("Panic on CPU"),
        // QEMU ends.
        Side::Ferrule => false,
        Side::Bochs => iso::said(line).is_some(),
    };
    died || is_verdict(line)
}

/// Xen's words for the death of its initial domain (they are on its console, and in nobody's header).
fn crashed(line: &str) -> bool {
    line.contains("Hardware Dom0 crashed") || line.contains("Domain 0 crashed")
}

/// Reads a finished run.
pub fn read(side: Side, lines: &[Line], ending: Ending) -> Verdict {
    let texts = || lines.iter().map(|line| line.text.as_str());
    if let Some(verdict) = texts().rev().find_map(given) {
        // Ferrule must also end the machine as documented when the guest says so.
        return match (side, ending) {
            (Side::Xen, _) | (_, Ending::PowerOff) => verdict,
            (_, ending) => Verdict::Nothing(format!("{}, then {ending:?}", verdict.short())),
        };
    }
    let crash = match side {
        Side::Xen => texts().any(crashed),
        Side::Ferrule | Side::Bochs => ending == Ending::DomainCrash,
    };
    if crash {
        return Verdict::Crash;
    }
    Verdict::Nothing(match ending {
        Ending::CorePanic => "core panic".into(),
        Ending::TimeOut if texts().any(|line| line.contains("Panic on CPU")) => "Xen panic".into(),
        Ending::TimeOut => "no verdict in time".into(),
        Ending::PowerOff => "ended without a verdict".into(),
        other => format!("{other:?}"),
    })
}

/// The lines in which a guest says what it got and what it wanted.
pub fn details(lines: &str) -> impl Iterator<Item = &str> {
    lines.lines().map(str::trim_end).filter(|line| line.starts_with("  ") && line.contains(": got "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| Line { at: Duration::ZERO, text: text.to_string() }).collect()
    }

    #[test]
    fn the_guest_s_last_line_is_the_verdict() {
        let xen = lines(&["(XEN) hello", "SUCCESS", "(XEN) Hardware Dom0 halted: halting machine"]);
        assert_eq!(read(Side::Xen, &xen, Ending::TimeOut), Verdict::Success);
        assert_eq!(read(Side::Ferrule, &lines(&["SUCCESS\r"]), Ending::PowerOff), Verdict::Success);
        let skip = read(Side::Ferrule, &lines(&["SKIP no second CPU"]), Ending::PowerOff);
        assert_eq!(skip, Verdict::Skip("no second CPU".into()));
        assert!(!is_verdict("SUCCESS of a sort") && !is_verdict("FAILURES: 3") && !is_verdict("the SKIP word"));
    }

    #[test]
    fn a_failure_says_what() {
        let fail = read(Side::Xen, &lines(&["  null: got 0x1, want 0x0", "FAILURE null"]), Ending::TimeOut);
        assert_eq!(fail.short(), "failure: null");
        assert_eq!(details("x\n  null: got 0x1, want 0x0\n  other").count(), 1);
    }

    #[test]
    fn every_other_end_has_its_name() {
        let none = lines(&[]);
        assert_eq!(read(Side::Ferrule, &none, Ending::DomainCrash), Verdict::Crash);
        assert_eq!(read(Side::Xen, &lines(&["(XEN) Hardware Dom0 crashed"]), Ending::TimeOut), Verdict::Crash);
        assert_eq!(read(Side::Ferrule, &none, Ending::CorePanic).short(), "core panic");
        assert_eq!(read(Side::Ferrule, &none, Ending::TimeOut).short(), "no verdict in time");
        assert_eq!(read(Side::Bochs, &none, Ending::DomainCrash), Verdict::Crash);
        // A success that does not end the machine is none.
        assert!(matches!(read(Side::Ferrule, &lines(&["SUCCESS"]), Ending::TimeOut), Verdict::Nothing(_)));
    }
}
