//! Memory that a Linux guest gives back and takes again while it works.

use super::e2e::{Case, PATIENCE, Setting};
use super::shell::{power_off, tell};
use super::tool::WHOLE;
use crate::qemu::Running;
use crate::run::console::{attach, command};
use crate::run::held::audited;
use crate::run::log::{Entry, number_before};
use crate::run::system::{Plan, assemble};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[("balloon", balloon)];

const MANIFEST: &str = r#"
[[domain]]
name = "linux"
kernel = "linux-mini.vmlinuz"
ramdisk = "linux-mini.initrd"
cmdline = "console=hvc0 quiet load"
memory = 512
autostart = false
"#;
/// MiB that it has, and is asked to make do with.
const ALL: u32 = 512;
const FEW: u32 = 256;

fn balloon(setting: &Setting<'_>) -> Result<()> {
    std::fs::create_dir_all(setting.dir())?;
    let config = setting.dir().join("balloon.toml");
    std::fs::write(&config, MANIFEST)?;
    let dir = setting.dir();
    let (mut machine, _) = assemble(setting.place, &Plan::of(&config, &dir))?;
    (machine.smp, machine.mem) = (setting.smp, 1024);
    let mut machine = setting.start(&machine)?;
    attach(&mut machine, PATIENCE)?;
    tell(&mut machine, "create linux")?;
    let mut total = works(&mut machine)?;
    for (wrong, words) in [(ALL + 1, "from 4 to 512 MiB"), (3, "from 4 to 512 MiB")] {
        let refused = command(&mut machine, &format!("mem-set linux {wrong}"), WHOLE).err();
        let refused = refused.with_context(|| format!("{wrong} MiB are taken"))?.to_string();
        ensure!(refused.contains(words), "{wrong} MiB: {refused}");
    }
    let free = free_memory(&mut machine)?;
    for mib in [FEW, ALL] {
        tell(&mut machine, &format!("mem-set linux {mib}"))?;
        reaches(&mut machine, mib).with_context(|| format!("mem-set linux {mib}"))?;
        // What it says of itself, in a round that began after that.
        works(&mut machine)?;
        let now = works(&mut machine)?;
        let (less, wanted) = ((total - now) / 1024.0, f64::from(if mib == FEW { ALL - FEW } else { 0 }));
        ensure!((less - wanted).abs() < 2.0, "at {mib} MiB Linux says that it has {less} MiB less than at first");
        let given = free_memory(&mut machine)? - free;
        ensure!((given - wanted).abs() <= 1.0, "at {mib} MiB {given} MiB are free again");
        audited(&mut machine)?;
        total = total.max(now);
    }
    tell(&mut machine, "destroy linux")?;
    audited(&mut machine)?;
    power_off(machine)
}

/// Waits for the next round of its work; the KiB that it says it has.
fn works(machine: &mut Running) -> Result<f64> {
    let from = machine.lines().len();
    let said = |line: &str| {
        let entry = Entry::parse(line).filter(|entry| entry.who == "linux")?;
        entry.console().filter(|text| text.contains("linux works")).map(str::to_string)
    };
    let line = machine.wait_line(from, WHOLE, |line| said(line).is_some()).context("linux does not work")?;
    let text = machine.lines().get(line).and_then(|line| said(&line.text)).context("it was there")?;
    ensure!(text.starts_with("ok "), "{text}");
    number_before(&text, "kB").with_context(|| format!("no memory in {text:?}"))
}

/// Waits until `list` shows so many MiB, and `info` the same.
fn reaches(machine: &mut Running, mib: u32) -> Result<()> {
    let end = Instant::now() + WHOLE;
    loop {
        let list = tell(machine, "list")?;
        let words: Vec<Vec<&str>> = list.iter().map(|line| line.split_whitespace().collect()).collect();
        let has = words.iter().find(|words| words.first() == Some(&"linux")).and_then(|words| words.get(2).copied());
        if has == Some(mib.to_string().as_str()) {
            break;
        }
        ensure!(Instant::now() < end, "it does not get there: {list:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    let info = tell(machine, "info linux")?;
    let wanted = if mib == ALL { format!("{mib} MiB of {ALL}") } else { format!("{mib} MiB of {ALL}, to have {mib}") };
    ensure!(info.iter().any(|line| line.trim_end().ends_with(&wanted)), "info does not say {wanted:?}: {info:?}");
    Ok(())
}

/// MiB of the machine that nobody has.
fn free_memory(machine: &mut Running) -> Result<f64> {
    let info = tell(machine, "info")?;
    let line = info.iter().find(|line| line.starts_with("memory")).context("no memory in info")?;
    number_before(&line.replace("MiB free", "free"), "free").with_context(|| line.clone())
}
