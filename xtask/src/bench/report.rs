//! Figures as a table, as JSON and as a page with a plot.

use super::plot::{Bar, page};
use crate::place::Place;
use crate::process::stdout_of;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

/// The name of the other side in JSON.
pub const PEER: &str = "xen-4.17";

/// The usual unit.
pub const INSTRUCTIONS: &str = "instructions";

/// One operation.
pub struct Figure {
    /// `core/null_hypercall` and so on.
    pub name: String,
    /// What one costs on Ferrule.
    pub value: f64,
    /// What it costs on Xen, if it ran there.
    pub peer: Option<f64>,
    /// In what both are.
    pub unit: &'static str,
}

/// All figures of one sitting, and where they come from.
pub struct Report {
    figures: Vec<Figure>,
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
    peer: BTreeMap<&'static str, f64>,
}

impl Origin {
    /// This machine and this commit.
    pub fn here(place: &Place) -> Origin {
        let mut git = Command::new("git");
        git.current_dir(&place.root).args(["describe", "--always", "--dirty"]);
        let commit = stdout_of(&mut git).map(|text| text.trim().to_string()).unwrap_or_else(|_| "unknown".into());
        let version = stdout_of(Command::new(crate::qemu::QEMU).arg("--version")).unwrap_or_default();
        let version = version.lines().next().unwrap_or("QEMU").to_string();
        let machine = format!("{version}, tcg, icount, qemu64, 1 CPU");
        Origin { machine, commit }
    }
}

impl Report {
    /// The figures, with the machine they were measured on and the commit.
    pub fn new(place: &Place, figures: Vec<Figure>) -> Report {
        Report { figures, origin: Origin::here(place) }
    }

    /// Operation, both sides, ratio.
    pub fn table(&self) -> String {
        let mut text = format!("{:34} {:>10} {:>10} {:>7}\n", "instructions", "ferrule", PEER, "ratio");
        for figure in &self.figures {
            let _ = match figure.unit {
                INSTRUCTIONS => write!(text, "{:34} {:>10.0}", figure.name, figure.value),
                unit => write!(text, "{:34} {:>10.3} {unit}", figure.name, figure.value),
            };
            if let Some(peer) = figure.peer {
                let _ = write!(text, " {peer:>10.0} {:>7.2}", figure.value / peer);
            }
            text.push('\n');
        }
        text
    }

    fn json(&self) -> Result<String> {
        let results = self.figures.iter().map(|figure| JsonFigure {
            name: &figure.name,
            unit: figure.unit,
            value: figure.value,
            peer: figure.peer.iter().map(|peer| (PEER, *peer)).collect(),
        });
        let json = Json { results: results.collect(), origin: &self.origin };
        serde_json::to_string_pretty(&json).context("writing JSON")
    }

    /// A bar for each figure: as a part of the other side's where there is one, else of the largest figure.
    fn html(&self) -> String {
        let beside = self.figures.iter().any(|figure| figure.peer.is_some());
        let most = self.figures.iter().map(|figure| figure.value).fold(1.0, f64::max);
        let bar = |figure: &Figure| {
            let (value, name) = (figure.value, figure.name.clone());
            match figure.peer {
                Some(peer) => {
                    Bar { name, part: value / peer, text: format!("{value:.0} of {peer:.0}"), good: value <= peer }
                }
                None if beside => Bar { name, part: 0.0, text: format!("{value:.0}"), good: true },
                None => Bar { name, part: value / most, text: format!("{value:.0}"), good: true },
            }
        };
        let bars = self.figures.iter().filter(|figure| figure.unit == INSTRUCTIONS);
        let bars: Vec<Bar> = bars.map(bar).collect();
        let line = if beside { format!("{PEER}, the same guest") } else { format!("{most:.0}") };
        page("instructions per operation", &line, &self.origin, &bars)
    }

    /// Writes `target/ferrule/bench/NAME.json` and `.html`.
    pub fn write(&self, place: &Place, name: &str) -> Result<[PathBuf; 2]> {
        put(place, name, &self.json()?, &self.html())
    }
}

/// Writes both files of a bench.
pub fn put(place: &Place, name: &str, json: &str, html: &str) -> Result<[PathBuf; 2]> {
    let dir = place.out().join("bench");
    std::fs::create_dir_all(&dir)?;
    let paths = [dir.join(format!("{name}.json")), dir.join(format!("{name}.html"))];
    std::fs::write(&paths[0], json)?;
    std::fs::write(&paths[1], html)?;
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let figures = vec![
            Figure { name: "core/null_hypercall".into(), value: 139.0, peer: Some(278.0), unit: INSTRUCTIONS },
            Figure { name: "core/alone".into(), value: 7.0, peer: None, unit: INSTRUCTIONS },
        ];
        Report { figures, origin: Origin { machine: "m".into(), commit: "c".into() } }
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        assert_eq!(json["results"][0]["name"], "core/null_hypercall");
        assert_eq!(json["results"][0]["unit"], "instructions");
        assert_eq!(json["results"][0]["value"], 139.0);
        assert_eq!(json["results"][0]["peer"]["xen-4.17"], 278.0);
        assert_eq!(json["results"][1]["peer"], serde_json::json!({}));
        assert_eq!((json["machine"].as_str(), json["commit"].as_str()), (Some("m"), Some("c")));
    }

    #[test]
    fn the_table_shows_both_sides_and_their_ratio() {
        let table = report().table();
        let row = table.lines().nth(1).unwrap();
        assert!(row.contains("139") && row.contains("278") && row.contains("0.50"), "{row}");
        assert!(report().html().contains(r#"width="220.0""#));
    }
}
