//! End to end: machines under QEMU, looked at from outside, on one CPU and on two.

use super::tally::Tally;
use crate::build::{Part, build, built};
use crate::place::Place;
use crate::process::stdout_of;
use crate::qemu::{Ending, Machine, Running};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a machine may take to say what it should. Two cores shared with others: generous.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a case runs with.
pub struct Setting<'a> {
    /// The workspace.
    pub place: &'a Place,
    core: PathBuf,
    smp: u32,
    /// Where the serial output is kept.
    pub log: PathBuf,
}

/// One case: its name, and what must hold.
pub type Case = (&'static str, fn(&Setting<'_>) -> Result<()>);

const CASES: &[Case] = &[
    ("foreign-image", foreign_image),
    ("power-off-by-acpi", power_off_by_acpi),
    ("domain-crash", domain_crash),
    ("all-cpus", all_cpus),
    ("scattered-memory", scattered_memory),
    ("no-image", no_image),
    ("debug-keys", debug_keys),
    ("example-first", example_first),
];

/// Runs every case, or those whose name contains `only`, on one CPU and on two.
pub fn run(place: &Place, only: Option<&str>) -> Result<Tally> {
    build(place, &Part::ALL)?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let mut tally = Tally::default();
    let wanted = |case: &&Case| only.is_none_or(|part| case.0.contains(part));
    let others = [super::shell::CASES, super::audit::CASES, super::flood::CASES, super::time::CASES];
    for (name, case) in CASES.iter().chain(others.into_iter().flatten()).filter(wanted) {
        for smp in [1, 2] {
            let log = place.logs("e2e")?.join(format!("{name}-{smp}.log"));
            let setting = Setting { place, core: core.clone(), smp, log };
            let start = Instant::now();
            let result = case(&setting);
            let mark = if result.is_ok() { "ok" } else { "FAIL" };
            println!("  {mark:4} {name}, {smp} CPU   {:.1} s", start.elapsed().as_secs_f64());
            if let Err(error) = &result {
                println!("       {error:#}\n       {}", place.show(&setting.log));
                println!("       again: cargo xtask test e2e --only {name}");
            }
            tally += Tally::one(result.is_ok());
        }
    }
    ensure!(tally != Tally::default(), "no end-to-end test is called {}", only.unwrap_or(""));
    Ok(tally)
}

impl Setting<'_> {
    /// How many CPUs.
    pub fn smp(&self) -> u32 {
        self.smp
    }

    /// A machine of the case's CPUs.
    pub fn machine(&self, append: &str, initrd: &str) -> Machine {
        let mut machine = Machine::new(&self.core, append, initrd);
        machine.smp = self.smp;
        machine
    }

    /// Starts it, with the case's log.
    pub fn start(&self, machine: &Machine) -> Result<Running> {
        machine.start(&self.log)
    }

    /// tests/e2e/foreign.S as an image; `what` is its WHAT.
    pub fn foreign(&self, what: u32) -> Result<PathBuf> {
        let dir = self.place.out().join("e2e");
        std::fs::create_dir_all(&dir)?;
        let source = self.place.root.join("tests/e2e/foreign.S");
        let (object, image) = (dir.join(format!("foreign-{what}.o")), dir.join(format!("foreign-{what}")));
        let mut gcc = Command::new("gcc");
        stdout_of(gcc.arg("-c").arg(format!("-Wa,--defsym,WHAT={what}")).arg("-o").arg(&object).arg(source))?;
        let mut ld = Command::new("ld");
        ld.args(["-Ttext-segment=0x100000", "-znoexecstack", "-zmax-page-size=4096", "-o"]);
        stdout_of(ld.arg(&image).arg(&object))?;
        Ok(image)
    }
}

/// The line must come, or the case fails with what came instead.
pub fn expect_line(running: &mut Running, wanted: &str) -> Result<()> {
    if running.wait_line(0, PATIENCE, |line| line.contains(wanted)).is_some() {
        return Ok(());
    }
    let last = running.lines().last().map_or("nothing", |line| line.text.as_str());
    bail!("no line with {wanted:?}; the last one: {last}")
}

/// The machine must end by itself, so.
pub fn expect_ending(mut running: Running, wanted: Ending) -> Result<()> {
    let ending = running.finish(PATIENCE)?;
    let messages = running.end();
    ensure!(ending == wanted, "ended as {ending:?}, not {wanted:?} {messages}");
    Ok(())
}

/// An image that knows nothing of us starts as the initial domain, prints and ends the machine.
fn foreign_image(setting: &Setting<'_>) -> Result<()> {
    let image = setting.foreign(0)?;
    let mut running = setting.start(&setting.machine("", &shown(&image)))?;
    expect_line(&mut running, "foreign: hello")?;
    expect_line(&mut running, "foreign: privileged initial domain")?;
    expect_line(&mut running, "ferrule: power-off")?;
    expect_ending(running, Ending::PowerOff)
}

/// Without isa-debug-exit the machine is turned off by ACPI, and QEMU exits with 0.
fn power_off_by_acpi(setting: &Setting<'_>) -> Result<()> {
    let image = setting.foreign(0)?;
    let mut machine = setting.machine("", &shown(&image));
    machine.debug_exit = false;
    let running = setting.start(&machine)?;
    expect_ending(running, Ending::PowerOff)
}

/// A crashed domain leaves its reason and registers, and the machine ends with 35.
fn domain_crash(setting: &Setting<'_>) -> Result<()> {
    let image = setting.foreign(1)?;
    let mut running = setting.start(&setting.machine("", &shown(&image)))?;
    expect_line(&mut running, "foreign: hello")?;
    expect_line(&mut running, "ferrule: the initial domain crashed")?;
    let text: Vec<_> = running.lines().iter().map(|line| line.text.to_lowercase()).collect();
    for word in ["rip", "rsp", "hypercall"] {
        ensure!(text.iter().any(|line| line.contains(word)), "the crash report has no {word}");
    }
    expect_ending(running, Ending::DomainCrash)
}

/// Every CPU of the machine is online.
fn all_cpus(setting: &Setting<'_>) -> Result<()> {
    let image = setting.foreign(0)?;
    let mut machine = setting.machine("", &shown(&image));
    machine.smp *= 2;
    let mut running = setting.start(&machine)?;
    expect_line(&mut running, &format!("on {} CPUs", machine.smp))?;
    expect_ending(running, Ending::PowerOff)
}

/// The same with memory handed out page by page in no order.
fn scattered_memory(setting: &Setting<'_>) -> Result<()> {
    let image = setting.foreign(0)?;
    let mut running = setting.start(&setting.machine("scatter", &shown(&image)))?;
    expect_line(&mut running, "foreign: privileged initial domain")?;
    expect_ending(running, Ending::PowerOff)
}

/// Nothing to start: the core says so and ends with 37.
fn no_image(setting: &Setting<'_>) -> Result<()> {
    let mut running = setting.start(&setting.machine("", ""))?;
    expect_line(&mut running, "ferrule: core panic")?;
    expect_ending(running, Ending::CorePanic)
}

/// Ctrl-A three times: help, the domains, and the end by reboot.
fn debug_keys(setting: &Setting<'_>) -> Result<()> {
    let image = setting.foreign(2)?;
    let mut running = setting.start(&setting.machine("", &shown(&image)))?;
    expect_line(&mut running, "foreign: privileged initial domain")?;
    running.send(b"\x01\x01\x01")?;
    expect_line(&mut running, "debug keys on")?;
    running.send(b"h")?;
    expect_line(&mut running, "h help | ")?;
    running.send(b"q")?;
    expect_line(&mut running, "d0v0: ")?;
    running.send(b"R")?;
    expect_line(&mut running, "ferrule: reboot")?;
    ensure!(running.finish(PATIENCE)? != Ending::TimeOut, "no reboot");
    Ok(())
}

/// The example that `new-guest` copies builds and boots.
fn example_first(setting: &Setting<'_>) -> Result<()> {
    let image = built(setting.place, Part::Domains, "first").context("the example did not build")?;
    let mut running = setting.start(&setting.machine("", &shown(&image)))?;
    expect_line(&mut running, "first: hello from a domain of")?;
    expect_ending(running, Ending::PowerOff)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
