//! `cargo xtask bench rings|net|blk`: what a message, a packet and a block request cost between domains, and whose
//! instructions they are.
//!
//! Every load runs twice, with N operations and with 2N, on one CPU under icount, where nothing outside the machine takes
//! part; the difference by N is what one costs, without what setting up does. The same domains then run on Xen. A domain's part is its time in
//! RUNSTATE_running, hypercalls and traps included, as dom0's `info` has it; hypercalls and events are what the driver
//! domain has counted itself (docs/rings.md).

use super::loads::{Kind, Load, Round, Setup, setup};
use super::report::{Figure, INSTRUCTIONS, PEER};
use crate::build::{Part, build, built};
use crate::place::Place;
use crate::profile;
use crate::qemu::{Ending, Machine, Running};
use crate::run::console::{attach, command};
use crate::run::hypervisor::Hypervisor;
use crate::run::log::{Entry, number_before};
use crate::run::world;
use anyhow::{Context, Result, ensure};
use dom0::manifest::parse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Counting instructions on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(300);
/// Xen's options beside those that every run has.
const XEN_OPTIONS: &str = "xpti=0";

/// How much is measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    /// Loads that the short form leaves out.
    pub long: bool,
    /// On Xen as well.
    pub beside: bool,
    /// By image as well.
    pub split: bool,
}

/// A machine with everything that the loads need, at dom0's prompt: of one CPU, which counts instructions or does not.
pub fn start(place: &Place, setup: &Setup, under: Hypervisor, icount: bool, extra: &[String]) -> Result<Running> {
    build(place, &[Part::Core, Part::Domains])?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let dom0 = built(place, Part::Domains, "dom0").context("no dom0")?;
    let text = setup.manifest();
    let parsed = parse(&text).map_err(|error| anyhow::anyhow!("the bench's manifest: {error}"))?;
    let ramdisk = place.logs("bench")?.join("devices.ramdisk");
    world::ramdisk(&ramdisk, text.as_bytes(), &world::named(place, &parsed, &place.root)?)?;
    let mut machine = Machine::new(&core, "", &format!("{} log-consoles,{}", dom0.display(), ramdisk.display()));
    under.under(place, &mut machine, XEN_OPTIONS)?;
    machine.icount = icount;
    machine.mem = 512;
    machine.extra.extend(setup.hardware.iter().map(|word| word.to_string()).chain(extra.iter().cloned()));
    let who = if under == Hypervisor::Xen { "-xen" } else { "" };
    let log = format!("devices{who}{}.log", if icount { "" } else { "-wall" });
    let mut running = machine.start(&place.logs("bench")?.join(log))?;
    attach(&mut running, LIMIT)?;
    Ok(running)
}

/// Runs the loads of a kind and gives the figures.
pub fn measure(place: &Place, kind: Kind, extent: Extent) -> Result<Vec<Figure>> {
    let setup = setup(kind);
    let mut figures = on(place, &setup, extent, Hypervisor::Ferrule)?;
    if extent.beside {
        for theirs in on(place, &setup, extent, Hypervisor::Xen)? {
            if let Some(ours) = figures.iter_mut().find(|ours| ours.name == theirs.name) {
                ours.peers.push((PEER, theirs.value));
            }
        }
    }
    for load in setup.loads.iter().filter(|load| load.split && extent.split) {
        for (image, count) in large(profile::by_image(place, &load.name)?) {
            figures.push(Figure::new(format!("{}/in_{image}", load.name), count, INSTRUCTIONS));
        }
    }
    Ok(figures)
}

/// Those images that have a part worth a row; `others` has what is left.
fn large(images: BTreeMap<String, f64>) -> Vec<(String, f64)> {
    let all: f64 = images.values().sum();
    let (mut rows, small): (Vec<_>, Vec<_>) = images.into_iter().partition(|(_, count)| *count >= all / 200.0);
    rows.push(("others".into(), small.iter().map(|(_, count)| count).sum()));
    rows
}

/// All figures on one hypervisor.
fn on(place: &Place, setup: &Setup, extent: Extent, under: Hypervisor) -> Result<Vec<Figure>> {
    let mut running = start(place, setup, under, true, &[])?;
    let mut figures = Vec::new();
    for (index, load) in setup.loads.iter().enumerate().filter(|(_, load)| extent.long || !load.long) {
        let [once, twice] = [Round::Once, Round::Twice].map(|round| sample(&mut running, setup, index, round));
        let (once, twice) = (once?, twice?);
        figures.extend(if load.timed { twice.latency(&load.name)? } else { Sample::rows(load, setup, &once, &twice) });
    }
    running.send(b"poweroff\n")?;
    running.end();
    Ok(figures)
}

/// Runs the load called `name` on a machine of its own, with N operations and on another with 2N, each with QEMU's
/// arguments for it; N. None: no load is called so.
pub fn trace(place: &Place, name: &str, arguments: [&[String]; 2]) -> Result<Option<u64>> {
    let setups = Kind::ALL.map(setup);
    let found = setups.iter().find_map(|setup| Some((setup, setup.loads.iter().position(|load| load.name == name)?)));
    let Some((setup, index)) = found else { return Ok(None) };
    let count = setup.loads.get(index).map_or(0, |load| load.count);
    for (extra, round) in arguments.into_iter().zip([Round::Once, Round::Twice]) {
        let mut running = start(place, setup, Hypervisor::Ferrule, true, extra)?;
        sample(&mut running, setup, index, round)?;
        running.send(b"poweroff\n")?;
        let ending = running.finish(LIMIT)?;
        ensure!(ending == Ending::PowerOff, "the machine ended as {ending:?}");
    }
    Ok(Some(count))
}

/// The names of all loads.
pub fn loads() -> Vec<String> {
    Kind::ALL.into_iter().flat_map(|kind| setup(kind).loads).map(|load| load.name).collect()
}

/// What one run took.
#[derive(Default)]
struct Sample {
    /// Nanoseconds, which are instructions: of the guest, of the backend, of the others.
    times: Vec<f64>,
    /// Of the backend.
    hypercalls: f64,
    grant_calls: f64,
    events: f64,
    /// Of the guest.
    guest_events: f64,
    /// How many took so long at most, in order.
    latencies: Vec<(u64, u64)>,
}

impl Sample {
    /// The rows of a load, from the difference of two runs.
    fn rows(load: &Load, setup: &Setup, once: &Self, twice: &Self) -> Vec<Figure> {
        let Load { name, count, .. } = load;
        let each = |once: f64, twice: f64| (twice - once) / *count as f64;
        let parts: Vec<f64> = once.times.iter().zip(&twice.times).map(|(once, twice)| each(*once, *twice)).collect();
        let mut rows = vec![Figure::new(name.clone(), parts.iter().sum(), INSTRUCTIONS)];
        let names = ["frontend", setup.backend].into_iter().chain(setup.others.iter().copied());
        rows.extend(names.zip(&parts).map(|(who, part)| Figure::new(format!("{name}/{who}"), *part, INSTRUCTIONS)));
        let backend = setup.backend;
        let counts = [
            (format!("{backend}_hypercalls"), each(once.hypercalls, twice.hypercalls), "hypercalls"),
            (format!("{backend}_grant_calls"), each(once.grant_calls, twice.grant_calls), "hypercalls"),
            (format!("{backend}_events"), each(once.events, twice.events), "events"),
            ("frontend_events".into(), each(once.guest_events, twice.guest_events), "events"),
        ];
        rows.extend(counts.into_iter().map(|(what, value, unit)| Figure::new(format!("{name}/{what}"), value, unit)));
        rows
    }

    /// The median and the 99th percentile, and the histogram behind them.
    fn latency(self, name: &str) -> Result<Vec<Figure>> {
        let all: u64 = self.latencies.iter().map(|(_, count)| count).sum();
        let part = |part: f64| {
            let mut seen = 0;
            let reached = |(_, count): &&(u64, u64)| {
                seen += count;
                seen as f64 >= all as f64 * part
            };
            self.latencies.iter().find(reached).map(|(at_most, _)| *at_most as f64)
        };
        let median = part(0.5).with_context(|| format!("{name} says no latencies"))?;
        let late = part(0.99).unwrap_or(median);
        let first = Figure::new(name.into(), median, INSTRUCTIONS);
        Ok(vec![Figure { histogram: self.latencies, ..first }, Figure::new(format!("{name}/99th"), late, INSTRUCTIONS)])
    }
}

/// Creates a guest, waits for its success, and gives what it has printed; it is still there.
pub fn through(running: &mut Running, guest: &str) -> Result<Vec<String>> {
    let from = running.lines().len();
    command(running, &format!("create {guest}"), LIMIT)?;
    // The end of a guest can be noted before its last line is.
    for end in [|what: &str| what.contains("ended:"), |what: &str| what.ends_with("SUCCESS") || what.ends_with("FAIL")]
    {
        let found = |line: &str| Entry::parse(line).is_some_and(|entry| entry.who == guest && end(entry.what));
        ensure!(running.wait_line(from, LIMIT, found).is_some(), "{guest} does not end");
    }
    let entries = running.lines().iter().skip(from).filter_map(|line| Entry::parse(&line.text));
    let of_guest = entries.filter(|entry| entry.who == guest);
    let said: Vec<String> = of_guest.filter_map(|entry| entry.console().map(str::to_string)).collect();
    ensure!(said.iter().any(|text| text.ends_with("SUCCESS")), "{guest} says no SUCCESS");
    Ok(said)
}

/// Runs a load once: creates its guest, waits for its end, and removes it.
fn sample(running: &mut Running, setup: &Setup, index: usize, round: Round) -> Result<Sample> {
    let guest = &Setup::guest(index, round);
    let count = setup.loads.get(index).map_or(0, |load| load.operations(round));
    let always: Vec<&str> = [setup.backend].iter().chain(setup.others).copied().collect();
    let times = |running: &mut Running| always.iter().map(|name| cpu_time(running, name)).collect::<Result<Vec<_>>>();
    let (before, stats) = (times(running)?, stats(running, setup.backend)?);
    let said = through(running, guest)?;
    let mut all = vec![cpu_time(running, guest)?];
    // The backend writes its counts a second after its work, and has done nothing else.
    let done = number(&stats, setup.counts) + count as f64;
    let after = settled(running, setup, done)?;
    all.extend(times(running)?.iter().zip(&before).map(|(after, before)| after - before));
    command(running, &format!("destroy {guest}"), LIMIT)?;
    let difference = |what| number(&after, what) - number(&stats, what);
    Ok(Sample {
        times: all,
        hypercalls: difference("hypercalls"),
        grant_calls: difference("grant-calls"),
        events: difference("events"),
        guest_events: said.iter().find_map(|text| number_before(text, "events")).unwrap_or(0.0),
        latencies: said.iter().filter_map(|text| latency(text)).collect(),
    })
}

/// `latency AT_MOST COUNT`.
fn latency(text: &str) -> Option<(u64, u64)> {
    let (at_most, count) = text.split_once(" latency ")?.1.split_once(' ')?;
    Some((at_most.parse().ok()?, count.parse().ok()?))
}

/// The backend's counts, once they say that it has done so much.
fn settled(running: &mut Running, setup: &Setup, done: f64) -> Result<String> {
    let end = Instant::now() + LIMIT;
    loop {
        let found = stats(running, setup.backend)?;
        if number(&found, setup.counts) >= done {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "{} stays at {found}, short of {done}", setup.backend);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a driver domain has counted: names and numbers in turn; nothing yet before its first guest.
fn stats(running: &mut Running, backend: &str) -> Result<String> {
    let list = command(running, "list", LIMIT)?;
    let line = list.iter().find(|line| line.split_whitespace().next() == Some(backend));
    let id = line.and_then(|line| line.split_whitespace().nth(1)).with_context(|| format!("no {backend}: {list:?}"))?;
    let path = format!("/local/domain/{id}/data");
    let nodes = command(running, &format!("store ls {path}"), LIMIT)?;
    let found = nodes.iter().find_map(|line| line.strip_prefix("stats = "));
    Ok(found.unwrap_or_default().to_string())
}

/// A number by its name; 0 if it is not there.
fn number(stats: &str, name: &str) -> f64 {
    let words: Vec<&str> = stats.split_whitespace().collect();
    let found = words.chunks_exact(2).find(|pair| pair[0] == name);
    found.and_then(|pair| pair[1].parse().ok()).unwrap_or(0.0)
}

/// Nanoseconds that a domain has run.
pub fn cpu_time(running: &mut Running, name: &str) -> Result<f64> {
    let lines = command(running, &format!("info {name}"), LIMIT)?;
    let line = lines.iter().find(|line| line.starts_with("CPU time")).context("info shows no CPU time")?;
    Ok(number_before(line, "ms").with_context(|| format!("no number in {line:?}"))? * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_differences_by_the_count() {
        let sample = |factor: f64| Sample {
            times: [100.0, 20.0, 3.0].map(|time| 1000.0 + factor * time).to_vec(),
            hypercalls: 50.0 + factor,
            events: 7.0,
            guest_events: 3.0 * factor,
            ..Sample::default()
        };
        let setup = setup(Kind::Net);
        let load = setup.loads.first().unwrap();
        let count = load.count as f64;
        let rows = Sample::rows(load, &setup, &sample(count), &sample(2.0 * count));
        let short = |name: &str| name.strip_prefix(&load.name).unwrap().to_string();
        let rows: Vec<(String, f64)> = rows.iter().map(|figure| (short(&figure.name), figure.value)).collect();
        let expected = [
            ("", 123.0),
            ("/frontend", 100.0),
            ("/netback", 20.0),
            ("/receiver", 3.0),
            ("/netback_hypercalls", 1.0),
            ("/netback_grant_calls", 0.0),
            ("/netback_events", 0.0),
            ("/frontend_events", 3.0),
        ];
        assert_eq!(rows, expected.map(|(name, value)| (name.to_string(), value)));
    }

    #[test]
    fn a_histogram_has_a_median_and_a_tail() {
        assert_eq!(latency("bench-rings: latency 4095 12"), Some((4095, 12)));
        assert_eq!(latency("bench-rings: 3 events sent"), None);
        let sample = Sample { latencies: vec![(10, 50), (20, 48), (40, 1), (80, 1)], ..Sample::default() };
        let figures = sample.latency("net/x").unwrap();
        assert_eq!(figures.iter().map(|figure| figure.value).collect::<Vec<_>>(), [10.0, 40.0]);
        assert_eq!(figures[0].histogram.len(), 4);
        assert!(Sample::default().latency("net/x").is_err());
    }

    #[test]
    fn images_with_little_share_a_row() {
        let images = [("a", 600.0), ("b", 1.0), ("c", 5.0), ("d", 2.0)].map(|(name, count)| (name.to_string(), count));
        let rows = large(images.into());
        let rows: Vec<(&str, f64)> = rows.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(rows, [("a", 600.0), ("c", 5.0), ("others", 3.0)]);
    }

    #[test]
    fn counts_are_found_by_name() {
        assert_eq!(number("packets 4 hypercalls 12", "hypercalls"), 12.0);
        assert_eq!(number("packets", "packets") + number("", "x"), 0.0);
    }
}
