//! `cargo xtask conformance`: each guest as the initial domain on Ferrule and on Debian's Xen, or on Ferrule under QEMU and
//! under Bochs: verdicts side by side.

pub mod counts;
pub mod list;
pub mod verdict;

use crate::build::{Part, build, built};
use crate::iso::boot::Way;
use crate::iso::tour;
use crate::place::Place;
use crate::qemu::Machine;
use crate::xen;
use anyhow::{Context, Result, bail};
use list::Guest;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use verdict::Verdict;

/// The row of the tour of guests without devices.
const TOUR: &str = "tour";
/// Machines that run at once.
const AT_ONCE: usize = 2;
/// Differences that docs/conformance.md may excuse.
const EXCUSES: usize = 10;
/// How long Ferrule may take to print its counts and end the machine once the verdict is out.
const FAREWELL: Duration = Duration::from_secs(60);

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Only the guest of that name, or those whose name contains it
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Run on Xen only
    #[arg(long, conflicts_with = "ferrule_only")]
    xen_only: bool,
    /// Run on Ferrule only
    #[arg(long)]
    ferrule_only: bool,
    /// On Ferrule from an image of `iso` under Debian's Bochs, beside QEMU; then the tour of guests without devices
    #[arg(long, conflicts_with_all = ["xen_only", "ferrule_only"])]
    pub bochs: bool,
    /// CPUs of the machine, for every guest
    #[arg(long, value_name = "N")]
    smp: Option<u32>,
    /// Also print how often each operation of each call was made, and how it went
    #[arg(long, conflicts_with = "xen_only")]
    counts: bool,
}

impl Options {
    /// On both, everything or what has `only` in its name.
    pub fn only(only: Option<String>) -> Options {
        Options { only, xen_only: false, ferrule_only: false, bochs: false, smp: None, counts: false }
    }

    /// One guest under QEMU and under Bochs.
    pub fn bochs(name: &str) -> Options {
        Options { bochs: true, ..Options::only(Some(name.into())) }
    }
}

/// A hypervisor, and what it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Debian's Xen 4.17, in QEMU.
    Xen,
    /// Ours, in QEMU.
    Ferrule,
    /// Ours, from an image in Bochs.
    Bochs,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Xen => "xen",
            Side::Ferrule => "ferrule",
            Side::Bochs => "bochs",
        }
    }

    /// What boots it, where QEMU does not load it.
    fn way(self) -> Option<Way> {
        (self == Side::Bochs).then_some(Way::Bochs)
    }

    /// How long something may take there that takes `limit` under QEMU.
    fn patience(self, limit: Duration) -> Duration {
        self.way().map_or(limit, |way| way.patience(limit))
    }
}

/// What every run needs.
struct Bench {
    place: Place,
    xen: Option<PathBuf>,
    core: PathBuf,
}

/// The counts of a whole run, for whoever called.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Guests whose verdicts agree, or whose difference is excused.
    pub passed: usize,
    /// All others.
    pub failed: usize,
}

/// Runs the guests and prints the table; an error if a guest fails that is not excused.
pub fn command(place: &Place, options: &Options, no_install: bool) -> Result<()> {
    let tally = run(place, options, no_install)?;
    if tally.failed > 0 {
        bail!("{} of {} guests differ", tally.failed, tally.passed + tally.failed);
    }
    Ok(())
}

/// Runs the guests and prints the table.
pub fn run(place: &Place, options: &Options, no_install: bool) -> Result<Tally> {
    let tour = options.bochs && options.only.as_deref().is_none_or(|only| only == TOUR);
    let mut guests = match options.only.as_deref() {
        Some(TOUR) if tour => Vec::new(),
        only => list::read(place, only)?,
    };
    if let Some(smp) = options.smp {
        guests.iter_mut().for_each(|guest| guest.smp = smp);
    }
    let parts: &[Part] = match (options.xen_only, tour) {
        (true, _) => &[Part::Guests],
        (false, false) => &[Part::Core, Part::Guests],
        (false, true) => &Part::ALL,
    };
    build(place, parts)?;
    let xen = match options.ferrule_only || options.bochs {
        true => None,
        false => Some(xen::image(place, no_install)?),
    };
    let core = built(place, Part::Core, "").unwrap_or_default();
    if !options.xen_only && core.as_os_str().is_empty() {
        bail!("the core did not build");
    }
    let bench = Bench { place: place.clone(), xen, core };
    let sides: Vec<Side> = match (options.xen_only, options.ferrule_only) {
        (true, _) => vec![Side::Xen],
        (_, true) => vec![Side::Ferrule],
        _ if options.bochs => vec![Side::Ferrule, Side::Bochs],
        _ => vec![Side::Xen, Side::Ferrule],
    };
    let start = Instant::now();
    let page = std::fs::read_to_string(place.root.join("docs/conformance.md")).unwrap_or_default();
    let mut table = Table::new(&bench, &guests, &sides, excused(&page)?);
    judge_all(&bench, &guests, &sides, &mut table)?;
    if tour {
        table.tour([(Way::Bios, "bios"), (Way::Bochs, "bochs")])?;
    }
    if !options.xen_only && !guests.is_empty() {
        let mut taken = counts::Taken::new();
        for guest in &guests {
            let log = std::fs::read(log_path(place, guest, Side::Ferrule)?).unwrap_or_default();
            counts::add(&mut taken, &String::from_utf8_lossy(&log));
        }
        let pages = counts::pages(place)?;
        if options.counts {
            counts::print(&pages, &taken);
        }
        // The list is of all guests.
        if options.only.is_none() && !counts::check(place, &pages, &taken)? {
            table.tally.failed += 1;
        }
    }
    println!("{} agree, {} differ   {:.1} s", table.tally.passed, table.tally.failed, start.elapsed().as_secs_f64());
    Ok(table.tally)
}

/// Runs every guest on every side, two machines at a time; a row is printed as soon as it is whole and its turn.
fn judge_all(bench: &Bench, guests: &[Guest], sides: &[Side], table: &mut Table<'_>) -> Result<()> {
    let jobs: Vec<(&Guest, Side)> =
        guests.iter().flat_map(|guest| sides.iter().map(move |side| (guest, *side))).collect();
    let next = Mutex::new(0..jobs.len());
    let (sender, results) = channel();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let sender = sender.clone();
            let (jobs, next) = (&jobs, &next);
            scope.spawn(move || {
                while let Some(index) = next.lock().ok().and_then(|mut next| next.next()) {
                    let (guest, side) = jobs[index];
                    let _ = sender.send((index, judge(bench, guest, side)));
                }
            });
        }
        drop(sender);
        let mut verdicts: Vec<Option<Verdict>> = vec![None; jobs.len()];
        for (index, verdict) in results {
            verdicts[index] = Some(verdict?);
            while let Some(row) = verdicts.chunks(sides.len()).nth(table.rows)
                && let Some(row) = row.iter().cloned().collect::<Option<Vec<_>>>()
            {
                table.row(&row);
            }
        }
        Ok(())
    })
}

fn log_path(place: &Place, guest: &Guest, side: Side) -> Result<PathBuf> {
    Ok(place.logs("conformance")?.join(format!("{}-{}.log", guest.name, side.name())))
}

/// One guest on one side. Xen's verdicts are kept by what went in: Xen does not change from day to day. Not that something
/// failed: on a machine with much else to do guests' clocks run out.
fn judge(bench: &Bench, guest: &Guest, side: Side) -> Result<Verdict> {
    let Some(image) = built(&bench.place, Part::Guests, &guest.name) else {
        return Ok(Verdict::Nothing("no such executable".into()));
    };
    let log = log_path(&bench.place, guest, side)?;
    let machine = machine(bench, guest, side, &image);
    if side != Side::Xen {
        return boot(&machine, guest, side, &log);
    }
    let kept = bench.place.target.join("xen/verdicts").join(key(&machine, &image)?);
    if kept.is_file() {
        std::fs::copy(&kept, &log)?;
        let text = std::fs::read_to_string(&log)?;
        let line = |text: &str| crate::qemu::Line { at: Duration::ZERO, text: text.trim_end().into() };
        let lines: Vec<_> = text.lines().map(line).collect();
        return Ok(verdict::read(side, &lines, crate::qemu::Ending::TimeOut));
    }
    let verdict = boot(&machine, guest, side, &log)?;
    if !matches!(verdict, Verdict::Nothing(_) | Verdict::Failure(_)) {
        let folder = kept.parent().context("a folder for the verdicts")?;
        std::fs::create_dir_all(folder)?;
        std::fs::copy(&log, &kept)?;
    }
    Ok(verdict)
}

/// The machine a guest runs on, the same on both sides but for the kernel.
fn machine(bench: &Bench, guest: &Guest, side: Side, image: &Path) -> Machine {
    let kernel = match (side, &bench.xen) {
        (Side::Xen, Some(xen)) => xen,
        _ => &bench.core,
    };
    // Counts are of what runs under QEMU.
    let own = if side == Side::Ferrule { "tally " } else { "" };
    let append = format!("{} {own}{}", xen::COMMAND_LINE, guest.options);
    let initrd = format!("{} {}", image.display(), guest.args);
    let mut machine = Machine::new(kernel, append.trim_end(), initrd.trim_end());
    (machine.smp, machine.mem) = (guest.smp, guest.mem);
    machine.extra = guest.qemu.clone();
    machine
}

/// A name made of all that decides a run: the images' contents and the command line.
fn key(machine: &Machine, image: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for file in [&machine.kernel, image] {
        hash.update(std::fs::read(file).with_context(|| format!("reading {}", file.display()))?);
    }
    hash.update(format!("{:?} {} {} {}", machine.extra, machine.append, machine.smp, machine.mem));
    let arguments = machine.initrd.split_once(' ').map_or("", |(_, arguments)| arguments);
    hash.update(arguments);
    Ok(hex(&hash.finalize()))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn boot(machine: &Machine, guest: &Guest, side: Side, log: &Path) -> Result<Verdict> {
    let mut running = match side.way() {
        Some(way) => way.start(machine, log)?,
        None => machine.start(log)?,
    };
    let limit = side.patience(Duration::from_secs(guest.seconds));
    let found = running.wait_line(0, limit, |line| verdict::is_last(side, line));
    // Xen halts after a power-off; Ferrule ends the machine.
    let farewell = match (side, found) {
        (Side::Ferrule | Side::Bochs, Some(_)) => side.patience(FAREWELL),
        _ => Duration::ZERO,
    };
    let ending = match side.way() {
        Some(way) => way.finish(&mut running, farewell)?,
        None => running.finish(farewell)?,
    };
    let verdict = verdict::read(side, running.lines(), ending);
    let said = running.end();
    match verdict {
        Verdict::Nothing(why) if !said.is_empty() => Ok(Verdict::Nothing(format!("{why}; QEMU: {said}"))),
        verdict => Ok(verdict),
    }
}

/// The names that docs/conformance.md excuses: the first column, in back quotes, of the table under "Differences".
fn excused(page: &str) -> Result<Vec<String>> {
    let section = page.split("\n## ").find(|section| section.starts_with("Differences")).unwrap_or("");
    let name = |line: &str| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_string());
    let names: Vec<String> = section.lines().filter_map(name).collect();
    if names.len() > EXCUSES {
        bail!("docs/conformance.md excuses {} differences, more than {EXCUSES}", names.len());
    }
    Ok(names)
}

/// Whether a guest's verdicts are good and all the same.
fn agree(guest: &Guest, verdicts: &[Verdict]) -> bool {
    let is_good = |verdict: &Verdict| match verdict {
        Verdict::Success | Verdict::Skip(_) => !guest.crash,
        Verdict::Crash => guest.crash,
        Verdict::Failure(_) | Verdict::Nothing(_) => false,
    };
    verdicts.iter().all(|verdict| is_good(verdict) && Some(verdict) == verdicts.first())
}

/// The verdicts side by side, printed row by row.
struct Table<'a> {
    bench: &'a Bench,
    guests: &'a [Guest],
    sides: &'a [Side],
    excused: Vec<String>,
    width: usize,
    rows: usize,
    tally: Tally,
}

impl<'a> Table<'a> {
    fn new(bench: &'a Bench, guests: &'a [Guest], sides: &'a [Side], excused: Vec<String>) -> Table<'a> {
        let width = guests.iter().map(|guest| guest.name.len()).max().unwrap_or(0).max(5);
        let heads: String = sides.iter().map(|side| format!("{:24}", side.name())).collect();
        println!("     {:width$}  {}", "guest", heads.trim_end());
        Table { bench, guests, sides, excused, width, rows: 0, tally: Tally::default() }
    }

    fn row(&mut self, verdicts: &[Verdict]) {
        let Some(guest) = self.guests.get(self.rows) else { return };
        self.rows += 1;
        let (mark, count) = match (agree(guest, verdicts), self.excused.contains(&guest.name)) {
            (true, _) => ("ok", &mut self.tally.passed),
            (false, true) => ("known", &mut self.tally.passed),
            (false, false) => ("FAIL", &mut self.tally.failed),
        };
        *count += 1;
        print_row(mark, &guest.name, self.width, verdicts);
        if mark == "FAIL" {
            explain(self.bench, guest, self.sides);
        }
    }

    /// The tour of guests without devices, from an image on two CPUs, each way.
    fn tour(&mut self, ways: [(Way, &str); 2]) -> Result<()> {
        let place = &self.bench.place;
        let mut verdicts = Vec::new();
        for (way, name) in ways {
            let log = place.logs("conformance")?.join(format!("{TOUR}-{name}.log"));
            verdicts.push(match tour::take(place, way, 2, &log) {
                Ok(()) => Verdict::Success,
                Err(error) => Verdict::Failure(format!("{error:#}; {}", place.show(&log))),
            });
        }
        let held = verdicts.iter().all(|verdict| *verdict == Verdict::Success);
        let (mark, count) = if held { ("ok", &mut self.tally.passed) } else { ("FAIL", &mut self.tally.failed) };
        *count += 1;
        print_row(mark, TOUR, self.width, &verdicts);
        Ok(())
    }
}

fn print_row(mark: &str, name: &str, width: usize, verdicts: &[Verdict]) {
    let columns: String = verdicts.iter().map(|verdict| format!("{:23} ", verdict.short())).collect();
    println!("{mark:5}{name:width$}  {}", columns.trim_end());
}

/// What each side's guest said was wrong, and where the logs are.
fn explain(bench: &Bench, guest: &Guest, sides: &[Side]) {
    println!("       {}", guest.about);
    for side in sides {
        let Ok(log) = log_path(&bench.place, guest, *side) else { continue };
        let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        for line in verdict::details(&text).take(5) {
            println!("       {:8} {}", side.name(), line.trim_start());
        }
        println!("       {}", bench.place.show(&log));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(crash: bool) -> Guest {
        toml::from_str(&format!("name = 'x'\ncrash = {crash}")).unwrap()
    }

    #[test]
    fn only_equal_and_good_verdicts_agree() {
        let skip = |why: &str| Verdict::Skip(why.into());
        let agree = |verdicts: [Verdict; 2]| agree(&guest(false), &verdicts);
        assert!(agree([Verdict::Success, Verdict::Success]));
        assert!(agree([skip("a"), skip("a")]));
        assert!(!agree([skip("a"), skip("b")]));
        assert!(!agree([Verdict::Failure("x".into()), Verdict::Failure("x".into())]));
        assert!(!agree([Verdict::Success, Verdict::Crash]));
        assert!(!agree([Verdict::Nothing("hung".into()), Verdict::Nothing("hung".into())]));
    }

    #[test]
    fn a_crash_is_good_only_where_it_is_the_point() {
        let crashes = [Verdict::Crash, Verdict::Crash];
        assert!(agree(&guest(true), &crashes));
        assert!(!agree(&guest(false), &crashes));
        assert!(!agree(&guest(true), &[Verdict::Success, Verdict::Success]));
    }

    #[test]
    fn excuses_are_counted_and_read_from_their_section_only() {
        let page = "# C\n| `not` | x |\n## Differences\n| guest | why |\n|---|---|\n| `one` | because |\n## Other\n| `two` | x |";
        assert_eq!(excused(page).unwrap(), ["one"]);
        let many: String = (0..11).map(|n| format!("| `g{n}` | x |\n")).collect();
        assert!(excused(&format!("\n## Differences\n{many}")).is_err());
    }
}
