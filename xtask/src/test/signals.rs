//! However `run` is told to end, no QEMU stays behind.

use super::e2e::{Case, PATIENCE, Setting, shown};
use super::tool::{WHOLE, expect_nothing_left, left_running, xtask};
use crate::process::stdout_of;
use anyhow::{Context, Result, ensure};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[("signals", signals)];

/// Ctrl-C's signal, a polite end and a rude one; to the process alone, and to its group as a terminal does it.
fn signals(setting: &Setting<'_>) -> Result<()> {
    for (signal, to_group) in
        [("INT", false), ("TERM", false), ("INT", true), ("TERM", true), ("HUP", false), ("KILL", false)]
    {
        ended_by(setting, signal, to_group).with_context(|| format!("SIG{signal}, to the group: {to_group}"))?;
    }
    Ok(())
}

fn ended_by(setting: &Setting<'_>, signal: &str, to_group: bool) -> Result<()> {
    let dir = setting.dir();
    let mut command = xtask(setting.place, &["run", "--http-port", "0", "--dir", &shown(&dir)])?;
    let log = std::fs::File::create(&setting.log)?;
    let mut run = command.process_group(0).stdout(log.try_clone()?).stderr(log).spawn()?;
    let is_qemu =
        |id: &u32| std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("qemu"));
    let started = until(&mut run, WHOLE, || left_running(&dir).iter().any(is_qemu));
    let target = if to_group { format!("-{}", run.id()) } else { run.id().to_string() };
    let killed = stdout_of(Command::new("sh").args(["-c", "kill -s \"$0\" -- \"$1\"", signal, &target]));
    let ended = until(&mut run, PATIENCE, || false);
    if started.is_err() || killed.is_err() || ended.is_err() {
        let _ = run.kill();
        let _ = run.wait();
    }
    ensure!(started?.is_none(), "it ended before it could be told to");
    killed?;
    let status = ended?.context("it did not end")?;
    let wanted = if signal == "KILL" { status.signal() == Some(9) } else { status.code() == Some(130) };
    ensure!(wanted, "ended with {status}");
    expect_nothing_left(&dir)
}

/// Waits until the child has ended or `found` says so.
fn until(child: &mut Child, limit: Duration, found: impl Fn() -> bool) -> Result<Option<std::process::ExitStatus>> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if found() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("nothing happened within {} s", limit.as_secs())
}
