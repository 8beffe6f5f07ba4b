//! `cargo xtask bench linux`: what Debian's Linux takes as a guest, on Ferrule, on Debian's Xen with a Debian dom0, and
//! natively: the same kernel, the same loads (examples/linux-load), one sitting.
//!
//! Once on one CPU, counting what a row executes, whoever does (xtask/src/counts); then by wall time, on two CPUs. Rows are
//! costs: of two sides the lower one is better.

use super::devices::cpu_time;
use super::report::{Figure, INSTRUCTIONS, NS, Origin, PEER, Report};
use super::spec::Promise;
use crate::counts::{self, Block, Blocks, WHOSE};
use crate::guest;
use crate::guest::native::{Disk, overlay};
use crate::peer::native::ram_disk;
use crate::peer::side::{Side, console};
use crate::place::Place;
use crate::qemu::{Line, Machine, Running};
use crate::run::console::command as tell;
use crate::run::keys;
use crate::run::log::{Entry, number_before};
use crate::run::system::Plan;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The other side that is no hypervisor.
const NATIVE: &str = "native";
/// Counting instructions on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);
/// Memory of Ferrule's machine in MiB.
const MEM: u32 = 1024;
/// Its dom0 unpacks the kernel, 62 MiB.
const DOM0: &str = "dom0_mem=384M";

/// A peer to measure beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// Debian's Xen 4.17 with a Debian dom0, and the same kernel natively
    Xen,
}

/// A part of the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    /// From `create` to user space
    Create,
    /// System calls, processes, memory, computing
    Process,
    /// A RAM disk
    Disk,
    /// From guest to guest
    Net,
}

const GROUPS: [Group; 4] = [Group::Create, Group::Process, Group::Disk, Group::Net];
/// Those that a kernel without a hypervisor can be asked for: from guest to guest takes two.
const NATIVELY: [Group; 2] = [Group::Process, Group::Disk];
/// The disk's size.
const RAM_DISK: &str = "64M";

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Measure this as well
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// Only these, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Leave out the second pass, by wall time
    #[arg(long)]
    no_wall: bool,
    /// Write the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Figures of one pass on one side, by name.
type Found = BTreeMap<String, f64>;

/// Flushes of the whole TLB in a row: loads of CR3, and changes of CR4 there and back.
const FLUSHES: &str = "tlb_flushes";
/// Instructions outside the guests: those of the hypervisor and of the domain that serves them.
const OUTSIDE: &str = "outside_guests";
/// Instructions of the guests themselves.
const GUESTS: &str = "guests";
/// Operations of a row.
const COUNT: &str = "count";

/// What a figure should come to.
enum Goal {
    /// So much.
    Most(f64),
    /// So much of Xen's.
    OfXen(f64),
    /// So much of the native figure.
    OfNative(f64),
    /// So much of another figure of ours.
    Of(f64, &'static str),
}

/// The goals of issue 3: under icount, then by wall time.
const GOALS: [(&str, Goal, Option<Goal>); 26] = [
    ("create_elf", Goal::Most(1.9e9), None),
    ("create_bzimage", Goal::Most(6.9e9), None),
    ("create_bzimage_again", Goal::Of(1.05, "create_elf"), None),
    ("kernel_to_user_space", Goal::Most(1.65e9), None),
    ("null_system_call", Goal::OfXen(0.75), None),
    ("null_system_call/tlb_flushes", Goal::Most(2.01), None),
    ("fork_exit", Goal::OfXen(0.75), None),
    ("fork_exit/tlb_flushes", Goal::OfXen(0.75), None),
    ("fork_exec", Goal::OfXen(0.75), None),
    ("fork_exec/tlb_flushes", Goal::OfXen(0.75), None),
    ("context_switch", Goal::OfXen(0.75), None),
    ("page_fault", Goal::OfXen(0.75), None),
    ("mmap_64_pages", Goal::OfXen(0.75), None),
    ("mmap_64_pages/tlb_flushes", Goal::OfXen(0.75), None),
    ("compute_xorshift", Goal::OfNative(1.03), None),
    ("disk_random_4k_depth_1", Goal::OfXen(1.0 / 2.5), Some(Goal::OfXen(1.0 / 3.0))),
    ("disk_random_4k_depth_32", Goal::OfXen(1.0 / 2.5), Some(Goal::OfXen(1.0 / 3.0))),
    ("disk_random_4k_depth_32/outside_guests", Goal::OfXen(0.4), None),
    ("disk_sequential_128k_depth_1", Goal::OfXen(1.0 / 1.3), Some(Goal::OfXen(1.0 / 3.0))),
    ("disk_sequential_128k_depth_8", Goal::OfXen(1.0 / 1.3), Some(Goal::OfXen(1.0 / 3.0))),
    ("udp_round_trip", Goal::Most(63e3), None),
    ("udp_round_trip/outside_guests", Goal::OfXen(0.4), None),
    ("udp_small_received", Goal::OfXen(1.0 / 1.7), None),
    ("udp_small_received/outside_guests", Goal::OfXen(0.4), None),
    ("tcp_mib", Goal::OfXen(1.0 / 1.2), Some(Goal::OfXen(1.0 / 1.4))),
    ("tcp_mib/outside_guests", Goal::OfXen(0.4), None),
];

/// The rows of examples/linux-load/load.c, as it numbers them from 1.
const LOADS: [(&str, Group); 14] = [
    ("null_system_call", Group::Process),
    ("fork_exit", Group::Process),
    ("fork_exec", Group::Process),
    ("context_switch", Group::Process),
    ("page_fault", Group::Process),
    ("mmap_64_pages", Group::Process),
    ("compute_xorshift", Group::Process),
    ("disk_random_4k_depth_1", Group::Disk),
    ("disk_random_4k_depth_32", Group::Disk),
    ("disk_sequential_128k_depth_1", Group::Disk),
    ("disk_sequential_128k_depth_8", Group::Disk),
    ("udp_round_trip", Group::Net),
    ("udp_small_received", Group::Net),
    ("tcp_mib", Group::Net),
];

/// The loads' rows, as `cargo xtask profile` takes them.
pub fn loads() -> Vec<String> {
    LOADS.iter().map(|(name, _)| format!("linux/{name}")).collect()
}

/// Runs the load that has a row, and gives what ran in it with the operations it made; `None` if no row is called so.
pub fn trace(place: &Place, row: &str, xen: bool) -> Result<Option<(Vec<Block>, f64)>> {
    let Some(at) = LOADS.iter().position(|(name, _)| row.strip_prefix("linux/") == Some(name)) else {
        return Ok(None);
    };
    let (name, group) = LOADS[at];
    let side = if xen { Side::Xen } else { Side::Ferrule };
    let found = measure(place, side, &[group], true, Blocks::Row(at as u64 + 1))?;
    let count = found.get(&format!("{name}/{COUNT}")).copied().context("the load does not say how often")?;
    let text = std::fs::read_to_string(counts_of(place, side)?)?;
    Ok(Some((counts::blocks(&text), count)))
}

/// The kernel's functions by address, from /proc/kallsyms of a guest; kept beside the kernel.
pub fn symbols(place: &Place) -> Result<BTreeMap<u64, String>> {
    let kernel = guest::dir(place).join(guest::load::FILES[1]);
    let path = kernel.with_extension("symbols");
    let time = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if time(&path) < time(&kernel) {
        let logs = place.logs("bench")?;
        let config = logs.join("linux.toml");
        std::fs::write(&config, manifest(&[]))?;
        let dir = logs.join("linux");
        let plan = Plan { core: DOM0, ..Plan::of(&config, &dir) };
        let mut running =
            Side::Ferrule.start(place, &plan, &logs.join("linux-symbols.log"), |machine| machine.mem = MEM)?;
        let from = start(&mut running, "symbols", "BENCH done")?;
        let lines = running.lines().get(from..).unwrap_or_default();
        let said = lines.iter().filter_map(|line| Entry::parse(line.text.trim_end())?.console());
        let text: String = said.filter(|line| symbol(line).is_some()).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text)?;
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.lines().filter_map(symbol).collect())
}

/// A line of /proc/kallsyms that names code: `ffffffff81000000 T _stext`.
fn symbol(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    let address = u64::from_str_radix(address, 16).ok().filter(|_| address.len() == 16)?;
    matches!(kind, "t" | "T" | "w" | "W").then(|| (address, name.to_string()))
}

/// Measures, prints the table, writes JSON and HTML.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    let groups: Vec<Group> =
        GROUPS.into_iter().filter(|group| options.only.is_empty() || options.only.contains(group)).collect();
    let mut figures = Vec::new();
    let mut promises = BTreeMap::new();
    for icount in [true, false].into_iter().take(if options.no_wall { 1 } else { 2 }) {
        let mut ours = measure(place, Side::Ferrule, &groups, icount, Blocks::None)?;
        outside(&mut ours, None);
        let mut peers = Vec::new();
        if options.peer.is_some() {
            let mut xen = measure(place, Side::Xen, &groups, icount, Blocks::None)?;
            outside(&mut xen, Some(&ours));
            peers.push((PEER, xen));
            if groups.iter().any(|group| NATIVELY.contains(group)) {
                peers.push((NATIVE, native(place, &groups, icount)?));
            }
        }
        rows(&ours, &peers, icount, &mut figures, &mut promises);
    }
    let report = Report::new(figures, Origin::here(place), promises);
    print!("{}", report.table());
    let written = report.write(place, "linux")?;
    for path in &written {
        println!("{}", place.show(path));
    }
    if let Some(to) = &options.json {
        std::fs::copy(&written[0], to).with_context(|| format!("writing {}", to.display()))?;
        println!("{}", to.display());
    }
    Ok(())
}

/// One pass as rows, in the order of the goals.
fn rows(
    ours: &Found,
    peers: &[(&'static str, Found)],
    icount: bool,
    figures: &mut Vec<Figure>,
    promises: &mut BTreeMap<String, Promise>,
) {
    let (all, suffix) = if icount { (INSTRUCTIONS, "") } else { (NS, "/wall") };
    for (name, counted, by_wall) in &GOALS {
        let Some(value) = ours.get(*name) else { continue };
        let beside = |who: &str| peers.iter().find(|(peer, _)| *peer == who)?.1.get(*name).copied();
        let goal = match if icount { Some(counted) } else { by_wall.as_ref() } {
            Some(Goal::Most(most)) => Some(*most),
            Some(Goal::OfXen(part)) => beside(PEER).map(|xen| part * xen),
            Some(Goal::OfNative(part)) => beside(NATIVE).map(|native| part * native),
            Some(Goal::Of(part, other)) => ours.get(*other).map(|other| part * other),
            None => None,
        };
        let unit = if name.ends_with(FLUSHES) { "flushes" } else { all };
        let name = format!("linux/{name}{suffix}");
        promises.insert(name.clone(), Promise { promised: f64::INFINITY, goal });
        let peers = [PEER, NATIVE].into_iter().filter_map(|who| Some((who, beside(who)?))).collect();
        figures.push(Figure { peers, ..Figure::new(name, *value, unit) });
    }
}

/// Adds what each row takes outside the guests. Xen's dom0 runs the guests' kernel, so that no address tells one from the
/// other: what the same guests execute on Ferrule is taken off there.
fn outside(found: &mut Found, ours: Option<&Found>) {
    let rows: Vec<String> = found.keys().filter_map(|name| Some(name.strip_suffix("/linux")?.to_string())).collect();
    for row in rows {
        let of = |found: &Found, what: &str| found.get(&format!("{row}/{what}")).copied();
        let all: f64 = WHOSE.iter().filter_map(|what| of(found, what)).sum();
        let guests = ours.map_or_else(|| of(found, WHOSE[2]), |ours| of(ours, GUESTS));
        let Some(guests) = guests else { continue };
        found.insert(format!("{row}/{GUESTS}"), guests);
        found.insert(format!("{row}/{OUTSIDE}"), all - guests);
    }
}

/// Loads of the guest, by their groups, as its command line has them.
fn named(groups: &[Group], known: &[Group]) -> String {
    let name = |group: &Group| match group {
        Group::Create => "",
        Group::Process => "process",
        Group::Disk => "disk",
        Group::Net => "net",
    };
    known.iter().filter(|group| groups.contains(group)).map(name).collect::<Vec<_>>().join(",")
}

/// The machine's domains: the drivers, the guests that only start, the sink, and the guest that works.
fn manifest(groups: &[Group]) -> String {
    let [bzimage, elf, ramdisk] = guest::load::FILES;
    let domain = |name: &str, kernel: &str, line: &str, devices: &str| {
        format!(
            "[[domain]]\nname = '{name}'\nkernel = '{kernel}'\nramdisk = '{ramdisk}'\nmemory = 160\nautostart = false\n\
             cmdline = 'console=hvc0 quiet {line}'\n{devices}\n"
        )
    };
    let line =
        format!("load={} address=10.0.9.2 sink=10.0.9.1", named(groups, &[Group::Process, Group::Disk, Group::Net]));
    [
        "[[domain]]\nname = 'netback'\nkernel = 'netback'\nmemory = 16\nserves = ['vif']\n".to_string(),
        "[[domain]]\nname = 'blkback'\nkernel = 'blkback'\nmemory = 96\nserves = ['vbd']\n".to_string(),
        domain("bzimage", bzimage, "", ""),
        domain("elf", elf, "", ""),
        domain("symbols", elf, "load=symbols", ""),
        domain("sink", elf, "load=sink address=10.0.9.1", "vif = [{ mac = '00:16:3e:00:00:01' }]"),
        domain(
            "load",
            elf,
            &line,
            &format!(
                "vif = [{{ mac = '00:16:3e:00:00:02' }}]\ndisk = [{{ target = 'ram:{RAM_DISK}', vdev = 'xvda', mode = 'w' }}]"
            ),
        ),
    ]
    .concat()
}

/// All groups on one side.
fn measure(place: &Place, side: Side, groups: &[Group], icount: bool, blocks: Blocks) -> Result<Found> {
    let logs = place.logs("bench")?;
    let pass = if icount { "icount" } else { "wall" };
    let config = logs.join("linux.toml");
    std::fs::write(&config, manifest(groups))?;
    let dir = logs.join("linux");
    let log = logs.join(format!("linux-{}-{pass}.log", side.name()));
    let plan = Plan { core: DOM0, ..Plan::of(&config, &dir) };
    let counts = counts_of(place, side)?;
    let counting = counts::args(&counts::plugin(place)?, &counts, blocks);
    let mut running = side.start(place, &plan, &log, |machine| {
        machine.mem = machine.mem.max(MEM);
        (machine.icount, machine.smp) = (icount, 2);
        machine.extra.extend(counting.into_iter().filter(|_| icount));
    })?;
    let mut found = Found::new();
    if groups.contains(&Group::Create) && icount {
        for (name, guest) in [("create_bzimage", "bzimage"), ("create_bzimage_again", "bzimage"), ("create_elf", "elf")]
        {
            let (all, own) = created(&mut running, side, guest)?;
            found.insert(name.into(), all);
            found.insert("kernel_to_user_space".into(), own);
        }
    }
    if groups.iter().any(|group| *group != Group::Create) {
        if groups.contains(&Group::Net) {
            start(&mut running, "sink", "BENCH sink")?;
        }
        let from = start(&mut running, "load", "BENCH done")?;
        let counts = if icount { Some(counts.as_path()) } else { None };
        found.extend(figures(running.lines().get(from..).unwrap_or_default(), counts, |line| {
            let entry = Entry::parse(line).filter(|entry| entry.who == "load")?;
            entry.console()
        })?);
    }
    Ok(found)
}

/// Where the plugin puts what it counts on a side.
fn counts_of(place: &Place, side: Side) -> Result<PathBuf> {
    Ok(place.logs("bench")?.join(format!("linux-{}.counts", side.name())))
}

/// Creates a guest and waits for what it says; where its lines begin.
fn start(running: &mut Running, guest: &str, wanted: &str) -> Result<usize> {
    let from = running.lines().len();
    tell(running, &format!("create {guest}"), LIMIT)?;
    console(running, from, guest, wanted, LIMIT)?;
    Ok(from)
}

/// What `create` takes until the guest is in user space and rests, and what of it the guest ran itself, in instructions.
fn created(running: &mut Running, side: Side, guest: &str) -> Result<(f64, f64)> {
    // What asking costs is not the guest's.
    let (first, before) = (busy(running, side)?, busy(running, side)?);
    start(running, guest, "BENCH done")?;
    let after = busy(running, side)?;
    let own = match side {
        Side::Ferrule => cpu_time(running, guest)?,
        Side::Xen => {
            usage(running)?.iter().filter_map(|line| number_before(line, "us")).next_back().unwrap_or(0.0) * 1e3
        }
    };
    let from = running.lines().len();
    tell(running, &format!("destroy {guest}"), LIMIT)?;
    gone(running, side, guest, from)?;
    Ok(((after - before) - (before - first), own))
}

/// Waits until a guest that was destroyed is there no more.
fn gone(running: &mut Running, side: Side, guest: &str, from: usize) -> Result<()> {
    if side == Side::Xen {
        // xl destroys before it returns.
        return Ok(());
    }
    let is_gone =
        |line: &str| Entry::parse(line).is_some_and(|entry| entry.who == guest && entry.what.starts_with("destroyed"));
    running.wait_line(from, LIMIT, is_gone).with_context(|| format!("{guest} is not destroyed"))?;
    Ok(())
}

/// What Xen says of the time: of its CPU, then of each domain.
fn usage(running: &mut Running) -> Result<Vec<String>> {
    tell(running, "usage", LIMIT)
}

/// Nanoseconds that the CPU has not been idle.
fn busy(running: &mut Running, side: Side) -> Result<f64> {
    if side == Side::Ferrule {
        return Ok(keys::usage(running)?.busy * 1e3);
    }
    let lines = usage(running)?;
    let numbers = lines.iter().find_map(|line| {
        let (idle, all) = line.strip_prefix("CPU 0: idle ")?.split_once(" of ")?;
        Some((idle.parse::<f64>().ok()?, number_before(all, "us")?))
    });
    let (idle, all) = numbers.with_context(|| format!("no idle time: {lines:?}"))?;
    Ok((all - idle) * 1e3)
}

/// The kernel straight on QEMU, without a hypervisor: what needs no device, and a disk, which is virtio's there.
fn native(place: &Place, groups: &[Group], icount: bool) -> Result<Found> {
    let logs = place.logs("bench")?;
    let (dir, counts) = (logs.join("linux"), logs.join("linux-native.counts"));
    let [kernel, _, initrd] = guest::load::FILES.map(|name| guest::dir(place).join(name));
    let mut archive = std::fs::read(&initrd).with_context(|| format!("reading {}", initrd.display()))?;
    archive.extend(overlay(place, &[Disk { vdev: "xvda".into(), node: "vda".into(), partition: None }])?);
    let initrd = dir.join("native.initrd");
    std::fs::write(&initrd, archive).with_context(|| format!("writing {}", initrd.display()))?;
    let line = format!("console=ttyS0 quiet load={}", named(groups, &NATIVELY));
    let mut machine = Machine::new(&kernel, &line, &initrd.display().to_string());
    (machine.icount, machine.debug_exit) = (icount, false);
    machine.extra.extend(ram_disk(&dir, 0, RAM_DISK)?);
    let counting = counts::args(&counts::plugin(place)?, &counts, Blocks::None);
    machine.extra.extend(counting.into_iter().filter(|_| icount));
    let mut running = machine.start(&logs.join("linux-native.log"))?;
    let done = running.wait_line(0, LIMIT, |line| line.trim_end() == "BENCH done");
    ensure!(done.is_some(), "natively: no end; {}", running.end());
    figures(running.lines(), Some(counts.as_path()).filter(|_| icount), Some)
}

/// The figures among lines, as `text` sees them, with what was counted of each.
fn figures<'a>(lines: &'a [Line], counts: Option<&Path>, text: impl Fn(&'a str) -> Option<&'a str>) -> Result<Found> {
    let counted = counts.map(|path| std::fs::read_to_string(path).with_context(|| path.display().to_string()));
    let counted = counted.transpose()?.map(|text| counts::rows(&text));
    let mut found = Found::new();
    for line in lines.iter().filter_map(|line| text(line.text.trim_end())) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, value, number, count) = match words.as_slice() {
            ["BENCH", "failed:", ..] => bail!("{line}"),
            ["BENCH", name, value, number, count] => (name, value, number, count),
            _ => continue,
        };
        found.insert(name.to_string(), value.parse().context("a figure")?);
        let Some(counted) = &counted else { continue };
        let row = counted.get(&number.parse()?).with_context(|| format!("nothing was counted for {name}"))?;
        let count: f64 = count.parse()?;
        let [_, cr3, cr4, _, whose @ ..] = row;
        found.insert(format!("{name}/{COUNT}"), count);
        // What ran, without the seconds that a lost datagram waits for its next try.
        found.insert(name.to_string(), whose.iter().sum::<f64>() / count);
        found.insert(format!("{name}/{FLUSHES}"), (cr3 + cr4 / 2.0) / count);
        for (what, instructions) in WHOSE.iter().zip(whose) {
            found.insert(format!("{name}/{what}"), instructions / count);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_one_that_dom0_reads() {
        let manifest = dom0::manifest::parse(&manifest(&GROUPS)).unwrap();
        let load = manifest.domains.last().unwrap();
        assert_eq!(load.cmdline, "console=hvc0 quiet load=process,disk,net address=10.0.9.2 sink=10.0.9.1");
        assert_eq!((load.name.as_str(), load.disks[0].target.as_str(), load.autostart), ("load", "ram:64M", false));
    }

    #[test]
    fn figures_are_read_and_a_failure_is_one() {
        let line = |text: &str| Line { at: Duration::ZERO, text: text.into() };
        let lines = [line("x"), line("BENCH fork_exit 12.5 2 200\r"), line("BENCH done")];
        assert_eq!(figures(&lines, None, Some).unwrap(), Found::from([("fork_exit".to_string(), 12.5)]));
        assert!(figures(&[line("BENCH failed: connect: no route")], None, Some).is_err());
    }

    #[test]
    fn a_row_has_its_flushes_and_what_ran_outside_the_guests() {
        let line = |text: &str| Line { at: Duration::ZERO, text: text.into() };
        let lines = [line("BENCH fork_exit 1000.0 2 10")];
        let counted = |name: &str, text: &str| {
            let path = std::env::temp_dir().join(format!("ferrule-{name}-{}.counts", std::process::id()));
            std::fs::write(&path, text).unwrap();
            let found = figures(&lines, Some(&path), Some);
            std::fs::remove_file(path).unwrap();
            found
        };
        let mut ours = counted("ours", "row 2 1 5 20 10 0 1000 500 8000\n").unwrap();
        outside(&mut ours, None);
        // Xen's dom0 and guests are both Linux.
        let mut xen = counted("xen", "row 2 1 5 20 0 0 3000 0 12000\n").unwrap();
        outside(&mut xen, Some(&ours));
        assert_eq!((ours["fork_exit"], xen["fork_exit"]), (950.0, 1500.0));
        assert_eq!((ours["fork_exit/tlb_flushes"], xen["fork_exit/tlb_flushes"]), (2.5, 2.0));
        assert_eq!((ours["fork_exit/outside_guests"], xen["fork_exit/outside_guests"]), (150.0, 700.0));
        assert!(counted("none", "row 3 1 5 20 0 0 3000 0 12000\n").is_err());
    }

    #[test]
    fn functions_are_known_by_address_and_data_is_none() {
        assert_eq!(symbol("ffffffff81000000 T _stext"), Some((0xffff_ffff_8100_0000, "_stext".into())));
        assert_eq!((symbol("ffffffff82000000 D data"), symbol("BENCH done"), symbol("1 T x")), (None, None, None));
    }

    #[test]
    fn goals_are_parts_of_what_was_measured_beside() {
        let found = |figures: &[(&str, f64)]| figures.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let ours: Found = found(&[("fork_exit", 80.0), ("compute_xorshift", 10.0), ("create_elf", 2e9)]);
        let peers = [(PEER, found(&[("fork_exit", 100.0)])), (NATIVE, found(&[("compute_xorshift", 10.0)]))];
        let (mut figures, mut promises) = (Vec::new(), BTreeMap::new());
        rows(&ours, &peers, true, &mut figures, &mut promises);
        rows(&ours, &peers, false, &mut figures, &mut promises);
        let goal = |name: &str| promises[&format!("linux/{name}")].goal;
        assert_eq!(goal("fork_exit"), Some(75.0));
        assert_eq!(goal("compute_xorshift"), Some(10.3));
        assert_eq!(goal("create_elf"), Some(1.9e9));
        assert_eq!(figures[1].peers, [(PEER, 100.0)]);
        assert_eq!(goal("fork_exit/wall"), None);
    }
}
