//! Debian's packages as a source of files: downloaded into target/debian/ and unpacked there, never installed.

use crate::place::Place;
use crate::process::{is_root, quiet, stdout_of, which};
use crate::unable;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A package: its name, and what is said before it is fetched.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    /// As apt knows it.
    pub name: &'a str,
    /// Megabytes to download, about.
    pub megabytes: u32,
}

/// Packages whose files lie together.
#[derive(Clone, Copy, Debug)]
pub struct Packages<'a> {
    /// The folder they are in, in target/debian/.
    pub folder: &'a str,
    /// As apt knows them.
    pub names: &'a [&'a str],
    /// Megabytes to download, about.
    pub megabytes: u32,
}

/// The folder with the unpacked files of a package; fetched and unpacked once.
pub fn unpacked(place: &Place, package: Package<'_>) -> Result<PathBuf> {
    all_unpacked(place, Packages { folder: package.name, names: &[package.name], megabytes: package.megabytes })
}

/// The folder with the unpacked files of packages; fetched and unpacked once.
pub fn all_unpacked(place: &Place, packages: Packages<'_>) -> Result<PathBuf> {
    let dir = place.target.join("debian").join(packages.folder);
    let files = dir.join("files");
    // Several packages have a list, which may have been another one when they were fetched.
    let (list, names) = (dir.join("names"), packages.names.join(" "));
    if files.is_dir() && (packages.names.len() == 1 || std::fs::read_to_string(&list).is_ok_and(|list| list == names)) {
        return Ok(files);
    }
    for tool in ["apt-get", "dpkg"] {
        if which(tool).is_none() {
            unable!("no {tool} here: put the files of Debian's package {names} into {}", place.show(&files));
        }
    }
    let Packages { folder, megabytes, .. } = packages;
    println!("fetching {folder} into {} ({megabytes} MB; nothing is installed)", place.show(&dir));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let archives = fetch(&dir, packages.names)?;
    // Unpacked beside and renamed, so that a stopped run leaves no half of it.
    let part = dir.join("files.part");
    let _ = std::fs::remove_dir_all(&part);
    for archive in archives {
        stdout_of(Command::new("dpkg").arg("-x").arg(&archive).arg(&part))?;
    }
    let _ = std::fs::remove_dir_all(&files);
    std::fs::rename(&part, &files)?;
    std::fs::write(list, names)?;
    Ok(files)
}

/// A program out of packages, with the libraries that are among them; nothing is installed.
pub fn program(place: &Place, packages: &[Package<'_>], path: &str) -> Result<Command> {
    let roots = packages.iter().map(|package| unpacked(place, *package)).collect::<Result<Vec<_>>>()?;
    let found = roots.iter().map(|root| root.join(path)).find(|file| file.is_file());
    let libraries = roots.iter().map(|root| root.join("usr/lib/x86_64-linux-gnu"));
    let mut command = Command::new(found.with_context(|| format!("none of the packages has {path}"))?);
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    Ok(command)
}

/// The package that a metapackage stands for at present: the first it depends on whose name starts so.
pub fn behind(metapackage: &str, starts: &str) -> Result<String> {
    let depends = || stdout_of(Command::new("apt-cache").args(["depends", "--important", metapackage]));
    let found = |text: &str| {
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        names.map(str::to_string).find(|name| name.starts_with(starts))
    };
    if let Some(name) = depends().ok().as_deref().and_then(found) {
        return Ok(name);
    }
    update()?;
    match found(&depends()?) {
        Some(name) => Ok(name),
        None => unable!("apt knows no {starts}... behind {metapackage}; is this Debian 12?"),
    }
}

fn fetch(dir: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut download = Command::new("apt-get");
    download.current_dir(dir).args(["download", "-q"]).args(names);
    let mut said = quiet(&mut download, Duration::from_secs(600))?;
    if !said.ok && is_root() {
        update()?;
        said = quiet(&mut download, Duration::from_secs(600))?;
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect();
    if !said.ok || found.len() < names.len() {
        unable!("apt-get download {} failed:\n{}\nsudo apt-get update may help", names.join(" "), said.text.trim());
    }
    Ok(found)
}

fn update() -> Result<()> {
    if !is_root() {
        unable!("apt's lists are old or empty: sudo apt-get update");
    }
    println!("  apt's lists are old or empty: apt-get update (about 10 MB, 10 s)");
    quiet(Command::new("apt-get").args(["update", "-q"]), Duration::from_secs(300)).map(drop)
}
