//! dom0 end to end: each word of its shell, domains made and unmade, domains that die, manifests that are wrong.

use super::e2e::{Case, PATIENCE, Setting, expect_ending, expect_line};
use crate::build::{Part, built};
use crate::qemu::{Ending, Machine, Running};
use crate::run::console::{attach, command, with_core};
use crate::run::keys::usage;
use crate::run::log::Entry;
use crate::run::world;
use anyhow::{Context, Result, ensure};

pub const CASES: &[Case] = &[
    ("shell-words", shell_words),
    ("shell-editing", shell_editing),
    ("console-of-a-domain", console_of_a_domain),
    ("create-and-destroy", create_and_destroy),
    ("guest-crash", guest_crash),
    ("manifest-of-mistakes", manifest_of_mistakes),
];

/// Domains that dom0 knows and does not start: one that sleeps for good, one that dies at once, one that ends.
pub const MANIFEST: &str = r#"
[[domain]]
name = "sleeper"
kernel = "foreign-2"
memory = 8
autostart = false
[[domain]]
name = "crasher"
kernel = "foreign-1"
memory = 8
autostart = false
[[domain]]
name = "first"
kernel = "first"
memory = 8
autostart = false
"#;

/// How often a domain is made and unmade.
const ROUNDS: usize = 50;

/// dom0 with a manifest and the images it may name, at its first prompt.
fn boot(setting: &Setting<'_>, manifest: &str) -> Result<Running> {
    boot_on(setting, setting.machine("", ""), manifest)
}

/// The same, on this machine.
pub fn boot_on(setting: &Setting<'_>, machine: Machine, manifest: &str) -> Result<Running> {
    let image = |name: &str| built(setting.place, Part::Domains, name).with_context(|| format!("no image {name}"));
    let mut files = vec![("first".to_string(), image("first")?)];
    for what in [1, 2] {
        files.push((format!("foreign-{what}"), setting.foreign(what)?));
    }
    let ramdisk = setting.log.with_extension("ramdisk");
    world::ramdisk(&ramdisk, manifest.as_bytes(), &files)?;
    let initrd = format!("{} log-consoles,{}", image("dom0")?.display(), ramdisk.display());
    let mut machine = setting.start(&Machine { initrd, ..machine })?;
    attach(&mut machine, PATIENCE)?;
    Ok(machine)
}

/// A command that must work; what it printed.
pub fn tell(machine: &mut Running, line: &str) -> Result<Vec<String>> {
    command(machine, line, PATIENCE)
}

/// A command that must fail, and say so with this in it.
fn refused(machine: &mut Running, line: &str, with: &str) -> Result<()> {
    match command(machine, line, PATIENCE) {
        Ok(printed) => anyhow::bail!("{line:?} was taken, and printed {printed:?}"),
        Err(error) => {
            ensure!(error.to_string().contains(with), "{line:?} was refused with {error:#}, not with {with:?}");
            Ok(())
        }
    }
}

/// Whether some line has this in it.
pub fn has(printed: &[String], what: &str) -> bool {
    printed.iter().any(|line| line.contains(what))
}

/// The log must say this of a domain.
pub fn expect_log(machine: &mut Running, who: &str, what: &str) -> Result<()> {
    let wanted = |line: &str| Entry::parse(line).is_some_and(|entry| entry.who == who && entry.what.contains(what));
    let found = machine.wait_line(0, PATIENCE, wanted);
    ensure!(found.is_some(), "the log does not say {what:?} of {who}");
    Ok(())
}

pub fn power_off(mut machine: Running) -> Result<()> {
    machine.send(b"poweroff\n")?;
    expect_line(&mut machine, "ferrule: power-off")?;
    expect_ending(machine, Ending::PowerOff)
}

/// Each word of the shell does what it says.
fn shell_words(setting: &Setting<'_>) -> Result<()> {
    let mut machine = boot(setting, MANIFEST)?;
    let help = tell(&mut machine, "help")?;
    for (word, ..) in dom0::shell::command::WORDS {
        ensure!(help.iter().any(|line| line.trim_start().starts_with(word)), "help does not know {word}");
    }
    ensure!(has(&tell(&mut machine, "list")?, "Domain-0"), "list does not show dom0");
    ensure!(
        has(&with_core(&mut machine, "dmesg", PATIENCE)?, "ferrule 0."),
        "dmesg does not show the core's first line"
    );
    ensure!(!tell(&mut machine, "info")?.is_empty(), "info is empty");
    ensure!(!tell(&mut machine, "uptime")?.is_empty(), "uptime is empty");
    tell(&mut machine, "network-list -v")?;
    tell(&mut machine, "block-list -v")?;

    tell(&mut machine, "store write /tool/probe hello")?;
    ensure!(tell(&mut machine, "store read /tool/probe")? == ["hello"], "the store does not hold what was written");
    ensure!(has(&tell(&mut machine, "store ls /tool")?, "probe"), "store ls does not show what was written");
    tell(&mut machine, "store rm /tool/probe")?;
    refused(&mut machine, "store read /tool/probe", "")?;

    tell(&mut machine, "create sleeper")?;
    expect_log(&mut machine, "sleeper", "created, domain 1, 8 MiB")?;
    ensure!(has(&tell(&mut machine, "list")?, "sleeper"), "list does not show a domain that runs");
    ensure!(!tell(&mut machine, "info sleeper")?.is_empty(), "info of a domain is empty");
    // xl's letters: r b p s c d.
    let is_paused = |printed: Vec<String>| -> Result<bool> {
        let line = printed.into_iter().find(|line| line.starts_with("sleeper")).context("sleeper is gone")?;
        let letters = line.split_whitespace().nth(4).with_context(|| line.clone())?;
        Ok(letters.chars().nth(2) == Some('p'))
    };
    tell(&mut machine, "pause sleeper")?;
    ensure!(is_paused(tell(&mut machine, "list")?)?, "not paused");
    tell(&mut machine, "unpause sleeper")?;
    ensure!(!is_paused(tell(&mut machine, "list")?)?, "still paused");
    refused(&mut machine, "create sleeper", "sleeper")?;
    tell(&mut machine, "destroy sleeper")?;
    expect_log(&mut machine, "sleeper", "destroyed")?;
    ensure!(!has(&tell(&mut machine, "list")?, "sleeper"), "list shows a domain that was destroyed");

    tell(&mut machine, "create first")?;
    expect_log(&mut machine, "first", "ended: poweroff")?;
    refused(&mut machine, "destroy nobody", "nobody")?;
    refused(&mut machine, "frobnicate", "no command frobnicate")?;
    refused(&mut machine, "pause", "usage: pause")?;
    power_off(machine)
}

/// Tab completes, a line can be taken back, the arrows bring back what was typed.
fn shell_editing(setting: &Setting<'_>) -> Result<()> {
    let mut machine = boot(setting, MANIFEST)?;
    let mut expect = |typed: &[u8], shown: &str| {
        machine.send(typed)?;
        let found = machine.wait_for(0, PATIENCE, |_, partial| (partial.trim_end() == shown).then_some(0));
        ensure!(found.is_some(), "{typed:?} typed: {:?}, not {shown:?}", machine.partial());
        anyhow::Ok(())
    };
    expect(b"upt\t", "dom0# uptime")?;
    expect(b"\x15", "dom0#")?;
    expect(b"create sl\t", "dom0# create sleeper")?;
    expect(b"\x15uptime\r", "dom0#")?;
    expect(b"\x1b[A", "dom0# uptime")?;
    expect(b"\x7f\x7f\x7f\x7f\x7f\x7f", "dom0#")?;
    ensure!(machine.lines().iter().any(|line| line.text.trim_end() == "dom0# uptime"), "the line was not carried out");
    power_off(machine)
}

/// `console` shows what a domain prints and lets go at Ctrl-].
fn console_of_a_domain(setting: &Setting<'_>) -> Result<()> {
    let mut machine = boot(setting, MANIFEST)?;
    tell(&mut machine, "create sleeper")?;
    machine.send(b"console sleeper\n")?;
    expect_line(&mut machine, "connected to sleeper")?;
    machine.send(b"\x1d")?;
    attach(&mut machine, PATIENCE)?;
    tell(&mut machine, "destroy sleeper")?;
    power_off(machine)
}

/// A domain made and unmade again and again leaves nothing behind.
fn create_and_destroy(setting: &Setting<'_>) -> Result<()> {
    let mut machine = boot(setting, MANIFEST)?;
    let once = |machine: &mut Running| -> Result<()> {
        tell(machine, "create sleeper")?;
        ensure!(has(&tell(machine, "list")?, "sleeper"), "sleeper does not run");
        tell(machine, "destroy sleeper")?;
        let end = std::time::Instant::now() + PATIENCE;
        while has(&tell(machine, "list")?, "sleeper") {
            ensure!(std::time::Instant::now() < end, "sleeper does not go");
        }
        Ok(())
    };
    // The first one may make the core's and dom0's heaps grow.
    once(&mut machine)?;
    let before = usage(&mut machine)?.free;
    for round in 1..=ROUNDS {
        once(&mut machine).with_context(|| format!("round {round}"))?;
    }
    let after = usage(&mut machine)?.free;
    ensure!(before == after, "{before} frames were free before {ROUNDS} domains, {after} after");
    power_off(machine)
}

/// A guest that crashes is reported and removed; everything else goes on.
fn guest_crash(setting: &Setting<'_>) -> Result<()> {
    let mut machine = boot(setting, MANIFEST)?;
    tell(&mut machine, "create sleeper")?;
    tell(&mut machine, "create crasher")?;
    expect_log(&mut machine, "crasher", "ended: crash")?;
    let list = tell(&mut machine, "list")?;
    ensure!(has(&list, "sleeper") && !has(&list, "crasher"), "after the crash: {list:?}");
    let report = with_core(&mut machine, "dmesg", PATIENCE)?;
    ensure!(report.iter().any(|line| line.contains("rip")), "dmesg has no report of the crash");
    tell(&mut machine, "destroy sleeper")?;
    power_off(machine)
}

/// A manifest full of mistakes: each is named with its line, and the shell is there all the same.
fn manifest_of_mistakes(setting: &Setting<'_>) -> Result<()> {
    let manifest = "name = \"web\"\nkernel = \"web\"\nmemry = 32\nvcpus = 99\n";
    let mut machine = boot(setting, manifest)?;
    expect_log(&mut machine, "dom0", "manifest: line 3, column 1: no key `memry` here; did you mean `memory`?")?;
    for line in ["memry = 32", "^^^^^", "line 4, column 9"] {
        expect_line(&mut machine, line)?;
    }
    ensure!(has(&tell(&mut machine, "list")?, "Domain-0"), "list does not show dom0");
    power_off(machine)
}
