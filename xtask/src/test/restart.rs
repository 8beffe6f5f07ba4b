//! Driver domains that are destroyed while traffic runs: dom0 starts them again, and what was under way goes on.

use super::e2e::{Case, PATIENCE, Setting};
use super::shell::{expect_log, has, power_off, tell};
use super::system::{DRIVERS, System, boot, join, under_way};
use crate::qemu::Running;
use crate::run::console::attach;
use crate::run::held::audited;
use crate::run::http::fetch;
use crate::run::system::{Plan, assemble};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Instant;

/// On one CPU and on two.
pub const CASES: &[Case] = &[
    ("netback-restarts", netback_restarts),
    ("blkback-restarts", blkback_restarts),
    ("echoback-restarts", echoback_restarts),
];

/// What `web` serves, to the host and to `client`.
const FILE: &str = "/64m.bin";
/// How often the driver domain is destroyed.
const TIMES: usize = 3;

/// `web` on both drivers, and who is started by hand.
const MANIFEST: &str = r#"
[[domain]]
name = "web"
kernel = "web"
memory = 32
vif = [{ mac = "00:16:3e:00:00:01" }]
disk = [{ target = "vda:web", vdev = "xvda", mode = "r" }]
[[domain]]
name = "client"
kernel = "client"
cmdline = "web=10.0.2.15 file=/64m.bin"
memory = 16
vif = [{ mac = "00:16:3e:00:00:02" }]
on_poweroff = "preserve"
autostart = false
[[domain]]
name = "writer"
kernel = "client"
cmdline = "disk=check rounds=100 net=no"
memory = 16
disk = [{ target = "vda:client", vdev = "xvda", mode = "w" }]
on_poweroff = "preserve"
autostart = false
"#;

/// Once: virtual time runs on one CPU only.
pub const ONCE: &[Case] = &[("echoback-hangs", echoback_hangs)];

fn start(setting: &Setting<'_>) -> Result<(System, u16)> {
    std::fs::create_dir_all(setting.dir())?;
    let config = setting.dir().join("restart.toml");
    std::fs::write(&config, [DRIVERS, MANIFEST].concat())?;
    let mut system = boot(setting, &config)?;
    let port = system.port_of("web")?;
    Ok((system, port))
}

/// The host and another guest fetch a file each; both get all of it.
fn netback_restarts(setting: &Setting<'_>) -> Result<()> {
    let (mut system, port) = start(setting)?;
    tell(&mut system.machine, "create client")?;
    expect_log(&mut system.machine, "client", "console: ok   client pings web")?;
    let host = under_way(port, FILE)?;
    for _ in 0..TIMES {
        replace(&mut system.machine, "netback", "network-list", &["web", "client"])?;
    }
    ensure!(!host.is_finished(), "the transfer was over before netback was back");
    ensure!(!said(&system.machine, "client: SUCCESS"), "client was done before netback was back");
    let fetched = join(host)?;
    system.verify(&fetched, FILE)?;
    expect_log(&mut system.machine, "client", "console: client: SUCCESS")?;
    ensure!(said(&system.machine, &fetched.sha256), "client has another file");
    end(system)
}

/// `web` reads what it serves from a disk, another guest writes to one and reads back; nothing is lost or changed.
fn blkback_restarts(setting: &Setting<'_>) -> Result<()> {
    let (mut system, port) = start(setting)?;
    tell(&mut system.machine, "create writer")?;
    expect_log(&mut system.machine, "writer", "vbd 51712: connected")?;
    let host = under_way(port, FILE)?;
    for _ in 0..TIMES {
        replace(&mut system.machine, "blkback", "block-list", &["web", "writer"])?;
    }
    ensure!(!host.is_finished(), "the transfer was over before blkback was back");
    ensure!(!said(&system.machine, "client: SUCCESS"), "writer was done before blkback was back");
    system.verify(&join(host)?, FILE)?;
    expect_log(&mut system.machine, "writer", "console: client: SUCCESS")?;
    ensure!(fetch(port, "/hello.txt", PATIENCE)?.status == 200, "web does not serve any more");
    end(system)
}

/// The example with a guest that has more to say.
fn echo(setting: &Setting<'_>) -> Result<PathBuf> {
    let manifest = std::fs::read_to_string(setting.place.root.join("examples/echo.toml"))?;
    let many = manifest.replace("cmdline = \"upper\"", "cmdline = \"upper messages=400000\"");
    ensure!(many != manifest, "examples/echo.toml has another command line");
    std::fs::create_dir_all(setting.dir())?;
    let config = setting.dir().join("echo.toml");
    std::fs::write(&config, many)?;
    Ok(config)
}

/// Waits for the guest's next connection; the line after it.
fn connected(machine: &mut Running, from: usize) -> Result<usize> {
    let found = machine.wait_line(from, PATIENCE, |line| line.contains("echo: echo 0: connected to echoback"));
    Ok(1 + found.context("echo is not connected")?)
}

/// It gets every answer once and in order.
fn all_came_back(machine: &mut Running) -> Result<()> {
    ensure!(!said(machine, "messages came back"), "echo was done before echoback was back");
    expect_log(machine, "echo", "console: echo: 400000 messages came back")?;
    expect_log(machine, "echo", "console: echo: SUCCESS")
}

/// The example's driver domain is destroyed.
fn echoback_restarts(setting: &Setting<'_>) -> Result<()> {
    let mut system = boot(setting, &echo(setting)?)?;
    let mut from = connected(&mut system.machine, 0)?;
    for _ in 0..TIMES {
        tell(&mut system.machine, "destroy echoback")?;
        from = connected(&mut system.machine, from)?;
    }
    all_came_back(&mut system.machine)?;
    end(system)
}

/// A driver domain that does nothing any more - here it is paused - is ended by its watchdog and started again.
fn echoback_hangs(setting: &Setting<'_>) -> Result<()> {
    let (mut machine, _) = assemble(setting.place, &Plan::of(&echo(setting)?, &setting.dir()))?;
    machine.icount = true;
    let mut machine = setting.start(&machine)?;
    attach(&mut machine, PATIENCE)?;
    let from = connected(&mut machine, 0)?;
    tell(&mut machine, "pause echoback")?;
    expect_log(&mut machine, "echoback", "ended: watchdog, restart")?;
    connected(&mut machine, from)?;
    all_came_back(&mut machine)?;
    power_off(machine)
}

fn end(mut system: System) -> Result<()> {
    audited(&mut system.machine)?;
    power_off(system.machine)
}

fn said(machine: &Running, what: &str) -> bool {
    machine.lines().iter().any(|line| line.text.contains(what))
}

/// Destroys a driver domain, and waits until the devices of these guests are connected to another one of its name.
fn replace(machine: &mut Running, name: &str, devices: &str, guests: &[&str]) -> Result<()> {
    let old = number(machine, name)?.with_context(|| format!("no {name}"))?;
    tell(machine, &format!("destroy {name}"))?;
    let end = Instant::now() + PATIENCE;
    loop {
        let list = tell(machine, devices)?;
        let connected = |guest: &&&str| {
            list.iter().any(|line| line.trim_start().starts_with(**guest) && line.contains("Connected / Connected"))
        };
        if guests.iter().filter(connected).count() == guests.len()
            && number(machine, name)?.is_some_and(|new| new != old)
        {
            return Ok(());
        }
        ensure!(Instant::now() < end, "after {name}'s end: {list:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// A domain's number, as `list` has it.
fn number(machine: &mut Running, name: &str) -> Result<Option<u16>> {
    let list = tell(machine, "list")?;
    ensure!(has(&list, "web"), "web is gone: {list:?}");
    let mut lines = list.iter().map(|line| line.split_whitespace());
    Ok(lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()?.parse().ok())?))
}
