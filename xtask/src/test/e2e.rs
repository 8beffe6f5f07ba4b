//! End to end: machines under QEMU, looked at from outside, on one CPU and on two.

use super::tally::Tally;
use super::{
    audit, balloon, broken_frames, chaos, copies, features, figures, flood, guided, iso, linux, memory, refusals,
    restart, routes, runtime, shell, signals, system, time, tool, unpacking,
};
use crate::build::{Part, build, built};
use crate::place::Place;
use crate::process::stdout_of;
use crate::qemu::{Ending, KEYS, Machine, Running};
use crate::run::log::number_before;
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
    /// CPUs of the machine.
    pub smp: u32,
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
    ("refusals-logged", refusals_logged),
    ("no-image", no_image),
    ("debug-keys", debug_keys),
    ("example-first", example_first),
    ("memory-of-dom0", memory_of_dom0),
];

/// The cases of a machine, each taken on one CPU and on two.
const MACHINES: &[&[Case]] = &[
    CASES,
    shell::CASES,
    audit::CASES,
    memory::CASES,
    copies::CASES,
    restart::CASES,
    runtime::CASES,
    system::CASES,
    flood::CASES,
    time::CASES,
    chaos::CASES,
];
/// What is the same on any machine, taken once.
const ONCE: &[&[Case]] = &[
    figures::CASES,
    iso::CASES,
    linux::CASES,
    tool::CASES,
    refusals::CASES,
    signals::CASES,
    routes::CASES,
    system::ONCE,
    restart::ONCE,
    features::CASES,
    broken_frames::CASES,
    unpacking::CASES,
    balloon::CASES,
    chaos::ONCE,
    guided::CASES,
];
/// What takes a minute and more: only when asked for by its name.
const ASKED: &[&[Case]] = &[features::ASKED];

/// Runs every case, or those whose name contains `only`.
pub fn run(place: &Place, only: Option<&str>) -> Result<Tally> {
    build(place, &Part::ALL)?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let mut tally = Tally::default();
    let named = |cases: &[&'static [Case]]| -> Vec<&'static Case> {
        let all = cases.iter().flat_map(|cases| cases.iter());
        all.filter(|case| only.is_none_or(|part| case.0.contains(part))).collect()
    };
    let asked = if only.is_some() { named(ASKED) } else { Vec::new() };
    for (cases, cpus) in [(named(MACHINES), &[1, 2][..]), (named(ONCE), &[2]), (asked, &[2])] {
        for (name, case) in cases {
            for smp in cpus {
                tally += Tally::one(take(place, &core, name, *case, *smp)?);
            }
        }
    }
    ensure!(tally != Tally::default(), "no end-to-end test is called {}", only.unwrap_or(""));
    Ok(tally)
}

/// Takes one case and prints how it went.
fn take(place: &Place, core: &Path, name: &str, case: fn(&Setting<'_>) -> Result<()>, smp: u32) -> Result<bool> {
    let log = place.logs("e2e")?.join(format!("{name}-{smp}.log"));
    let setting = Setting { place, core: core.to_path_buf(), smp, log };
    let start = Instant::now();
    let result = case(&setting);
    let mark = if result.is_ok() { "ok" } else { "FAIL" };
    println!("  {mark:4} {name}, {smp} CPU   {:.1} s", start.elapsed().as_secs_f64());
    match &result {
        Ok(()) => drop(std::fs::remove_dir_all(setting.dir())),
        Err(error) => {
            println!("       {error:#}\n       {}", place.show(&setting.log));
            println!("       again: cargo xtask test e2e --only {name}");
        }
    }
    Ok(result.is_ok())
}

impl Setting<'_> {
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

    /// The case's own folder, for all but the serial output; removed once the case has held.
    pub fn dir(&self) -> PathBuf {
        self.log.with_extension("")
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
    // Before it was asked for its state.
    let own = running.lines().iter().take_while(|line| !line.text.contains("debug keys on"));
    let last = own.last().map_or("nothing", |line| line.text.as_str());
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
    let mut running = setting.start(&setting.machine("scatter dom0_mem=64M", &shown(&image)))?;
    expect_line(&mut running, "foreign: privileged initial domain")?;
    expect_ending(running, Ending::PowerOff)
}

/// `log=debug` shows the hypercalls that are refused, and nothing else does.
fn refusals_logged(setting: &Setting<'_>) -> Result<()> {
    let image = built(setting.place, Part::Guests, "console_version").context("no guest console_version")?;
    for (append, wanted) in [("log=debug", true), ("log=info", false), ("", false)] {
        let mut running = setting.start(&setting.machine(append, &shown(&image)))?;
        expect_line(&mut running, "SUCCESS")?;
        let seen = running
            .lines()
            .iter()
            .any(|line| line.text.contains("d0v0: hypercall 18 (") && line.text.contains("refused: E"));
        ensure!(
            seen == wanted,
            "with {append:?} a refused console_io is {}",
            if seen { "logged" } else { "not logged" }
        );
        expect_ending(running, Ending::PowerOff)?;
    }
    Ok(())
}

/// Nothing to start: the core says so and ends with 37.
fn no_image(setting: &Setting<'_>) -> Result<()> {
    let mut running = setting.start(&setting.machine("", ""))?;
    expect_line(&mut running, "ferrule: core panic")?;
    expect_ending(running, Ending::CorePanic)
}

/// Ctrl-A three times: help, the domains, and the end by reboot. A machine that keeps us waiting is asked by itself.
fn debug_keys(setting: &Setting<'_>) -> Result<()> {
    let image = setting.foreign(2)?;
    let mut running = setting.start(&setting.machine("", &shown(&image)))?;
    expect_line(&mut running, "foreign: privileged initial domain")?;
    let from = running.lines().len();
    ensure!(running.wait_line(from, Duration::from_millis(500), |_| false).is_none(), "a line that nobody wants");
    ensure!(running.lines().iter().any(|line| line.text.contains("d0v0: blocked")), "nobody asked why it is silent");
    ensure!(!running.lines().iter().any(|line| line.text.contains(": idle 0 of ")), "a CPU was never idle");
    let from = running.lines().len();
    running.send(KEYS)?;
    running.wait_line(from, PATIENCE, |line| line.contains("debug keys on")).context("no keys")?;
    running.send(b"h")?;
    expect_line(&mut running, "h help | ")?;
    running.send(b"q")?;
    running.wait_line(from, PATIENCE, |line| line.contains("d0v0: ")).context("no domain 0")?;
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

/// `dom0_mem=` says how much the initial domain gets; without it 128 MiB where there is a ramdisk, else what is there.
fn memory_of_dom0(setting: &Setting<'_>) -> Result<()> {
    let image = shown(&built(setting.place, Part::Domains, "first").context("the example did not build")?);
    let with_ramdisk = format!("{image},{image}");
    let mib = |append: &str, initrd: &str| -> Result<f64> {
        let mut running = setting.start(&setting.machine(append, initrd))?;
        expect_line(&mut running, "first: hello from a domain of")?;
        let kib = running
            .lines()
            .iter()
            .find_map(|line| number_before(&line.text, "KiB").filter(|_| line.text.contains("first: hello")));
        expect_ending(running, Ending::PowerOff)?;
        Ok(kib.context("no number of KiB")? / 1024.0)
    };
    for (append, initrd, least, most) in [
        ("dom0_mem=48M", &image, 48.0, 48.0),
        ("dom0_mem=96M", &with_ramdisk, 96.0, 96.0),
        ("", &with_ramdisk, 128.0, 128.0),
        ("", &image, 200.0, 256.0),
    ] {
        let got = mib(append, initrd)?;
        ensure!(
            (least..=most).contains(&got),
            "with {append:?} and {initrd} dom0 has {got} MiB, not {least} to {most}"
        );
    }
    Ok(())
}

pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
