//! What a system holds, as the core's debug keys show it: to find what domains leave behind.

use super::console::command;
use super::keys::press;
use super::log::number_before;
use crate::qemu::Running;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// Free frames, event channels, mapped grants.
#[derive(Debug, PartialEq)]
pub struct Held {
    frames: f64,
    ports: usize,
    grants: Vec<String>,
}

fn held(machine: &mut Running) -> Result<Held> {
    let domains = press(machine, b'q')?;
    let frames =
        domains.iter().find_map(|line| line.contains("frames are free").then(|| number_before(line, "frames"))?);
    let ports = press(machine, b'e')?.iter().filter(|line| line.contains(" port ")).count();
    let grants = press(machine, b'g')?.into_iter().filter(|line| line.contains("grant frames")).collect();
    Ok(Held { frames: frames.context("no number of free frames")?, ports, grants })
}

/// What the system holds once so many domains are left, dom0 among them. One that was destroyed goes when nobody maps
/// anything of it any more and somebody asks for the list.
pub fn settled(machine: &mut Running, domains: usize, limit: Duration) -> Result<Held> {
    let end = Instant::now() + limit;
    loop {
        command(machine, "list", limit)?;
        let held = held(machine)?;
        if held.grants.len() == domains {
            return Ok(held);
        }
        ensure!(Instant::now() < end, "domains stay: {held:?}");
    }
}

/// The core's own audit of every frame must find nothing.
pub fn audited(machine: &mut Running) -> Result<()> {
    let said = press(machine, b'a')?;
    ensure!(said.iter().any(|line| line.contains("audit: ok, 0 findings")), "the audit: {said:?}");
    Ok(())
}
