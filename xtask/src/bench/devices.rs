//! `cargo xtask bench rings|net|blk`: what a message, a packet and a block request cost between domains, and whose
//! instructions they are.
//!
//! Every load runs twice, with N operations and with 2N, on one CPU under icount, where nothing outside the machine takes
//! part; the difference by N is what one costs, without what setting up does. A domain's part is its time in
//! RUNSTATE_running, hypercalls and traps included, as dom0's `info` has it; hypercalls and events are what the driver
//! domain has counted itself (docs/rings.md).

use super::report::{Figure, INSTRUCTIONS};
use crate::build::{Part, build, built};
use crate::place::Place;
use crate::qemu::{Ending, Machine, Running};
use crate::run::console::{attach, command};
use crate::run::log::{Entry, number_before};
use crate::run::world;
use anyhow::{Context, Result, ensure};
use dom0::manifest::parse;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Counting instructions on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages without payload, through the class `echo`.
    Rings,
    /// Packets from guest to guest.
    Net,
    /// Requests to a RAM disk.
    Blk,
}

/// Who takes part, and the loads.
struct Setup {
    /// The driver domain: its manifest, its name, what it counts its operations as.
    driver: &'static str,
    backend: &'static str,
    counts: &'static str,
    /// Guests that are there all the time: their manifests, and whose time counts.
    always: &'static str,
    others: &'static [&'static str],
    /// The guest that works: its image, and its devices as in a manifest.
    kernel: &'static str,
    devices: &'static str,
    loads: Vec<Load>,
}

/// One load.
struct Load {
    /// Its row.
    name: String,
    /// The command line without the count; its operations.
    line: String,
    count: u64,
}

const ECHOBACK: &str = "name = 'echoback'\nkernel = 'echoback'\nmemory = 8\nserves = ['echo']\n";
const NETBACK: &str = "name = 'netback'\nkernel = 'netback'\nmemory = 16\nserves = ['vif']\n";
const BLKBACK: &str = "name = 'blkback'\nkernel = 'blkback'\nmemory = 48\nserves = ['vbd']\n";
const SINK: &str = "name = 'receiver'\nkernel = 'bench-rings'\nmemory = 8\nvif = [{ mac = '00:16:3e:00:00:01' }]\n";

fn setup(kind: Kind) -> Setup {
    let load = |name: String, line: String, count: u64| Load { name, line, count };
    match kind {
        Kind::Rings => Setup {
            driver: ECHOBACK,
            backend: "echoback",
            counts: "requests",
            always: "",
            others: &[],
            kernel: "echo",
            devices: "device = [{ class = 'echo' }]",
            loads: [1, 8, 32]
                .map(|window| {
                    load(format!("rings/echo_64_batch{window}"), format!("window={window} messages="), 20_000)
                })
                .into(),
        },
        Kind::Net => Setup {
            driver: NETBACK,
            backend: "netback",
            counts: "packets",
            always: SINK,
            others: &["receiver"],
            kernel: "bench-rings",
            devices: "vif = [{ mac = '00:16:3e:00:00:02' }]",
            loads: [64, 500, 1500]
                .map(|bytes| {
                    let line = format!("send=00:16:3e:00:00:01 bytes={bytes} count=");
                    load(format!("net/guest_to_guest_{bytes}"), line, 8_000)
                })
                .into(),
        },
        Kind::Blk => Setup {
            driver: BLKBACK,
            backend: "blkback",
            counts: "requests",
            always: "",
            others: &[],
            kernel: "bench-rings",
            devices: "disk = [{ target = 'ram:16M', vdev = 'xvda', mode = 'w' }]",
            loads: [(4u64, 1), (4, 8), (4, 32), (128, 1)]
                .into_iter()
                .flat_map(|(kib, depth)| {
                    ["read", "write"].map(|way| {
                        let line = format!("disk={way} kib={kib} depth={depth} count=");
                        load(format!("blk/{way}_{kib}k_depth_{depth}"), line, 8_000 / kib)
                    })
                })
                .collect(),
        },
    }
}

impl Setup {
    fn guest(load: usize, twice: bool) -> String {
        format!("load{load}{}", if twice { "b" } else { "a" })
    }

    fn manifest(&self) -> String {
        let mut text = [self.driver, self.always].map(|domain| format!("[[domain]]\n{domain}")).concat();
        if self.always.is_empty() {
            text = format!("[[domain]]\n{}", self.driver);
        }
        for (index, load) in self.loads.iter().enumerate() {
            for twice in [false, true] {
                let (name, count) = (Self::guest(index, twice), load.count << u32::from(twice));
                let (kernel, line, devices) = (self.kernel, &load.line, self.devices);
                let _ = write!(text, "[[domain]]\nname = '{name}'\nkernel = '{kernel}'\ncmdline = '{line}{count}'\n");
                let _ = write!(text, "memory = 8\nautostart = false\non_poweroff = 'preserve'\n{devices}\n");
            }
        }
        text
    }
}

/// A machine with everything that the loads need, at dom0's prompt.
fn start(place: &Place, setup: &Setup, extra: &[String]) -> Result<Running> {
    build(place, &[Part::Core, Part::Domains])?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let dom0 = built(place, Part::Domains, "dom0").context("no dom0")?;
    let text = setup.manifest();
    let parsed = parse(&text).map_err(|error| anyhow::anyhow!("the bench's manifest: {error}"))?;
    let ramdisk = place.logs("bench")?.join("devices.ramdisk");
    world::ramdisk(&ramdisk, text.as_bytes(), &world::named(place, &parsed, &place.root)?)?;
    let mut machine = Machine::new(&core, "", &format!("{} log-consoles,{}", dom0.display(), ramdisk.display()));
    machine.icount = true;
    machine.extra.extend(extra.iter().cloned());
    let mut running = machine.start(&place.logs("bench")?.join("devices.log"))?;
    attach(&mut running, LIMIT)?;
    Ok(running)
}

/// Runs all loads of a kind and gives the figures.
pub fn measure(place: &Place, kind: Kind) -> Result<Vec<Figure>> {
    let setup = setup(kind);
    let mut running = start(place, &setup, &[])?;
    let mut figures = Vec::new();
    for (index, load) in setup.loads.iter().enumerate() {
        let once = sample(&mut running, &setup, &Setup::guest(index, false), load.count)?;
        let twice = sample(&mut running, &setup, &Setup::guest(index, true), 2 * load.count)?;
        figures.extend(Sample::rows(&load.name, &setup, &once, &twice, load.count));
    }
    running.send(b"poweroff\n")?;
    running.end();
    Ok(figures)
}

/// Runs the load called `name` on a machine of its own, with N operations and on another with 2N, each with QEMU's
/// arguments for it; N. None: no load is called so.
pub fn trace(place: &Place, name: &str, arguments: [&[String]; 2]) -> Result<Option<u64>> {
    let setups = [Kind::Rings, Kind::Net, Kind::Blk].map(setup);
    let found = setups.iter().find_map(|setup| Some((setup, setup.loads.iter().position(|load| load.name == name)?)));
    let Some((setup, index)) = found else { return Ok(None) };
    let count = setup.loads.get(index).map_or(0, |load| load.count);
    for (extra, twice) in arguments.into_iter().zip([false, true]) {
        let mut running = start(place, setup, extra)?;
        sample(&mut running, setup, &Setup::guest(index, twice), count << u32::from(twice))?;
        running.send(b"poweroff\n")?;
        let ending = running.finish(LIMIT)?;
        ensure!(ending == Ending::PowerOff, "the machine ended as {ending:?}");
    }
    Ok(Some(count))
}

/// The names of all loads.
pub fn loads() -> Vec<String> {
    [Kind::Rings, Kind::Net, Kind::Blk].into_iter().flat_map(|kind| setup(kind).loads).map(|load| load.name).collect()
}

/// What one run took.
struct Sample {
    /// Nanoseconds, which are instructions: of the guest, of the backend, of the others.
    times: Vec<f64>,
    hypercalls: f64,
    events: f64,
}

impl Sample {
    /// The rows of a load, from the difference of two runs.
    fn rows(name: &str, setup: &Setup, once: &Self, twice: &Self, count: u64) -> Vec<Figure> {
        let each = |once: f64, twice: f64| (twice - once) / count as f64;
        let parts: Vec<f64> = once.times.iter().zip(&twice.times).map(|(once, twice)| each(*once, *twice)).collect();
        let mut rows = vec![Figure::new(name.into(), parts.iter().sum(), INSTRUCTIONS)];
        let names = ["frontend", setup.backend].into_iter().chain(setup.others.iter().copied());
        rows.extend(names.zip(&parts).map(|(who, part)| Figure::new(format!("{name}/{who}"), *part, INSTRUCTIONS)));
        let of_backend = |what: &str| format!("{name}/{}_{what}", setup.backend);
        rows.push(Figure::new(of_backend("hypercalls"), each(once.hypercalls, twice.hypercalls), "hypercalls"));
        rows.push(Figure::new(of_backend("events"), each(once.events, twice.events), "events"));
        rows
    }
}

/// Creates a guest, waits for its end, and removes it.
fn sample(running: &mut Running, setup: &Setup, guest: &str, count: u64) -> Result<Sample> {
    let always: Vec<&str> = [setup.backend].iter().chain(setup.others).copied().collect();
    let times = |running: &mut Running| always.iter().map(|name| cpu_time(running, name)).collect::<Result<Vec<_>>>();
    let (before, stats) = (times(running)?, stats(running, setup.backend)?);
    command(running, &format!("create {guest}"), LIMIT)?;
    let ended =
        |line: &str| Entry::parse(line).is_some_and(|entry| entry.who == guest && entry.what.contains("ended:"));
    ensure!(running.wait_line(0, LIMIT, ended).is_some(), "{guest} does not end");
    let held = |line: &str| {
        let entry = Entry::parse(line).filter(|entry| entry.who == guest);
        entry.and_then(|entry| entry.console()).is_some_and(|text| text.ends_with("SUCCESS"))
    };
    ensure!(running.lines().iter().any(|line| held(&line.text)), "{guest} says no SUCCESS");
    let mut all = vec![cpu_time(running, guest)?];
    // The backend writes its counts a second after its work, and has done nothing else.
    let done = number(&stats, setup.counts) + count as f64;
    let after = settled(running, setup, done)?;
    all.extend(times(running)?.iter().zip(&before).map(|(after, before)| after - before));
    command(running, &format!("destroy {guest}"), LIMIT)?;
    let difference = |what| number(&after, what) - number(&stats, what);
    Ok(Sample { times: all, hypercalls: difference("hypercalls"), events: difference("events") })
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
    fn manifests_are_whole() {
        for kind in [Kind::Rings, Kind::Net, Kind::Blk] {
            let setup = setup(kind);
            let parsed = parse(&setup.manifest()).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(parsed.domains.len(), 1 + setup.others.len() + 2 * setup.loads.len(), "{kind:?}");
            assert!(parsed.domains.iter().any(|domain| domain.name == setup.backend));
        }
    }

    #[test]
    fn rows_are_differences_by_the_count() {
        let sample = |factor: f64| Sample {
            times: [100.0, 20.0, 3.0].map(|time| 1000.0 + factor * time).to_vec(),
            hypercalls: 50.0 + factor,
            events: 7.0,
        };
        let rows = Sample::rows("net/x", &setup(Kind::Net), &sample(10.0), &sample(20.0), 10);
        let rows: Vec<(&str, f64)> = rows.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
        assert_eq!(rows[..3], [("net/x", 123.0), ("net/x/frontend", 100.0), ("net/x/netback", 20.0)]);
        assert_eq!(
            rows[3..],
            [("net/x/receiver", 3.0), ("net/x/netback_hypercalls", 1.0), ("net/x/netback_events", 0.0)]
        );
    }

    #[test]
    fn counts_are_found_by_name() {
        assert_eq!(number("packets 4 hypercalls 12", "hypercalls"), 12.0);
        assert_eq!(number("packets", "packets") + number("", "x"), 0.0);
    }
}
