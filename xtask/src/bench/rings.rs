//! `cargo xtask bench rings`: instructions a packet from guest to guest and a block request, and whose they are.
//!
//! Two guests of `bench-rings` talk through netback, a third works on a RAM disk of blkback, on one CPU under icount,
//! where nothing outside the machine takes part: the same figures in every run. A domain's share is its time in
//! RUNSTATE_running, hypercalls included, as dom0's shell has it.

use super::report::Figure;
use crate::build::{Part, build, built};
use crate::place::Place;
use crate::qemu::{Machine, Running};
use crate::run::console::{attach, command};
use crate::run::world;
use anyhow::{Context, Result, ensure};
use dom0::manifest::parse;
use std::time::Duration;

/// Packets and requests of a run.
const COUNT: u64 = 10_000;
/// Counting instructions on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

fn manifest() -> String {
    format!(
        r#"
[[domain]]
name = "netback"
kernel = "netback"
memory = 16
serves = ["vif"]
[[domain]]
name = "blkback"
kernel = "blkback"
memory = 48
serves = ["vbd"]
[[domain]]
name = "sink"
kernel = "bench-rings"
memory = 8
vif = [{{ mac = "00:16:3e:00:00:01" }}]
[[domain]]
name = "sender"
kernel = "bench-rings"
cmdline = "send=00:16:3e:00:00:01 packets={COUNT}"
memory = 8
vif = [{{ mac = "00:16:3e:00:00:02" }}]
autostart = false
[[domain]]
name = "disk"
kernel = "bench-rings"
cmdline = "disk={COUNT}"
memory = 8
disk = [{{ target = "ram:16M", vdev = "xvda", mode = "w" }}]
autostart = false
"#
    )
}

/// Runs both and gives the figures.
pub fn measure(place: &Place) -> Result<Vec<Figure>> {
    build(place, &[Part::Core, Part::Domains])?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let dom0 = built(place, Part::Domains, "dom0").context("no dom0")?;
    let text = manifest();
    let parsed = parse(&text).map_err(|error| anyhow::anyhow!("the bench's manifest: {error:?}"))?;
    let ramdisk = place.logs("bench")?.join("rings.ramdisk");
    world::ramdisk(&ramdisk, text.as_bytes(), &world::named(place, &parsed, &place.root)?)?;
    let mut machine = Machine::new(&core, "", &format!("{} log-consoles,{}", dom0.display(), ramdisk.display()));
    machine.icount = true;
    let mut running = machine.start(&place.logs("bench")?.join("rings.log"))?;
    attach(&mut running, LIMIT)?;
    says(&mut running, "sink", "bench-rings: up")?;
    let mut figures = Vec::new();
    figures.extend(round(&mut running, "sender", "netback", &["sink"])?);
    figures.extend(round(&mut running, "disk", "blkback", &[])?);
    for list in ["network-list -v", "block-list -v"] {
        command(&mut running, list, LIMIT)?.iter().for_each(|line| println!("  {line}"));
    }
    running.send(b"poweroff\n")?;
    running.end();
    Ok(figures)
}

/// Creates a guest and waits for its end; its figures.
fn round(running: &mut Running, guest: &str, backend: &str, others: &[&str]) -> Result<Vec<Figure>> {
    let from = running.lines().len();
    let shares: Vec<&str> = [backend].iter().chain(others).copied().collect();
    let times = |running: &mut Running| shares.iter().map(|name| cpu_time(running, name)).collect::<Result<Vec<_>>>();
    let before = times(running)?;
    command(running, &format!("create {guest}"), LIMIT)?;
    says(running, guest, "bench-rings: SUCCESS")?;
    let after = times(running)?;
    let mut figures = Vec::new();
    for line in running.lines().get(from..).unwrap_or_default() {
        let Some(at) = line.text.find("BENCH ") else { continue };
        let mut words = line.text.get(at..).unwrap_or_default().split_whitespace().skip(1);
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            figures.push(Figure { name: format!("rings/{name}"), value, peer: None });
        }
    }
    let operations =
        COUNT as f64 * figures.iter().filter(|figure| !figure.name.ends_with("/this_domain")).count() as f64;
    for ((name, before), after) in shares.iter().zip(before).zip(after) {
        let value = (after - before) * 1e6 / operations;
        figures.push(Figure { name: format!("rings/{guest}/{name}_share"), value, peer: None });
    }
    ensure!(operations > 0.0, "{guest} printed no figures");
    Ok(figures)
}

/// Milliseconds that a domain has run, which are millions of instructions.
fn cpu_time(running: &mut Running, name: &str) -> Result<f64> {
    let lines = command(running, &format!("info {name}"), LIMIT)?;
    let line = lines.iter().find(|line| line.starts_with("CPU time")).context("info shows no CPU time")?;
    let word = line.split_whitespace().rev().nth(1).context("no number in it")?;
    Ok(word.parse()?)
}

/// A domain must print this.
fn says(running: &mut Running, who: &str, what: &str) -> Result<()> {
    let found = running.wait_line(0, LIMIT, |line| line.contains(what) && line.contains(who));
    ensure!(found.is_some(), "{who} does not print {what:?}");
    Ok(())
}
