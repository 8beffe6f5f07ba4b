//! `cargo xtask chaos`: hostile domains by seed (tests/guests' `chaos`), machine after machine, for as long as one likes.

use crate::build::{Part, build, built};
use crate::conformance::counts::{self, Taken};
use crate::place::Place;
use crate::qemu::{Ending, Machine};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};

/// Seconds of system time that a machine lasts.
const SITTING: u64 = 60;
/// A machine that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(90);
/// From so many calls on, each operation has to have been asked for.
const ENOUGH: u64 = 1_000_000;

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Wall minutes
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// CPUs of the machine
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Go on with the counts and the seed of the last run
    #[arg(long)]
    resume: bool,
    /// One round of the seed under icount, twice: the same to the last result
    #[arg(long, conflicts_with_all = ["minutes", "resume"])]
    replay: bool,
}

/// What came of machines so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Rounds: lives of two hostile domains.
    pub rounds: u64,
    /// Their calls, and those that succeeded.
    pub calls: u64,
    /// See `calls`.
    pub good: u64,
    /// Audits that were clean.
    pub audits: u64,
    /// The seed to go on with.
    seed: u64,
    /// Calls by number, operation and outcome.
    taken: Vec<((u32, u32, i64), u64)>,
}

/// One machine's end.
#[derive(Debug)]
pub struct Sitting {
    /// What it added.
    pub sum: Sum,
    /// The hash of all results.
    pub hash: String,
    taken: Taken,
}

/// A machine for the guest `chaos`; `arguments` are its command line.
pub fn machine(place: &Place, core_options: &str, arguments: &str) -> Result<Machine> {
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let guest = built(place, Part::Guests, "chaos").context("no guest chaos")?;
    let append = format!("dom0_mem=64M dom0_max_vcpus=1 tally {core_options}");
    Ok(Machine::new(&core, append.trim_end(), &format!("{} {arguments}", guest.display())))
}

/// Runs a machine to its end, and holds what it said: a clean audit twice a round, no harm done, powered off.
pub fn sit(machine: &Machine, log: &Path) -> Result<Sitting> {
    let mut running = machine.start(log)?;
    let mut from = 0;
    // Whatever comes is a sign of life.
    let over = |line: &str| line.contains("(core) ferrule: ");
    while let Some(at) = running.wait_line(from, SILENCE, |line| !line.is_empty()) {
        from = at + 1;
        if over(&running.lines()[at].text) {
            break;
        }
    }
    let ending = running.finish(SILENCE)?;
    let lines: Vec<&str> = running.lines().iter().map(|line| line.text.as_str()).collect();
    if let Some(bad) = lines.iter().find(|line| line.contains("audit: FAILED") || line.contains("core panic")) {
        bail!("{bad}");
    }
    let verdict = lines.iter().rev().find(|line| ["SUCCESS", "FAILURE"].iter().any(|word| line.starts_with(word)));
    ensure!(ending == Ending::PowerOff, "{ending:?}, {}", verdict.unwrap_or(&"without a verdict"));
    ensure!(verdict == Some(&"SUCCESS"), "{}", verdict.unwrap_or(&"no verdict"));
    let last = lines.iter().rev().find(|line| line.starts_with("chaos: ") && line.contains(" rounds "));
    let words: Vec<&str> = last.context("no line of counts")?.split(' ').collect();
    let [_, rounds, _, calls, _, good, _, _, hash] = words[..] else { bail!("no line of counts") };
    let audits = lines.iter().filter(|line| line.contains("audit: ok")).count() as u64;
    let number = |word: &str| word.parse::<u64>().with_context(|| format!("no number: {word}"));
    let sum = Sum { rounds: number(rounds)?, calls: number(calls)?, good: number(good)?, audits, ..Sum::default() };
    ensure!(audits == 2 * sum.rounds, "{audits} audits in {} rounds", sum.rounds);
    let mut taken = Taken::new();
    counts::add(&mut taken, &lines.join("\n"));
    Ok(Sitting { sum, hash: hash.into(), taken })
}

/// One seed twice under icount; the hash that both gave.
pub fn replay(place: &Place, seed: u64, rounds: u64, calls: u64, log: &Path) -> Result<String> {
    let once = || {
        let mut machine = machine(place, "", &format!("seed={seed} rounds={rounds} calls={calls} seconds=600"))?;
        machine.icount = true;
        sit(&machine, log)
    };
    let (first, second) = (once()?, once()?);
    ensure!(first.sum == second.sum && first.hash == second.hash, "{first:?} once, {second:?} again");
    ensure!(first.sum.calls > 0, "no calls");
    Ok(format!("seed {seed}: {} calls, {} good, hash {} twice", first.sum.calls, first.sum.good, first.hash))
}

/// Runs machines until the time is over.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    build(place, &[Part::Core, Part::Guests])?;
    let logs = place.logs("chaos")?;
    if options.replay {
        println!("{}", replay(place, options.seed, 3, 20_000, &logs.join("replay.log"))?);
        return Ok(());
    }
    let state = logs.join(format!("sum-{}.json", options.smp));
    let before = std::fs::read(&state).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let new = Sum { seed: options.seed, ..Sum::default() };
    let mut sum: Sum = before.filter(|_| options.resume).unwrap_or(new);
    let mut taken: Taken = sum.taken.iter().copied().collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60 * options.minutes) {
        let left = 60 * options.minutes - start.elapsed().as_secs();
        let seed = sum.seed;
        let mut machine = machine(place, "", &format!("seed={seed} seconds={}", left.min(SITTING)))?;
        machine.smp = options.smp;
        let log = logs.join(format!("smp{}-seed{seed}.log", options.smp));
        let sitting = sit(&machine, &log).with_context(|| format!("seed {seed}: {}", place.show(&log)))?;
        sum.rounds += sitting.sum.rounds;
        sum.calls += sitting.sum.calls;
        sum.good += sitting.sum.good;
        sum.audits += sitting.sum.audits;
        sum.seed += sitting.sum.rounds;
        sitting.taken.iter().for_each(|(key, count)| *taken.entry(*key).or_default() += count);
        sum.taken = taken.iter().map(|(key, count)| (*key, *count)).collect();
        std::fs::write(&state, serde_json::to_vec(&sum)?)?;
        std::fs::remove_file(&log)?;
        println!("{} up to seed {}", sum.line(), sum.seed - 1);
    }
    let pages = counts::pages(place)?;
    let missed = counts::unasked(&pages, &taken);
    missed.iter().for_each(|(call, op)| println!("not asked for: {call}, operation {op}"));
    println!("{} minutes on {} CPUs: {}", options.minutes, options.smp, sum.line());
    ensure!(5 * sum.good >= sum.calls, "fewer than a fifth of the calls succeeded");
    ensure!(sum.calls < ENOUGH || missed.is_empty(), "{} operations were never asked for", missed.len());
    Ok(())
}

impl Sum {
    fn line(&self) -> String {
        let percent = 100 * self.good / self.calls.max(1);
        format!("{} rounds, {} calls, {percent} % succeeded, {} audits clean", self.rounds, self.calls, self.audits)
    }
}
