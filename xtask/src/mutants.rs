//! `cargo xtask mutants`: small changes to our code, one by one, each of which a unit test must notice (cargo-mutants).
//!
//! What is not mutated is said in `.cargo/mutants.toml`. A first pass leaves out the tests that take long; what survives
//! it meets all of them in a second one. Both go on where they were stopped.

use crate::place::Place;
use crate::process::which;
use crate::unable;
use anyhow::{Context, Result};
use std::process::Command;

/// What to mutate.
#[derive(clap::Args)]
pub struct Options {
    /// Only these packages; kernel/core and ring-proto if none is given
    packages: Vec<String>,
    /// One part of so many: `1/8` is the second of eight
    #[arg(long, value_name = "N/ALL")]
    shard: Option<String>,
    /// Begin anew
    #[arg(long)]
    anew: bool,
}

/// The tests of a package that the first pass leaves out.
const SLOW: [(&str, &[&str]); 2] = [
    (
        "ring-proto",
        &["blk_hostile_front", "blk_polite", "net_polite", "net_hostile_front", "any_keys", "hostile_peers"],
    ),
    ("ferrule-core", &["hostile", "races", "random_"]),
];

/// Mutates; an error if more than 2 % of a package's mutants survive.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    if which("cargo-mutants").is_none() {
        unable!("cargo-mutants is missing; install it with: cargo install --locked cargo-mutants");
    }
    let mut failed = false;
    for (package, slow) in SLOW {
        if !options.packages.is_empty() && !options.packages.iter().any(|name| name == package) {
            continue;
        }
        let part = options.shard.as_deref().map_or(String::new(), |shard| format!("-{}", shard.replace('/', "-of-")));
        let out = place.target.join("mutants").join(format!("{package}{part}"));
        if options.anew && out.exists() {
            std::fs::remove_dir_all(&out)?;
        }
        std::fs::create_dir_all(&out)?;
        for skipped in [slow, &[]] {
            let mut cargo = Command::new("cargo");
            cargo.current_dir(&place.root).env("CARGO_PROFILE_DEV_DEBUG", "0").env("PROPTEST_CASES", "16");
            cargo.args(["mutants", "--iterate", "--jobs", "1", "--baseline", "skip", "--timeout", "60", "-p", package]);
            if let Some(shard) = &options.shard {
                cargo.args(["--shard", shard]);
            }
            cargo.arg("--output").arg(&out).args(["--", "--lib", "--"]);
            cargo.args(skipped.iter().flat_map(|name| ["--skip", name]));
            // Its exit code says that something survived, which is counted below.
            cargo.status().context("starting cargo mutants")?;
        }
        let count = |name: &str| {
            let text = std::fs::read_to_string(out.join("mutants.out").join(name)).unwrap_or_default();
            text.lines().count()
        };
        let survived = count("missed.txt");
        let found = count("caught.txt") + count("timeout.txt") + count("previously_caught.txt");
        println!("{package}{part}: {survived} of {} survived", survived + found);
        failed |= survived * 50 > survived + found;
    }
    if failed {
        return Err(crate::fail::Said.into());
    }
    Ok(())
}
