//! The smallest Linux guest: Debian's kernel as it is, busybox, the frontends' modules, examples/linux-mini/init.

use super::{dir, kernel};
use crate::cpio::Archive;
use crate::packages::{Package, unpacked};
use crate::place::Place;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What it is made of, as a manifest names it.
pub const FILES: [&str; 2] = ["linux-mini.vmlinuz", "linux-mini.initrd"];
/// Modules that are loaded, in this order.
const MODULES: [&str; 2] = ["drivers/block/xen-blkfront.ko", "drivers/net/xen-netfront.ko"];
/// Files of examples/linux-mini, and where they go.
const SCRIPTS: [(&str, &str); 4] =
    [("init", "init"), ("udhcpc", "etc/udhcpc"), ("end", "sbin/poweroff"), ("end", "sbin/reboot")];

/// Whether it was never made, or a script of it is newer.
pub fn is_stale(place: &Place) -> bool {
    let time = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let made = FILES.iter().map(|name| time(dir(place).join(name))).min().flatten();
    let changed = SCRIPTS.iter().filter_map(|(name, _)| time(scripts(place).join(name))).max();
    made.is_none() || made < changed
}

/// Makes both files.
pub fn make(place: &Place) -> Result<()> {
    let kernel = kernel(place)?;
    let busybox = unpacked(place, Package { name: "busybox-static", megabytes: 1 })?;
    let image = only(&kernel.join("boot"), "vmlinuz-")?;
    let modules = only(&kernel.join("lib/modules"), "")?.join("kernel");

    let folders = ["bin", "dev", "etc", "lib", "proc", "sbin", "srv", "sys", "tmp"];
    let mut archive = folders.into_iter().fold(Archive::default(), Archive::folder);
    // The kernel opens it before init runs.
    archive = archive.device("dev/console", (5, 1));
    archive = archive.file("bin/busybox", 0o755, &read(&busybox.join("bin/busybox"))?);
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive = archive.file(&format!("lib/{name}"), 0o644, &read(&modules.join(module))?);
    }
    for (script, to) in SCRIPTS {
        archive = archive.file(to, 0o755, &read(&scripts(place).join(script))?);
    }
    fs::create_dir_all(dir(place))?;
    for (name, bytes) in FILES.into_iter().zip([read(&image)?, archive.finish()]) {
        let path = dir(place).join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn scripts(place: &Place) -> PathBuf {
    place.root.join("examples/linux-mini")
}

/// A file's bytes.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The one entry of a folder whose name starts so.
pub fn only(folder: &Path, starts: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(starts));
    names.next().map(|entry| entry.path()).with_context(|| format!("no {starts}* in {}", folder.display()))
}
