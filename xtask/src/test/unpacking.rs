//! A Linux kernel as distributions ship it is unpacked by dom0 while everything else goes on: its shell, the store, the
//! consoles. Given up meanwhile, nothing of it is left.

use super::e2e::{Case, PATIENCE, Setting};
use super::shell::{expect_log, has, power_off, tell};
use super::system::{DRIVERS, boot};
use crate::qemu::Running;
use crate::run::console::command;
use crate::run::held::audited;
use crate::run::log::{Entry, number_before};
use anyhow::{Context, Result, ensure};

pub const CASES: &[Case] = &[("unpacking", unpacking)];

const MANIFEST: &str = r#"
[[domain]]
name = "first"
kernel = "first"
memory = 8
autostart = false
[[domain]]
name = "linux"
kernel = "linux-mini.vmlinuz"
cmdline = "console=hvc0 quiet"
memory = 128
autostart = false
[[domain]]
name = "second"
kernel = "linux-mini.vmlinuz"
cmdline = "console=hvc0 quiet"
memory = 128
autostart = false
"#;

/// Questions that dom0 answers while it unpacks, at least. It takes seconds under TCG, and an answer milliseconds.
const ANSWERS: usize = 3;
/// KiB of dom0's heap that may be left: lines of the log and of the consoles.
const LEFT: f64 = 64.0;

fn unpacking(setting: &Setting<'_>) -> Result<()> {
    std::fs::create_dir_all(setting.dir())?;
    let config = setting.dir().join("unpacking.toml");
    std::fs::write(&config, [DRIVERS, MANIFEST].concat())?;
    let mut machine = boot(setting, &config)?.machine;
    let before = heap(&mut machine)?;
    for (round, end) in ["\x03", "destroy linux\n"].into_iter().enumerate() {
        tell(&mut machine, "create linux")?;
        let list = tell(&mut machine, "list")?;
        ensure!(list.iter().any(|line| line.starts_with("linux ") && line.contains("unpacking")), "list: {list:?}");
        machine.send(end.as_bytes())?;
        given_up(&mut machine, round + 1)?;
        ensure!(!has(&tell(&mut machine, "list")?, "linux"), "it is given up, and still listed");
        let left = heap(&mut machine)? - before;
        ensure!(left < LEFT, "{left} KiB of dom0's heap are left of what was given up by {end:?}");
    }
    tell(&mut machine, "create linux")?;
    let twice = command(&mut machine, "create linux", PATIENCE).err().context("a second linux is made")?;
    ensure!(twice.to_string().contains("there is a domain linux already"), "a second linux: {twice}");
    tell(&mut machine, "create first")?;
    tell(&mut machine, "create second")?;
    let mut answers = 0;
    while at(&machine, "linux", "created").is_none() {
        tell(&mut machine, "uptime")?;
        answers += 1;
    }
    ensure!(answers >= ANSWERS, "dom0 answered {answers} times while it unpacked");
    // Another domain was made meanwhile; netback found its device through the store and said so on its console.
    let created = at(&machine, "linux", "created").context("created")?;
    for (who, what) in [("first", "created"), ("netback", "console: netback: virtio-net")] {
        let said = at(&machine, who, what).with_context(|| format!("{who} is not {what:?} meanwhile"))?;
        ensure!(said < created, "{who} was {what:?} only after linux was created");
    }
    expect_log(&mut machine, "second", "created")?;
    let unpacked = machine.lines().iter().filter(|line| line.text.contains("linux-mini.vmlinuz unpacked, ")).count();
    ensure!(unpacked == 1, "it was unpacked {unpacked} times");
    for name in ["linux", "second"] {
        tell(&mut machine, &format!("destroy {name}"))?;
    }
    audited(&mut machine)?;
    power_off(machine)
}

/// The place of a line of the log.
fn at(machine: &Running, who: &str, what: &str) -> Option<usize> {
    let is_it = |text: &str| Entry::parse(text).is_some_and(|entry| entry.who == who && entry.what.starts_with(what));
    machine.lines().iter().position(|line| is_it(&line.text))
}

/// The log must say `times` times that linux was given up.
fn given_up(machine: &mut Running, times: usize) -> Result<()> {
    let said = |line: &str| {
        Entry::parse(line).is_some_and(|entry| entry.who == "linux" && entry.what.contains("not created: given up"))
    };
    let enough = machine
        .wait_for(0, PATIENCE, |lines, _| (lines.iter().filter(|line| said(&line.text)).count() >= times).then_some(0));
    enough.map(drop).context("the log does not say that linux was given up")
}

/// KiB of dom0's heap.
fn heap(machine: &mut Running) -> Result<f64> {
    let info = tell(machine, "info")?;
    info.iter().find_map(|line| number_before(line, "KiB")).context("no heap in info")
}
