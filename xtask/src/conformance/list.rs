//! tests/guests/LIST.toml: which guests there are, and the machine each wants.

use crate::place::Place;
use crate::unable;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::PathBuf;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    guest: Vec<Guest>,
}

/// One guest: an executable of tests/guests that runs as the initial domain and prints a verdict.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// The executable's name.
    pub name: String,
    /// What it shows, in a few words.
    #[serde(default)]
    pub about: String,
    /// CPUs of the machine.
    #[serde(default = "one")]
    pub smp: u32,
    /// Memory of the machine in MiB.
    #[serde(default = "memory")]
    pub mem: u32,
    /// The guest's own command line.
    #[serde(default)]
    pub args: String,
    /// More options for the hypervisor, given to both.
    #[serde(default)]
    pub options: String,
    /// More arguments for QEMU.
    #[serde(default)]
    pub qemu: Vec<String>,
    /// Wall seconds until it counts as hung.
    #[serde(default = "patience")]
    pub seconds: u64,
    /// Ends in the domain's crash rather than in a verdict: that is its point.
    #[serde(default)]
    pub crash: bool,
    /// Measures rather than judges: run by `bench`, not by `conformance`.
    #[serde(default)]
    pub bench: bool,
}

fn one() -> u32 {
    1
}

fn memory() -> u32 {
    256
}

fn patience() -> u64 {
    90
}

/// Where the list is.
pub fn path(place: &Place) -> PathBuf {
    place.root.join("tests/guests/LIST.toml")
}

/// The guests to judge: all, or those whose name contains `only`.
pub fn read(place: &Place, only: Option<&str>) -> Result<Vec<Guest>> {
    let path = path(place);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", place.show(&path)))?;
    let list: List = toml::from_str(&text).with_context(|| format!("in {}", place.show(&path)))?;
    let judged = || list.guest.iter().filter(|guest| !guest.bench);
    let exact = judged().any(|guest| Some(guest.name.as_str()) == only);
    let wanted = |guest: &&Guest| match only {
        Some(name) if exact => guest.name == name,
        Some(part) => guest.name.contains(part),
        None => true,
    };
    let guests: Vec<Guest> = judged().filter(wanted).cloned().collect();
    if guests.is_empty() {
        let names: Vec<&str> = judged().map(|guest| guest.name.as_str()).collect();
        unable!("no guest is called {}; there are: {}", only.unwrap_or(""), names.join(", "));
    }
    Ok(guests)
}
