//! `cargo xtask peer --native`: a manifest's guest without a hypervisor. Its kernel, its ramdisk and its disks are the same; the
//! drivers are virtio's ([`crate::guest::native`]), and the command line says so.

use super::Options;
use crate::guest::native::{Disk, overlay};
use crate::place::Place;
use crate::qemu::Machine;
use crate::run::forwards;
use crate::run::offer::Offer;
use crate::run::ssh;
use crate::run::system::{Plan, devices};
use crate::run::tour::{self, Tour};
use crate::run::world;
use crate::unable;
use anyhow::{Context, Result, bail};
use dom0::manifest::{Domain, Manifest};
use std::fs::File;
use std::path::Path;

/// Memory in MiB beside the guest's own: what the machine's firmware keeps.
const FIRMWARE_MIB: u32 = 16;

/// Boots the guest, looks at it, ends the machine.
pub fn command(place: &Place, options: &Options, config: &Path) -> Result<()> {
    let manifest = super::guests(config)?;
    let started: Vec<&Domain> = manifest.domains.iter().filter(|domain| domain.autostart).collect();
    let [domain] = started[..] else {
        unable!("{}: natively one guest has the machine, but {} are started", config.display(), started.len());
    };
    let mut steps = tour::steps(&manifest, None)?;
    // There is no toolstack: nobody counts domains or asks one to power off.
    steps.retain(|step| !super::NOT_HERE.contains(&step.name) && step.name != "domains" && !step.ends_a_domain());
    if steps.is_empty() {
        unable!("{}: no step looks at {}; there are steps for linux-mini and debian", config.display(), domain.name);
    }
    let forwards = forwards(options.http_port, &manifest.machine)?;
    let dir = place.out().join("native");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let offer = Offer::of(dir.join(world::FILES))?;
    let url = offer.url(world::FIRST);
    let plan = Plan { forwards: &forwards, boot_file: Some(&url), ..Plan::of(config, &dir) };
    let (mut machine, disk) = assemble(place, &plan, &manifest, domain)?;
    machine.smp = domain.vcpus;
    machine.mem = options.mem.unwrap_or(machine.mem);
    let mut running = machine.start(&dir.join("native.log"))?;
    running.is_console_of(&domain.name);
    println!("no hypervisor   {} CPUs   {} MiB   full log: {}", machine.smp, machine.mem, place.show(&running.log));
    let guest = ssh::Guest::of(place, &forwards);
    let port = forwards.first().map_or(0, |forward| forward.host);
    let mut tour = Tour::new(running, disk, port, guest, Vec::new(), Box::new(|| None));
    match tour::take(&mut tour, &steps, None) {
        true => Ok(()),
        false if tour.machine.ended() => bail!("the machine is gone: {}", tour.machine.end()),
        false => bail!("not every step held"),
    }
}

/// The machine that a guest has to itself, not started yet, and the tour's disk.
fn assemble(place: &Place, plan: &Plan<'_>, manifest: &Manifest, domain: &Domain) -> Result<(Machine, world::Disk)> {
    let beside = plan.config.parent().unwrap_or(&place.root);
    let images = world::named(place, manifest, beside)?;
    let path = |name: &str| images.iter().find(|(known, _)| known == name).map(|(_, path)| path.clone());
    let kernel = path(&domain.kernel).context("the guest's kernel")?;
    let mut machine = Machine::new(&kernel, &command_line(&domain.cmdline), "");
    let disk = devices(place, plan, manifest, beside, &mut machine)?;
    let nodes = manifest.machine.disks.len().max(1);
    for (at, size) in ram_disks(domain).enumerate() {
        machine.extra.extend(ram_disk(plan.dir, nodes + at, size)?);
    }
    let ramdisk = domain.ramdisk.as_deref().and_then(path).context("the guest has no ramdisk for virtio's drivers")?;
    let bytes = std::fs::read(&ramdisk).with_context(|| format!("reading {}", ramdisk.display()))?;
    let initrd = plan.dir.join("native.initrd");
    // The kernel unpacks archives one after the other.
    std::fs::write(&initrd, [bytes, overlay(place, &disks(domain, nodes))?].concat())?;
    machine.initrd = initrd.display().to_string();
    machine.mem = domain.memory + FIRMWARE_MIB;
    machine.debug_exit = false;
    Ok((machine, disk))
}

/// The guest's command line where its console is a serial line, its network card is called as the kernel calls it, and the
/// disk that its fstab would wait for is known by another name.
fn command_line(guest: &str) -> String {
    let line = guest.replace("console=hvc0", "console=ttyS0").replace(" ro ", " rw ").replace("enX0", "eth0");
    format!("{line} net.ifnames=0 fstab=no")
}

/// The size of `ram:SIZE` for each disk that is one.
fn ram_disks(domain: &Domain) -> impl Iterator<Item = &str> {
    domain.disks.iter().filter_map(|disk| disk.target.strip_prefix("ram:"))
}

/// A file of that size that starts empty, as the machine's disk `at`.
pub fn ram_disk(dir: &Path, at: usize, size: &str) -> Result<[String; 4]> {
    let path = dir.join(format!("ram{at}.img"));
    let bytes = super::xl::kib(&format!("ram:{size}")).context("the size of a RAM disk")? << 10;
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    file.set_len(bytes)?;
    let drive = format!("if=none,id=disk{at},format=raw,file={}", path.display());
    Ok(["-drive".into(), drive, "-device".into(), format!("virtio-blk-pci,drive=disk{at},ioeventfd=off")])
}

/// What the guest's disks are called: the machine's own come first, `nodes` of them, then RAM disks.
fn disks(domain: &Domain, nodes: usize) -> Vec<Disk> {
    let mut ram = nodes..;
    let disk = |disk: &dom0::manifest::Disk| {
        let (node, partition) = match disk.target.split_once(':') {
            Some(("ram", _)) => (node(ram.next().unwrap_or_default()), None),
            Some((node, partition)) => (node.to_string(), Some(partition.to_string())),
            None => (disk.target.clone(), None),
        };
        Disk { vdev: disk.vdev.to_string(), node, partition }
    };
    domain.disks.iter().map(disk).collect()
}

/// Linux's name of the machine's disk `at`.
fn node(at: usize) -> String {
    format!("vd{}", char::from(b'a' + (at % 26) as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_keep_their_names_and_ram_disks_come_last() {
        let text = "[machine]\ndisks = ['a.img', 'b.img']\n[[domain]]\nname = 'a'\nkernel = 'k'\ndisk = [\
                    { target = 'ram:1M', vdev = 'xvda' }, { target = 'vdb:web', vdev = 'xvdb' }, { target = 'vda', vdev = 'xvdc' }]\n";
        let manifest = dom0::manifest::parse(text).unwrap();
        let named = disks(&manifest.domains[0], 2);
        let shown: Vec<_> =
            named.iter().map(|disk| (disk.vdev.as_str(), disk.node.as_str(), disk.partition.as_deref())).collect();
        assert_eq!(shown, [("xvda", "vdc", None), ("xvdb", "vdb", Some("web")), ("xvdc", "vda", None)]);
        assert_eq!(ram_disks(&manifest.domains[0]).collect::<Vec<_>>(), ["1M"]);
    }

    #[test]
    fn the_command_line_knows_no_hypervisor() {
        let line = command_line("root=/dev/xvda ro console=hvc0 ip=10.0.2.21::::debian:enX0:none");
        assert_eq!(line, "root=/dev/xvda rw console=ttyS0 ip=10.0.2.21::::debian:eth0:none net.ifnames=0 fstab=no");
    }
}
