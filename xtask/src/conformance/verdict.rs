//! What a guest's run came to, read off the serial line.

use super::Side;
use crate::qemu::{Ending, Line};

/// The line that ends a guest's work: `VERDICT <name> pass` or `VERDICT <name> fail: <why>`.
pub const VERDICT: &str = "VERDICT ";
/// A line before it, one for each thing looked at: `CHECK <name>: <result>`.
const CHECK: &str = "CHECK ";

/// What a run came to. Two runs agree when these are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The guest printed its verdict: every CHECK line, then pass or fail.
    Said { pass: bool, lines: Vec<String> },
    /// The domain crashed instead, which some guests are there to do.
    Crash,
    /// Neither: the hypervisor died, the guest hung, or QEMU would not start.
    Nothing(String),
}

impl Verdict {
    /// In one word or two, for the table.
    pub fn short(&self) -> String {
        match self {
            Verdict::Said { pass: true, .. } => "pass".into(),
            Verdict::Said { pass: false, lines } => {
                let last = lines.last().map_or("", String::as_str);
                last.split_once(" fail").map_or("fail".into(), |(_, why)| format!("fail{why}"))
            }
            Verdict::Crash => "crash".into(),
            Verdict::Nothing(why) => why.clone(),
        }
    }
}

/// The guest's own text on a line: a hypervisor may have put its message in front of it.
fn spoken(line: &str) -> Option<&str> {
    let at = line.find(VERDICT).or_else(|| line.find(CHECK))?;
    line.get(at..).map(str::trim_end)
}

/// Whether this line ends the run on that side.
pub fn is_last(side: Side, line: &str) -> bool {
    line.contains(VERDICT) || (side == Side::Xen && (crashed(line) || line.contains("Panic on CPU")))
}

/// Xen's words for the death of its initial domain (xen/common/shutdown.c, domain.c).
fn crashed(line: &str) -> bool {
    line.contains("Hardware Dom0 crashed") || line.contains("Domain 0 crashed")
}

/// Reads a finished run.
pub fn read(side: Side, lines: &[Line], ending: Ending) -> Verdict {
    let said: Vec<String> = lines.iter().filter_map(|line| spoken(&line.text)).map(str::to_string).collect();
    let texts = || lines.iter().map(|line| line.text.as_str());
    if said.last().is_some_and(|line| line.starts_with(VERDICT)) {
        let pass = said.last().is_some_and(|line| line.ends_with(" pass"));
        // Ferrule must also end the machine as documented when the guest says so.
        if side == Side::Ferrule && ending != Ending::PowerOff {
            return Verdict::Nothing(format!("verdict given, then {ending:?}"));
        }
        return Verdict::Said { pass, lines: said };
    }
    let crash = match side {
        Side::Xen => texts().any(crashed),
        Side::Ferrule => ending == Ending::DomainCrash,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| Line { at: Duration::ZERO, text: text.to_string() }).collect()
    }

    #[test]
    fn the_guest_s_lines_are_the_verdict_and_the_hypervisor_s_are_not() {
        let xen = lines(&["(XEN) hello", "CHECK a: 1", "(XEN) CHECK b: 2", "VERDICT x pass"]);
        let ferrule = lines(&["ferrule 0.1", "CHECK a: 1", "CHECK b: 2", "VERDICT x pass"]);
        let xen = read(Side::Xen, &xen, Ending::TimeOut);
        let ferrule = read(Side::Ferrule, &ferrule, Ending::PowerOff);
        assert_eq!(xen, ferrule);
        assert_eq!(xen.short(), "pass");
    }

    #[test]
    fn a_differing_check_is_a_difference_though_both_pass() {
        let one = read(Side::Xen, &lines(&["CHECK a: 1", "VERDICT x pass"]), Ending::TimeOut);
        let two = read(Side::Ferrule, &lines(&["CHECK a: 2", "VERDICT x pass"]), Ending::PowerOff);
        assert_ne!(one, two);
    }

    #[test]
    fn a_failure_says_why() {
        let fail = read(Side::Xen, &lines(&["VERDICT x fail: got -22"]), Ending::TimeOut);
        assert_eq!(fail.short(), "fail: got -22");
    }

    #[test]
    fn every_other_end_has_its_name() {
        let none = lines(&[]);
        assert_eq!(read(Side::Ferrule, &none, Ending::DomainCrash), Verdict::Crash);
        assert_eq!(read(Side::Xen, &lines(&["(XEN) Hardware Dom0 crashed"]), Ending::TimeOut), Verdict::Crash);
        assert_eq!(read(Side::Ferrule, &none, Ending::CorePanic).short(), "core panic");
        assert_eq!(read(Side::Ferrule, &none, Ending::TimeOut).short(), "no verdict in time");
        let verdict = lines(&["VERDICT x pass"]);
        assert!(matches!(read(Side::Ferrule, &verdict, Ending::TimeOut), Verdict::Nothing(_)));
    }
}
