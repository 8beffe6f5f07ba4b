//! A whole machine: the core, dom0 and the domains of a manifest, a disk with files, a network card.

use super::world::{self, Disk};
use crate::build::{Part, built};
use crate::check;
use crate::place::Place;
use crate::qemu::Machine;
use crate::unable;
use anyhow::{Context, Result};
use dom0::manifest::{Forward, Manifest};
use std::path::{Path, PathBuf};

/// What a machine is made from.
pub struct Plan<'a> {
    /// The manifest dom0 starts its domains from.
    pub config: &'a Path,
    /// Folders whose files go into the ramdisk as well.
    pub add: &'a [PathBuf],
    /// How much the core and dom0 log.
    pub level: &'a str,
    /// Ports of 127.0.0.1 that lead to guests.
    pub forwards: &'a [Forward],
    /// What DHCP names as the file to boot from: for guests a file to fetch.
    pub boot_file: Option<&'a str>,
    /// Options of the core besides its level of log.
    pub core: &'a str,
    /// Where its disk and its ramdisk are made.
    pub dir: &'a Path,
}

impl<'a> Plan<'a> {
    /// A manifest's system and nothing more.
    pub fn of(config: &'a Path, dir: &'a Path) -> Self {
        Plan { config, add: &[], level: "info", forwards: &[], boot_file: None, core: "", dir }
    }
}

/// The machine, not started yet, and the disk it will have. The images must be built.
pub fn assemble(place: &Place, plan: &Plan<'_>) -> Result<(Machine, Disk)> {
    let (mut machine, manifest) = without_devices(place, plan)?;
    let beside = plan.config.parent().unwrap_or(&place.root);
    let disk = devices(place, plan, &manifest, beside, &mut machine)?;
    Ok((machine, disk))
}

/// The same without a network card and disks.
pub fn images(place: &Place, plan: &Plan<'_>) -> Result<Machine> {
    without_devices(place, plan).map(|(machine, _)| machine)
}

fn without_devices(place: &Place, plan: &Plan<'_>) -> Result<(Machine, Manifest)> {
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let Some(dom0) = built(place, Part::Domains, "dom0") else {
        unable!("no image of dom0; `cargo xtask run --dom0 IMAGE` boots any PV64 image as the initial domain");
    };
    std::fs::create_dir_all(plan.dir).with_context(|| format!("making {}", plan.dir.display()))?;
    let manifest = check::read(plan.config)?;
    let beside = plan.config.parent().unwrap_or(&place.root);
    let files = [world::added(plan.add)?, world::named(place, &manifest, beside)?].concat();
    let ramdisk = plan.dir.join("ferrule-ramdisk");
    world::ramdisk(&ramdisk, &std::fs::read(plan.config)?, &files)?;
    let initrd = format!("{} log-consoles log={},{}", dom0.display(), plan.level, ramdisk.display());
    Ok((Machine::new(&core, format!("log={} {}", plan.level, plan.core).trim_end(), &initrd), manifest))
}

/// Gives a machine the network card and the disks of a plan's manifest; the tour's disk is made anew.
pub fn devices(
    place: &Place,
    plan: &Plan<'_>,
    manifest: &Manifest,
    beside: &Path,
    machine: &mut Machine,
) -> Result<Disk> {
    let disk = world::disk(plan.dir)?;
    let forward = |Forward { host, guest, port }: &Forward| {
        let guest = guest.map(|guest| guest.to_string()).unwrap_or_default();
        format!(",hostfwd=tcp:127.0.0.1:{host}-{guest}:{port}")
    };
    let forwards: String = plan.forwards.iter().map(forward).collect();
    let boot_file = plan.boot_file.map(|url| format!(",bootfile={url}")).unwrap_or_default();
    let netdev = format!("user,id=net0{forwards}{boot_file}");
    // ioeventfd: see docs/caveats.md, QEMU 7.2.
    let nic = "virtio-net-pci,netdev=net0,addr=2,ioeventfd=off";
    machine.extra = ["-netdev", &netdev, "-device", nic].map(str::to_string).to_vec();
    let named = |name: &String| world::image(place, name, beside, &disk.image);
    let mut images = manifest.machine.disks.iter().map(named).collect::<Result<Vec<_>>>()?;
    if images.is_empty() {
        images.push(disk.image.clone());
    }
    for (at, image) in images.iter().enumerate() {
        let drive = format!("if=none,id=disk{at},format=raw,file={}", image.display());
        // QEMU reads a slot's number as hexadecimal.
        let block = format!("virtio-blk-pci,drive=disk{at},addr={:x},ioeventfd=off", at + 3);
        machine.extra.extend(["-drive".to_string(), drive, "-device".to_string(), block]);
    }
    Ok(disk)
}
