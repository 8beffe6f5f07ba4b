//! `cargo xtask campaign`: what takes too long for the tests, one claim a row, kept so that it can be resumed.

mod boots;
mod database;
mod debian;
mod disk;
pub mod minis;
mod network;
mod power;
mod record;
mod stress;
mod write_log;

use crate::build::{Part, build};
use crate::place::Place;
use crate::setup::{self, Need};
use crate::unable;
use anyhow::{Result, bail};
use record::{Record, Took};
use std::path::PathBuf;
use std::time::Instant;

/// The campaigns.
#[derive(clap::Subcommand)]
pub enum Campaign {
    /// Debian's Linux as a guest: boots, disk, power loss, network, database, stress; about an hour and a half
    Linux(Options),
}

/// How to run one.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Leave out the rows that held before, of this commit and this seed
    #[arg(long)]
    resume: bool,
    /// What is chosen at random is made from it
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Only the rows whose name contains this
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// A twentieth of the time and of the numbers: to see that everything works
    #[arg(long)]
    short: bool,
    /// With a blkback built to ignore flushes: `power-loss` must fail then
    #[arg(long)]
    ignore_flush: bool,
}

/// Takes a row: what it says at its end stands in the table.
type Take = dyn Fn(&Sitting) -> Result<String>;

/// One claim, and what shows it.
struct Row {
    name: String,
    run: Box<Take>,
}

impl Row {
    fn new(name: impl Into<String>, run: impl Fn(&Sitting) -> Result<String> + 'static) -> Row {
        Row { name: name.into(), run: Box::new(run) }
    }
}

/// What the rows share.
struct Sitting {
    place: Place,
    options: Options,
    /// For disks, logs and manifests.
    dir: PathBuf,
}

impl Sitting {
    /// So much, or a twentieth of it in a short campaign.
    fn amount(&self, whole: u64) -> u64 {
        if self.options.short { (whole / 20).max(1) } else { whole }
    }
}

/// What the rows start on this machine.
const NEEDS: [Need; 2] = [Need::Program("ssh", "openssh-client"), Need::Program("e2fsck", "e2fsprogs")];

/// Runs a campaign; an error unless every row held.
pub fn command(place: &Place, campaign: &Campaign) -> Result<()> {
    let Campaign::Linux(options) = campaign;
    setup::ensure(&NEEDS, place.no_install)?;
    let dir = place.out().join("campaign/linux");
    std::fs::create_dir_all(&dir)?;
    let sitting = Sitting { place: place.clone(), options: options.clone(), dir };
    let rows = rows(options)?;
    let mut record = Record::open(&sitting)?;
    if options.ignore_flush {
        crate::build::with_feature(place, "blkback", "ignore-flush", &sitting.dir.join(debian::BROKEN_BLKBACK))?;
    }
    build(place, &[Part::Core, Part::Domains])?;
    println!("{} rows; seed {}; logs: {}", rows.len(), options.seed, place.show(&sitting.dir));
    let mut failed = 0;
    for (at, row) in rows.iter().enumerate() {
        let head = format!("[{}/{}] {:28}", at + 1, rows.len(), row.name);
        if let Some(before) = record.held(&row.name) {
            println!("{head} ok     {before}   (before)");
            continue;
        }
        let begin = Instant::now();
        let result = (row.run)(&sitting);
        let seconds = begin.elapsed().as_secs();
        let (ok, said) = match result {
            Ok(said) => (true, said),
            Err(error) => (false, format!("{error:#}")),
        };
        failed += usize::from(!ok);
        println!("{head} {:6} {said}   ({seconds} s)", if ok { "ok" } else { "FAILED" });
        record.put(&row.name, Took { ok, said, seconds })?;
    }
    println!("{} of {} rows held; all of them: {}", rows.len() - failed, rows.len(), place.show(record.path()));
    if failed > 0 {
        bail!("{failed} rows failed; the rows that held are left out by --resume");
    }
    Ok(())
}

fn rows(options: &Options) -> Result<Vec<Row>> {
    let all: Vec<Row> =
        [boots::rows(), disk::rows(), power::rows(), network::rows(), database::rows(), stress::rows(), minis::rows()]
            .into_iter()
            .flatten()
            .collect();
    let names: Vec<String> = all.iter().map(|row| row.name.clone()).collect();
    let wanted = |row: &Row| options.only.as_ref().is_none_or(|part| row.name.contains(part.as_str()));
    let rows: Vec<Row> = all.into_iter().filter(wanted).collect();
    if rows.is_empty() {
        unable!("no row has {} in its name; there are: {}", options.only.as_deref().unwrap_or(""), names.join(", "));
    }
    Ok(rows)
}
