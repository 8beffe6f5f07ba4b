//! Debian's Xen, the oracle: fetched as a package into target/xen/, never installed, never committed.

use crate::place::Place;
use crate::process::{quiet, stdout_of, which};
use crate::unable;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Debian 12's package of the hypervisor.
pub const PACKAGE: &str = "xen-hypervisor-4.17-amd64";

/// Xen's own command line: serial console, stay halted after an end so that the verdict can be read.
pub const COMMAND_LINE: &str = "console=com1 noreboot spec-ctrl=no dom0_mem=64M";

/// The multiboot image of Xen: `FERRULE_XEN` if set, else out of Debian's package, fetched once (2.3 MB, seconds).
pub fn image(place: &Place, no_install: bool) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERRULE_XEN") {
        return Ok(path.into());
    }
    let dir = place.target.join("xen");
    let elf = dir.join("xen.elf");
    if elf.is_file() {
        return Ok(elf);
    }
    if which("apt-get").is_none() || which("dpkg").is_none() {
        unable!(
            "no apt here: set FERRULE_XEN to a Xen 4.17 multiboot image (Debian: {PACKAGE}), or pass --ferrule-only"
        );
    }
    if no_install {
        unable!("missing: Xen, to compare with\nto fetch it (nothing is installed):\n  cargo xtask conformance");
    }
    std::fs::create_dir_all(&dir)?;
    println!("fetching {PACKAGE} into {} (2.3 MB, some seconds; nothing is installed)", place.show(&dir));
    let package = fetch(&dir)?;
    stdout_of(Command::new("dpkg").arg("-x").arg(&package).arg(dir.join("package")))?;
    let boot = dir.join("package/boot");
    let entries = std::fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
    let packed = entries.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("xen-4.17") && name.ends_with(".gz")
    });
    let packed = packed.with_context(|| format!("{PACKAGE} holds no boot/xen-4.17*.gz"))?;
    let unpacked = Command::new("gzip").arg("-dc").arg(&packed).output().context("starting gzip")?;
    // Written beside and renamed, so that a stopped run leaves no half of it.
    let part = dir.join("xen.elf.part");
    std::fs::write(&part, unpacked.stdout)?;
    std::fs::rename(part, &elf)?;
    Ok(elf)
}

fn fetch(dir: &Path) -> Result<PathBuf> {
    let found = || {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"))
    };
    if let Some(package) = found() {
        return Ok(package);
    }
    let mut download = Command::new("apt-get");
    download.current_dir(dir).args(["download", "-q", PACKAGE]);
    let mut said = quiet(&mut download, Duration::from_secs(120))?;
    if !said.ok && crate::process::is_root() {
        println!("  apt does not know it, or its lists are old: apt-get update (about 10 MB, 10 s)");
        quiet(Command::new("apt-get").args(["update", "-q"]), Duration::from_secs(300))?;
        said = quiet(&mut download, Duration::from_secs(120))?;
    }
    match found() {
        Some(package) if said.ok => Ok(package),
        _ => unable!("apt-get download {PACKAGE} failed:\n{}\nsudo apt-get update may help", said.text.trim()),
    }
}
