//! Builds the bare-metal images and puts them where everything else finds them: target/ferrule/.

use crate::elf32::Image;
use crate::metadata::{Metadata, Package};
use crate::place::Place;
use crate::process::stdout_of;
use crate::toolchain::Route;
use crate::unable;
use anyhow::{Context, Result, bail};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The package of the ring-0 image.
pub const CORE: &str = "ferrule";
/// The package whose executables are test guests.
pub const GUESTS: &str = "conformance-guests";
/// What a package must depend on for its executables to be domain images.
const DOMAIN_RUNTIME: &str = "domain-rt";

/// A part of the images; cargo builds each on its own, so that features of one do not leak into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The ring-0 image.
    Core,
    /// dom0, the driver domains and the Rust guests.
    Domains,
    /// The conformance and bench guests.
    Guests,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::Core, Part::Domains, Part::Guests];

    fn packages(self, metadata: &Metadata) -> Vec<&Package> {
        let is_domain = |package: &&Package| {
            let runs_in_a_domain = package.dependencies.iter().any(|d| d.name == DOMAIN_RUNTIME && d.kind.is_none());
            runs_in_a_domain && package.name != GUESTS
        };
        let packages: Vec<&Package> = match self {
            Part::Core => metadata.package(CORE).into_iter().collect(),
            Part::Guests => metadata.package(GUESTS).into_iter().collect(),
            Part::Domains => metadata.packages.iter().filter(is_domain).collect(),
        };
        packages.into_iter().filter(|package| package.bins().next().is_some()).collect()
    }

    fn folder(self, place: &Place) -> PathBuf {
        match self {
            Part::Guests => place.out().join("guests"),
            Part::Core | Part::Domains => place.out(),
        }
    }
}

/// Where an image of that name lies, if it is built.
pub fn built(place: &Place, part: Part, name: &str) -> Option<PathBuf> {
    let name = if part == Part::Core { "ferrule.elf" } else { name };
    Some(part.folder(place).join(name)).filter(|path| path.is_file())
}

/// Builds `parts`; the executables put out.
pub fn build(place: &Place, parts: &[Part]) -> Result<Vec<PathBuf>> {
    some(place, parts, &[])
}

/// Builds those of `parts` that are called so, or all for no names.
fn some(place: &Place, parts: &[Part], names: &[String]) -> Result<Vec<PathBuf>> {
    if place.as_built {
        return Ok(Vec::new());
    }
    let Some(route) = Route::ready() else { unable!("no compiler for the images: cargo xtask setup") };
    let metadata = Metadata::read(place)?;
    let mut out = Vec::new();
    let known: Vec<&str> =
        Part::ALL.iter().flat_map(|part| part.packages(&metadata)).map(|p| p.name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        unable!("nothing to build is called {unknown}; there are: {}", known.join(", "));
    }
    for part in parts {
        let mut packages = part.packages(&metadata);
        packages.retain(|package| names.is_empty() || names.contains(&package.name));
        if !packages.is_empty() {
            compile(place, route, &packages, &[])?;
        }
        for package in packages {
            for bin in package.bins() {
                out.push(put_out(place, *part, &route.artefact(place, bin), bin)?);
            }
        }
    }
    Ok(out)
}

/// Builds a domain of that name with a feature that nobody else wants, into a file of its own.
pub fn with_feature(place: &Place, name: &str, feature: &str, to: &Path) -> Result<()> {
    let Some(route) = Route::ready() else { unable!("no compiler for the images: cargo xtask setup") };
    let metadata = Metadata::read(place)?;
    let package = metadata.package(name).with_context(|| format!("no package {name}"))?;
    compile(place, route, &[package], &["--features", feature])?;
    strip(&route.artefact(place, name), to)
}

fn compile(place: &Place, route: Route, packages: &[&Package], more: &[&str]) -> Result<()> {
    let mut cargo = route.cargo_build(place);
    cargo.arg("--bins").args(more);
    for package in packages {
        cargo.args(["-p", &package.name]);
    }
    if !std::io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    let status = cargo.status().context("starting cargo")?;
    if !status.success() {
        let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
        bail!("building {} failed", names.join(", "));
    }
    Ok(())
}

/// The core wrapped for the loader, a domain without debug sections.
fn put_out(place: &Place, part: Part, artefact: &Path, bin: &str) -> Result<PathBuf> {
    let folder = part.folder(place);
    std::fs::create_dir_all(&folder)?;
    if part == Part::Core {
        let to = folder.join("ferrule.elf");
        let image = Image::parse(&read(artefact)?).with_context(|| artefact.display().to_string())?;
        std::fs::write(&to, image.wrap()?)?;
        return Ok(to);
    }
    let to = folder.join(bin);
    strip(artefact, &to)?;
    Ok(to)
}

fn strip(artefact: &Path, to: &Path) -> Result<()> {
    stdout_of(Command::new("objcopy").arg("--strip-debug").arg(artefact).arg(to)).map(drop)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Bytes that an image loads.
pub fn loadable(path: &Path) -> Result<u64> {
    Ok(Image::parse(&read(path)?)?.loadable())
}

/// `cargo xtask build`: everything there is, or the packages of these names, with sizes.
pub fn command(place: &Place, names: &[String]) -> Result<()> {
    let route = Route::ready().map(Route::describe).unwrap_or_default();
    println!("building with {route}");
    let start = Instant::now();
    for path in some(place, &Part::ALL, names)? {
        let size = std::fs::metadata(&path)?.len();
        println!("  {:6} KiB  {}", size.div_ceil(1024), place.show(&path));
    }
    println!("built in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
