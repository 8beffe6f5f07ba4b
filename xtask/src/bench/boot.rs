//! `cargo xtask bench boot`: what starting, domains and idling cost, in instructions and in memory, against goals.
//!
//! On one CPU under icount, where a virtual nanosecond is an instruction. Xen's figures were measured once: Debian's
//! Xen 4.17.7 with a Linux dom0, on the same QEMU.

use super::goals::Goal;
use crate::build::{CORE, Part, built};
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

/// Start, `create web`, a small domain that comes and goes: on a machine of 1 GiB.
pub fn domains(place: &Place, dir: &Path, log: &Path) -> Result<Vec<Goal>> {
    std::fs::create_dir_all(dir)?;
    let config = dir.join("boot.toml");
    std::fs::write(&config, manifest(place)?)?;
    let plan = Plan::of(&config, dir);
    let (machine, _) = assemble(place, &plan)?;
    let mut machine = start(machine, MEM, log)?;
    let starts = machine.wait_line(0, LIMIT, |line| line.contains("d0 starts after")).context("dom0 does not start")?;
    let to_dom0 = number(machine.lines().get(starts).context("no line")?, "ms")?;
    let (first_byte, further) = web(&mut machine)?;
    let come_and_go = small(&mut machine)?;
    power_off(machine)?;
    let instructions = |name, value, most| Goal { name, unit: INSTRUCTIONS, value, most, peer: None };
    Ok(vec![
        instructions("core entry to dom0's first instruction", to_dom0, 60.0),
        instructions("create web to its first byte on the ring", first_byte, 40.0),
        Goal { peer: Some(217.0), ..instructions("create + destroy of a 32 MiB domain", come_and_go, 20.0) },
        Goal {
            name: "a further 1-vCPU domain, beyond its pages",
            unit: "KiB",
            value: further,
            most: 40.0,
            peer: Some(87.0),
        },
    ])
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

/// What the tour's machine does per virtual second once all has been done.
pub fn idle(place: &Place, dir: &Path, log: &Path) -> Result<Goal> {
    let config = place.root.join("examples/tour.toml");
    let plan = Plan::of(&config, dir);
    let (machine, _) = assemble(place, &plan)?;
    let mut machine = start(machine, 512, log)?;
    // The client ends when it has done its part of the tour.
    entry(&mut machine, 0, "client", "ended: poweroff")?;
    command(&mut machine, "list", LIMIT)?;
    let before = usage(&mut machine)?;
    std::thread::sleep(Duration::from_secs(2));
    let after = usage(&mut machine)?;
    let value = per_second(before, after)?;
    power_off(machine)?;
    Ok(Goal { name: "idle, the tour done, a virtual second", unit: INSTRUCTIONS, value, most: 2.0, peer: None })
}

/// Millions of instructions that are not idle, in a virtual second.
fn per_second(before: Usage, after: Usage) -> Result<f64> {
    let seconds = (after.time - before.time) / 1e6;
    ensure!(seconds > 5.0, "only {seconds} virtual seconds passed: it does not idle");
    Ok((after.busy - before.busy) / 1e3 / seconds)
}

/// What the core has on a machine of `mem` MiB, once dom0 runs: by its own account, which the free frames bear out.
pub fn memory(place: &Place, name: &'static str, mem: u32, peer: Option<f64>, log: &Path) -> Result<Goal> {
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let dom0 = built(place, Part::Domains, "dom0").context("no image of dom0")?;
    let machine = Machine::new(&core, &format!("dom0_mem={DOM0}M"), &dom0.display().to_string());
    let mut machine = start(machine, mem, log)?;
    let Usage { free, own, .. } = usage(&mut machine)?;
    power_off(machine)?;
    let (value, taken) = (own / 1024.0, f64::from(mem) - DOM0 - free * FRAME / MIB);
    ensure!((value..value + FIRMWARE).contains(&taken), "{name}: the core has {value} MiB, but {taken} are gone");
    Ok(Goal { name, unit: "MiB", value, most: 0.008 * f64::from(mem) + 4.0, peer })
}

/// Image sizes and ring 0's length.
fn sizes(place: &Place) -> Result<Vec<Goal>> {
    let mut goals = Vec::new();
    let images = [
        ("loadable part of the core", Part::Core, CORE),
        ("image of netback", Part::Domains, "netback"),
        ("image of blkback", Part::Domains, "blkback"),
    ];
    for (name, part, image) in images {
        let path = built(place, part, image).with_context(|| format!("no image of {image}"))?;
        let value = lint::loadable_of(part, &path)? as f64 / 1024.0;
        goals.push(Goal { name, unit: "KiB", value, most: 512.0, peer: None });
    }
    let value = lint::ring0_lines(place)? as f64;
    goals.push(Goal { name: "ring 0, without tests and comments", unit: "lines", value, most: 9000.0, peer: None });
    Ok(goals)
}

/// All of them.
pub fn measure(place: &Place) -> Result<Vec<Goal>> {
    let logs = place.logs("bench")?;
    let log = |name: &str| logs.join(format!("boot-{name}.log"));
    let dir = logs.join("boot");
    let mut goals = domains(place, &dir, &log("domains"))?;
    goals.push(idle(place, &dir, &log("idle"))?);
    let sizes_of_machines = [
        ("the core's memory on 512 MiB", 512, None),
        ("the core's memory on 1 GiB", 1024, None),
        ("the core's memory on 4 GiB", 4096, Some(43.0)),
    ];
    for (name, mem, peer) in sizes_of_machines {
        goals.push(memory(place, name, mem, peer, &log(&format!("memory-{mem}")))?);
    }
    goals.extend(sizes(place)?);
    std::fs::remove_dir_all(dir)?;
    Ok(goals)
}
