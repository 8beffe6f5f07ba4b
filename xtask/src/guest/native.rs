//! What a guest needs besides its own initramfs to boot without a hypervisor: virtio's drivers, and its disks by the names that
//! the manifest gives them.

use super::kernel;
use super::mini::{only, read};
use crate::cpio::Archive;
use crate::place::Place;
use anyhow::Result;

/// Drivers of QEMU's devices, in the order in which they are loaded.
pub const MODULES: [&str; 9] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];
/// The folder they go to: one of its own, as /lib may be a link that an archive would replace.
const MODULES_IN: &str = "virtio";
/// Where the script goes: initramfs-tools runs what is there, and the inits of our own guests run it, too.
const SCRIPT: &str = "conf/conf.d/native";

/// A disk of a guest.
pub struct Disk {
    /// Its name in the guest.
    pub vdev: String,
    /// What it is there: `vda`.
    pub node: String,
    /// The GPT partition of it, by name, if it is not the whole.
    pub partition: Option<String>,
}

/// An archive to unpack over a guest's initramfs.
pub fn overlay(place: &Place, disks: &[Disk]) -> Result<Vec<u8>> {
    let modules = only(&kernel(place)?.join("lib/modules"), "")?.join("kernel");
    let mut archive = ["conf", "conf/conf.d", MODULES_IN].into_iter().fold(Archive::default(), Archive::folder);
    for module in MODULES {
        archive = archive.file(&inside(module), 0o644, &read(&modules.join(format!("{module}.ko")))?);
    }
    Ok(archive.file(SCRIPT, 0o644, script(disks).as_bytes()).finish())
}

/// Where a module is in the initramfs.
fn inside(module: &str) -> String {
    format!("{MODULES_IN}/{}.ko", module.rsplit('/').next().unwrap_or(module))
}

/// Loads the drivers, which look for their devices before they return, and names the disks.
fn script(disks: &[Disk]) -> String {
    let load = MODULES.iter().map(|module| format!("insmod /{}\n", inside(module)));
    let name = disks.iter().map(|Disk { vdev, node, partition }| match partition {
        None => format!("ln -s {node} /dev/{vdev}\n"),
        Some(partition) => format!(
            "for part in /sys/class/block/{node}?*; do\n\twhile read -r line; do\n\t\t\
             [ \"$line\" != 'PARTNAME={partition}' ] || ln -s \"${{part##*/}}\" /dev/{vdev}\n\t\
             done <\"$part/uevent\"\ndone\n"
        ),
    });
    load.chain(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_after_the_drivers_are_there() {
        let disk = |vdev: &str, node: &str, partition: Option<&str>| Disk {
            vdev: vdev.into(),
            node: node.into(),
            partition: partition.map(str::to_string),
        };
        let script = script(&[disk("xvda", "vdb", None), disk("xvdb", "vda", Some("client"))]);
        let at = |what: &str| script.find(what).unwrap_or_else(|| panic!("{what}: {script}"));
        assert!(at("insmod /virtio/virtio_ring.ko") < at("insmod /virtio/virtio_blk.ko"));
        assert!(at("insmod /virtio/virtio_net.ko") < at("ln -s vdb /dev/xvda"));
        assert!(at("for part in /sys/class/block/vda?*; do") < at("[ \"$line\" != 'PARTNAME=client' ]"));
    }
}
