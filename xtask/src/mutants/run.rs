//! Tests that meet a mutant: only those that come by it, the quick ones first, until one fails.

use super::Outcome;
use crate::process::{Guarded, stdout_of};
use anyhow::{Context, Result};
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A test that takes longer than this, by itself, meets no mutant.
const SLOW: Duration = Duration::from_secs(5);
/// Tests that take no longer than this together meet a mutant in one run, so that one without an end is soon noticed.
const RUN: Duration = Duration::from_millis(500);
/// Memory that the tests of a mutant may take, in KiB.
const MEMORY: u32 = 4 << 20;

/// The unit tests of a package.
pub struct Suite<'a> {
    through: &'a str,
    program: PathBuf,
    /// Quickest first.
    tests: Vec<Test>,
}

struct Test {
    name: String,
    takes: Duration,
    /// The mutants that it comes by.
    asks: HashSet<u32>,
}

impl<'a> Suite<'a> {
    /// Runs each test of `program` by itself with no mutant on, which has to succeed.
    pub fn find(program: &Path, asked: &Path, through: &'a str) -> Result<Suite<'a>> {
        let listed = stdout_of(Command::new(program).args(["--list", "--format", "terse"]))?;
        let mut tests = Vec::new();
        for name in listed.lines().filter_map(|line| line.strip_suffix(": test")) {
            let _ = std::fs::remove_file(asked);
            let mut takes = Duration::MAX;
            // Once more if it is slow: it may have waited for others.
            for _ in 0..3 {
                let begin = spent();
                let passed = passes(through, program, 0, &[name], Some(asked), Duration::from_secs(600))?;
                anyhow::ensure!(passed, "{name} fails without a mutant");
                takes = takes.min(spent() - begin);
                if takes < SLOW {
                    break;
                }
            }
            let asks = std::fs::read_to_string(asked).unwrap_or_default();
            let asks: HashSet<u32> = asks.lines().filter_map(|id| id.parse().ok()).collect();
            if takes > SLOW {
                println!("left out, {:.1} s: {name}", takes.as_secs_f64());
            } else {
                tests.push(Test { name: name.into(), takes, asks });
            }
        }
        tests.sort_by_key(|test| test.takes);
        println!("{} tests, {:.1} s", tests.len(), tests.iter().map(|t| t.takes.as_secs_f64()).sum::<f64>());
        Ok(Suite { through, program: program.into(), tests })
    }

    /// Tries the tests that come by a mutant.
    pub fn meets(&self, id: u32) -> Result<Outcome> {
        self.try_on(&self.program, id, |test| test.asks.contains(&id))
    }

    /// Tries all tests on a program that has nothing but a mutant.
    pub fn all_on(&self, program: &Path) -> Result<Outcome> {
        self.try_on(program, u32::MAX - 1, |_| true)
    }

    fn try_on(&self, program: &Path, id: u32, wanted: impl Fn(&Test) -> bool) -> Result<Outcome> {
        let (mut runs, mut takes): (Vec<Vec<&Test>>, _) = (Vec::new(), Duration::MAX);
        for test in self.tests.iter().filter(|test| wanted(test)) {
            takes = takes.saturating_add(test.takes);
            match runs.last_mut().filter(|_| takes <= RUN) {
                Some(run) => run.push(test),
                None => {
                    takes = test.takes;
                    runs.push(vec![test]);
                }
            }
        }
        for tests in runs {
            let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
            let limit = Duration::from_secs(2) + 4 * tests.iter().map(|test| test.takes).sum::<Duration>();
            if !passes(self.through, program, id, &names, None, limit)? {
                return Ok(Outcome::Caught);
            }
        }
        Ok(Outcome::Survived)
    }
}

/// The CPU time of all children that have ended: what a test takes by it does not depend on what else the machine does.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    // cutime and cstime, in hundredths of a second.
    Duration::from_millis(fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// Runs tests one after the other until one fails; whether all passed, in no more than `limit` of a CPU's time. Three times
/// no end after ten times as long is a failure too. (Once may mean that the machine was busy with something else.)
fn passes(
    through: &str,
    program: &Path,
    mutant: u32,
    names: &[&str],
    asked: Option<&Path>,
    limit: Duration,
) -> Result<bool> {
    for _ in 0..3 {
        if let Some(passed) = run(through, program, mutant, names, asked, limit)? {
            return Ok(passed);
        }
    }
    Ok(false)
}

/// One attempt; `None` for no end.
fn run(
    through: &str,
    program: &Path,
    mutant: u32,
    names: &[&str],
    asked: Option<&Path>,
    limit: Duration,
) -> Result<Option<bool>> {
    let seconds = limit.as_secs() + 1;
    let shell = format!("ulimit -v {MEMORY}; ulimit -t {seconds}; ulimit -c 0; exec \"$0\" \"$@\"");
    let program = program.display().to_string();
    let fixed = ["sh", "-c", &shell, &program, "--test-threads", "1", "--exact"];
    let args: Vec<String> = fixed.iter().chain(names).map(|arg| arg.to_string()).collect();
    let child = Guarded::spawn(through, &args, |command| {
        command.env("MUTANT", mutant.to_string()).env("PROPTEST_CASES", "16").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true").env("RUST_BACKTRACE", "0");
        if let Some(asked) = asked {
            command.env("MUTANTS_ASKED", asked);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    })?;
    let output = child.child().stdout.take().context("its output")?;
    // A failure ends the run; so does the end of the output.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let _ = tell.send(lines.any(|line| line.starts_with("test ") && line.ends_with("FAILED")));
    });
    let Ok(failed) = told.recv_timeout(10 * limit + Duration::from_secs(60)) else { return Ok(None) };
    Ok(Some(!failed && child.wait(Duration::from_secs(60))?.is_some_and(|status| status.success())))
}
