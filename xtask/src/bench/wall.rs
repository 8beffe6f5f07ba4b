//! `cargo xtask bench net|blk`, by wall time: packets and requests a second, and what they carry.
//!
//! Two machines of one CPU, Ferrule's and Xen's, with the same domains, idle but for the load: each runs on one and then
//! on the other, and again. A guest takes the time from its first operation to its last itself. Of two CPUs Xen leaves one
//! idle for tens of seconds now and then, under QEMU's translator, with a vCPU that could run there.

use super::devices::{LIMIT, start, through};
use super::loads::{Kind, Round, Setup, setup};
use super::report::{Figure, PEER, PER_SECOND};
use crate::place::Place;
use crate::qemu::Running;
use crate::run::console::command;
use crate::run::hypervisor::Hypervisor;
use crate::run::log::number_before;
use anyhow::{Context, Result};

/// Runs of each load on each machine, of which the median counts.
const RUNS: usize = 5;

/// The rates of all loads of a kind.
pub fn measure(place: &Place, kind: Kind) -> Result<Vec<Figure>> {
    let setup = setup(kind);
    let machine = |under| start(place, &setup, under, false, &[]);
    let mut machines = [machine(Hypervisor::Ferrule)?, machine(Hypervisor::Xen)?];
    let mut figures = Vec::new();
    for (index, load) in setup.loads.iter().enumerate().filter(|(_, load)| !load.timed) {
        let mut seconds = [Vec::new(), Vec::new()];
        for _ in 0..RUNS {
            for (machine, seconds) in machines.iter_mut().zip(&mut seconds) {
                seconds.push(took(machine, &Setup::guest(index, Round::Wall))?);
            }
        }
        let rates = seconds.map(|seconds| load.operations(Round::Wall) as f64 / median(seconds));
        let row = |name: &str, unit, scale: f64| Figure {
            peers: vec![(PEER, rates[1] * scale)],
            ..Figure::new(format!("{}/{name}", load.name), rates[0] * scale, unit)
        };
        figures.push(row("wall", PER_SECOND, 1.0));
        figures.push(row("wall_gbit", "Gbit/s", load.bytes as f64 * 8e-9));
    }
    for mut machine in machines {
        machine.send(b"poweroff\n")?;
        machine.end();
    }
    Ok(figures)
}

/// Seconds from a guest's first operation to its last.
fn took(machine: &mut Running, guest: &str) -> Result<f64> {
    let said = through(machine, guest)?;
    command(machine, &format!("destroy {guest}"), LIMIT)?;
    let line = said.iter().find(|line| line.contains(" took ")).with_context(|| format!("{guest} says no time"))?;
    Ok(number_before(line, "ns").context("no number")? * 1e-9)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
