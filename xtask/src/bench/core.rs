//! `cargo xtask bench core`: instructions per operation on Ferrule and on Debian's Xen, in one sitting; and what of them
//! costs more than an instruction: TLB flushes, CR3 loads, locked operations. Once more on a CPU that has what QEMU has,
//! both hypervisors with their defaults.

use super::report::{Defaults, Figure, INSTRUCTIONS, PEER};
use crate::build::{Part, build, built};
use crate::conformance::verdict::is_verdict;
use crate::counts::{self, Blocks, KINDS};
use crate::place::Place;
use crate::qemu::{Line, Machine, WHOLE_CPU};
use crate::xen;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The guest that measures: prints `BENCH <name> <row> <parts> <value>` lines, then its verdict.
pub const GUEST: &str = "bench-core";

/// What both hypervisors are started with.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// QEMU's model of the CPU; none: the one that benches count on.
    cpu: Option<&'static str>,
    options: &'static str,
    /// Of the logs.
    suffix: &'static str,
}
/// No mitigation that the other side does not have.
pub const EVEN: Setting =
    Setting { cpu: None, options: "spec-ctrl=no xpti=0 console=com1 noreboot dom0_mem=64M", suffix: "" };
/// What each side does where nobody says anything.
const DEFAULT: Setting =
    Setting { cpu: Some(WHOLE_CPU), options: "console=com1 noreboot dom0_mem=64M", suffix: "-defaults" };
/// Counting instructions takes a single-threaded QEMU some minutes at most.
const LIMIT: Duration = Duration::from_secs(300);

/// One row of the guest's.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `core/NAME`.
    pub name: String,
    /// Its number, for marks.
    pub number: u64,
    /// Operations of one measurement.
    parts: f64,
    /// Instructions of one.
    value: f64,
    /// The counts of one, in the order of [`KINDS`].
    counts: counts::Row,
}

/// Every figure, Xen's beside it if asked for, and both sides' with their defaults.
pub fn measure(place: &Place, beside: bool) -> Result<Vec<Figure>> {
    build(place, &[Part::Core, Part::Guests])?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    if !beside {
        return Ok(figures(&run(place, &core, "ferrule", EVEN, Blocks::None)?, &[]));
    }
    let xen = xen::image(place, place.no_install)?;
    // Exact whatever else the machine does, so both may run at once.
    let both = |setting| {
        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| run(place, &xen, "xen", setting, Blocks::None));
            let ours = run(place, &core, "ferrule", setting, Blocks::None);
            let theirs = theirs.join().unwrap_or_else(|_| bail!("the measurement of Xen panicked"));
            anyhow::Ok((ours?, theirs?))
        })
    };
    let ((ours, theirs), (our_defaults, their_defaults)) = (both(EVEN)?, both(DEFAULT)?);
    let mut figures = figures(&ours, &theirs);
    for figure in &mut figures {
        let value = |rows: &[Row]| rows.iter().find(|row| row.name == figure.name).map(|row| row.value);
        let peer = value(&their_defaults);
        figure.defaults = value(&our_defaults).map(|value| Defaults { value, peer });
    }
    Ok(figures)
}

fn figures(ours: &[Row], xen: &[Row]) -> Vec<Figure> {
    let xen: BTreeMap<&str, &Row> = xen.iter().map(|row| (row.name.as_str(), row)).collect();
    let mut all = Vec::new();
    for row in ours {
        let peer = xen.get(row.name.as_str());
        let peers =
            |value: fn(&Row, usize) -> f64, kind| peer.map(|peer| vec![(PEER, value(peer, kind))]).unwrap_or_default();
        let peers_value = peers(|row, _| row.value, 0);
        all.push(Figure { peers: peers_value, ..Figure::new(row.name.clone(), row.value, INSTRUCTIONS) });
        let per = |row: &Row, kind: usize| row.counts.get(kind).copied().unwrap_or(0.0) / row.parts;
        for (kind, what) in KINDS.iter().enumerate() {
            let value = per(row, kind);
            if value > 0.0 || peer.is_some_and(|peer| per(peer, kind) > 0.0) {
                let figure = Figure::new(format!("{}/{what}", row.name), value, what);
                all.push(Figure { peers: peers(|row, kind| row.counts[kind] / row.parts, kind), ..figure });
            }
        }
    }
    all
}

/// One run under icount.
pub fn run(place: &Place, kernel: &Path, side: &str, setting: Setting, blocks: Blocks) -> Result<Vec<Row>> {
    let guest = built(place, Part::Guests, GUEST).with_context(|| format!("no guest {GUEST} yet"))?;
    let mut machine = Machine::new(kernel, setting.options, &guest.display().to_string());
    (machine.icount, machine.cpu) = (true, setting.cpu);
    let log = place.logs("bench")?.join(format!("core-{side}{}.log", setting.suffix));
    let counts = log.with_extension("counts");
    machine.extra.extend(counts::args(&counts::plugin(place)?, &counts, blocks));
    let mut running = machine.start(&log)?;
    let end = running.wait_line(0, LIMIT, is_verdict);
    let held = end.and_then(|end| running.lines().get(end)).is_some_and(|line| line.text.trim_end() == "SUCCESS");
    let mut rows = rows(running.lines());
    let said = running.end();
    if !held || rows.is_empty() {
        bail!("{GUEST} on {side} did not hold; {}\n{said}", place.show(&log));
    }
    let text = std::fs::read_to_string(&counts).with_context(|| format!("reading {}", counts.display()))?;
    let counted = counts::rows(&text);
    for row in &mut rows {
        row.counts = *counted.get(&row.number).with_context(|| format!("nothing was counted for {}", row.name))?;
    }
    Ok(rows)
}

fn rows(lines: &[Line]) -> Vec<Row> {
    let row = |line: &Line| {
        let at = line.text.find("BENCH ")?;
        let mut words = line.text.get(at..)?.split_whitespace().skip(1);
        Some(Row {
            name: format!("core/{}", words.next()?),
            number: words.next()?.parse().ok()?,
            parts: words.next()?.parse().ok().filter(|parts| *parts > 0.0)?,
            value: words.next()?.parse().ok()?,
            counts: counts::Row::default(),
        })
    };
    lines.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_other_lines_are_not() {
        let texts = ["(XEN) x", "BENCH null 1 1 139.0", "BENCH per_entry 2 16 52.5", "BENCH broken 1 1", "SUCCESS"];
        let line = |text: &&str| Line { at: Duration::ZERO, text: text.to_string() };
        let lines: Vec<Line> = texts.iter().map(line).collect();
        let found: Vec<_> = rows(&lines).into_iter().map(|row| (row.name, row.number, row.parts, row.value)).collect();
        assert_eq!(found, [("core/null".to_string(), 1, 1.0, 139.0), ("core/per_entry".to_string(), 2, 16.0, 52.5)]);
    }

    #[test]
    fn counts_are_rows_of_their_own_and_by_operation() {
        let row = |value, counts| Row { name: "core/x".into(), number: 1, parts: 16.0, value, counts };
        let figures = figures(
            &[row(10.0, [32.0, 0.0, 0.0, 0.0, 160.0, 0.0, 0.0])],
            &[row(20.0, [16.0, 8.0, 0.0, 0.0, 320.0, 0.0, 0.0])],
        );
        let seen: Vec<_> = figures.iter().map(|f| (f.name.as_str(), f.value, f.peers.clone())).collect();
        assert_eq!(
            seen,
            [
                ("core/x", 10.0, vec![(PEER, 20.0)]),
                ("core/x/locked", 2.0, vec![(PEER, 1.0)]),
                ("core/x/cr3_loads", 0.0, vec![(PEER, 0.5)]),
            ]
        );
    }
}
