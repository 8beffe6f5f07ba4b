//! The tour as people see it: `cargo xtask run` without a terminal, which ends by itself with what it found.

use super::tally::Tally;
use super::tool::{say, xtask};
use crate::build::{Part, build};
use crate::place::Place;
use anyhow::Result;
use std::time::Instant;

/// The machines: a name, what `run` is told, and for those with a Linux guest what its command line has besides, and what
/// is to be read on the screen.
const MACHINES: &[(&str, &[&str], Linux)] = &[
    ("1 CPU", &["--smp", "1"], None),
    ("2 CPUs", &["--smp", "2"], None),
    ("2 CPUs, q35", &["--smp", "2", "--", "-M", "q35"], None),
    ("2 CPUs, scattered memory", &["--smp", "2", "--core", "scatter"], None),
    // By instructions: where its host is busy, Xen's clock under QEMU runs seconds ahead in guests, and then stands.
    ("1 CPU, Xen", &["--hypervisor", "xen", "--icount"], None),
    ("Linux, 1 CPU, 2-level", &["--smp", "1"], Some(("xen.fifo_events=0", "2-level event channels"))),
    ("Linux, 2 CPUs", &["--smp", "2"], Some(("", "FIFO-based event channels"))),
];
/// See [`MACHINES`].
type Linux = Option<(&'static str, &'static str)>;
const LINUX: &str = "examples/linux-mini.toml";

/// Takes it on each machine.
pub fn run(place: &Place) -> Result<Tally> {
    build(place, &[Part::Core, Part::Domains])?;
    let mut tally = Tally::default();
    for (name, options, linux) in MACHINES {
        let dir = place.logs("tour")?.join(name.replace([' ', ','], ""));
        std::fs::create_dir_all(&dir)?;
        let log = dir.join("screen.log");
        let shown = dir.display().to_string();
        let manifest = dir.join("manifest.toml");
        let config = manifest.display().to_string();
        let mut args = vec!["run", "--http-port", "0", "--dir", &shown];
        let mut says = "";
        if let Some((more, text)) = linux {
            let example = std::fs::read_to_string(place.root.join(LINUX))?;
            std::fs::write(&manifest, example.replace("quiet", &format!("quiet {more}")))?;
            args.extend(["--config", &config]);
            says = text;
        }
        args.extend(*options);
        let start = Instant::now();
        let said = say(&mut xtask(place, &args)?, &log)?;
        let held = said.code == Some(0) && said.text.contains(says);
        println!("  {:4} {name}   {:.1} s", if held { "ok" } else { "FAIL" }, start.elapsed().as_secs_f64());
        if held {
            // What is large is made anew by the next run.
            let _ = std::fs::remove_file(dir.join("disk.img"));
            let _ = std::fs::remove_dir_all(dir.join("www"));
        } else {
            println!("{}", said.text);
            println!("       {} and run.log beside it", place.show(&log));
            println!("       again: cargo xtask {}", args.join(" "));
        }
        tally += Tally::one(held);
    }
    Ok(tally)
}
