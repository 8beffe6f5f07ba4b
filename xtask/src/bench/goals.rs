//! Figures held against goals: a table, JSON, and a page with a plot.

use super::plot::{Bar, page};
use super::report::{self, Origin, PEER};
use crate::place::Place;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// A figure of which less is better, and the most that it should be.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What was measured.
    pub name: &'static str,
    /// Of `value`, `most` and `peer`.
    pub unit: &'static str,
    /// What it came to.
    pub value: f64,
    /// The goal.
    pub most: f64,
    /// Xen's, measured once on the same QEMU, not in this sitting.
    pub peer: Option<f64>,
}

#[derive(Serialize)]
struct Json<'a> {
    results: Vec<JsonGoal>,
    #[serde(flatten)]
    origin: &'a Origin,
}

#[derive(Serialize)]
struct JsonGoal {
    name: String,
    unit: &'static str,
    value: f64,
    goal: f64,
    holds: bool,
    peer: BTreeMap<&'static str, f64>,
}

impl Goal {
    /// Whether the figure is within its goal; one that is no number is not.
    pub fn holds(&self) -> bool {
        self.value <= self.most
    }

    /// `boot/to_dom0`: as other benches name theirs.
    fn key(&self) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        format!("boot/{}", self.name.chars().map(word).collect::<String>())
    }
}

/// Three figures that count: of 41.728 the last is dropped, of 1234 none.
fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// What, figure, goal, verdict, Xen's figure.
pub fn table(goals: &[Goal]) -> String {
    let mut text = format!("{:44} {:>8} {:>8}  {:15} {:6} {PEER}\n", "", "figure", "goal", "unit", "");
    for goal in goals {
        let verdict = if goal.holds() { "ok" } else { "FAILED" };
        let (value, most) = (shown(goal.value), shown(goal.most));
        let peer = goal.peer.map(shown).unwrap_or_default();
        let line = format!("{:44} {value:>8} {most:>8}  {:15} {verdict:6} {peer}", goal.name, goal.unit);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn json(goals: &[Goal], origin: &Origin) -> Result<String> {
    let result = |goal: &Goal| JsonGoal {
        name: goal.key(),
        unit: goal.unit,
        value: goal.value,
        goal: goal.most,
        holds: goal.holds(),
        peer: goal.peer.iter().map(|peer| (PEER, *peer)).collect(),
    };
    Ok(serde_json::to_string_pretty(&Json { results: goals.iter().map(result).collect(), origin })?)
}

/// A bar for each figure, as a part of its goal.
fn html(goals: &[Goal], origin: &Origin) -> String {
    let bar = |goal: &Goal| {
        let text = format!("{} of {} {}", shown(goal.value), shown(goal.most), goal.unit);
        Bar { name: goal.name.into(), part: goal.value / goal.most, text, good: goal.holds() }
    };
    let bars: Vec<Bar> = goals.iter().map(bar).collect();
    page("figures and their goals", "the goal", origin, &bars)
}

/// Writes `target/ferrule/bench/NAME.json` and `.html`.
pub fn write(place: &Place, name: &str, goals: &[Goal]) -> Result<[PathBuf; 2]> {
    let origin = Origin::here(place);
    report::put(place, name, &json(goals, &origin)?, &html(goals, &origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goals() -> [Goal; 2] {
        let goal = Goal { name: "to dom0", unit: "M instructions", value: 41.728, most: 60.0, peer: Some(217.0) };
        [goal.clone(), Goal { name: "worse", value: 60.01, peer: None, ..goal }]
    }

    #[test]
    fn a_figure_above_its_goal_is_said_to_be() {
        let table = table(&goals());
        let rows: Vec<&str> = table.lines().skip(1).collect();
        assert!(rows[0].contains(" 41.7 ") && rows[0].contains(" ok ") && rows[0].ends_with("217"), "{table}");
        assert!(rows[1].ends_with("FAILED"), "{table}");
        assert!(!Goal { value: f64::NAN, ..goals()[0].clone() }.holds());
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let origin = Origin { machine: "m".into(), commit: "c".into() };
        let json: serde_json::Value = serde_json::from_str(&json(&goals(), &origin).unwrap()).unwrap();
        assert_eq!(json["results"][0]["name"], "boot/to_dom0");
        assert_eq!(json["results"][0]["peer"]["xen-4.17"], 217.0);
        assert_eq!(json["results"][1]["holds"], false);
        assert_eq!((json["machine"].as_str(), json["commit"].as_str()), (Some("m"), Some("c")));
        assert_eq!(html(&goals(), &origin).matches(r#"class="bad""#).count(), 1);
    }
}
