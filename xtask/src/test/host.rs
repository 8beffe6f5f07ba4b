//! The stages that run on the host: unit and property tests, loom.

use super::tally::{Tally, of_cargo_test};
use crate::build::{CORE, GUESTS};
use crate::metadata::Metadata;
use crate::place::Place;
use crate::process::quiet;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(1800);
/// Shown of a failed run; the rest is in its log.
const SHOWN: usize = 60;

/// Unit, property and documentation tests of everything that runs on the host.
pub fn unit(place: &Place) -> Result<Tally> {
    // Images without a host half: their logic is tested in the crates below them.
    let mut cargo = cargo(place);
    cargo.args(["test", "--workspace", "--no-fail-fast", "--exclude", CORE, "--exclude", GUESTS]);
    run(place, "unit", &mut cargo)
}

/// The crates that have a loom half, by their dependency on it.
pub fn loom_crates(metadata: &Metadata) -> Vec<String> {
    let has_loom = |package: &&crate::metadata::Package| package.dependencies.iter().any(|d| d.name == "loom");
    metadata.packages.iter().filter(has_loom).map(|package| package.name.clone()).collect()
}

/// Every interleaving of the words that two sides share. Built apart: loom's flag changes every crate.
pub fn loom(place: &Place, crates: &[String]) -> Result<Tally> {
    let mut cargo = cargo(place);
    cargo.args(["test", "--release", "--lib", "--no-fail-fast"]);
    for name in crates {
        cargo.args(["-p", name]);
    }
    cargo.arg("loom");
    cargo.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", place.target.join("loom"));
    run(place, "loom", &mut cargo)
}

fn cargo(place: &Place) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&place.root);
    cargo
}

fn run(place: &Place, stage: &str, cargo: &mut Command) -> Result<Tally> {
    let out = quiet(cargo, LIMIT)?;
    let log = place.logs("test")?.join(format!("{stage}.log"));
    std::fs::write(&log, &out.text)?;
    let tally = of_cargo_test(&out.text);
    if !out.ok {
        println!("{}\n  whole log: {}", excerpt(&out.text), place.show(&log));
        if tally.failed == 0 {
            bail!("cargo test failed before all tests had run");
        }
    }
    if tally == Tally::default() {
        bail!("no test ran; {}", place.show(Path::new(&log)));
    }
    Ok(tally)
}

/// The part that says what failed: from the first compiler error or failure on.
fn excerpt(text: &str) -> String {
    let is_start = |line: &str| line.starts_with("error") || line == "failures:" || line.contains("panicked at");
    let from = text.lines().position(is_start).unwrap_or(0);
    text.lines().skip(from).take(SHOWN).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
