//! Power loss: what PostgreSQL has acknowledged is there when the power goes, whatever the disk had only in its cache.
//!
//! A second disk, with a database on it, is recorded by QEMU's `blklogwrites`. A client on the host notes how long the
//! log is whenever a commit is acknowledged; then the machine is killed. For some of the acknowledgements, chosen by
//! seed, the disk is made again as it must have been at that moment at the least: all writes before the last flush, none
//! after. Another boot mounts each of these disks, starts PostgreSQL on it and counts.

use super::debian::{Debian, Shape};
use super::write_log::{SECTOR, WriteLog};
use super::{Row, Sitting};
use crate::qemu::Machine;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Bytes of the recorded disk.
const DISK: u64 = 512 << 20;
/// Commits acknowledged before the power goes.
const COMMITS: u64 = 2000;
/// The last acknowledgements are not taken: entries of the log before them may have been under way at the end.
const TAIL: usize = 5;
/// How many moments are looked at; each is a disk of the second boot.
const MOMENTS: usize = 8;
const LIMIT: Duration = Duration::from_secs(1800);
/// Port of the database, where the other one has the usual.
const SERVER: &str = "/usr/lib/postgresql/15/bin/pg_ctl -w -o '-p 5433 -c listen_addresses=' -l /tmp/database.log";

/// One row.
pub fn rows() -> Vec<Row> {
    vec![Row::new("power-loss", power_loss)]
}

/// A commit as the host saw it acknowledged.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    /// Rows in the table.
    rows: u64,
    /// Bytes of the log of writes at that moment.
    log: u64,
}

fn power_loss(sitting: &Sitting) -> Result<String> {
    let dir = sitting.dir.join("power-loss");
    std::fs::create_dir_all(&dir)?;
    let log = dir.join("writes.log");
    let acknowledged = record(sitting, &dir, &log)?;
    let writes = WriteLog::open(&log)?;
    let moments = choose(&acknowledged, sitting.options.seed);
    ensure!(!moments.is_empty(), "{} commits were acknowledged: too few", acknowledged.len());
    let last = moments.last().map_or(0, |moment| moment.log);
    ensure!(
        writes.end() >= last,
        "QEMU's log of writes has a hole at {}, before {last}: {}",
        writes.end(),
        log.display()
    );
    let mut disks = Vec::new();
    let mut dropped = 0;
    for (at, moment) in moments.iter().enumerate() {
        let path = dir.join(format!("moment{at}.img"));
        let disk = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        disk.set_len(DISK)?;
        dropped += writes.replay(moment.log, &disk)?.1;
        disks.push(path);
    }
    let rows = verify(sitting, &moments, &disks)?;
    for path in disks.iter().chain([&log]) {
        std::fs::remove_file(path)?;
    }
    Ok(format!(
        "{} commits acknowledged, {} flushes recorded; at {} moments ({dropped} writes dropped) every acknowledged row was \
         there: {rows}",
        acknowledged.len(),
        writes.flushes(),
        moments.len()
    ))
}

/// Commits into a recorded disk until enough are acknowledged; then the power goes.
fn record(sitting: &Sitting, dir: &Path, log: &Path) -> Result<Vec<Acknowledged>> {
    let disk = dir.join("database.img");
    File::create(&disk)?.set_len(DISK)?;
    File::create(log)?;
    let shape = Shape { more: vec![disk.clone()], ..Shape::default() };
    let system = Debian::boot(sitting, "power-loss", &shape, |machine| recorded(machine, &disk, log))?;
    let guest = system.first();
    guest.run(
        "set -e; mkfs.ext4 -q /dev/xvdb; mkdir -p /mnt/db; mount /dev/xvdb /mnt/db; cd /mnt/db; \
         install -d -o postgres -m 700 data; \
         su postgres -c '/usr/lib/postgresql/15/bin/initdb -D data' >/dev/null",
        LIMIT,
    )?;
    guest.run(&as_postgres("/mnt/db", &format!("{SERVER} -D data start")), LIMIT)?;
    guest.run(&as_postgres("/", "psql -p 5433 -qc 'create table t (n int primary key, pad text)'"), LIMIT)?;
    // Writes without a flush beside the commits, for the disk's cache to lose.
    guest.ssh(
        "(while dd if=/dev/urandom of=/mnt/db/noise bs=64k count=256 2>/dev/null; do :; done) >/dev/null 2>&1 &",
    )?;
    let commits = sitting.amount(COMMITS);
    let insert = "insert into t values ($n, repeat(md5($n::text), 20)) returning n;";
    let load = format!(
        "cd /; n=1; while :; do echo \"{insert}\"; n=$((n+1)); done | su postgres -c 'stdbuf -oL psql -p 5433 -qAt'"
    );
    let mut acknowledged = Vec::new();
    guest.stream(&load, LIMIT, |line| {
        let Ok(rows) = line.trim().parse() else { return true };
        let log = std::fs::metadata(log).map_or(0, |file| file.len());
        acknowledged.push(Acknowledged { rows, log });
        (acknowledged.len() as u64) < commits
    })?;
    ensure!(acknowledged.len() as u64 >= commits, "the commits ended after {}", acknowledged.len());
    // Without a word to the guest.
    drop(system.machine.end());
    std::fs::remove_file(disk)?;
    Ok(acknowledged)
}

fn as_postgres(dir: &str, command: &str) -> String {
    format!("cd {dir}; su postgres -c \"{command}\"")
}

/// Puts the recorder between QEMU's device and the disk's file.
fn recorded(machine: &mut Machine, disk: &Path, log: &Path) {
    let file = format!("file={}", disk.display());
    let Some(at) = machine.extra.iter().position(|arg| arg.starts_with("if=none,") && arg.ends_with(&file)) else {
        return;
    };
    let id = machine.extra[at].split([',', '=']).nth(3).unwrap_or_default().to_string();
    machine.extra[at - 1] = "-blockdev".into();
    machine.extra[at] = format!(
        "driver=blklogwrites,node-name={id},log-sector-size={SECTOR},file.driver=raw,file.file.driver=file,\
         file.file.filename={},log.driver=raw,log.file.driver=file,log.file.filename={}",
        disk.display(),
        log.display()
    );
}

/// Some acknowledgements, by seed, in order; the last that counts is always among them.
fn choose(acknowledged: &[Acknowledged], seed: u64) -> Vec<Acknowledged> {
    let Some(last) = acknowledged.len().checked_sub(TAIL + 1) else { return Vec::new() };
    let mut state = seed;
    let mut next = || {
        // Knuth's 64-bit linear congruential generator; its upper bits.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut chosen: Vec<usize> = (1..MOMENTS).map(|_| next() % (last + 1)).collect();
    chosen.push(last);
    chosen.sort_unstable();
    chosen.dedup();
    chosen.into_iter().filter_map(|at| acknowledged.get(at).copied()).collect()
}

/// Each disk holds what was acknowledged by its moment, no hole before it, and is whole.
fn verify(sitting: &Sitting, moments: &[Acknowledged], disks: &[std::path::PathBuf]) -> Result<String> {
    let shape = Shape { more: disks.to_vec(), ..Shape::default() };
    let system = Debian::boot(sitting, "power-loss", &shape, |_| {})?;
    let guest = system.first();
    guest.ssh("mkdir -p /mnt/db")?;
    let mut seen = Vec::new();
    for (at, moment) in moments.iter().enumerate() {
        let device = format!("/dev/xvd{}", char::from(b'b' + at as u8));
        let counted = (|| {
            guest.run(&format!("mount {device} /mnt/db && rm -f /mnt/db/data/postmaster.pid"), LIMIT)?;
            guest.run(&as_postgres("/mnt/db", &format!("{SERVER} -D data start")), LIMIT)?;
            let query = format!("psql -p 5433 -qAtc 'select count(*), max(n) from t where n <= {}'", moment.rows);
            let counted = guest.run(&as_postgres("/", &query), LIMIT)?;
            guest.run(&as_postgres("/mnt/db", &format!("{SERVER} -D data stop")), LIMIT)?;
            guest.run(&format!("umount /mnt/db && e2fsck -fn {device}"), LIMIT)?;
            anyhow::Ok(counted)
        })();
        let counted = counted.with_context(|| format!("the disk at row {}", moment.rows))?;
        let wanted = format!("{0}|{0}", moment.rows);
        ensure!(counted.trim() == wanted, "{} rows were acknowledged, there are {counted}", moment.rows);
        seen.push(moment.rows.to_string());
    }
    system.end()?;
    Ok(seen.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_chooses_the_same_moments_and_always_the_last_that_counts() {
        let all: Vec<Acknowledged> = (1..=100).map(|rows| Acknowledged { rows, log: rows * 1000 }).collect();
        let rows = |seed| choose(&all, seed).iter().map(|moment| moment.rows).collect::<Vec<_>>();
        assert_eq!(rows(1), rows(1));
        assert_ne!(rows(1), rows(2));
        assert_eq!(rows(3).last(), Some(&95));
        assert!(choose(&all[..TAIL], 1).is_empty());
    }

    #[test]
    fn the_recorder_takes_the_place_of_its_disk_alone() {
        let mut machine = Machine::new(Path::new("core"), "", "");
        let args = ["-drive", "if=none,id=disk0,format=raw,file=/a", "-drive", "if=none,id=disk1,format=raw,file=/b"];
        machine.extra = args.map(str::to_string).to_vec();
        recorded(&mut machine, Path::new("/b"), Path::new("/log"));
        assert_eq!(machine.extra[..2], args[..2]);
        assert_eq!(machine.extra[2], "-blockdev");
        assert!(machine.extra[3].contains("node-name=disk1,") && machine.extra[3].ends_with("filename=/log"));
    }
}
