//! Debian's Xen, the oracle: fetched as a package into target/debian/, never installed, never committed.

use crate::packages::{self, Package};
use crate::place::Place;
use crate::unable;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// Debian 12's package of the hypervisor.
const PACKAGE: Package<'_> = Package { name: "xen-hypervisor-4.17-amd64", megabytes: 3 };

/// Xen's own command line: serial console, stay halted after an end so that the verdict can be read.
pub const COMMAND_LINE: &str = "console=com1 noreboot spec-ctrl=no dom0_mem=64M";

/// The multiboot image of Xen: `FERRULE_XEN` if set, else out of Debian's package, fetched once.
pub fn image(place: &Place, no_install: bool) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERRULE_XEN") {
        return Ok(path.into());
    }
    let elf = place.target.join("debian/xen.elf");
    if elf.is_file() {
        return Ok(elf);
    }
    if no_install {
        unable!("missing: Xen, to compare with\nto fetch it (nothing is installed):\n  cargo xtask conformance");
    }
    let boot = packages::unpacked(place, PACKAGE)?.join("boot");
    let entries = std::fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
    let packed = entries.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("xen-4.17") && name.ends_with(".gz")
    });
    let packed = packed.with_context(|| format!("{} holds no boot/xen-4.17*.gz", PACKAGE.name))?;
    let unpacked = Command::new("gzip").arg("-dc").arg(&packed).output().context("starting gzip")?;
    // Written beside and renamed, so that a stopped run leaves no half of it.
    let part = elf.with_extension("part");
    std::fs::write(&part, unpacked.stdout)?;
    std::fs::rename(part, &elf)?;
    Ok(elf)
}
