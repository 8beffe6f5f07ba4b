//! `cargo xtask bench boot`: what starting, domains and idling cost, in instructions and in memory, against goals.
//!
//! On one CPU under icount, where a virtual nanosecond is an instruction. Xen's figures were measured once: Debian's
//! Xen 4.17.7 with a Linux dom0, on the same QEMU.

use super::report::{Figure, PEER};
use crate::build::{CORE, Part, build, built};
use crate::lint;
use crate::place::Place;
use crate::qemu::{Ending, Line, Machine, Running};
use crate::run::console::{attach, command};
use crate::run::keys::{Usage, usage};
use crate::run::log::{Entry, number_before};
use crate::run::system::{Plan, assemble};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// Counting instructions on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
/// Memory of the machine whose start is counted, in MiB.
const MEM: u32 = 1024;
/// Memory of dom0 and of a domain whose cost is measured, in MiB.
const DOM0: f64 = 128.0;
const DOMAIN: f64 = 32.0;
/// What the firmware keeps at most, the first MiB included, in MiB.
const FIRMWARE: f64 = 1.5;
const MIB: f64 = 1048576.0;
const FRAME: f64 = 4096.0;
const INSTRUCTIONS: &str = "M instructions";

/// The driver domains of the tour, `web` without `client`, and a domain that starts, prints and ends.
fn manifest(place: &Place) -> Result<String> {
    let tour = std::fs::read_to_string(place.root.join("examples/tour.toml"))?;
    let domains: Vec<&str> = tour.split("[[domain]]").take(4).collect();
    ensure!(domains.iter().any(|domain| domain.contains("name = \"web\"")), "the tour's third domain is not web");
    let small = "name = 'small'\nkernel = 'first'\nmemory = 32\non_poweroff = 'preserve'\nautostart = false\n";
    Ok(format!("{}autostart = false\n\n[[domain]]\n{small}", domains.join("[[domain]]")))
}

/// Starts a machine, which counts instructions, and waits for dom0's prompt.
fn start(mut machine: Machine, mem: u32, log: &Path) -> Result<Running> {
    (machine.icount, machine.mem) = (true, mem);
    let mut running = machine.start(log)?;
    attach(&mut running, LIMIT)?;
    Ok(running)
}

fn power_off(mut machine: Running) -> Result<()> {
    machine.send(b"poweroff\n")?;
    let ending = machine.finish(LIMIT)?;
    ensure!(ending == Ending::PowerOff, "the machine ended as {ending:?}");
    Ok(())
}

/// Waits for a line that dom0's log has about a domain, from line `from` on.
fn entry(machine: &mut Running, from: usize, who: &str, what: &str) -> Result<Line> {
    let wanted = |line: &str| Entry::parse(line).is_some_and(|entry| entry.who == who && entry.what.contains(what));
    let index = machine.wait_line(from, LIMIT, wanted).with_context(|| format!("the log of {who} lacks {what:?}"))?;
    machine.lines().get(index).cloned().context("the line has gone")
}

fn number(line: &Line, unit: &str) -> Result<f64> {
    number_before(&line.text, unit).with_context(|| format!("no {unit}: {}", line.text))
}

/// A figure and the most that it should be.
fn goal(name: &str, unit: &'static str, value: f64, most: f64) -> Figure {
    Figure { goal: Some(most), ..Figure::new(format!("boot/{name}"), value, unit) }
}

/// One beside Xen's.
fn beside(figure: Figure, xen: Option<f64>) -> Figure {
    Figure { peers: xen.map(|xen| (PEER, xen)).into_iter().collect(), ..figure }
}

/// When dom0 ran its first instruction, in milliseconds since the core was entered.
fn dom0_starts(machine: &mut Running) -> Result<f64> {
    let index = machine.wait_line(0, LIMIT, |line| line.contains("d0 starts after")).context("dom0 does not start")?;
    number(machine.lines().get(index).context("no line")?, "ms")
}

/// Start, `create web`, a small domain that comes and goes: on a machine of 1 GiB.
pub fn domains(place: &Place, dir: &Path, log: &Path) -> Result<Vec<Figure>> {
    let mut machine = machine(place, dir, &manifest(place)?, log)?;
    let to_dom0 = dom0_starts(&mut machine)?;
    let (first_byte, further) = web(&mut machine)?;
    let come_and_go = small(&mut machine)?;
    power_off(machine)?;
    Ok(vec![
        goal("core_to_dom0", INSTRUCTIONS, to_dom0, 60.0),
        goal("create_web_to_first_byte", INSTRUCTIONS, first_byte, 40.0),
        beside(goal("create_destroy_32m", INSTRUCTIONS, come_and_go, 20.0), Some(217.0)),
        beside(goal("core_per_domain", "KiB", further, 40.0), Some(87.0)),
    ])
}

/// A machine of 1 GiB with dom0 and these domains.
fn machine(place: &Place, dir: &Path, manifest: &str, log: &Path) -> Result<Running> {
    std::fs::create_dir_all(dir)?;
    let config = dir.join("boot.toml");
    std::fs::write(&config, manifest)?;
    let (machine, _) = assemble(place, &Plan::of(&config, dir))?;
    start(machine, MEM, log)
}

/// Domains beside each other, the last of which is looked at.
const MANY: [(usize, &str); 3] = [(1, "1st"), (32, "32nd"), (128, "128th")];

/// The first, the 32nd and the 128th domain of those that are there: what dom0 says that making it took.
pub fn many(place: &Place, dir: &Path, log: &Path) -> Result<Vec<Figure>> {
    let last = MANY.map(|(count, _)| count).into_iter().max().unwrap_or(0);
    let domain = |n| format!("[[domain]]\nname = 'd{n}'\nkernel = 'echoback'\nmemory = 4\nautostart = false\n");
    let manifest: String = (1..=last).map(domain).collect();
    let mut machine = machine(place, dir, &manifest, log)?;
    let mut figures = Vec::new();
    for n in 1..=last {
        let (from, name) = (machine.lines().len(), format!("d{n}"));
        command(&mut machine, &format!("create {name}"), LIMIT)?;
        let created = entry(&mut machine, from, &name, "created, ")?;
        let Some((_, ordinal)) = MANY.iter().find(|(count, _)| *count == n) else { continue };
        let figure = |what: &str, value, unit| Figure::new(format!("boot/{what}{ordinal}"), value, unit);
        figures.push(figure("create_4m_", number(&created, "ms")?, INSTRUCTIONS));
        figures.push(figure("dom0_for_the_", number(&created, "bytes")?, "bytes"));
    }
    let list = command(&mut machine, "list", LIMIT)?;
    // Blocked: they wait for somebody to serve.
    let there = list.iter().filter(|line| line.starts_with('d') && line.contains(" -b---- ")).count();
    ensure!(there == last, "of {last} domains, {there} wait at the end: {list:?}");
    power_off(machine)?;
    Ok(figures)
}

/// Creates `web`: millions of instructions, idle ones left out, until its console has said that its first packet is on
/// netback's ring (which is later than the packet: never less than the goal means), and KiB it takes beyond its memory
/// while it runs, with an interface and a disk.
fn web(machine: &mut Running) -> Result<(f64, f64)> {
    let (before, from) = (usage(machine)?, machine.lines().len());
    command(machine, "create web", LIMIT)?;
    entry(machine, from, "web", "first packet at ")?;
    let first = usage(machine)?;
    entry(machine, from, "web", "serving on port 80")?;
    let after = usage(machine)?;
    command(machine, "destroy web", LIMIT)?;
    entry(machine, from, "web", "destroyed")?;
    Ok(((first.busy - before.busy) / 1e3, (before.free - after.free) * FRAME / 1024.0 - DOMAIN * 1024.0))
}

/// Millions of instructions that a domain takes from `create` to the end of `destroy`, its own included.
fn small(machine: &mut Running) -> Result<f64> {
    let before = usage(machine)?;
    let from = machine.lines().len();
    command(machine, "create small", LIMIT)?;
    entry(machine, from, "small", "ended: poweroff")?;
    command(machine, "destroy small", LIMIT)?;
    entry(machine, from, "small", "destroyed")?;
    let after = usage(machine)?;
    let leaked = before.free - after.free;
    ensure!(leaked < 64.0, "{leaked} frames are gone with the domain");
    Ok((after.busy - before.busy) / 1e3)
}

/// From dom0's first instruction to the tour's `web` and `client` at work, in virtual time, waits included; and what that
/// machine does per virtual second once all has been done.
pub fn idle(place: &Place, dir: &Path, log: &Path) -> Result<Vec<Figure>> {
    let config = place.root.join("examples/tour.toml");
    let plan = Plan::of(&config, dir);
    let (machine, _) = assemble(place, &plan)?;
    let mut machine = start(machine, 512, log)?;
    let to_dom0 = dom0_starts(&mut machine)?;
    let serving = entry(&mut machine, 0, "web", "serving on port 80")?;
    let serving = Entry::parse(&serving.text).context("no entry")?.at * 1e3;
    // The client ends when it has done its part of the tour.
    entry(&mut machine, 0, "client", "ended: poweroff")?;
    command(&mut machine, "list", LIMIT)?;
    let before = usage(&mut machine)?;
    std::thread::sleep(Duration::from_secs(2));
    let after = usage(&mut machine)?;
    let value = per_second(before, after)?;
    power_off(machine)?;
    Ok(vec![
        Figure::new("boot/dom0_to_guests".into(), serving - to_dom0, "ms, virtual"),
        goal("idle_second", INSTRUCTIONS, value, 2.0),
    ])
}

/// Millions of instructions that are not idle, in a virtual second.
fn per_second(before: Usage, after: Usage) -> Result<f64> {
    let seconds = (after.time - before.time) / 1e6;
    ensure!(seconds > 5.0, "only {seconds} virtual seconds passed: it does not idle");
    Ok((after.busy - before.busy) / 1e3 / seconds)
}

/// What the core has on a machine of `mem` MiB, once dom0 runs: by its own account, which the free frames bear out.
pub fn memory(place: &Place, mem: u32, peer: Option<f64>, log: &Path) -> Result<Figure> {
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let dom0 = built(place, Part::Domains, "dom0").context("no image of dom0")?;
    let machine = Machine::new(&core, &format!("dom0_mem={DOM0}M"), &dom0.display().to_string());
    let mut machine = start(machine, mem, log)?;
    let Usage { free, own, .. } = usage(&mut machine)?;
    power_off(machine)?;
    let (value, taken) = (own / 1024.0, f64::from(mem) - DOM0 - free * FRAME / MIB);
    ensure!((value..value + FIRMWARE).contains(&taken), "the core says {value} MiB, but {taken} are gone of {mem}");
    Ok(beside(goal(&format!("core_of_{mem}m"), "MiB", value, 0.008 * f64::from(mem) + 4.0), peer))
}

/// Image sizes, and ring 0's length.
fn sizes(place: &Place) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (part, image) in [(Part::Core, CORE), (Part::Domains, "netback"), (Part::Domains, "blkback")] {
        let path = built(place, part, image).with_context(|| format!("no image of {image}"))?;
        let name = if part == Part::Core { "core_image".into() } else { format!("{image}_image") };
        figures.push(goal(&name, "KiB", lint::loadable_of(part, &path)? as f64 / 1024.0, 512.0));
    }
    figures.push(goal("ring0_lines", "lines", lint::ring0_lines(place)? as f64, lint::RING0_GOAL as f64));
    figures.push(Figure::new("boot/ring0_unsafe".into(), lint::ring0_unsafe(place)? as f64, "blocks"));
    Ok(figures)
}

/// All of them.
pub fn measure(place: &Place) -> Result<Vec<Figure>> {
    build(place, &[Part::Core, Part::Domains])?;
    let logs = place.logs("bench")?;
    let log = |name: &str| logs.join(format!("boot-{name}.log"));
    let dir = logs.join("boot");
    let mut figures = domains(place, &dir, &log("domains"))?;
    figures.extend(many(place, &dir, &log("many"))?);
    figures.extend(idle(place, &dir, &log("idle"))?);
    for (mem, peer) in [(512, None), (1024, None), (4096, Some(43.0))] {
        figures.push(memory(place, mem, peer, &log(&format!("memory-{mem}")))?);
    }
    figures.extend(sizes(place)?);
    std::fs::remove_dir_all(dir)?;
    Ok(figures)
}
