//! `cargo xtask lint`: the rules of the project that a machine can check.

mod directions;
mod limits;
mod pages;
mod source;
mod unsafety;

use crate::build::{CORE, GUESTS, Part, built, loadable};
use crate::metadata::Metadata;
use crate::place::Place;
use crate::planted;
use crate::process::stdout_of;
use crate::toolchain::{Route, TARGET};
use anyhow::{Result, bail};
pub use limits::RING0_GOAL;
use limits::Source;
use std::io::IsTerminal;
use std::process::{Command, Stdio};

/// Runs every rule; an error if one is broken.
pub fn command(place: &Place) -> Result<()> {
    let metadata = Metadata::read(place)?;
    let sources = sources(place)?;
    let mut broken = 0;
    let mut report = |rule: &str, findings: Vec<String>| {
        println!("{:4} {rule}", if findings.is_empty() { "ok" } else { "FAIL" });
        findings.iter().for_each(|finding| println!("       {finding}"));
        broken += usize::from(!findings.is_empty());
    };
    report("crate directions", directions::check(&metadata));
    report("unsafe only where it may stand, with its reason", unsafety(place, &metadata, &sources));
    report("no registry hosts", sources.iter().flat_map(|(path, text)| limits::check_hosts(path, text)).collect());
    report("a page a hypercall, as the dispatch table has them", pages::check_pages(&sources));
    report("tests that docs/soundness.md names", pages::check_tests(&sources));
    let folders: Vec<String> = metadata.packages.iter().map(|p| place.show(p.dir()).to_string()).collect();
    report("every crate is in the map", pages::check_map(&sources, &folders));
    report("links of the book", pages::check_links(&sources, |path| place.root.join(path).exists()));
    let ring0 = ring0_lines(place)?;
    let declared = total(&limits::code_lines(&sources, &["abi/"]));
    let (limit, goal) = (limits::RING0_LINES, limits::RING0_GOAL);
    let rule = format!("ring-0 lines: {ring0}, limit {limit}, goal {goal} (and {declared} of abi's declarations)");
    report(&rule, limits::check_lines(ring0));
    for (part, name) in [(Part::Core, CORE), (Part::Domains, "netback"), (Part::Domains, "blkback")] {
        if let Some(path) = built(place, part, name) {
            let bytes = loadable_of(part, &path)?;
            let rule = format!("image size of {name}: {} of {} KiB", bytes.div_ceil(1024), limits::IMAGE_BYTES >> 10);
            report(&rule, limits::check_size(name, bytes));
        }
    }
    report("planted bugs still apply", planted::check(place)?);
    report("rustfmt", run(place, Command::new("cargo").args(["fmt", "--all", "--check", "--", "-l"])));
    report("clippy, host crates", run(place, clippy(&["--all-targets"], &[])));
    report("clippy, bare-metal crates", bare_metal_clippy(place, &metadata));
    match broken {
        0 => Ok(()),
        1 => bail!("1 rule is broken"),
        n => bail!("{n} rules are broken"),
    }
}

/// The wrapped core is no ELF64: its loaded bytes are the file without its headers, near enough by its size.
pub fn loadable_of(part: Part, path: &std::path::Path) -> Result<u64> {
    match part {
        Part::Core => Ok(std::fs::metadata(path)?.len()),
        Part::Domains | Part::Guests => loadable(path),
    }
}

/// Lines of code in ring 0.
pub fn ring0_lines(place: &Place) -> Result<usize> {
    Ok(total(&limits::code_lines(&sources(place)?, &limits::RING0)))
}

fn total(lines: &[(&str, usize)]) -> usize {
    lines.iter().map(|(_, lines)| lines).sum()
}

/// Prints the lines of code in ring 0, file by file.
pub fn print_lines(place: &Place) -> Result<()> {
    let sources = sources(place)?;
    let lines = limits::code_lines(&sources, &limits::RING0);
    lines.iter().for_each(|(path, lines)| println!("{lines:6} {path}"));
    println!("{:6} in {} files", total(&lines), lines.len());
    Ok(())
}

/// Unsafe blocks and implementations in ring 0.
pub fn ring0_unsafe(place: &Place) -> Result<usize> {
    let sources = sources(place)?;
    let ring0 = sources.iter().filter(|(path, _)| limits::RING0.iter().any(|folder| path.starts_with(folder)));
    Ok(ring0.filter(|(path, _)| path.ends_with(".rs")).map(|(_, text)| unsafety::claims(text)).sum())
}

/// Every text file that git knows or would add; where git does not answer, all but what was built.
fn sources(place: &Place) -> Result<Vec<Source>> {
    let mut git = Command::new("git");
    git.current_dir(&place.root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let paths = match stdout_of(&mut git) {
        Ok(list) => list.split('\0').filter(|path| !path.is_empty()).map(str::to_string).collect(),
        Err(_) => place.files()?,
    };
    let read = |path: String| std::fs::read_to_string(place.root.join(&path)).ok().map(|text| (path, text));
    Ok(paths.into_iter().filter_map(read).collect())
}

fn unsafety(place: &Place, metadata: &Metadata, sources: &[Source]) -> Vec<String> {
    let roots: Vec<_> = metadata.packages.iter().flat_map(|package| package.crate_roots()).collect();
    let rust = sources.iter().filter(|(path, _)| path.ends_with(".rs"));
    rust.flat_map(|(path, text)| unsafety::check(path, text, roots.contains(&place.root.join(path).as_path())))
        .collect()
}

fn clippy(select: &[&str], packages: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg("clippy").args(select).args(packages.iter().flat_map(|package| ["-p", package]));
    if !std::io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    cargo.args(["--", "-D", "warnings"]);
    cargo
}

/// For the target itself where the active toolchain has it; else on the host, where the target's own code is not seen.
fn bare_metal_clippy(place: &Place, metadata: &Metadata) -> Vec<String> {
    let is_image = |name: &str| name == CORE || name == GUESTS;
    let members = metadata.packages.iter().filter(|package| {
        is_image(&package.name)
            || package.name == "domain-rt"
            || package.dependencies.iter().any(|d| d.name == "domain-rt")
    });
    let packages: Vec<&str> = members.map(|package| package.name.as_str()).collect();
    if Route::ready() == Some(Route::Active) {
        return run(place, clippy(&["--lib", "--bins", "--profile", "image", "--target", TARGET], &packages));
    }
    run(place, clippy(&["--lib"], &packages))
}

/// A tool whose messages are the findings.
fn run(place: &Place, mut command: impl std::borrow::BorrowMut<Command>) -> Vec<String> {
    const SHOWN: usize = 60;
    let command = command.borrow_mut();
    let out = command.current_dir(&place.root).stdin(Stdio::null()).output();
    match out {
        Ok(out) if out.status.success() => Vec::new(),
        Ok(out) => {
            let text = [out.stdout, out.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let mut lines: Vec<String> = text.lines().take(SHOWN).map(str::to_string).collect();
            let more = text.lines().count().saturating_sub(SHOWN);
            if more > 0 {
                lines.push(format!("... and {more} lines more"));
            }
            lines
        }
        Err(error) => vec![format!("{}: {error}", command.get_program().display())],
    }
}
