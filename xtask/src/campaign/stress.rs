//! stress-ng on the memory management, then the audit.

use super::debian::{Debian, Shape};
use super::{Row, Sitting};
use crate::run::held::audited;
use anyhow::{Context, Result};
use std::time::Duration;

const SECONDS: u64 = 600;
const LIMIT: Duration = Duration::from_secs(3600);

/// One row.
pub fn rows() -> Vec<Row> {
    vec![Row::new("stress-ng", stress)]
}

fn stress(sitting: &Sitting) -> Result<String> {
    let mut system = Debian::boot(sitting, "stress-ng", &Shape::default(), |_| {})?;
    let seconds = sitting.amount(SECONDS);
    let command = format!(
        "stress-ng --fork 1 --mmap 1 --mmap-bytes 64M --vm 1 --vm-bytes 64M --context 1 --signal 1 --pipe 1 --seed {} \
         --timeout {seconds}s --metrics-brief 2>&1",
        sitting.options.seed
    );
    let said = system.first().run(&command, LIMIT)?;
    let passed = said.lines().find(|line| line.contains("successful run")).context("stress-ng does not say it held")?;
    let passed = passed.rsplit("] ").next().unwrap_or(passed).to_string();
    audited(&mut system.machine)?;
    system.end()?;
    Ok(format!("{passed}; audit: ok, 0 findings; e2fsck clean"))
}
