//! The figures of `cargo xtask bench boot` that take a few seconds each: they must stay within their goals.

use super::e2e::{Case, Setting};
use crate::bench::report::{Figure, Origin, Report};
use crate::bench::{self, boot};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

pub const CASES: &[Case] =
    &[("idle", idle), ("figures-domains", domains), ("figures-memory", memory), ("figures-core", core)];

fn hold(setting: &Setting<'_>, figures: Vec<Figure>) -> Result<()> {
    let all = figures.iter().all(Figure::holds);
    print!("{}", Report::new(figures, Origin::here(setting.place), BTreeMap::new()).table());
    ensure!(all, "not within the goal");
    Ok(())
}

/// The tour's machine, when all has been done, does next to nothing.
fn idle(setting: &Setting<'_>) -> Result<()> {
    hold(setting, boot::idle(setting.place, &setting.dir(), &setting.log)?)
}

/// No operation of the core takes more instructions than SPEC.md promises.
fn core(setting: &Setting<'_>) -> Result<()> {
    bench::check_core(setting.place)
}

/// Start, domains that come and go.
fn domains(setting: &Setting<'_>) -> Result<()> {
    hold(setting, boot::domains(setting.place, &setting.dir(), &setting.log)?)
}

/// The core takes no more than its part of the machine.
fn memory(setting: &Setting<'_>) -> Result<()> {
    hold(setting, vec![boot::memory(setting.place, 512, None, &setting.log)?])
}
