//! The audit (debug key `a`), end to end: well after a domain has come and gone, and not well where something was
//! spoiled on purpose (the core's option `audit-inject=`).

use super::e2e::{Case, Setting};
use super::shell::{MANIFEST, boot_on, power_off, tell};
use crate::qemu::Running;
use crate::run::keys::press;
use anyhow::{Context, Result, ensure};

pub const CASES: &[Case] = &[("audit", audit)];

/// What the audit says of frames and ports that are wrong, and its last line.
fn asked(machine: &mut Running) -> Result<(Vec<String>, String)> {
    let said = press(machine, b'a')?.into_iter();
    let mut said: Vec<String> = said.filter(|line| line.contains("audit: ")).collect();
    let last = said.pop().context("the debug key a says nothing")?;
    Ok((said, last))
}

/// The number of a word's unit in the last line is above 0.
fn counts(last: &str, unit: &str) -> Result<()> {
    let number = crate::run::log::number_before(last, unit).with_context(|| format!("no {unit}: {last}"))?;
    ensure!(number > 0.0, "no {unit} were looked at: {last}");
    Ok(())
}

fn audit(setting: &Setting<'_>) -> Result<()> {
    let mut machine = boot_on(setting, setting.machine("", ""), MANIFEST)?;
    tell(&mut machine, "create sleeper")?;
    tell(&mut machine, "destroy sleeper")?;
    let (faults, last) = asked(&mut machine)?;
    ensure!(faults.is_empty() && last.contains("audit: ok, 0 findings"), "{faults:?} {last}");
    for unit in ["frames", "references", "ports", "domains"] {
        counts(&last, unit)?;
    }
    power_off(machine)?;
    for (what, wanted) in [("reference", "Refs"), ("alias", "WritableAlias"), ("port", "audit: port ")] {
        let mut machine = boot_on(setting, setting.machine(&format!("audit-inject={what}"), ""), MANIFEST)?;
        let (faults, last) = asked(&mut machine)?;
        ensure!(last.contains("audit: FAILED"), "{what} was not found: {last}");
        let named = |line: &String| line.contains(wanted) && (line.contains("frame 0x") || line.contains("of d0"));
        ensure!(faults.iter().any(named), "{what} is not named in {faults:?}");
        power_off(machine)?;
    }
    Ok(())
}
