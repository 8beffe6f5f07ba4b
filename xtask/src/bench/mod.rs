//! `cargo xtask bench`: everything that follows, in one table, one JSON and one page. `bench core`: instructions per
//! operation on Ferrule and on Debian's Xen, in one sitting; `bench rings`, `net`, `blk`: per message, packet and block
//! request, by domain; `bench boot`: starting, domains, idling and memory against their goals; `bench --check`: exact
//! figures against what SPEC.md promises.
//!
//! Under icount one virtual nanosecond is one instruction, so the guest's TSC counts instructions, the same in every run.

pub mod boot;
pub mod core;
pub mod devices;
mod host;
pub mod linux;
pub mod loads;
mod plot;
pub mod report;
pub mod spec;
mod wall;

use crate::place::Place;
use crate::toolchain::Route;
use anyhow::{Context, Result, bail};
use devices::Extent;
use loads::Kind;
use report::{Figure, Origin, Report};
use std::time::Instant;

/// What to measure; core, rings, net, blk and boot if nothing is named (ten minutes), into one table.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Measure only what SPEC.md promises, on Ferrule alone; fails where a figure has risen by more than 2 %
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    bench: Option<Bench>,
}

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Bench {
    /// Instructions per hypercall, trap and page-table operation, beside Xen's
    Core {
        /// Leave Xen out
        #[arg(long)]
        ferrule_only: bool,
    },
    /// ring-proto on the host beside its peers; and instructions per message of the split driver `echo`, beside Xen's
    Rings {
        /// Every size, batch, ring size and number of queues: some minutes
        #[arg(long)]
        full: bool,
    },
    /// Instructions per packet, from guest to guest and to the NIC, by domain and by image, beside Xen's; rates, latencies
    Net,
    /// Instructions per request to a RAM disk, by domain and by image, beside Xen's; rates, latencies
    Blk,
    /// Starting, domains, idling, memory and sizes, each against its goal
    Boot,
    /// What Debian's Linux takes as a guest: to start, for system calls, processes, memory, disk and network
    Linux(linux::Options),
}

/// Runs one bench or all, prints the table and writes JSON and HTML; or checks them all.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    match &options.bench {
        Some(Bench::Core { ferrule_only }) => publish(place, "core", core::measure(place, !ferrule_only)?),
        Some(Bench::Rings { full }) => {
            let start = Instant::now();
            let (figures, goals) = rings(place, *full)?;
            publish(place, "rings", figures)?;
            print!("{goals}");
            println!("in {:.0} s", start.elapsed().as_secs_f64());
            Ok(())
        }
        Some(Bench::Net) => publish(place, "net", devices(place, &[Kind::Net, Kind::Nic])?),
        Some(Bench::Blk) => publish(place, "blk", devices(place, &[Kind::Blk])?),
        Some(Bench::Boot) => publish(place, "boot", boot::measure(place)?),
        Some(Bench::Linux(options)) => linux::command(place, options),
        None if options.check => check(place),
        None => all(place),
    }
}

/// Prints the table and writes JSON and HTML.
fn publish(place: &Place, name: &str, figures: Vec<Figure>) -> Result<()> {
    let report = Report::new(figures, Origin::here(place), spec::read(place)?);
    print!("{}", report.table());
    match report.missed() {
        0 => {}
        1 => println!("1 figure misses its goal"),
        missed => println!("{missed} figures miss their goals"),
    }
    for path in report.write(place, name)? {
        println!("{}", place.show(&path));
    }
    Ok(())
}

/// Every bench but that of Linux.
fn all(place: &Place) -> Result<()> {
    type Part<'a> = (&'a str, &'a dyn Fn() -> Result<(Vec<Figure>, String)>);
    let plain = |figures| Ok((figures, String::new()));
    let parts: [Part<'_>; 5] = [
        ("rings", &|| rings(place, false)),
        ("core", &|| plain(core::measure(place, true)?)),
        ("net", &|| plain(devices(place, &[Kind::Net, Kind::Nic])?)),
        ("blk", &|| plain(devices(place, &[Kind::Blk])?)),
        ("boot", &|| plain(boot::measure(place)?)),
    ];
    let (mut figures, mut goals) = (Vec::new(), String::new());
    for (name, measure) in parts {
        let start = Instant::now();
        let (more, said) = measure().with_context(|| format!("bench {name}"))?;
        println!("{name:6} {:4} figures in {:.0} s", more.len(), start.elapsed().as_secs_f64());
        figures.extend(more);
        goals += &said;
    }
    publish(place, "bench", figures)?;
    print!("{goals}");
    Ok(())
}

/// With everything there is to say.
fn devices(place: &Place, kinds: &[Kind]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for kind in kinds {
        figures.extend(devices::measure(place, *kind, Extent { long: true, beside: true, split: true })?);
        figures.extend(wall::measure(place, *kind)?);
    }
    Ok(figures)
}

/// Their figures, and how ratios of them stand to their goals. On the host first, as QEMU would disturb it.
fn rings(place: &Place, full: bool) -> Result<(Vec<Figure>, String)> {
    let mut figures = host::measure(place, full)?;
    let goals = host::goals(&figures);
    figures.extend(devices::measure(place, Kind::Rings, Extent { long: full, beside: true, split: false })?);
    Ok((figures, goals))
}

/// All that is promised, measured again.
fn check(place: &Place) -> Result<()> {
    let mut figures = core::measure(place, false)?;
    for kind in Kind::ALL {
        figures.extend(devices::measure(place, kind, Extent::default())?);
    }
    hold(place, &figures, &["core/", "rings/", "net/", "blk/"])
}

/// What is promised of the core, which takes some seconds: for `cargo xtask test`.
pub fn check_core(place: &Place) -> Result<()> {
    hold(place, &core::measure(place, false)?, &["core/"])
}

fn hold(place: &Place, figures: &[Figure], benches: &[&str]) -> Result<()> {
    let promises = spec::read(place)?;
    let broken = spec::broken(&promises, figures, benches);
    let compiler = Route::ready().map(Route::describe).unwrap_or_default();
    if !spec::holds_for(place, &compiler)? {
        println!("{} is of another compiler than {compiler}; were it held:\n{broken}", spec::PAGE);
        return Ok(());
    }
    let held = promises.keys().filter(|name| benches.iter().any(|bench| name.starts_with(bench))).count();
    for figure in figures.iter().filter(|figure| promises.contains_key(&figure.name)) {
        println!("{:44} {:>9.1} {}", figure.name, figure.value, figure.unit);
    }
    match broken.lines().count() {
        0 => println!("{held} figures are what {} promises, or less", spec::PAGE),
        count => bail!("{count} of {held} promises are broken\n{broken}"),
    }
    Ok(())
}
