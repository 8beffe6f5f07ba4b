//! What the core takes of a machine's memory, by its own account and by that of the free frames.

use super::e2e::{Case, Setting};
use super::shell::{boot_on, power_off, tell};
use crate::qemu::Machine;
use crate::run::keys::press;
use crate::run::log::number_before;
use anyhow::{Context, Result, ensure};

pub const CASES: &[Case] = &[("core-memory", core_memory)];

/// The machine's memory.
const MIB: u32 = 1024;
/// Domains of one vCPU that are made: more than the heap that the core starts with has room for.
const DOMAINS: usize = 128;
/// KiB of the core's that each of them may take, beyond its own pages.
const PER_DOMAIN: f64 = 40.0;

/// KiB that the core has, by the line with this in it.
fn kib(lines: &[String], line: &str) -> Result<f64> {
    let line = lines.iter().find(|text| text.contains(line)).with_context(|| format!("no line with {line:?}"))?;
    number_before(line.split("the core has").nth(1).unwrap_or(line), "KiB").with_context(|| format!("no KiB: {line}"))
}

/// The core takes at most 0.8 % of a machine and 4 MiB, and 40 KiB a domain; 128 domains are no trouble.
fn core_memory(setting: &Setting<'_>) -> Result<()> {
    let mut manifest = String::new();
    for n in 0..DOMAINS {
        manifest += &format!("[[domain]]\nname = \"d{n}\"\nkernel = \"foreign-2\"\nmemory = 4\nautostart = false\n");
    }
    let machine = Machine { mem: MIB, ..setting.machine("", "") };
    let mut machine = boot_on(setting, machine, &manifest)?;
    let started: Vec<_> = machine.lines().iter().map(|line| line.text.clone()).collect();
    let (start, memory) = (kib(&started, "the core has")?, f64::from(MIB) * 1024.0);
    ensure!(start <= memory * 0.008 + 4096.0, "the core has {start} KiB of {memory}");
    let before = kib(&press(&mut machine, b'q')?, "the core has")?;
    for n in 0..DOMAINS {
        tell(&mut machine, &format!("create d{n}")).with_context(|| format!("domain {n}"))?;
    }
    let figures = press(&mut machine, b'q')?;
    let grown = kib(&figures, "the core has")? - before;
    ensure!(grown > 0.0, "the heap did not grow: the test makes too few domains");
    let each = figures.iter().filter(|line| line.contains(" KiB of the core") && !line.contains("d0:"));
    let each: Vec<f64> = each.filter_map(|line| number_before(line, "KiB")).collect();
    ensure!(each.len() == DOMAINS, "{} domains, not {DOMAINS}", each.len());
    ensure!(each.iter().all(|&kib| kib > 8.0 && kib <= PER_DOMAIN), "KiB of the core's: {each:?}");
    // What each says of itself is what the heap gave, but for pages that it is charged with and what others needed.
    let said: f64 = each.iter().sum();
    ensure!(grown <= said && said / DOMAINS as f64 <= PER_DOMAIN, "they say {said} KiB, the heap grew by {grown}");
    power_off(machine)
}
