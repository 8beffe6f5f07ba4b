//! The peer's initial domain: Debian's kernel, Debian's Xen tools and busybox in one initramfs, examples/xen-dom0/init.

use super::mini::{only, read};
use super::{dir, kernel, native};
use crate::cpio::Archive;
use crate::packages::{Package, Packages, all_unpacked, unpacked};
use crate::place::Place;
use crate::process::stdout_of;
use crate::run::http::sha256;
use crate::setup::{self, Need};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it starts from: kernel, initramfs.
const FILES: [&str; 2] = ["xen-dom0.vmlinuz", "xen-dom0.initrd"];
/// The hash of what it was made of.
const RECIPE: &str = "xen-dom0.recipe";
/// xl, the store, the console daemon, and the libraries they load.
const TOOLS: Packages<'_> = Packages {
    folder: "xen-dom0",
    names: &[
        "xen-utils-4.17",
        "xenstore-utils",
        "libxenmisc4.17",
        "libxencall1",
        "libxendevicemodel1",
        "libxenevtchn1",
        "libxenforeignmemory1",
        "libxengnttab1",
        "libxenhypfs1",
        "libxenstore4",
        "libxentoolcore1",
        "libxentoollog1",
        "libyajl2",
        "libuuid1",
        "liblzma5",
        "libzstd1",
        "zlib1g",
        "libc6",
        "libgcc-s1",
    ],
    megabytes: 6,
};
/// Programs of them.
const PROGRAMS: [&str; 5] = [
    "usr/lib/xen-4.17/bin/xl",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/bin/xenstore",
];
/// The last of them does what its name says.
const STORE_NAMES: [&str; 2] = ["usr/bin/xenstore-read", "usr/bin/xenstore-write"];
/// What libc loads by itself when a thread is cancelled.
const CANCEL: &str = "libgcc_s.so.1";
/// What loads programs, as they name it.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// Where libraries are looked for.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// Modules, in the order in which they are loaded: around those of QEMU's devices ([`native::MODULES`]).
const XEN: [&str; 6] = [
    "drivers/xen/xen-privcmd",
    "drivers/xen/xen-evtchn",
    "drivers/xen/xen-gntdev",
    "drivers/xen/xenfs/xenfs",
    "drivers/block/xen-blkback/xen-blkback",
    "drivers/net/xen-netback/xen-netback",
];
const BRIDGE: [&str; 3] = ["net/llc/llc", "net/802/stp", "net/bridge/bridge"];
/// The RAM disks' module, whose parameters are the machine's.
const RAM_DISK: &str = "drivers/block/brd";
/// Files of examples/xen-dom0, and where they go.
const SCRIPTS: [(&str, &str); 3] =
    [("init", "init"), ("vif-bridge", "etc/xen/scripts/vif-bridge"), ("block", "etc/xen/scripts/block")];
/// The program among them.
const USAGE: &str = "usage.c";

/// What making it needs.
const NEEDS: [Need; 2] = [Need::Program("readelf", "binutils"), Need::Program("cc", "gcc")];

/// Its kernel and its initramfs; made first if they are not there, or of other parts.
pub fn files(place: &Place) -> Result<[PathBuf; 2]> {
    let files = FILES.map(|name| dir(place).join(name));
    let there = files.iter().all(|path| path.is_file());
    if !there || fs::read_to_string(dir(place).join(RECIPE)).ok() != recipe(place).ok() {
        make(place)?;
    }
    Ok(files)
}

/// What it is made of, as a hash.
fn recipe(place: &Place) -> Result<String> {
    let mut parts = [TOOLS.names.join(" "), PROGRAMS.join(" "), loaded().join(" ")].concat();
    for name in SCRIPTS.iter().map(|(name, _)| *name).chain([USAGE]) {
        parts += &fs::read_to_string(scripts(place).join(name)).with_context(|| format!("examples/xen-dom0/{name}"))?;
    }
    Ok(sha256(parts.as_bytes()))
}

fn loaded() -> Vec<&'static str> {
    [&XEN[..], &native::MODULES, &BRIDGE].concat()
}

fn scripts(place: &Place) -> PathBuf {
    place.root.join("examples/xen-dom0")
}

/// Makes it.
pub fn make(place: &Place) -> Result<()> {
    setup::ensure(&NEEDS, place.no_install)?;
    let kernel = kernel(place)?;
    let tools = all_unpacked(place, TOOLS)?;
    let busybox = unpacked(place, Package { name: "busybox-static", megabytes: 1 })?;
    println!("making the peer's initial domain");
    let mut files = BTreeMap::new();
    files.insert("bin/busybox".to_string(), read(&busybox.join("bin/busybox"))?);
    for program in PROGRAMS {
        files.insert(program.into(), read(&tools.join(program))?);
    }
    for name in STORE_NAMES {
        files.insert(name.into(), read(&tools.join("usr/bin/xenstore"))?);
    }
    files.insert(LOADER.into(), read(&tools.join(LOADER))?);
    files.extend(libraries(&tools)?);
    for (script, to) in SCRIPTS {
        files.insert(to.into(), read(&scripts(place).join(script))?);
    }
    files.insert("usr/bin/usage".into(), compiled(place, &scripts(place).join(USAGE))?);
    let modules = only(&kernel.join("lib/modules"), "")?.join("kernel");
    let name = |module: &str| module.rsplit('/').next().unwrap_or(module).to_string();
    for module in loaded().into_iter().chain([RAM_DISK]) {
        files.insert(format!("lib/modules/{}.ko", name(module)), read(&modules.join(format!("{module}.ko")))?);
    }
    files.insert(
        "etc/modules".into(),
        loaded().iter().map(|module| name(module) + "\n").collect::<String>().into_bytes(),
    );
    let image = read(&only(&kernel.join("boot"), "vmlinuz-")?)?;
    fs::create_dir_all(dir(place))?;
    for (name, bytes) in FILES.into_iter().zip([image, archive(&files)]) {
        let path = dir(place).join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    fs::write(dir(place).join(RECIPE), recipe(place)?)?;
    Ok(())
}

/// Files by their paths, and the folders they lie in.
fn archive(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut folders: BTreeSet<&str> = ["dev", "proc", "sys", "sbin"].into();
    for path in files.keys() {
        folders.extend(path.match_indices('/').filter_map(|(at, _)| path.get(..at)));
    }
    let archive = folders.into_iter().fold(Archive::default(), Archive::folder);
    // The kernel opens it before init runs.
    let archive = archive.device("dev/console", (5, 1));
    files.iter().fold(archive, |archive, (path, bytes)| archive.file(path, 0o755, bytes)).finish()
}

/// The libraries that the programs load, and those that these load, by the names under which they do.
fn libraries(tools: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut queue = vec![CANCEL.to_string()];
    for program in PROGRAMS {
        queue.extend(needed(&tools.join(program))?);
    }
    while let Some(name) = queue.pop() {
        let path = format!("{}/{name}", LIBRARIES[1]);
        if name.starts_with("ld-linux") || found.contains_key(&path) {
            continue;
        }
        let from = LIBRARIES.map(|folder| tools.join(folder).join(&name)).into_iter().find(|path| path.exists());
        let from = from.with_context(|| format!("{name} is in none of the packages"))?;
        queue.extend(needed(&from)?);
        found.insert(path, read(&from)?);
    }
    Ok(found)
}

/// The names of the libraries that a program or a library loads.
fn needed(file: &Path) -> Result<Vec<String>> {
    let said = stdout_of(Command::new("readelf").env("LC_ALL", "C").arg("-d").arg(file))?;
    let name = |line: &str| Some(line.split_once("(NEEDED)")?.1.split_once('[')?.1.split_once(']')?.0.to_string());
    Ok(said.lines().filter_map(name).collect())
}

/// A C program of ours, for any Linux.
pub fn compiled(place: &Place, source: &Path) -> Result<Vec<u8>> {
    let to = place.out().join("guests").join(source.file_stem().unwrap_or_default());
    fs::create_dir_all(dir(place))?;
    stdout_of(Command::new("cc").args(["-O2", "-static", "-s", "-o"]).arg(&to).arg(source))?;
    read(&to)
}
