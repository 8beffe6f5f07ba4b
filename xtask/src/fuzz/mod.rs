//! `cargo xtask fuzz`: hostile operations by the million against each part that guests reach, on the host.
//!
//! A target is an ignored test of its crate ([`fuzz::Target`](../../../tests/fuzz/src/lib.rs)); it counts and judges
//! itself.

pub mod coverage;
mod minimize;

use crate::place::Place;
use crate::process::{Guarded, stdout_of};
use crate::unable;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How to fuzz.
#[derive(clap::Args)]
pub struct Options {
    /// Only these targets
    targets: Vec<String>,
    /// Operations of each target; 100 million of page-types and 10 million of the others if it is not given
    #[arg(long, value_name = "NUMBER")]
    ops: Option<u64>,
    /// All that is random is made from it
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Go on where the last campaign of this seed stopped
    #[arg(long)]
    resume: bool,
    /// One world alone, as a violation named it
    #[arg(long, value_name = "NUMBER")]
    episode: Option<u64>,
    /// One world alone, made of this file's bytes, as a violation with --coverage named it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["episode", "coverage"])]
    input: Option<PathBuf>,
    /// By libFuzzer, guided by what code an input reaches; begins with the inputs in tests/fuzz/corpus/
    #[arg(long, conflicts_with_all = ["ops", "episode"])]
    pub coverage: bool,
    /// How long each target; 0 only counts the edges that the committed inputs reach
    #[arg(long, value_name = "M", default_value_t = 3, requires = "coverage")]
    minutes: u64,
    /// Then write a few inputs that reach nearly all that was reached to tests/fuzz/corpus/
    #[arg(long, requires = "coverage")]
    minimize: bool,
    /// Count the edges of worlds by seed instead: what a campaign reaches without a guide
    #[arg(long, requires = "coverage", conflicts_with = "minimize")]
    blind: bool,
}

/// A target.
struct Target {
    name: &'static str,
    package: &'static str,
    /// The test that is its campaign.
    test: &'static str,
    operations: u64,
}

const MILLION: u64 = 1_000_000;

const fn target(name: &'static str, package: &'static str, test: &'static str) -> Target {
    Target { name, package, test, operations: 10 * MILLION }
}

const TARGETS: [Target; 14] = [
    Target {
        operations: 100 * MILLION,
        ..target("page-types", "ferrule-core", "mm::tests::hostile::campaign_page_types")
    },
    target("grants", "ferrule-core", "grant::tests::model::campaign_grants"),
    target("events", "ferrule-core", "event::tests::model::campaign_events"),
    target("fifo", "ferrule-core", "event::tests::fifo::campaign_fifo"),
    target("fifo-scribbled", "ferrule-core", "event::tests::fifo::campaign_fifo_scribbled"),
    target("scheduler", "ferrule-core", "sched::tests::campaign_scheduler"),
    target("dispatch", "ferrule-core", "hypercall::hostile::campaign_dispatch"),
    target("rings", "ring-proto", "tests::hostile::campaign_rings"),
    target("store", "dom0", "store::tests::campaign_store"),
    target("manifest", "dom0", "manifest::tests::campaign_manifest"),
    target("bzimage", "dom0", "bzimage::tests::campaign_bzimage"),
    target("elf", "pvimage", "tests::campaign_elf"),
    target("netback", "netback", "tests::hostile::campaign_netback"),
    target("blkback", "blkback", "tests::hostile::campaign_blkback"),
];

/// Runs the campaigns one after the other; an error unless every one held.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    let named = |name: &String| TARGETS.iter().find(|target| target.name == name);
    if let Some(unknown) = options.targets.iter().find(|name| named(name).is_none()) {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        unable!("no target {unknown}; there are: {}", names.join(", "));
    }
    let wanted =
        |target: &&Target| options.targets.is_empty() || options.targets.iter().any(|name| name == target.name);
    let mut lines = Vec::new();
    let mut failed = false;
    for target in TARGETS.iter().filter(wanted) {
        let said = match options.coverage {
            true => coverage::run(place, target, options)?,
            false => run(place, target, options)?,
        };
        failed |= said.is_none();
        lines.push(match said {
            Some(said) => format!("ok     {said}"),
            None => format!("FAILED {}", target.name),
        });
    }
    println!("\n{}", lines.join("\n"));
    if failed {
        return Err(crate::fail::Said.into());
    }
    Ok(())
}

/// Runs one; what it says of itself in the end, if it held.
fn run(place: &Place, target: &Target, options: &Options) -> Result<Option<String>> {
    let program = tests_of(place, target.package)?;
    let dir = place.target.join("fuzz-state");
    std::fs::create_dir_all(&dir)?;
    let state = dir.join(target.name);
    if !options.resume && state.exists() {
        std::fs::remove_file(&state)?;
    }
    let operations = options.ops.unwrap_or(target.operations).to_string();
    let mut with = vec![("FUZZ_OPS", operations.as_ref()), ("FUZZ_STATE", state.as_os_str())];
    let episode = options.episode.map(|episode| episode.to_string());
    with.extend(episode.as_ref().map(|episode| ("FUZZ_EPISODE", episode.as_ref())));
    let input = options.input.as_ref().map(std::path::absolute).transpose()?;
    with.extend(input.as_ref().map(|input| ("FUZZ_INPUT", input.as_os_str())));
    campaign(&program, target, options, &with)
}

/// Runs a target's campaign with this in its environment; its last line, if it held.
fn campaign(program: &Path, target: &Target, options: &Options, with: &[(&str, &OsStr)]) -> Result<Option<String>> {
    let args = ["--ignored", "--nocapture", "--exact", target.test].map(String::from);
    let child = Guarded::spawn(&program.display().to_string(), &args, |command| {
        command.envs(with.iter().copied()).env("FUZZ_SEED", options.seed.to_string()).env("RUST_BACKTRACE", "0");
        command.stdout(Stdio::piped()).stderr(Stdio::inherit()).stdin(Stdio::null());
    })?;
    let output = child.child().stdout.take().context("its output")?;
    let mut last = format!("{}: one world held", target.name);
    for line in BufReader::new(output).lines() {
        let line = line?;
        // Not what the test harness says about itself.
        if line.starts_with(&format!("{}: ", target.name)) || line.starts_with("  ") {
            println!("{line}");
            if !line.starts_with("  ") {
                last = line;
            }
        }
    }
    let held = child.wait(std::time::Duration::from_secs(60))?.is_some_and(|status| status.success());
    Ok(held.then_some(last))
}

/// The unit tests of a package, built for campaigns.
fn tests_of(place: &Place, package: &str) -> Result<PathBuf> {
    println!("building the tests of {package}");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&place.root).args(["test", "--quiet", "--profile", "fuzz", "--lib", "--no-run", "-p", package]);
    let said = stdout_of(cargo.arg("--message-format=json"))?;
    executable(&said).with_context(|| format!("cargo names no tests of {package}"))
}

/// The executable that cargo's messages name last.
pub fn executable(messages: &str) -> Option<PathBuf> {
    let named = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(Path::new(message.get("executable")?.as_str()?).to_path_buf())
    };
    messages.lines().filter_map(named).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_tests_are_what_they_name() {
        for (at, target) in TARGETS.iter().enumerate() {
            assert!(TARGETS[..at].iter().all(|other| other.name != target.name));
            assert!(target.test.ends_with(&format!("campaign_{}", target.name.replace('-', "_"))));
        }
    }

    #[test]
    fn the_executable_is_found_in_cargo_s_messages() {
        let messages = "{\"reason\":\"x\"}\n{\"executable\":null}\n{\"executable\":\"/t/core-1\"}\nnoise";
        assert_eq!(executable(messages), Some("/t/core-1".into()));
        assert_eq!(executable(""), None);
    }
}
