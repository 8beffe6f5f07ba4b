//! `cargo xtask run`: the machine, the tour, dom0's prompt.

mod console;
mod hand_over;

use crate::build::{Part, build, built};
use crate::place::Place;
use crate::qemu::{Accel, Ending, Machine, Running};
use crate::unable;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// How to run.
#[derive(clap::Args)]
pub struct Options {
    /// CPUs of the machine
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory of the machine in MiB
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    mem: u32,
    /// What executes guest code
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Wait for a debugger before the first instruction
    #[arg(long)]
    gdb: bool,
    /// How much the core and dom0 log
    #[arg(long, value_enum, default_value_t = Level::Info)]
    log: Level,
    /// Boot only this PV64 image as the initial domain, without the tour; arguments follow it, in the same quotes
    #[arg(long, value_name = "IMAGE")]
    dom0: Option<String>,
    /// More arguments for QEMU
    #[arg(last = true, value_name = "QEMU ARGS")]
    qemu: Vec<String>,
}

/// A level of the log, as the core's `log=` option takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// Boots, shows, ends.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    let accel = options.accel.resolve()?;
    let Some(image) = &options.dom0 else {
        unable!("dom0 does not build yet; `cargo xtask run --dom0 IMAGE` boots any PV64 image as the initial domain");
    };
    let path = PathBuf::from(image.split(' ').next().unwrap_or(image));
    if !path.is_file() {
        unable!("no image {}", path.display());
    }
    build(place, &[Part::Core])?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let mut machine = Machine::new(&core, &format!("log={}", options.log.name()), image);
    (machine.smp, machine.mem, machine.accel) = (options.smp, options.mem, accel);
    machine.extra = extra(place, options);
    let mut running = machine.start(&place.out().join("run.log"))?;
    let ending = hand_over::until_end(&mut running)?;
    close(place, running, ending)
}

fn extra(place: &Place, options: &Options) -> Vec<String> {
    let mut extra = options.qemu.clone();
    if options.gdb {
        let symbols = crate::toolchain::Route::ready().map(|route| route.artefact(place, crate::build::CORE));
        println!("waiting for: gdb -ex 'target remote :1234' {}", symbols.unwrap_or_default().display());
        extra.extend(["-s".to_string(), "-S".to_string()]);
    }
    extra
}

/// What the machine's end means for the person who started it.
fn close(place: &Place, running: Running, ending: Ending) -> Result<()> {
    let log = running.log.clone();
    let messages = running.end();
    match ending {
        Ending::PowerOff => Ok(()),
        Ending::Other(Some(1)) => unable!("QEMU would not start: {messages}"),
        ending => bail!("the machine ended as {ending:?} {messages}\nfull log: {}", place.show(&log)),
    }
}
