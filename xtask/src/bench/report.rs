//! Figures as a table, as JSON and as a page with a plot.

use super::plot::{Bar, histogram, page};
use super::spec::Promise;
use crate::place::Place;
use crate::process::stdout_of;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

/// The other hypervisor's name in JSON.
pub const PEER: &str = "xen-4.17";

/// The usual unit.
pub const INSTRUCTIONS: &str = "instructions";
/// Wall time, of one entry or one pair.
pub const NS: &str = "ns";
/// Packets or requests in a second of wall time: the one of which more is better.
pub const PER_SECOND: &str = "a second";

/// One operation.
#[derive(Clone, Debug)]
pub struct Figure {
    /// `core/null_hypercall` and so on.
    pub name: String,
    /// What one costs on Ferrule.
    pub value: f64,
    /// What it costs others, measured in the same sitting.
    pub peers: Vec<(&'static str, f64)>,
    /// In what they all are.
    pub unit: &'static str,
    /// The same with each side's defaults.
    pub defaults: Option<Defaults>,
    /// Of a latency: how many took so long at most, in order.
    pub histogram: Vec<(u64, u64)>,
    /// The most that it should be, where SPEC.md has no goal for it.
    pub goal: Option<f64>,
}

/// A figure where no protection is switched off, on a CPU with all that QEMU has.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// On Ferrule.
    pub value: f64,
    /// On Xen.
    pub peer: Option<f64>,
}

impl Figure {
    /// A figure with nobody beside it.
    pub fn new(name: String, value: f64, unit: &'static str) -> Figure {
        Figure { name, value, peers: Vec::new(), unit, defaults: None, histogram: Vec::new(), goal: None }
    }

    /// Whether it is within its own goal; one that is no number is not.
    pub fn holds(&self) -> bool {
        self.goal.is_none_or(|goal| self.value <= goal)
    }
}

/// All figures of one sitting, and where they come from.
pub struct Report {
    figures: Vec<Figure>,
    promises: BTreeMap<String, Promise>,
    origin: Origin,
}

/// Where figures come from.
#[derive(Serialize)]
pub struct Origin {
    /// What they were measured on.
    pub machine: String,
    /// Of which commit.
    pub commit: String,
}

#[derive(Serialize)]
struct Json<'a> {
    results: Vec<JsonFigure<'a>>,
    #[serde(flatten)]
    origin: &'a Origin,
}

#[derive(Serialize)]
struct JsonFigure<'a> {
    name: &'a str,
    unit: &'static str,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    peer: BTreeMap<&'static str, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    defaults: Option<JsonDefaults>,
    /// Pairs: at most so long, so many.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    histogram: &'a [(u64, u64)],
}

#[derive(Serialize)]
struct JsonDefaults {
    value: f64,
    peer: BTreeMap<&'static str, f64>,
}

impl Origin {
    /// This commit; QEMU counting instructions, and the host, whose time is taken.
    pub fn here(place: &Place) -> Origin {
        let version = stdout_of(Command::new(crate::qemu::QEMU).arg("--version")).unwrap_or_default();
        let version = version.lines().next().unwrap_or("QEMU");
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpus = info.lines().filter(|line| line.starts_with("processor")).count();
        let model =
            info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
        let model = model.unwrap_or("x86-64");
        let machine = format!("{version}, tcg, icount, qemu64, 1 CPU; wall time: {model}, {cpus} CPUs");
        Origin { machine, commit: commit(place) }
    }
}

fn commit(place: &Place) -> String {
    let mut git = Command::new("git");
    git.current_dir(&place.root).args(["describe", "--always", "--dirty"]);
    stdout_of(&mut git).map(|text| text.trim().to_string()).unwrap_or_else(|_| "unknown".into())
}

/// As many digits as say something.
fn shown(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 || value >= 1000.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

impl Report {
    /// The figures, where they come from, and what was promised of them.
    pub fn new(figures: Vec<Figure>, origin: Origin, promises: BTreeMap<String, Promise>) -> Report {
        Report { figures, promises, origin }
    }

    fn goal(&self, figure: &Figure) -> Option<f64> {
        figure.goal.or_else(|| self.promises.get(&figure.name)?.goal)
    }

    /// How many figures miss their goals.
    pub fn missed(&self) -> usize {
        let misses =
            |figure: &&Figure| self.goal(figure).is_some_and(|goal| figure.value.is_nan() || figure.value > goal);
        self.figures.iter().filter(misses).count()
    }

    /// Operation, our figure, the goal, and each peer's with the ratio of ours to it; then the same at the defaults.
    pub fn table(&self) -> String {
        let names = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0).max(34);
        let mut text = format!("{:names$} {:>9} {:13} {:14} peers (ferrule's part)\n", "", "ferrule", "unit", "goal");
        for figure in &self.figures {
            let goal = self.goal(figure).map_or(String::new(), |goal| {
                format!("{:>6} {}", shown(goal), if figure.value <= goal { "ok" } else { "missed" })
            });
            let value = shown(figure.value);
            let mut line = format!("{:names$} {value:>9} {:13} {goal:14}", figure.name, figure.unit);
            for (who, peer) in &figure.peers {
                let _ = write!(line, " {who} {}", shown(*peer));
                if *peer > 0.0 {
                    let _ = write!(line, " ({:.2})", figure.value / peer);
                }
            }
            if let Some(Defaults { value, peer }) = figure.defaults {
                let _ = write!(line, "; defaults {}", shown(value));
                if let Some(peer) = peer {
                    let _ = write!(line, ", {PEER} {} ({:.2})", shown(peer), value / peer);
                }
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    fn json(&self) -> Result<String> {
        let results = self.figures.iter().map(|figure| JsonFigure {
            name: &figure.name,
            unit: figure.unit,
            value: figure.value,
            goal: self.goal(figure),
            peer: figure.peers.iter().copied().collect(),
            defaults: figure.defaults.map(|Defaults { value, peer }| JsonDefaults {
                value,
                peer: peer.iter().map(|peer| (PEER, *peer)).collect(),
            }),
            histogram: &figure.histogram,
        });
        let json = Json { results: results.collect(), origin: &self.origin };
        serde_json::to_string_pretty(&json).context("writing JSON")
    }

    /// A bar for each figure: as a part of the best peer's where there is one, else of its goal, else of the largest figure.
    fn html(&self) -> String {
        let beside = self.figures.iter().any(|figure| !figure.peers.is_empty() || figure.goal.is_some());
        let most = self.figures.iter().map(|figure| figure.value).fold(1.0, f64::max);
        let bar = |figure: &Figure| {
            let (value, name, rate) = (figure.value, figure.name.clone(), figure.unit == PER_SECOND);
            let order = |a: &f64, b: &f64| if rate { b.total_cmp(a) } else { a.total_cmp(b) };
            let peer = figure.peers.iter().min_by(|a, b| order(&a.1, &b.1)).copied();
            match peer.or(figure.goal.map(|goal| ("goal", goal))) {
                Some((who, other)) => Bar {
                    name,
                    part: value / other,
                    text: format!("{} of {} ({who})", shown(value), shown(other)),
                    good: order(&value, &other).is_le(),
                },
                None if beside => Bar { name, part: 0.0, text: shown(value), good: true },
                None => Bar { name, part: value / most, text: shown(value), good: true },
            }
        };
        let plotted = |figure: &&Figure| [INSTRUCTIONS, NS, PER_SECOND].contains(&figure.unit) || figure.goal.is_some();
        let bars: Vec<Bar> = self.figures.iter().filter(plotted).map(bar).collect();
        let line = if beside { "the best peer of the same sitting, or the goal".into() } else { format!("{most:.0}") };
        let timed = self.figures.iter().filter(|figure| !figure.histogram.is_empty());
        let histograms: String = timed.map(|figure| histogram(&figure.name, &figure.histogram)).collect();
        page("what one operation costs", &line, &self.origin, &bars) + &histograms
    }

    /// Writes `target/ferrule/bench/NAME.json` and `.html`.
    pub fn write(&self, place: &Place, name: &str) -> Result<[PathBuf; 2]> {
        let dir = place.out().join("bench");
        std::fs::create_dir_all(&dir)?;
        let paths = [dir.join(format!("{name}.json")), dir.join(format!("{name}.html"))];
        std::fs::write(&paths[0], self.json()?)?;
        std::fs::write(&paths[1], self.html())?;
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let null = Figure::new("core/null_hypercall".into(), 139.0, INSTRUCTIONS);
        let defaults = Some(Defaults { value: 150.0, peer: Some(300.0) });
        let figures = vec![
            Figure { peers: vec![(PEER, 278.0), ("other", 139.5)], defaults, ..null },
            Figure { histogram: vec![(20, 3), (40, 1)], ..Figure::new("core/alone".into(), 7.0, INSTRUCTIONS) },
        ];
        let promises = super::super::spec::parse("| core/null_hypercall | instructions | 139 | 140 | 278 |\n");
        Report::new(figures, Origin { machine: "m".into(), commit: "c".into() }, promises)
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        assert_eq!(json["results"][0]["name"], "core/null_hypercall");
        assert_eq!(json["results"][0]["unit"], "instructions");
        assert_eq!(json["results"][0]["value"], 139.0);
        assert_eq!(json["results"][0]["goal"], 140.0);
        assert_eq!(json["results"][0]["peer"]["xen-4.17"], 278.0);
        assert_eq!(json["results"][0]["peer"]["other"], 139.5);
        assert_eq!(json["results"][0]["defaults"]["value"], 150.0);
        assert_eq!(json["results"][0]["defaults"]["peer"]["xen-4.17"], 300.0);
        assert_eq!(json["results"][1]["histogram"][1], serde_json::json!([40, 1]));
        assert!(json["results"][1].get("peer").is_none() && json["results"][1].get("defaults").is_none());
        assert_eq!((json["machine"].as_str(), json["commit"].as_str()), (Some("m"), Some("c")));
    }

    #[test]
    fn a_figure_above_its_goal_is_said_to_be_and_more_of_a_rate_is_better() {
        let figure = |value, unit, goal| Figure { goal, ..Figure::new(format!("boot/{value}"), value, unit) };
        let rate = |value| Figure { peers: vec![(PEER, 50.0)], ..figure(value, PER_SECOND, None) };
        let within = figure(41.728, "M instructions", Some(60.0));
        let figures = vec![
            within.clone(),
            figure(60.01, "M instructions", Some(60.0)),
            figure(f64::NAN, "KiB", Some(1.0)),
            rate(100.0),
            rate(20.0),
        ];
        assert_eq!(figures.iter().map(Figure::holds).collect::<Vec<_>>(), [true, false, false, true, true]);
        let report = Report::new(figures, Origin { machine: "m".into(), commit: "c".into() }, BTreeMap::new());
        let table = report.table();
        let rows: Vec<&str> = table.lines().skip(1).collect();
        assert!(rows[0].ends_with("60 ok") && rows[1].ends_with("60 missed"), "{table}");
        assert_eq!((report.missed(), report.html().matches(r#"class="bad""#).count()), (2, 3), "{}", report.html());
    }

    #[test]
    fn the_table_shows_each_side_the_goal_and_the_ratio() {
        let table = report().table();
        let row = table.lines().nth(1).unwrap();
        for part in
            [" 139 ", " 140 ok ", "xen-4.17 278 (0.50)", "other 139.5 (1.00); defaults 150, xen-4.17 300 (0.50)"]
        {
            assert!(row.contains(part), "{part} in {row}");
        }
        assert!(report().html().contains(r#"width="438.4""#), "{}", report().html());
        assert!(report().html().contains("<h2>core/alone</h2>"), "{}", report().html());
    }
}
