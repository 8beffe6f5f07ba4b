//! A short slice of `cargo xtask chaos`; a seed replayed under icount; and that harm would be found.

use super::e2e::{Case, Setting};
use crate::chaos::{machine, replay, sit};
use anyhow::{Result, ensure};

pub const CASES: &[Case] = &[("chaos", slice)];
pub const ONCE: &[Case] = &[("chaos-replay", replayed), ("chaos-harm", harm)];

fn slice(setting: &Setting<'_>) -> Result<()> {
    let mut machine = machine(setting.place, "", "seed=1000 rounds=4 calls=2000 seconds=120")?;
    machine.smp = setting.smp;
    let sum = sit(&machine, &setting.log)?.sum;
    ensure!(sum.rounds == 4 && sum.calls > 400, "{sum:?}");
    Ok(())
}

fn replayed(setting: &Setting<'_>) -> Result<()> {
    replay(setting.place, 7, 2, 1500, &setting.log).map(drop)
}

/// The core's counts spoiled, and the innocent domain's memory: both have to be seen.
fn harm(setting: &Setting<'_>) -> Result<()> {
    let short = "seed=5 rounds=2 calls=200 seconds=120";
    for (options, arguments, wanted) in [
        ("audit-inject=reference", short.to_string(), "audit: FAILED"),
        ("", format!("{short} harm=1"), "FAILURE what the innocent domain finds wrong"),
    ] {
        let said = sit(&machine(setting.place, options, &arguments)?, &setting.log);
        let text = said.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(text.contains(wanted), "{wanted:?} is not in {text:?}");
    }
    Ok(())
}
