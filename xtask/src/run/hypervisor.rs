//! What runs the domains: Ferrule's core, or Debian's Xen in its place, with the same domains, byte by byte.

use crate::place::Place;
use crate::qemu::{Machine, Running};
use crate::run::log::number_before;
use crate::xen;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Xen's own options, before those of `--core`: its log on the serial line, dom0 as large as on Ferrule.
const XEN_OPTIONS: &str = "console=com1 noreboot spec-ctrl=no dom0_mem=128M";
/// What Xen prints when dom0 has ended; it halts then, and QEMU stays.
const XEN_END: &str = "(XEN) Hardware Dom0 ";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Hypervisor {
    /// The core
    Ferrule,
    /// Debian's xen-hypervisor-4.17, fetched as a package
    Xen,
}

impl Hypervisor {
    /// Puts it under the domains of a machine; `more` are options of its own.
    pub fn under(self, place: &Place, machine: &mut Machine, more: &str) -> Result<()> {
        if self == Hypervisor::Xen {
            machine.kernel = xen::image(place, place.no_install)?;
            machine.append = format!("{XEN_OPTIONS} {more}").trim_end().to_string();
            // Xen knows no such device; a stray write must not end the machine.
            machine.debug_exit = false;
        }
        Ok(())
    }

    /// Waits for its banner: name and version, CPUs, MiB.
    pub fn banner(self, running: &mut Running, limit: Duration) -> Result<(String, f64, f64)> {
        let mut line = |wanted: &[&str]| {
            let index = running.wait_line(0, limit, |line| wanted.iter().all(|part| line.contains(part)))?;
            running.lines().get(index).map(|line| line.text.clone())
        };
        let found = match self {
            Hypervisor::Ferrule => line(&["ferrule ", " CPU"]).and_then(|line| {
                let version = line.split("ferrule ").nth(1)?.split(' ').next()?.to_string();
                Some((
                    format!("ferrule {version}"),
                    number_before(&line, "CPUs").unwrap_or(1.0),
                    number_before(&line, "MiB")?,
                ))
            }),
            Hypervisor::Xen => (|| {
                let version = line(&["Xen version "])?.split("Xen version ").nth(1)?.split(' ').next()?.to_string();
                let ram = line(&["System RAM: "])?;
                let mib = ram.split("System RAM: ").nth(1)?.split("MB").next()?.parse().ok()?;
                let up = line(&["Brought up ", " CPU"])?;
                let cpus = up.split("Brought up ").nth(1)?.split(' ').next()?.parse().ok()?;
                Some((format!("xen {version}"), cpus, mib))
            })(),
        };
        found.context("the hypervisor did not start")
    }

    /// Whether it has ended without ending QEMU.
    pub fn halted(self, running: &Running) -> bool {
        self == Hypervisor::Xen && running.lines().iter().any(|line| line.text.contains(XEN_END))
    }

    /// Ends a machine that Xen has halted, or is about to, after a power-off of dom0's.
    pub fn end(self, mut running: Running, limit: Duration) -> Result<()> {
        let index = running.wait_line(0, limit, |line| line.contains(XEN_END));
        let line = index.and_then(|index| running.lines().get(index)).map(|line| line.text.clone());
        let log = running.log.display().to_string();
        drop(running.end());
        let line = line.with_context(|| format!("dom0 does not end; full log: {log}"))?;
        ensure!(line.contains("halted"), "{line}; full log: {log}");
        Ok(())
    }
}
