//! pgbench on the host against a guest's PostgreSQL.

use super::debian::{Debian, Shape};
use super::{Row, Sitting};
use crate::packages::{Package, program};
use crate::process::quiet;
use crate::run::held::audited;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const CLIENTS: u32 = 10;
const SCALE: u32 = 10;
const SECONDS: u64 = 300;
const LIMIT: Duration = Duration::from_secs(1800);
/// pgbench and what it is linked with, besides what any Debian has.
const PACKAGES: [(&str, u32); 4] = [("postgresql-15", 17), ("libpq5", 1), ("libldap-2.5-0", 1), ("libsasl2-2", 1)];

/// One row.
pub fn rows() -> Vec<Row> {
    vec![Row::new("pgbench", pgbench)]
}

fn pgbench(sitting: &Sitting) -> Result<String> {
    let mut system = Debian::boot(sitting, "pgbench", &Shape::default(), |_| {})?;
    system.first().ssh("cd /; su postgres -c 'createdb bench'")?;
    let (port, seconds) = (system.port(0, 5432)?.to_string(), sitting.amount(SECONDS).to_string());
    let packages = PACKAGES.map(|(name, megabytes)| Package { name, megabytes });
    let run = |more: &[&str]| -> Result<String> {
        let mut command = program(&sitting.place, &packages, "usr/lib/postgresql/15/bin/pgbench")?;
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(more).arg("bench");
        let said = quiet(&mut command, LIMIT)?;
        ensure!(said.ok, "pgbench: {}", said.text.trim());
        Ok(said.text)
    };
    run(&["-i", "-q", "-s", &SCALE.to_string()])?;
    let seed = format!("--random-seed={}", sitting.options.seed);
    let said = run(&["-c", &CLIENTS.to_string(), "-j", "2", "-T", &seconds, &seed])?;
    let figure = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let failed = figure("number of failed transactions:").context("pgbench counts no failures")?;
    let done = figure("number of transactions actually processed:").context("pgbench counts no transactions")?;
    ensure!(failed.starts_with("0 "), "failed transactions: {failed}");
    let history =
        system.first().ssh("cd /; su postgres -c \"psql -qAtc 'select count(*) from pgbench_history' bench\"")?;
    ensure!(history.trim() == done, "{done} transactions done; the table of them has {history}");
    let rate = figure("tps =").unwrap_or_default().to_string();
    audited(&mut system.machine)?;
    system.end()?;
    Ok(format!(
        "{CLIENTS} clients, {seconds} s, scale {SCALE}: {done} transactions, 0 failed, all in the history; tps {rate}"
    ))
}
