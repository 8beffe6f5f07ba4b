//! The tour as people see it: `cargo xtask run` without a terminal, which ends by itself with what it found.

use super::tally::Tally;
use super::tool::{say, xtask};
use crate::build::{Part, build};
use crate::place::Place;
use anyhow::Result;
use std::time::Instant;

/// The machines: a name, and what `run` is told.
const MACHINES: &[(&str, &[&str])] = &[
    ("1 CPU", &["--smp", "1"]),
    ("2 CPUs", &["--smp", "2"]),
    ("2 CPUs, q35", &["--smp", "2", "--", "-M", "q35"]),
    ("2 CPUs, scattered memory", &["--smp", "2", "--core", "scatter"]),
    ("Linux, 1 CPU", &["--config", LINUX, "--smp", "1"]),
    ("Linux, 2 CPUs", &["--config", LINUX, "--smp", "2"]),
];
const LINUX: &str = "examples/linux-mini.toml";

/// Takes it on each machine.
pub fn run(place: &Place) -> Result<Tally> {
    build(place, &[Part::Core, Part::Domains])?;
    let mut tally = Tally::default();
    for (name, options) in MACHINES {
        let dir = place.logs("tour")?.join(name.replace([' ', ','], ""));
        std::fs::create_dir_all(&dir)?;
        let log = dir.join("screen.log");
        let shown = dir.display().to_string();
        let args = [&["run", "--http-port", "0", "--dir", &shown], *options].concat();
        let start = Instant::now();
        let said = say(&mut xtask(place, &args)?, &log)?;
        let held = said.code == Some(0);
        println!("  {:4} {name}   {:.1} s", if held { "ok" } else { "FAIL" }, start.elapsed().as_secs_f64());
        if held {
            // What is large is made anew by the next run.
            let _ = std::fs::remove_file(dir.join("disk.img"));
            let _ = std::fs::remove_dir_all(dir.join("www"));
        } else {
            println!("{}", said.text);
            println!("       {} and run.log beside it", place.show(&log));
            println!("       again: cargo xtask run {}", options.join(" "));
        }
        tally += Tally::one(held);
    }
    Ok(tally)
}
