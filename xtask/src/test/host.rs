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

/// Every interleaving of the words that two sides share, crate by crate. Built apart: loom's flag changes every crate.
///
/// A crate with a dependency on loom has its tests in `tests/loom.rs`, or in modules of its own called `loom`.
pub fn loom(place: &Place, metadata: &Metadata) -> Result<Tally> {
    let mut tally = Tally::default();
    for package in metadata.packages.iter().filter(|p| p.dependencies.iter().any(|d| d.name == "loom")) {
        let mut cargo = cargo(place);
        cargo.args(["test", "--release", "--no-fail-fast", "-p", &package.name]);
        match package.targets.iter().any(|target| target.name == "loom" && target.kind == ["test"]) {
            true => cargo.args(["--test", "loom"]),
            false => cargo.args(["--lib", "loom"]),
        };
        cargo.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", place.target.join("loom"));
        tally += run(place, &format!("loom-{}", package.name), &mut cargo)?;
    }
    Ok(tally)
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
