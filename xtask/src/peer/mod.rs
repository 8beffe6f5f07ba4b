//! `cargo xtask peer`: the same guests on Debian's Xen with a Debian dom0, in the same QEMU, by the same manifests; or
//! natively, with virtio in place of a hypervisor.
//!
//! The peer's dom0 (examples/xen-dom0) speaks docs/console-protocol.md, so the tour's own steps look at its guests.

mod dmesg;
pub mod native;
pub mod side;
mod xl;

use crate::check;
use crate::guest;
use crate::place::Place;
use crate::qemu::{Machine, Running};
use crate::run::console::{attach, command as tell};
use crate::run::offer::Offer;
use crate::run::ssh;
use crate::run::system::{Plan, devices};
use crate::run::tour::{self, Tour};
use crate::run::world::{self, Disk};
use crate::run::{close, forwards};
use crate::{unable, xen};
use anyhow::{Context, Result, bail};
use dom0::manifest::{Domain, Manifest};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The manifest, if no other is named.
const MANIFEST: &str = "examples/linux-mini.toml";
/// Memory of Xen and its dom0 in MiB, beside what a manifest asks for.
const XEN_MIB: u32 = 640;
/// Memory of its dom0 in MiB: it holds the guests' images.
const DOM0_MIB: u32 = 512;
/// How long Xen and its dom0 may take to the first prompt, on a loaded machine.
const BOOT: Duration = Duration::from_secs(300);
/// Steps of the tour that look at Ferrule's own core.
const NOT_HERE: [&str; 1] = ["core"];

/// How to run the peer.
#[derive(clap::Args)]
pub struct Options {
    /// The manifest whose guests are started
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// CPUs of the machine; natively the guest's vCPUs
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory of the machine in MiB [default: the manifest's, else 512, and 640 for Xen and its dom0]
    #[arg(long, value_name = "MIB")]
    mem: Option<u32>,
    /// Port of 127.0.0.1 that leads to port 80 of the first guest; 0 takes any free one
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    http_port: u16,
    /// Compare what Linux says while it boots, here and there, with 1 and 2 vCPUs: linux-mini, debian or both
    #[arg(long, value_name = "GUEST", num_args = 0..=1, default_missing_value = "", value_parser = ["", "linux-mini", "debian"], conflicts_with = "config")]
    dmesg: Option<String>,
    /// Boot the manifest's only guest without a hypervisor: the same kernel and disks, virtio's drivers
    #[arg(long, conflicts_with = "dmesg")]
    native: bool,
}

/// A machine with Xen, its dom0 and the guests of a manifest.
pub struct Peer {
    /// The machine, not started yet.
    pub machine: Machine,
    /// The disk it will have.
    pub disk: Disk,
}

/// A manifest without the domains that are drivers.
pub fn guests(config: &Path) -> Result<Manifest> {
    let mut manifest = check::read(config)?;
    manifest.domains.retain(|domain| domain.serves.is_empty());
    match manifest.domains.is_empty() {
        true => unable!("{}: no guest but driver domains, which Xen has in its dom0", config.display()),
        false => Ok(manifest),
    }
}

/// Xen under the machine that a plan describes. What it needs is made.
pub fn assemble(place: &Place, plan: &Plan<'_>) -> Result<Peer> {
    let manifest = guests(plan.config)?;
    let beside = plan.config.parent().unwrap_or(&place.root);
    let [kernel, initrd] = guest::xen_dom0::files(place)?;
    std::fs::create_dir_all(plan.dir).with_context(|| format!("making {}", plan.dir.display()))?;
    let to = plan.dir.join("peer.initrd");
    let images = world::named(place, &manifest, beside)?;
    let initrd = std::fs::read(&initrd).with_context(|| format!("reading {}", initrd.display()))?;
    // The kernel unpacks archives one after the other.
    let all = [initrd, xl::archive(&manifest, &images)?].concat();
    std::fs::write(&to, all).with_context(|| format!("writing {}", to.display()))?;
    let modules = format!("{} console=hvc0 quiet,{}", kernel.display(), to.display());
    let options = format!("console=com1 dom0_mem={DOM0_MIB}M loglvl=error guest_loglvl=error xsave=0");
    let mut machine = Machine::new(&xen::image(place, place.no_install)?, &options, &modules);
    machine.debug_exit = false;
    machine.mem = manifest.machine.memory.unwrap_or(512) + XEN_MIB;
    let disk = devices(place, plan, &manifest, beside, &mut machine)?;
    Ok(Peer { machine, disk })
}

/// Waits for the dom0 of a machine just started.
pub fn await_dom0(running: &mut Running) -> Result<()> {
    if attach(running, BOOT).is_ok() {
        return Ok(());
    }
    let last: Vec<&str> = running.lines().iter().rev().take(20).map(|line| line.text.as_str()).collect();
    last.iter().rev().for_each(|line| println!("       | {line}"));
    bail!("Xen's dom0 does not start")
}

/// Boots, starts the guests, looks at them, powers off.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    if let Some(only) = &options.dmesg {
        return dmesg::command_of(place, Some(only.as_str()).filter(|only| !only.is_empty()));
    }
    let config = options.config.clone().unwrap_or_else(|| place.root.join(MANIFEST));
    if options.native {
        return native::command(place, options, &config);
    }
    let manifest = guests(&config)?;
    let mut steps = tour::steps(&manifest, None)?;
    steps.retain(|step| !NOT_HERE.contains(&step.name));
    let forwards = forwards(options.http_port, &manifest.machine)?;
    let dir = place.out().join("peer");
    let offer = Offer::of(dir.join(world::FILES))?;
    let url = offer.url(world::FIRST);
    let plan = Plan { forwards: &forwards, boot_file: Some(&url), ..Plan::of(&config, &dir) };
    let Peer { mut machine, disk } = assemble(place, &plan)?;
    machine.smp = options.smp;
    machine.mem = options.mem.unwrap_or(machine.mem);
    let mut running = machine.start(&dir.join("peer.log"))?;
    println!("Debian's Xen 4.17   {} CPUs   {} MiB   full log: {}", machine.smp, machine.mem, place.show(&running.log));
    if let Err(error) = await_dom0(&mut running) {
        return if running.ended() { close(place, running, Duration::ZERO) } else { Err(error) };
    }
    let started: Vec<&Domain> = manifest.domains.iter().filter(|domain| domain.autostart).collect();
    for domain in &started {
        tell(&mut running, &format!("create {}", domain.name), BOOT)?;
    }
    let names = started.iter().map(|domain| domain.name.clone()).collect();
    let guest = ssh::Guest::of(place, &forwards);
    let port = forwards.first().map_or(0, |forward| forward.host);
    let mut tour = Tour::new(running, disk, port, guest, names, Box::new(|| None));
    let all = tour::take(&mut tour, &steps, None);
    let mut running = tour.machine;
    running.send(b"poweroff\n")?;
    close(place, running, Duration::from_secs(60))?;
    if !all {
        bail!("not every step held");
    }
    Ok(())
}
