//! Boots to login on every shape; what the kernel says there.

use super::debian::{Debian, Shape};
use super::{Row, Sitting};
use anyhow::{Result, ensure};

/// Words of a kernel in trouble.
const TROUBLE: [&str; 12] = [
    "WARN",
    "BUG",
    "failed",
    "Failed",
    "hung",
    "blocked for more than",
    "Call Trace",
    "Oops",
    "segfault",
    "I/O error",
    " stall",
    "Unable to",
];

/// What is said of that kind on real Xen as well (`cargo xtask peer --dmesg`), and what lacks a file on Debian's disk.
const KNOWN: [&str; 2] = ["Fast TSC calibration failed", "regulatory.db"];

/// 1 and 2 vCPUs, 256 and 512 MiB, on 1 and 2 CPUs.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for smp in [1, 2] {
        for vcpus in [1, 2] {
            for memory in [256, 512] {
                let name = format!("boot-{smp}-cpu-{vcpus}-vcpu-{memory}");
                let shape = Shape { smp, vcpus, memory, ..Shape::default() };
                rows.push(Row::new(name.clone(), move |sitting| boot(sitting, &name, &shape)));
            }
        }
    }
    rows
}

fn boot(sitting: &Sitting, row: &str, shape: &Shape) -> Result<String> {
    let system = Debian::boot(sitting, row, shape, |_| {})?;
    let guest = system.first();
    let cpus = guest.ssh("nproc")?;
    ensure!(cpus.trim() == shape.vcpus.to_string(), "{} vCPUs, and nproc says {cpus}", shape.vcpus);
    let state = guest.ssh("systemctl is-system-running --wait || systemctl --failed --no-legend")?;
    ensure!(state.trim() == "running", "systemd: {state}");
    let seconds = guest.ssh("cut -d ' ' -f 1 /proc/uptime")?;
    let dmesg = guest.ssh("dmesg")?;
    std::fs::write(sitting.dir.join(row).join("dmesg"), &dmesg)?;
    let complaints = complaints(&dmesg);
    ensure!(complaints.is_empty(), "dmesg: {}", complaints.join(" | "));
    system.end()?;
    Ok(format!("login, systemd running {} s after the start, dmesg clean, e2fsck clean", seconds.trim()))
}

/// The lines of trouble that real Xen does not see too.
fn complaints(dmesg: &str) -> Vec<&str> {
    let is_trouble = |line: &&str| TROUBLE.iter().any(|word| line.contains(word));
    let is_known = |line: &&str| KNOWN.iter().any(|known| line.contains(known));
    dmesg.lines().filter(|line| is_trouble(line) && !is_known(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found_and_nothing_else() {
        let log = "[0.1] Linux version\n[0.2] WARNING: CPU: 0 PID: 1\n[0.3] xvda: flush diskcache\n[9.9] INFO: task x \
                   blocked for more than 120 seconds.";
        assert_eq!(complaints(log).len(), 2);
    }
}
