//! fio with its own verification over a guest's disk.

use super::debian::{Debian, Shape};
use super::{Row, Sitting};
use anyhow::{Context, Result};
use std::time::Duration;

/// Bytes that each job writes and reads back, in MiB.
const SIZE: u64 = 256;
const LIMIT: Duration = Duration::from_secs(1800);

/// Name and options of each job: sequential and random, synchronous and asynchronous.
const JOBS: [(&str, &str); 4] = [
    ("sequential-sync", "--rw=write --bs=64k --ioengine=psync"),
    ("random-sync", "--rw=randwrite --bs=4k --ioengine=psync"),
    ("sequential-async", "--rw=write --bs=64k --ioengine=libaio --iodepth=16 --direct=1"),
    ("random-async", "--rw=randwrite --bs=4k --ioengine=libaio --iodepth=32 --direct=1"),
];

/// One machine for all jobs.
pub fn rows() -> Vec<Row> {
    vec![Row::new("fio-verify", fio)]
}

fn fio(sitting: &Sitting) -> Result<String> {
    let system = Debian::boot(sitting, "fio-verify", &Shape::default(), |_| {})?;
    let (size, seed) = (sitting.amount(SIZE), sitting.options.seed);
    let mut said = Vec::new();
    for (name, options) in JOBS {
        let fio = format!(
            "fio --name={name} --directory=/root --size={size}M --verify=crc32c --do_verify=1 --verify_fatal=1 \
             --randseed={seed} --fsync=64 --end_fsync=1 --unlink=1 --minimal {options}"
        );
        let line = system.first().run(&fio, LIMIT).with_context(|| name.to_string())?;
        // Field 5 of the terse form is the job's error (fio(1), terse output).
        let error = line.lines().find_map(|line| line.split(';').nth(4)).unwrap_or("no figures");
        anyhow::ensure!(error == "0", "{name}: error {error}");
        said.push(name);
    }
    system.end()?;
    Ok(format!("{size} MiB each, crc32c right: {}; e2fsck clean", said.join(", ")))
}
