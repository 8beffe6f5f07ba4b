//! `cargo xtask`: set-up, build, run, test, bench, lint and scaffolding, one entry for people and for CI.
//!
//! Exit codes: 0 all held, 1 something was found wrong, 2 it could not begin (a mistake at the keyboard, or a missing
//! tool), 130 stopped by Ctrl-C.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod campaign;
mod chaos;
mod check;
mod conformance;
mod counts;
mod cpio;
mod disk;
mod elf32;
mod fail;
mod fuzz;
mod guest;
mod iso;
mod lint;
mod metadata;
mod mutants;
mod packages;
mod peer;
mod place;
mod planted;
mod process;
mod profile;
mod qemu;
mod run;
mod scaffold;
mod screen;
mod setup;
mod terminal;
mod test;
mod toolchain;
mod xen;

use anyhow::Result;
use clap::{Parser, Subcommand};
use place::Place;
use std::process::ExitCode;

const FIRST_LINES: &str = "\
Ferrule: a microkernel-style PV hypervisor for x86-64. Start here:
  cargo xtask run            boot two networked guests under QEMU, watch the tour, then dom0's prompt
  cargo xtask test           every check there is, as CI runs it
  cargo xtask build          the images, into target/ferrule/
  cargo xtask new-guest NAME a Rust guest of your own, that builds and boots; new-driver NAME: a split driver
  cargo xtask --help         all commands; each takes --help as well";

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Ferrule's tools", disable_help_subcommand = true)]
struct Cli {
    /// Install nothing: print the exact command that would, and stop with exit code 2
    #[arg(long, global = true)]
    no_install: bool,
    /// Build nothing: take the images in target/ferrule/ as they are
    #[arg(long, global = true)]
    no_build: bool,
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, running and testing need
    Setup,
    /// Build the core, the domains and the test guests into target/ferrule/
    Build {
        /// Only these packages
        names: Vec<String>,
    },
    /// Boot the machine under QEMU, watch the tour, then dom0's prompt
    Run(run::Options),
    /// Read a manifest as dom0 will, and show what is wrong with it
    Check {
        /// The manifest
        file: std::path::PathBuf,
    },
    /// Make a Rust guest of your own in examples/guests/
    NewGuest {
        /// Its name: lower-case letters, digits and '-'
        name: String,
    },
    /// Make a split driver of your own in examples/drivers/: driver domain, guest, tests, manifest
    NewDriver {
        /// The name of its device class: lower-case letters, digits and '-'
        name: String,
    },
    /// Make what a Linux guest starts from, out of Debian's packages
    Guest {
        /// Which guest
        #[arg(value_enum)]
        guest: guest::Guest,
    },
    /// Boot the same guests on Debian's Xen with a Debian dom0, look at them, power off
    Peer(peer::Options),
    /// Make an image that boots from a BIOS or from UEFI: GRUB, the core, dom0
    Iso(iso::Options),
    /// Check the rules: crate directions, unsafe, clippy, rustfmt, sizes
    Lint {
        /// Only print the lines of code in ring 0, file by file
        #[arg(long)]
        lines: bool,
    },
    /// Run each test guest on Ferrule and on Debian's Xen (or under QEMU and under Bochs), and compare their verdicts
    Conformance(conformance::Options),
    /// Hostile domains by seed, beside an innocent one, for so many minutes
    Chaos(chaos::Options),
    /// Every check there is: lint, unit, loom, conformance, end to end
    Test(test::Options),
    /// Long runs, a claim a row, that can be resumed
    #[command(subcommand)]
    Campaign(campaign::Campaign),
    /// Hostile operations by the million against each part that guests reach, on the host
    Fuzz(fuzz::Options),
    /// Change our code in small ways, one by one: a unit test must notice each (takes hours)
    Mutants(mutants::Options),
    /// Put known classes of bugs into a copy of our code, one by one: a test must notice each
    Planted(planted::Options),
    /// Measure, beside peers
    Bench(bench::Options),
    /// Show where the instructions of a bench's row go, by function and by line
    Profile(profile::Options),
}

fn dispatch(cli: Cli) -> Result<()> {
    let place = Place::find(cli.no_build, cli.no_install)?;
    let need = |needs: &[setup::Need]| setup::ensure(needs, cli.no_install);
    match cli.command {
        None => println!("{FIRST_LINES}"),
        Some(Task::Setup) => {
            need(&setup::for_test())?;
            println!("all is there: {}", toolchain::Route::ready().map(toolchain::Route::describe).unwrap_or_default());
        }
        Some(Task::Build { names }) => {
            need(&setup::for_build())?;
            build::command(&place, &names)?;
        }
        Some(Task::Run(options)) => {
            need(&setup::for_run())?;
            run::command(&place, &options)?;
        }
        Some(Task::Check { file }) => check::command(&file)?,
        Some(Task::NewGuest { name }) => scaffold::guest(&place, &name)?,
        Some(Task::NewDriver { name }) => scaffold::driver(&place, &name)?,
        Some(Task::Guest { guest }) => guest::command(&place, guest)?,
        Some(Task::Peer(options)) => {
            need(&setup::for_run())?;
            peer::command(&place, &options)?;
        }
        Some(Task::Iso(options)) => {
            need(&[&setup::for_run()[..], &iso::NEEDS].concat())?;
            iso::command(&place, &options)?;
        }
        Some(Task::Lint { lines: true }) => lint::print_lines(&place)?,
        Some(Task::Lint { lines: false }) => {
            need(&setup::LINTERS)?;
            lint::command(&place)?;
        }
        Some(Task::Conformance(options)) => {
            need(&setup::for_qemu())?;
            if options.bochs {
                need(&[&iso::NEEDS[..], &iso::BOCHS].concat())?;
            }
            conformance::command(&place, &options, cli.no_install)?;
        }
        Some(Task::Chaos(options)) => {
            need(&setup::for_qemu())?;
            chaos::command(&place, &options)?;
        }
        Some(Task::Test(options)) => {
            need(&setup::for_test())?;
            test::command(&place, &options, cli.no_install)?;
        }
        Some(Task::Campaign(campaign)) => {
            need(&setup::for_run())?;
            campaign::command(&place, &campaign)?;
        }
        Some(Task::Fuzz(options)) => {
            if options.coverage {
                need(&fuzz::coverage::NEEDS)?;
            }
            fuzz::command(&place, &options)?;
        }
        Some(Task::Mutants(options)) => mutants::command(&place, &options)?,
        Some(Task::Planted(options)) => planted::command(&place, &options)?,
        Some(Task::Bench(options)) => {
            need(&setup::for_qemu())?;
            bench::command(&place, &options)?;
        }
        Some(Task::Profile(options)) => {
            need(&setup::for_qemu())?;
            profile::command(&place, &options)?;
        }
    }
    Ok(())
}

/// Whoever read our output is gone, as in `cargo xtask build | head`: the end, as SIGPIPE would have it, without a word.
fn end_with_the_reader() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            let _children = process::end_children();
            std::process::exit(141);
        }
        others(panic)
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
    let cli = Cli::parse();
    if let Err(error) = process::end_children_on_signals() {
        eprintln!("warning: {error:#}");
    }
    let result = dispatch(cli);
    // A thread may still hold a machine of its own.
    let _children = process::end_children();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<fail::Said>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(fail::code(&error))
        }
    }
}
