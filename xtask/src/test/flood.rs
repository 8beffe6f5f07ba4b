//! A guest that floods events hurts only itself: a sibling gets its share of the CPU and its timers in time, dom0's shell
//! answers. On one CPU all of it is counted in virtual time.

use super::e2e::{Case, PATIENCE, Setting, expect_ending, expect_line};
use crate::build::{Part, built};
use crate::qemu::{Ending, KEYS, Running};
use crate::run::console::{attach, command};
use crate::run::log::number_before;
use crate::run::world;
use anyhow::{Context, Result, ensure};

pub const CASES: &[Case] = &[("event-flood", event_flood)];

/// Both are tests/guests' `flood`; the victim is created first, so that the attacker knows its number.
const MANIFEST: &str = r#"
[[domain]]
name = "victim"
kernel = "flood"
cmdline = "victim"
memory = 16
autostart = false
[[domain]]
name = "attacker"
kernel = "flood"
cmdline = "attack"
memory = 16
autostart = false
"#;

/// Commands typed while the flood lasts.
const COMMANDS: usize = 10;
/// The victim's lines, one a tenth of a second of system time or more, that may come meanwhile.
const LINES: usize = 30;
/// The part of its work alone that the victim gets done at least. Fair is a half; dom0 needs some too.
const SHARE: f64 = 0.4;
/// How late a timer of the victim's may be on one CPU, in microseconds of virtual time.
const LATE: f64 = 300.0;

fn event_flood(setting: &Setting<'_>) -> Result<()> {
    let guest = built(setting.place, Part::Guests, "flood").context("no guest flood")?;
    let dom0 = built(setting.place, Part::Domains, "dom0").context("no image dom0")?;
    let ramdisk = setting.log.with_extension("ramdisk");
    world::ramdisk(&ramdisk, MANIFEST.as_bytes(), &[("flood".to_string(), guest)])?;
    let initrd = format!("{},{}", dom0.display(), ramdisk.display());
    let mut machine = setting.machine("", &initrd);
    machine.icount = machine.smp == 1;
    let exact = machine.icount;
    let mut machine = setting.start(&machine)?;
    attach(&mut machine, PATIENCE)?;

    command(&mut machine, "create victim", PATIENCE)?;
    // Not the first line: it may still have shared the CPU with dom0.
    let alone = reports(&mut machine, 0, 2)?.last().map_or(0.0, |report| report.0);
    let from = machine.lines().len();
    command(&mut machine, "create attacker", PATIENCE)?;
    expect_line(&mut machine, "attack: sends to domain 0")?;
    let start = machine.lines().len();
    for _ in 0..COMMANDS {
        let list = command(&mut machine, "list", PATIENCE)?;
        ensure!(list.iter().any(|line| line.starts_with("victim")), "list shows no victim: {list:?}");
    }
    let lines = machine.lines().iter().skip(start).filter(|line| line.text.contains("victim: ")).count();
    ensure!(lines <= LINES, "{COMMANDS} commands took {lines} of the victim's rounds");
    // A round in which dom0 does nothing: the commands have taken their share too.
    let quiet = machine.lines().len();
    let round = |line: &str| line.contains("attack: round ");
    let mut next = quiet;
    for _ in 0..2 {
        next = 1 + machine.wait_line(next, PATIENCE, round).context("the attacker's rounds do not end")?;
    }
    ensure!(!machine.lines().iter().any(|line| line.text.contains("no sibling")), "the attacker found no sibling");

    let flooded = reports(&mut machine, quiet, 2)?.split_off(1);
    let best = flooded.iter().map(|report| report.0).fold(0.0, f64::max);
    let worst = flooded.iter().map(|report| report.0).fold(f64::MAX, f64::min);
    let late = flooded.iter().map(|report| report.1).fold(0.0, f64::max);
    // Without icount the host's other work shows too: then the best line counts.
    let share = if exact { worst } else { best } / alone;
    ensure!(share >= SHARE, "the victim does {share:.2} of what it does alone");
    ensure!(!exact || late <= LATE, "a timer of the victim's was {late} us late");
    ensure!(
        attacks(&machine, from).all(|(_, failed)| failed == 0.0),
        "operations of the attacker's failed that should not"
    );
    let most = attacks(&machine, from).map(|(rate, _)| rate).fold(0.0, f64::max);
    ensure!(most >= 100_000.0, "the attacker floods with {most} a second only");

    command(&mut machine, "destroy attacker", PATIENCE)?;
    command(&mut machine, "destroy victim", PATIENCE)?;
    let from = machine.lines().len();
    machine.send(&[KEYS, b"a", KEYS].concat())?;
    let told = machine.wait_line(from, PATIENCE, |line| line.contains("audit: ")).context("no audit")?;
    let told = machine.lines().get(told).map(|line| line.text.clone()).unwrap_or_default();
    ensure!(told.contains("audit: ok, 0 findings"), "{told}");
    machine.send(b"poweroff\n")?;
    expect_ending(machine, Ending::PowerOff)
}

/// What the victim has said behind line `from`, `count` times or more: pieces of work a second, microseconds late.
fn reports(machine: &mut Running, from: usize, count: usize) -> Result<Vec<(f64, f64)>> {
    let report = |line: &str| {
        let said = line.split_once("victim: ")?.1;
        Some((number_before(said, "pieces")?, number_before(said, "us")?))
    };
    let all = |machine: &Running| -> Vec<_> {
        machine.lines().iter().skip(from).filter_map(|line| report(&line.text)).collect()
    };
    let mut next = from;
    while all(machine).len() < count {
        next =
            1 + machine.wait_line(next, PATIENCE, |line| report(line).is_some()).context("the victim says nothing")?;
    }
    Ok(all(machine))
}

/// The attacker's lines: operations a second, and how many failed.
fn attacks(machine: &Running, from: usize) -> impl Iterator<Item = (f64, f64)> {
    machine.lines().iter().skip(from).filter_map(|line| {
        let said = line.text.split_once("attack: ")?.1.split_once(": ")?.1;
        Some((number_before(said, "a")?, number_before(said, "failed")?))
    })
}
