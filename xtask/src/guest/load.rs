//! The guest of `cargo xtask bench linux`: the smallest Linux guest with another init, and the loads.

use super::mini;
use super::{dir, xen_dom0};
use crate::cpio::Archive;
use crate::place::Place;
use anyhow::{Context, Result};
use dom0::bzimage::{BzError, Unpacking};
use std::fs;
use std::path::PathBuf;

/// Its kernel as Debian ships it, the same unpacked, and its initramfs.
pub const FILES: [&str; 3] = ["linux-load.vmlinuz", "linux-load.elf", "linux-load.initrd"];

/// What its initramfs is made of besides the mini guest's.
const PARTS: [&str; 2] = ["load.c", "init"];

/// Whether it was never made, or a part of it is newer.
pub fn is_stale(place: &Place) -> bool {
    let time = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let made = FILES.iter().map(|name| time(dir(place).join(name))).min().flatten();
    let parts = PARTS.iter().map(|name| folder(place).join(name));
    let changed = parts.chain(mini::FILES.iter().map(|name| dir(place).join(name))).filter_map(time).max();
    mini::is_stale(place) || made.is_none() || made < changed
}

fn folder(place: &Place) -> PathBuf {
    place.root.join("examples/linux-load")
}

/// Makes it, out of the mini guest's files.
pub fn make(place: &Place) -> Result<()> {
    if mini::is_stale(place) {
        mini::make(place)?;
    }
    let folder = folder(place);
    let load = xen_dom0::compiled(place, &folder.join("load.c"))?;
    let [kernel, initrd] = mini::FILES.map(|name| mini::read(&dir(place).join(name)));
    let (kernel, initrd) = (kernel?, initrd?);
    let elf = unpacked(&kernel).map_err(|error| anyhow::anyhow!("{}: {error}", mini::FILES[0]))?;
    let elf = elf.with_context(|| format!("{} is no bzImage", mini::FILES[0]))?;
    // The kernel unpacks archives one after the other: the later init wins.
    let init = mini::read(&folder.join("init"))?;
    let more = Archive::default().file("bin/load", 0o755, &load).file("init", 0o755, &init);
    let files = FILES.map(|name| dir(place).join(name));
    let contents = [kernel, elf, [initrd, more.finish()].concat()];
    for (path, bytes) in files.iter().zip(contents) {
        fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The ELF image in a bzImage; `None` if it is none.
fn unpacked(file: &[u8]) -> Result<Option<Vec<u8>>, BzError> {
    let Some(mut unpacking) = Unpacking::begin(file)? else { return Ok(None) };
    while unpacking.step()? {}
    Ok(Some(unpacking.finish()))
}
