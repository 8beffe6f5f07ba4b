//! `cargo xtask bench rings` on the host: ring-proto between two pinned threads, beside other crates' queues and a C program
//! on Xen's public macros; each run of ours and of theirs in turn, medians; and instructions, which are exact.

use super::report::{Figure, INSTRUCTIONS, NS};
use super::wall::median;
use crate::packages::{self, Package};
use crate::place::Place;
use crate::process::{quiet, stdout_of};
use crate::setup::{self, Need};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Runs of each program.
const RUNS: usize = 30;
/// Operations under valgrind: so many, and twice as many.
const COUNT: u64 = 3200;
const LIMIT: Duration = Duration::from_secs(60);
/// What counts the host's instructions.
const VALGRIND: Need = Need::Program("valgrind", "valgrind");
/// Our own rows' name for us, and the ping-pong's.
const OURS: [&str; 2] = ["ring-proto", "cache-line"];
/// The peers' names.
const PEERS: [&str; 6] = ["rtrb-chunk", "rtrb", "ringbuf", "crossbeam-queue", "crossbeam-channel", "xen-ring-h"];

const NOTIFICATIONS: &str = "notifications";

/// What was measured of a name: by whom, run by run; its unit.
type Samples = BTreeMap<(String, &'static str, String), Vec<f64>>;

/// All rows.
pub fn measure(place: &Place, full: bool) -> Result<Vec<Figure>> {
    setup::ensure(&[VALGRIND], place.no_install)?;
    let (ours, theirs) = (build_ours(place)?, build_theirs(place)?);
    let mut samples = Samples::new();
    for run in 0..RUNS {
        let mut programs = [&ours, &theirs];
        programs.rotate_left(run % 2);
        for program in programs {
            let mut command = Command::new(program);
            let said = quiet(command.args(full.then_some("full")), LIMIT)?;
            ensure!(said.ok, "{} failed: {}", program.display(), said.text);
            read(&said.text, &mut samples);
        }
    }
    let mut figures = figures(&samples);
    for figure in instructions(&figures, &ours, &theirs)? {
        let after = figures.iter().position(|other| figure.name.starts_with(&format!("{}/", other.name)));
        figures.insert(after.map_or(figures.len(), |at| at + 1), figure);
    }
    Ok(figures)
}

fn build_ours(place: &Place) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&place.root).args(["bench", "--quiet", "--profile", "image", "-p", "ring-bench", "--no-run"]);
    let said = stdout_of(cargo.arg("--message-format=json"))?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    };
    said.lines().find_map(executable).context("cargo names no executable of ring-bench")
}

fn build_theirs(place: &Place) -> Result<PathBuf> {
    let installed = Path::new("/usr/include");
    let headers = match installed.join("xen/io/ring.h").is_file() {
        true => installed.to_path_buf(),
        false => packages::unpacked(place, Package { name: "libxen-dev", megabytes: 1 })?.join("usr/include"),
    };
    let dir = place.out().join("bench");
    std::fs::create_dir_all(&dir)?;
    let program = dir.join("ring-peer");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-pthread", "-I"]).arg(headers).arg("-o").arg(&program).arg(place.root.join("tests/rings/peer.c"));
    stdout_of(&mut gcc).context("compiling the peer in C")?;
    Ok(program)
}

fn read(text: &str, samples: &mut Samples) {
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (name, unit, who, value) = match words[..] {
            ["ROW", name, who, value] => (name, NS, who, value),
            // Notes are of the program that prints them: the peer's has one name only.
            ["NOTE", name, value] => (name, NOTIFICATIONS, "", value),
            _ => continue,
        };
        let who = match who {
            "" if text.contains(" xen-ring-h ") => "xen-ring-h",
            "" => OURS[0],
            who => who,
        };
        if let Ok(value) = value.parse() {
            samples.entry((name.to_string(), unit, who.to_string())).or_default().push(value);
        }
    }
}

/// Ours, with the peers' beside it.
fn figures(samples: &Samples) -> Vec<Figure> {
    let of_us = samples.iter().filter(|((_, _, who), _)| OURS.contains(&who.as_str()));
    let figure = |((name, unit, _), values): (&(String, &'static str, String), &Vec<f64>)| {
        let peer = |who: &&'static str| {
            let theirs = samples.get(&(name.clone(), *unit, who.to_string()))?;
            Some((*who, median(theirs.clone())))
        };
        Figure {
            peers: PEERS.iter().filter_map(peer).collect(),
            ..Figure::new(name.clone(), median(values.clone()), unit)
        }
    };
    of_us.map(figure).collect()
}

/// Instructions of one entry or pair, of those cases that both programs can do on one thread.
fn instructions(figures: &[Figure], ours: &Path, theirs: &Path) -> Result<Vec<Figure>> {
    let plain = |name: &&str| name.rsplit("_batch").next().is_some_and(|batch| batch.parse::<u32>().is_ok());
    let names = figures.iter().map(|figure| figure.name.as_str()).filter(plain);
    let mut rows = Vec::new();
    for name in names {
        let figure = Figure::new(format!("{name}/instructions"), executed(ours, name)?, INSTRUCTIONS);
        let beside = name.contains("reqrsp").then(|| executed(theirs, name)).transpose()?;
        rows.push(Figure { peers: beside.map(|value| ("xen-ring-h", value)).into_iter().collect(), ..figure });
    }
    Ok(rows)
}

fn executed(program: &Path, name: &str) -> Result<f64> {
    let [once, twice] = [COUNT, 2 * COUNT].map(|count| collected(program, name, count));
    Ok((twice? - once?) / COUNT as f64)
}

/// Instructions of a whole run, by callgrind.
fn collected(program: &Path, name: &str, count: u64) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(program).args(["alone", name, &count.to_string()]);
    let said = quiet(&mut valgrind, LIMIT)?;
    let line = said.text.lines().find_map(|line| line.split_once("Collected : "));
    let count = line.and_then(|(_, count)| count.trim().parse().ok());
    count.with_context(|| format!("valgrind counted nothing: {}", said.text))
}

/// The goals that are ratios of one sitting, a line each.
pub fn goals(figures: &[Figure]) -> String {
    let value = |name: &str| figures.iter().find(|figure| figure.name == name);
    let ours = |name: &str| value(name).map_or(f64::NAN, |figure| figure.value);
    let peer = |name: &str, who: &str| {
        let peer = value(name).and_then(|figure| figure.peers.iter().find(|(name, _)| *name == who));
        peer.map_or(f64::NAN, |(_, value)| *value)
    };
    let (one, pair) = ("rings/oneway_64_batch32", "rings/reqrsp_112_batch32");
    let rows = [
        ("one way, rate beside rtrb's chunks", peer(one, "rtrb-chunk") / ours(one), 0.95, true),
        ("request and response, beside a ping-pong", ours(pair) / ours("rings/pingpong"), 0.25, false),
        ("the same, rate beside the C macros", peer(pair, "xen-ring-h") / ours(pair), 1.3, true),
        ("notifications a request under load", ours(&format!("{pair}_events/notifications")), 0.05, false),
    ];
    let mut text = String::new();
    for (what, value, goal, at_least) in rows {
        let reached = if at_least { value >= goal } else { value <= goal };
        let (sign, verdict) = (if at_least { "at least" } else { "at most" }, if reached { "ok" } else { "missed" });
        let _ = writeln!(text, "{what:42} {value:6.3}  {sign:8} {goal:5}  {verdict}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(texts: &[&str]) -> Samples {
        let mut samples = Samples::new();
        texts.iter().for_each(|text| read(text, &mut samples));
        samples
    }

    #[test]
    fn medians_of_all_runs_stand_beside_each_other() {
        let ours =
            ["3", "1", "2"].map(|ns| format!("ROW rings/a ring-proto {ns}\nROW rings/a rtrb 9\nNOTE rings/a/n 0.5\n"));
        let theirs = "ROW rings/a xen-ring-h 4\nNOTE rings/a/n 0.25\n";
        let figures = figures(&samples(&[&ours[0], &ours[1], theirs, &ours[2]]));
        assert_eq!((figures[0].name.as_str(), figures[0].value, figures[0].unit), ("rings/a", 2.0, NS));
        assert_eq!(figures[0].peers, [("rtrb", 9.0), ("xen-ring-h", 4.0)]);
        assert_eq!((figures[1].value, figures[1].peers.clone()), (0.5, vec![("xen-ring-h", 0.25)]));
    }

    #[test]
    fn goals_say_which_way_is_good() {
        let text = "ROW rings/pingpong cache-line 400\nROW rings/oneway_64_batch32 ring-proto 40\n\
                    ROW rings/oneway_64_batch32 rtrb-chunk 36\nROW rings/reqrsp_112_batch32 ring-proto 50\n";
        let all = figures(&samples(&[text, "ROW rings/reqrsp_112_batch32 xen-ring-h 66\n"]));
        let goals = goals(&all);
        let verdicts: Vec<&str> = goals.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(verdicts, ["missed", "ok", "ok", "missed"], "{goals}");
    }
}
