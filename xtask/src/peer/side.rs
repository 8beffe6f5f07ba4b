//! The same guests on either hypervisor: started, driven and waited for in the same way.

use super::{assemble, await_dom0};
use crate::build::{Part, build};
use crate::place::Place;
use crate::qemu::{Machine, Running};
use crate::run::console::attach;
use crate::run::log::Entry;
use crate::run::system::{self, Plan};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// How long Ferrule and its dom0 may take to the first prompt, on a loaded machine.
const BOOT: Duration = Duration::from_secs(120);

/// A hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    Ferrule,
    /// Debian's.
    Xen,
}

impl Side {
    /// Ours first.
    pub const BOTH: [Side; 2] = [Side::Ferrule, Side::Xen];

    /// Its name, for people and for files.
    pub fn name(self) -> &'static str {
        match self {
            Side::Ferrule => "ferrule",
            Side::Xen => "xen",
        }
    }

    /// Starts the machine of a plan, with what `set` adds to it, and waits for dom0's prompt. On Xen no guest starts
    /// by itself.
    pub fn start(self, place: &Place, plan: &Plan<'_>, log: &Path, set: impl FnOnce(&mut Machine)) -> Result<Running> {
        let mut machine = match self {
            Side::Ferrule => {
                build(place, &[Part::Core, Part::Domains])?;
                system::assemble(place, plan)?.0
            }
            Side::Xen => assemble(place, plan)?.machine,
        };
        set(&mut machine);
        let mut running = machine.start(log)?;
        match self {
            Side::Ferrule => attach(&mut running, BOOT)?,
            Side::Xen => await_dom0(&mut running)?,
        }
        Ok(running)
    }
}

/// Waits for a line on a guest's console, from line `from` of the machine's output on, and gives what follows `wanted`
/// there; the guest's end before it is an error.
pub fn console(running: &mut Running, from: usize, who: &str, wanted: &str, limit: Duration) -> Result<String> {
    let said = |line: &str| {
        let entry = Entry::parse(line).filter(|entry| entry.who == who)?;
        Some(entry.console().map_or_else(|| Err(entry.what.to_string()), |text| Ok(text.to_string())))
    };
    let after = |text: &str| text.split_once(wanted).map(|(_, after)| after.to_string());
    let is_end = |what: &str| what.starts_with("ended") || what.starts_with("not created");
    let found = |line: &str| match said(line)? {
        Ok(text) => after(&text).map(Ok),
        Err(what) => is_end(&what).then_some(Err(what)),
    };
    let index = running.wait_line(from, limit, |line| found(line).is_some());
    let index = index.with_context(|| format!("{who} does not say {wanted:?} within {} s", limit.as_secs()))?;
    let line = running.lines().get(index).context("the line just seen")?;
    let seen = found(&line.text).context("the line just seen")?;
    ensure!(seen.is_ok(), "{who}: {}", line.text);
    seen.map_err(anyhow::Error::msg)
}
