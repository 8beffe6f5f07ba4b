//! `cargo xtask test`: every check there is, in stages, each with its time and result.

mod audit;
mod balloon;
mod broken_frames;
mod chaos;
mod copies;
mod e2e;
mod features;
mod figures;
mod flood;
mod guided;
mod host;
mod iso;
mod linux;
mod memory;
mod refusals;
mod restart;
mod routes;
mod runtime;
mod shell;
mod signals;
mod system;
mod tally;
mod time;
mod tool;
mod tour;
mod unpacking;

use crate::build::{Part, build};
use crate::metadata::Metadata;
use crate::place::Place;
use crate::{conformance, lint};
use anyhow::Result;
use std::time::Instant;
use tally::Tally;

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Only these stages
    #[arg(value_enum)]
    stages: Vec<Stage>,
    /// In end-to-end and conformance: only what has this in its name
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    /// Everything that runs under QEMU builds, and is small
    Images,
    /// Rules that a machine can check
    Lint,
    /// Unit, property and documentation tests on the host
    Unit,
    /// Every interleaving of the words that two sides share
    Loom,
    /// Test guests on Ferrule and on real Xen
    Conformance,
    /// Whole machines under QEMU, on one CPU and on two
    E2e,
    /// What `run` shows, on one CPU and on two, and on the other kind of machine
    Tour,
}

impl Stage {
    const ALL: [Stage; 7] =
        [Stage::Images, Stage::Lint, Stage::Unit, Stage::Loom, Stage::Conformance, Stage::E2e, Stage::Tour];

    fn title(self) -> &'static str {
        match self {
            Stage::Images => "images",
            Stage::Lint => "lint",
            Stage::Unit => "unit and property tests",
            Stage::Loom => "loom",
            Stage::Conformance => "conformance with Xen",
            Stage::E2e => "end to end",
            Stage::Tour => "tour",
        }
    }

    fn run(self, place: &Place, options: &Options, no_install: bool) -> Result<Tally> {
        match self {
            Stage::Images => build(place, &Part::ALL).map(|_| Tally::one(true)),
            Stage::Lint => lint::command(place).map(|()| Tally::one(true)),
            Stage::Unit => host::unit(place),
            Stage::Loom => host::loom(place, &Metadata::read(place)?),
            Stage::Conformance => {
                let tally = conformance::run(place, &conformance::Options::only(options.only.clone()), no_install)?;
                Ok(Tally { passed: tally.passed, failed: tally.failed })
            }
            Stage::E2e => e2e::run(place, options.only.as_deref()),
            Stage::Tour => tour::run(place),
        }
    }
}

/// Runs the stages one after the other; an error if anything failed.
pub fn command(place: &Place, options: &Options, no_install: bool) -> Result<()> {
    let stages = match options.stages.is_empty() {
        true => Stage::ALL.to_vec(),
        false => options.stages.clone(),
    };
    let start = Instant::now();
    let mut total = Tally::default();
    let mut lines = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        println!("[{}/{}] {}", index + 1, stages.len(), stage.title());
        let began = Instant::now();
        let tally = stage.run(place, options, no_install).unwrap_or_else(|error| {
            println!("  {error:#}");
            Tally::one(false)
        });
        total += tally;
        let mark = if tally.failed == 0 { "ok" } else { "FAIL" };
        let seconds = began.elapsed().as_secs_f64();
        let line = format!(
            "{mark:4} {:26} {:5} passed {:3} failed  {seconds:6.1} s",
            stage.title(),
            tally.passed,
            tally.failed
        );
        println!("{line}\n");
        lines.push(line);
    }
    println!("{}", lines.join("\n"));
    println!("in {:.0} s; serial logs: {}", start.elapsed().as_secs_f64(), place.show(&place.out().join("logs")));
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        return Err(crate::fail::Said.into());
    }
    Ok(())
}
