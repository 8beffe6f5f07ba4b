//! `cargo xtask bench core`: instructions per operation on Ferrule and on Debian's Xen, in one sitting; `bench rings`,
//! `net`, `blk`: per message, packet and block request, by domain; `bench boot`: starting, domains, idling and memory against their goals.
//!
//! Under icount one virtual nanosecond is one instruction, so the guest's TSC counts instructions, the same in every run.

pub mod boot;
mod devices;
pub mod goals;
mod plot;
mod report;

use crate::build::{Part, build, built};
use crate::conformance::verdict::is_verdict;
use crate::place::Place;
use crate::qemu::{Line, Machine};
use crate::xen;
use anyhow::{Context, Result, bail};
use devices::Kind;
use report::{Figure, INSTRUCTIONS, Report};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The guest that measures: prints `BENCH <name> <value>` lines, then its verdict.
const GUEST: &str = "bench-core";
/// Both hypervisors' command line: no mitigation that the other side does not have.
const COMMAND_LINE: &str = "spec-ctrl=no xpti=0 console=com1 noreboot dom0_mem=64M";
/// Counting instructions takes a single-threaded QEMU some minutes at most.
const LIMIT: Duration = Duration::from_secs(300);

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Bench {
    /// Instructions per hypercall, trap and page-table operation, beside Xen's
    Core {
        /// Leave Xen out
        #[arg(long)]
        ferrule_only: bool,
    },
    /// Instructions per message of the split driver `echo`, by domain
    Rings,
    /// Instructions per packet from guest to guest, by domain
    Net,
    /// Instructions per request to a RAM disk, by domain
    Blk,
    /// Starting, domains, idling, memory and sizes, each against its goal
    Boot,
}

/// Runs one bench, prints its table and writes JSON and HTML.
pub fn command(place: &Place, bench: &Bench, no_install: bool) -> Result<()> {
    match bench {
        Bench::Core { ferrule_only } => core(place, *ferrule_only, no_install),
        Bench::Rings => publish(place, "rings", devices::measure(place, Kind::Rings)?),
        Bench::Net => publish(place, "net", devices::measure(place, Kind::Net)?),
        Bench::Blk => publish(place, "blk", devices::measure(place, Kind::Blk)?),
        Bench::Boot => boot(place),
    }
}

/// Prints the table and writes JSON and HTML.
fn publish(place: &Place, name: &str, figures: Vec<Figure>) -> Result<()> {
    let report = Report::new(place, figures);
    print!("{}", report.table());
    for path in report.write(place, name)? {
        println!("{}", place.show(&path));
    }
    Ok(())
}

/// Every figure against its goal; an error if one is missed.
fn boot(place: &Place) -> Result<()> {
    build(place, &[Part::Core, Part::Domains])?;
    let goals = boot::measure(place)?;
    print!("{}", goals::table(&goals));
    for path in goals::write(place, "boot", &goals)? {
        println!("{}", place.show(&path));
    }
    match goals.iter().filter(|goal| !goal.holds()).count() {
        0 => Ok(()),
        1 => bail!("1 figure misses its goal"),
        missed => bail!("{missed} figures miss their goals"),
    }
}

fn core(place: &Place, ferrule_only: bool, no_install: bool) -> Result<()> {
    build(place, &[Part::Core, Part::Guests])?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let guest = built(place, Part::Guests, GUEST).with_context(|| format!("no guest {GUEST} yet"))?;
    let start = Instant::now();
    // Exact whatever else the machine does, so both may run at once.
    let (ours, xen) = std::thread::scope(|scope| {
        let xen =
            (!ferrule_only).then(|| scope.spawn(|| measure(place, &xen::image(place, no_install)?, &guest, "xen")));
        let ours = measure(place, &core, &guest, "ferrule");
        let xen = xen.map(|handle| handle.join().unwrap_or_else(|_| bail!("the measurement of Xen panicked")));
        (ours, xen.transpose())
    });
    let (ours, xen) = (ours?, xen?.unwrap_or_default());
    let figures =
        ours.into_iter().map(|(name, value)| Figure { peer: xen.get(&name).copied(), name, value, unit: INSTRUCTIONS });
    publish(place, "core", figures.collect())?;
    println!("measured in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// One run under icount; the figures by name.
fn measure(place: &Place, kernel: &Path, guest: &Path, side: &str) -> Result<BTreeMap<String, f64>> {
    let mut machine = Machine::new(kernel, COMMAND_LINE, &guest.display().to_string());
    machine.icount = true;
    let log = place.logs("bench")?.join(format!("core-{side}.log"));
    let mut running = machine.start(&log)?;
    let end = running.wait_line(0, LIMIT, is_verdict);
    let held = end.and_then(|end| running.lines().get(end)).is_some_and(|line| line.text.trim_end() == "SUCCESS");
    let figures = figures(running.lines());
    let said = running.end();
    if !held || figures.is_empty() {
        bail!("{GUEST} on {side} did not hold; {}\n{said}", place.show(&log));
    }
    Ok(figures)
}

fn figures(lines: &[Line]) -> BTreeMap<String, f64> {
    let figure = |line: &Line| {
        let at = line.text.find("BENCH ")?;
        let mut words = line.text.get(at..)?.split_whitespace().skip(1);
        Some((format!("core/{}", words.next()?), words.next()?.parse().ok()?))
    };
    lines.iter().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_other_lines_are_not() {
        let texts = ["(XEN) x", "BENCH null_hypercall 139", "BENCH grant_copy_64 520.5", "BENCH broken", "SUCCESS"];
        let line = |text: &&str| Line { at: Duration::ZERO, text: text.to_string() };
        let lines: Vec<Line> = texts.iter().map(line).collect();
        let found: Vec<_> = figures(&lines).into_iter().collect();
        assert_eq!(found, [("core/grant_copy_64".to_string(), 520.5), ("core/null_hypercall".to_string(), 139.0)]);
    }
}
