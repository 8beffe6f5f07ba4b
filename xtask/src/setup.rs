//! What a command needs of this machine, found before it starts and installed after saying so.

use crate::fuzz::coverage;
use crate::iso;
use crate::process::{is_root, quiet, which};
use crate::toolchain::{DEBIAN_PACKAGES, Route, TARGET, add_by_rustup};
use crate::unable;
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Something a command needs beside rustup's stable toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A compiler for the bare-metal target.
    Images,
    /// A program, and Debian's package of it.
    Program(&'static str, &'static str),
    /// A file that is no program, and Debian's package of it.
    File(&'static str, &'static str),
    /// A component of rustup's toolchain: the program, the component.
    Component(&'static str, &'static str),
}

/// GNU ld and objcopy.
pub const LINKER: [Need; 2] = [Need::Program("ld", "binutils"), Need::Program("objcopy", "binutils")];
/// The machine everything runs on.
pub const QEMU: Need = Need::Program("qemu-system-x86_64", "qemu-system-x86");
/// Makes file systems in image files, without a mount.
pub const MKE2FS: Need = Need::Program("mke2fs", "e2fsprogs");
/// What `lint` runs.
pub const LINTERS: [Need; 2] = [Need::Component("cargo-clippy", "clippy"), Need::Component("cargo-fmt", "rustfmt")];

/// What building the images needs.
pub fn for_build() -> Vec<Need> {
    [&[Need::Images][..], &LINKER[..]].concat()
}

/// What booting them needs.
pub fn for_qemu() -> Vec<Need> {
    [&for_build()[..], &[QEMU]].concat()
}

/// What `run` needs: a disk to serve as well.
pub fn for_run() -> Vec<Need> {
    [&for_qemu()[..], &[MKE2FS]].concat()
}

/// What `test` needs: images that boot by themselves as well, and what boots them; and what builds libFuzzer.
pub fn for_test() -> Vec<Need> {
    [&for_run()[..], &LINTERS, &iso::NEEDS, &iso::boot::needs(), &coverage::NEEDS].concat()
}

impl Need {
    fn is_there(self) -> bool {
        match self {
            Need::Images => Route::ready().is_some(),
            Need::Program(program, _) | Need::Component(program, _) => which(program).is_some(),
            Need::File(path, _) => Path::new(path).is_file(),
        }
    }
}

/// Sees to it that all of `needs` is there: installs what is missing, or with `no_install` (and wherever that is
/// not possible) says exactly what to type and ends in exit code 2.
pub fn ensure(needs: &[Need], no_install: bool) -> Result<()> {
    let missing: Vec<Need> = needs.iter().copied().filter(|need| !need.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if no_install {
        unable!("missing: {}\nto install it:\n{}", names(&missing), by_hand(&missing));
    }
    for need in &missing {
        if let Need::Component(_, component) = need {
            println!("installing: rustup component add {component}  (some seconds)");
            quiet(Command::new("rustup").args(["component", "add", component]), Duration::from_secs(60))?;
        }
    }
    if missing.contains(&Need::Images) {
        add_by_rustup()?;
    }
    let packages = packages(&still(&missing));
    if !packages.is_empty() {
        install(&packages, &missing)?;
    }
    let left = still(&missing);
    if !left.is_empty() {
        unable!("still missing: {}\nto install it:\n{}", names(&left), by_hand(&left));
    }
    Ok(())
}

fn still(needs: &[Need]) -> Vec<Need> {
    needs.iter().copied().filter(|need| !need.is_there()).collect()
}

fn packages(needs: &[Need]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for need in needs {
        match need {
            Need::Images => packages.extend(DEBIAN_PACKAGES),
            Need::Program(_, package) | Need::File(_, package) => packages.push(package),
            Need::Component(..) => {}
        }
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn names(needs: &[Need]) -> String {
    let name = |need: &Need| match need {
        Need::Images => format!("a Rust compiler for {TARGET}"),
        Need::Program(name, package) | Need::File(name, package) => format!("{name} (Debian package {package})"),
        Need::Component(program, _) => program.to_string(),
    };
    needs.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The commands that install `needs`, one a line, as this user would type them.
fn by_hand(needs: &[Need]) -> String {
    let mut lines = Vec::new();
    for need in needs {
        if let Need::Component(_, component) = need {
            lines.push(format!("  rustup component add {component}"));
        }
    }
    let mut needs = needs.to_vec();
    if needs.contains(&Need::Images) && which("rustup").is_some() {
        lines.push(format!("  rustup target add {TARGET}"));
        if which("apt-get").is_some() {
            let debian = apt_line(&DEBIAN_PACKAGES);
            lines.push(format!("    (or, where rustup cannot download, on Debian 12: {debian})"));
        }
        needs.retain(|need| *need != Need::Images);
    }
    let packages = packages(&needs);
    if !packages.is_empty() {
        match which("apt-get") {
            Some(_) => lines.push(format!("  {}", apt_line(&packages))),
            None => lines.push(format!("  (no apt here; the packages are called in Debian: {})", packages.join(" "))),
        }
    }
    lines.join("\n")
}

fn apt_line(packages: &[&str]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    let packages = packages.join(" ");
    format!("{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {packages}")
}

/// Installs Debian packages as root or through sudo, after saying which, how large and about how long.
fn install(packages: &[&str], missing: &[Need]) -> Result<()> {
    if which("apt-get").is_none() || (!is_root() && which("sudo").is_none()) {
        unable!("missing: {}\nto install it:\n{}", names(missing), by_hand(missing));
    }
    let mut size = apt_size(packages)?;
    if size.is_none() {
        println!("installing: {}", packages.join(" "));
        println!("  apt does not know them yet: apt-get update first (about 10 MB, 10 s)");
        apt(&["update"])?;
        size = apt_size(packages)?;
    }
    let Some((fetch, unpacked)) = size else {
        unable!("apt has no package for: {}\nto install it:\n{}", names(missing), by_hand(missing));
    };
    println!("installing: {}", packages.join(" "));
    println!("  {fetch:.0} MB to fetch, {unpacked:.0} MB on disk, about {:.0} s", seconds(fetch, unpacked));
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages);
    if apt(&args).is_err() {
        // Lists that are some weeks old name versions that the mirror no longer has.
        println!("  once more, with fresh package lists");
        apt(&["update"])?;
        apt(&args)?;
    }
    Ok(())
}

/// A guess from a mirror at 5 MB/s and a disk at 25 MB/s.
fn seconds(fetch: f64, unpacked: f64) -> f64 {
    (fetch / 5.0 + unpacked / 25.0).max(3.0)
}

/// What apt would fetch and unpack for `packages`, in MB; `None` if it does not know one of them.
fn apt_size(packages: &[&str]) -> Result<Option<(f64, f64)>> {
    let mut apt = Command::new("apt-get");
    apt.env("LC_ALL", "C").args(["install", "--assume-no", "--no-install-recommends"]).args(packages);
    let text = quiet(&mut apt, Duration::from_secs(60))?.text;
    Ok(parse_size(&text))
}

fn parse_size(text: &str) -> Option<(f64, f64)> {
    let megabytes = |line: &str| {
        let line = line.split('/').next()?;
        let mut words = line.split_whitespace().skip_while(|word| !word.starts_with(|c: char| c.is_ascii_digit()));
        let number: f64 = words.next()?.replace(',', "").parse().ok()?;
        Some(match words.next()? {
            "B" => number / 1e6,
            "kB" => number / 1e3,
            "GB" => number * 1e3,
            _ => number,
        })
    };
    let fetch = text.lines().find(|line| line.starts_with("Need to get "))?;
    let disk = text.lines().find(|line| line.starts_with("After this operation, "))?;
    Some((megabytes(fetch)?, megabytes(disk)?))
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = match is_root() {
        true => Command::new("apt-get"),
        false => {
            let mut sudo = Command::new("sudo");
            sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            sudo
        }
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Dpkg::Use-Pty=0"]).args(args);
    let log = tail_on_failure(&mut command)?;
    if let Some(log) = log {
        unable!("apt-get {} failed:\n{log}", args.join(" "));
    }
    Ok(())
}

/// Runs with the terminal's input (sudo may ask for a password there); the last lines printed if it failed.
fn tail_on_failure(command: &mut Command) -> Result<Option<String>> {
    let out = command.stdin(std::process::Stdio::inherit()).output()?;
    if out.status.success() {
        return Ok(None);
    }
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Ok(Some(lines[lines.len().saturating_sub(8)..].join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit_apt_prints() {
        let text =
            "7 upgraded\nNeed to get 1,204 kB/68.1 MB of archives.\nAfter this operation, 615 MB of additional disk";
        assert_eq!(parse_size(text), Some((1.204, 615.0)));
        let small = "Need to get 512 B of archives.\nAfter this operation, 2,048 kB of additional disk";
        assert_eq!(parse_size(small), Some((0.000512, 2.048)));
        assert_eq!(parse_size("E: Unable to locate package qemu-system-x86"), None);
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let need = Need::Program("no-such-program-at-all", "nosuch");
        assert!(!need.is_there());
        let error = ensure(&[need], true).unwrap_err();
        assert_eq!(crate::fail::code(&error), 2);
        assert!(error.to_string().contains("nosuch"), "{error}");
        assert!(error.to_string().contains("apt"), "{error}");
    }

    #[test]
    fn each_package_is_asked_for_once() {
        assert_eq!(packages(&LINKER), ["binutils"]);
        assert_eq!(packages(&[Need::Images]).len(), 3);
    }
}
