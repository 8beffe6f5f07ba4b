//! The tour of guests that no device of the machine serves: dom0, its store and consoles, three driver domains, ping
//! and HTTP from guest to guest over a bridge without a NIC, a disk in memory, a split driver; and the power goes off.

use super::boot::Way;
use crate::place::Place;
use crate::qemu::{Ending, Running};
use crate::run::console::attach;
use crate::run::log::Entry;
use crate::run::system::{Plan, images};
use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::time::Duration;

const MANIFEST: &str = "tests/e2e/deviceless.toml";
/// How long the machine may take for each thing that is waited for, under QEMU.
const PATIENCE: Duration = Duration::from_secs(60);
/// Each guest, and what it says once all went well.
const SAID: [(&str, &str); 3] =
    [("web", "web: serving on port 80"), ("client", "client: SUCCESS"), ("echo", "echo: SUCCESS")];

/// Takes it from an image on so many CPUs; all images must be built.
pub fn take(place: &Place, way: Way, smp: u32, log: &Path) -> Result<()> {
    let (manifest, dir) = (place.root.join(MANIFEST), log.with_extension(""));
    let mut machine = images(place, &Plan { core: "dom0_mem=64M", ..Plan::of(&manifest, &dir) })?;
    (machine.smp, machine.debug_exit) = (smp, false);
    let mut running = way.start(&machine, log)?;
    let held = steps(&mut running, way.patience(PATIENCE));
    // Where a step failed, there is nothing to wait for.
    let ending = way.finish(&mut running, if held.is_ok() { way.patience(PATIENCE) } else { Duration::ZERO })?;
    let messages = running.end();
    held?;
    ensure!(ending == Ending::PowerOff, "ended as {ending:?} {messages}");
    Ok(())
}

fn steps(running: &mut Running, patience: Duration) -> Result<()> {
    attach(running, patience)?;
    for (who, what) in SAID {
        let says = |line: &str| {
            Entry::parse(line).is_some_and(|entry| entry.who == who && entry.console().is_some_and(|text| text == what))
        };
        if running.wait_line(0, patience, says).is_none() {
            bail!("{who} does not say {what:?} {}", running.missed(patience));
        }
    }
    running.send(b"poweroff\r")
}
