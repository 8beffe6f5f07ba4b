//! `cargo xtask peer --dmesg`: what Linux says while it boots, on Ferrule and on Debian's Xen.
//!
//! A line on Ferrule that sounds like trouble and that the same guest does not say on Xen is a finding, unless
//! docs/peer.md explains it.

use super::side::{Side, console};
use crate::place::Place;
use crate::run::console::command;
use crate::run::log::Entry;
use crate::run::system::Plan;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;

/// A guest whose log is taken: its example, its name there, and what it says in a whole line when it is up.
struct Guest {
    example: &'static str,
    name: &'static str,
    up: &'static str,
}

const GUESTS: [Guest; 2] = [
    Guest { example: "linux-mini", name: "linux-mini", up: "linux serves" },
    Guest { example: "debian", name: "debian", up: "GNU/Linux 12 debian hvc0" },
];
const VCPUS: [u32; 2] = [1, 2];
/// How long a guest may take to be up, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(600);
/// What trouble sounds like, in lower case.
const TROUBLE: [&str; 14] = [
    "warn",
    "bug",
    "fail",
    "error",
    "hung",
    "blocked for more",
    "unable",
    "mismatch",
    "call trace",
    "unchecked msr",
    "stall",
    "unhandled",
    "timed out",
    "corrupt",
];
/// Differences that may be explained.
const EXPLAINED: usize = 10;
/// The page that does, and its section.
const PAGE: &str = "docs/peer.md";
const SECTION: &str = "Differences";

/// Takes all logs and compares them; `only` is a guest's name.
pub fn command_of(place: &Place, only: Option<&str>) -> Result<()> {
    let page = std::fs::read_to_string(place.root.join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    let explained = explained(&page)?;
    let mut findings = 0;
    for guest in GUESTS.iter().filter(|guest| only.is_none_or(|only| only == guest.name)) {
        for vcpus in VCPUS {
            let [ours, xen] = Side::BOTH.map(|side| take(place, guest, vcpus, side));
            let (ours, xen) = (ours?, xen?);
            let only_here: Vec<&String> = news(&ours, &xen);
            let trouble = only_here.iter().filter(|line| is_trouble(line));
            let (known, new): (Vec<&&String>, Vec<&&String>) =
                trouble.partition(|line| explained.iter().any(|part| shape(line).contains(part)));
            println!(
                "{} {:10} {vcpus} vCPU  {} lines here, {} on Xen; only here {}, only there {}; trouble only here: {}, explained {}",
                if new.is_empty() { "ok  " } else { "FAIL" },
                guest.name,
                ours.len(),
                xen.len(),
                only_here.len(),
                news(&xen, &ours).len(),
                new.len() + known.len(),
                known.len(),
            );
            new.iter().for_each(|line| println!("       | {line}"));
            findings += new.len();
            let texts =
                [only_here, news(&xen, &ours)].map(|lines| lines.iter().map(|line| format!("{line}\n")).collect());
            let [here, there]: [String; 2] = texts;
            let to = place.logs("dmesg")?.join(format!("{}-{vcpus}.differences", guest.name));
            std::fs::write(&to, format!("only on Ferrule:\n{here}\nonly on Xen:\n{there}"))?;
        }
    }
    println!("logs and differences: {}", place.show(&place.logs("dmesg")?));
    match findings {
        0 => Ok(()),
        _ => bail!("{findings} lines of trouble are on Ferrule only, and {PAGE} explains none of them"),
    }
}

/// Boots a guest on one side, its disk as it was afterwards; the lines of its kernel.
fn take(place: &Place, guest: &Guest, vcpus: u32, side: Side) -> Result<Vec<String>> {
    let logs = place.logs("dmesg")?;
    let example = place.root.join(format!("examples/{}.toml", guest.example));
    let text = std::fs::read_to_string(&example).with_context(|| format!("reading {}", example.display()))?;
    let config = logs.join(format!("{}.toml", guest.name));
    // The whole log on the console, too.
    let text = text.replace(" quiet\"", "\"").replace("cmdline = \"", "cmdline = \"ignore_loglevel ");
    std::fs::write(&config, text.replace("vcpus = 2", &format!("vcpus = {vcpus}")))?;
    let dir = logs.join("machine");
    let log = logs.join(format!("{}-{vcpus}-{}.log", guest.name, side.name()));
    let mut running = side.start(place, &Plan::of(&config, &dir), &log, |machine| {
        machine.smp = 2;
        machine.mem = machine.mem.max(1024);
        machine.extra.push("-snapshot".into());
    })?;
    if side == Side::Xen {
        command(&mut running, &format!("create {}", guest.name), LIMIT)?;
    }
    console(&mut running, 0, guest.name, guest.up, LIMIT)?;
    Ok(running.lines().iter().filter_map(|line| of_kernel(guest.name, &line.text)).collect())
}

/// What a guest's kernel says in a line: it says when, in seconds.
fn of_kernel(guest: &str, line: &str) -> Option<String> {
    let entry = Entry::parse(line).filter(|entry| entry.who == guest)?;
    let (seconds, text) = entry.console()?.strip_prefix('[')?.split_once("] ")?;
    seconds.trim_start().parse::<f64>().ok().map(|_| text.trim_end().to_string())
}

/// A line without what differs from boot to boot: numbers and addresses.
fn shape(line: &str) -> String {
    let is_number = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_digit())
            || (word.len() > 5 && word.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let mut shape = String::new();
    for word in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (name, end) = word.split_at(word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len());
        shape += if is_number(name) { "#" } else { name };
        shape += end;
    }
    shape
}

/// The lines of the first log whose shape the second has not; each shape once.
fn news<'a>(first: &'a [String], second: &[String]) -> Vec<&'a String> {
    let mut known: BTreeSet<String> = second.iter().map(|line| shape(line)).collect();
    first.iter().filter(|line| known.insert(shape(line))).collect()
}

fn is_trouble(line: &str) -> bool {
    let line = line.to_lowercase();
    TROUBLE.iter().any(|word| line.contains(word))
}

/// What the page explains: the first column, in back quotes, of the table under its section, in the form of [`shape`].
fn explained(page: &str) -> Result<Vec<String>> {
    let section = page.split("\n## ").find(|section| section.starts_with(SECTION)).unwrap_or("");
    let part = |line: &str| line.strip_prefix("| `")?.split_once('`').map(|(part, _)| shape(part));
    let parts: Vec<String> = section.lines().filter_map(part).collect();
    match parts.len() {
        ..=EXPLAINED => Ok(parts),
        many => bail!("{PAGE} explains {many} differences, more than {EXPLAINED}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| line.to_string()).collect()
    }

    #[test]
    fn lines_are_the_same_whatever_their_numbers() {
        let xen = log(&["Memory: 100K/200K available", "CPU1: ok", "at ffff8880 deadbeef01"]);
        assert!(news(&log(&["Memory: 123K/200K available", "at ffff8123 deadbeef02"]), &xen).is_empty());
        let ours = log(&[
            "CPU1: ok",
            "CPU1: APIC id mismatch. Firmware: 1 APIC: 0",
            "CPU2: APIC id mismatch. Firmware: 2 APIC: 0",
        ]);
        assert_eq!(news(&ours, &xen).len(), 2, "CPU1 and CPU2 are names, not numbers");
    }

    #[test]
    fn a_line_of_the_kernel_says_when_and_others_do_not() {
        let kernel = of_kernel("debian", "[ 28.065] debian: console: [   20.5] Linux version 6.1");
        assert_eq!(kernel.as_deref(), Some("Linux version 6.1"));
        assert_eq!(of_kernel("debian", "[ 28.065] debian: console: [  OK  ] Mounted sys-kernel-debug.mount."), None);
        assert_eq!(of_kernel("debian", "[ 28.065] other: console: [   20.5] Linux version 6.1"), None);
    }

    #[test]
    fn trouble_is_heard_and_nothing_else() {
        for line in ["WARNING: CPU: 0 PID: 1 at x.c:1", "BUG: unable to handle", "task x blocked for more than 120 s"] {
            assert!(is_trouble(line), "{line}");
        }
        assert!(!is_trouble("Booting paravirtualized kernel on Xen"));
    }

    #[test]
    fn explanations_are_counted_and_read_from_their_section_only() {
        let page = "# P\n| `not` | x |\n## Differences\n| line | why |\n|---|---|\n| `took 12 ms` | so |\n## Other\n| `two` | x |";
        assert_eq!(explained(page).unwrap(), ["took # ms"]);
        let many: String = (0..11).map(|n| format!("| `g{n}` | x |\n")).collect();
        assert!(explained(&format!("\n## Differences\n{many}")).is_err());
    }
}
