//! Several of the smallest Linux guests at once, and one made and unmade again and again. The tests take a short slice.

use super::debian::await_log;
use super::{Row, Sitting};
use crate::place::Place;
use crate::qemu::{Ending, Running};
use crate::run::console::{attach, command};
use crate::run::held::{audited, settled};
use crate::run::http::sha256;
use crate::run::log::Entry;
use crate::run::offer::Offer;
use crate::run::system::{Plan, assemble};
use crate::run::world::{FILES, FIRST};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(300);
/// Bytes of each guest's disk.
const DISK: u64 = 16 << 20;
/// Where each writes on it: first byte and length (examples/linux-mini/init).
const WRITTEN: (u64, usize) = (1 << 20, 8 << 20);
/// MiB of each guest, of the machine of four.
const MEMORY: u32 = 512;
const MACHINE: u32 = 3072;
const TIMES: u64 = 20;

/// Two rows.
pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("four-at-once", |sitting: &Sitting| {
            four_at_once(&sitting.place, &sitting.dir.join("four-at-once"), 2)
        }),
        Row::new("come-and-go", |sitting: &Sitting| {
            come_and_go(&sitting.place, &sitting.dir.join("come-and-go"), 2, sitting.amount(TIMES))
        }),
    ]
}

fn name(at: usize) -> String {
    format!("linux{}", at + 1)
}

/// The drivers and so many guests, each with an interface and a disk of its own.
fn manifest(guests: usize, memory: u32, autostart: bool) -> String {
    let disks: Vec<String> = (0..guests).map(|at| format!("{}.img", name(at))).collect();
    let functions: Vec<String> = (0..guests).map(|at| format!("00:{:02x}.0", at + 3)).collect();
    let mut text = format!(
        "[machine]\ndisks = {disks:?}\n\
         [[domain]]\nname = \"netback\"\nkernel = \"netback\"\nmemory = 16\npci = [\"00:02.0\"]\nserves = [\"vif\"]\n\
         [[domain]]\nname = \"blkback\"\nkernel = \"blkback\"\nmemory = 16\npci = {functions:?}\nserves = [\"vbd\"]\n"
    );
    for at in 0..guests {
        let (name, number, letter) = (name(at), at + 1, char::from(b'a' + at as u8));
        let _ = write!(
            text,
            "[[domain]]\nname = \"{name}\"\nkernel = \"linux-mini.vmlinuz\"\nramdisk = \"linux-mini.initrd\"\n\
             cmdline = \"console=hvc0 quiet\"\nmemory = {memory}\nvcpus = 1\nautostart = {autostart}\n\
             vif = [{{ mac = \"00:16:3e:00:00:{number:02x}\" }}]\n\
             disk = [{{ target = \"vd{letter}\", vdev = \"xvda\", mode = \"w\" }}]\n"
        );
    }
    text
}

/// A machine for them; the host offers the file that each fetches as long as the offer lives.
fn boot(place: &Place, dir: &Path, text: &str, guests: usize, smp: u32, mem: u32) -> Result<(Running, Offer)> {
    std::fs::create_dir_all(dir)?;
    let config = dir.join("manifest.toml");
    std::fs::write(&config, text)?;
    for at in 0..guests {
        File::create(disk(dir, at))?.set_len(DISK)?;
    }
    let offer = Offer::of(dir.join(FILES))?;
    let url = offer.url(FIRST);
    let (mut machine, _) = assemble(place, &Plan { boot_file: Some(&url), ..Plan::of(&config, dir) })?;
    (machine.smp, machine.mem) = (smp, mem);
    let mut machine = machine.start(&dir.join("serial.log"))?;
    attach(&mut machine, PATIENCE)?;
    Ok((machine, offer))
}

fn disk(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("{}.img", name(at)))
}

/// Four of 512 MiB in a machine of 3 GiB: each proves its disk, which the host looks at, and its network; each powers off
/// when told to.
pub fn four_at_once(place: &Place, dir: &Path, smp: u32) -> Result<String> {
    let guests = 4;
    let (mut machine, _offer) = boot(place, dir, &manifest(guests, MEMORY, true), guests, smp, MACHINE)?;
    let steps = ["linux boots", "linux's disk", "linux has an address", "linux fetches from the host", "linux serves"];
    for at in 0..guests {
        for step in steps {
            let said = reported(&mut machine, &name(at), step, 0)?;
            if step == "linux's disk" {
                let (start, len) = WRITTEN;
                let mut bytes = vec![0; len];
                File::open(disk(dir, at))?.read_exact_at(&mut bytes, start)?;
                ensure!(said.ends_with(&sha256(&bytes)), "{}: {said}, but its disk holds something else", name(at));
            }
        }
    }
    audited(&mut machine)?;
    for at in 0..guests {
        command(&mut machine, &format!("shutdown {}", name(at)), PATIENCE)?;
        await_log(&mut machine, &name(at), "ended: poweroff", PATIENCE)?;
    }
    power_off(machine)?;
    for at in 0..guests {
        std::fs::remove_file(disk(dir, at))?;
    }
    Ok(format!("{guests} of {MEMORY} MiB in {MACHINE} MiB: disk, network, power-off; the host found what each wrote"))
}

/// One made and unmade while it runs leaves nothing behind: frames, event channels and grants are what they were.
pub fn come_and_go(place: &Place, dir: &Path, smp: u32, times: u64) -> Result<String> {
    let (mut machine, _offer) = boot(place, dir, &manifest(1, 192, false), 1, smp, 512)?;
    let mut before = None;
    for round in 0..=times {
        let from = machine.lines().len();
        command(&mut machine, "create linux1", PATIENCE)?;
        let said = reported(&mut machine, "linux1", "linux has an address", from);
        said.with_context(|| format!("round {round}"))?;
        command(&mut machine, "destroy linux1", PATIENCE)?;
        // dom0 and the two driver domains. The first round may make heaps grow.
        let held = settled(&mut machine, 3, PATIENCE)?;
        let first = before.get_or_insert(held);
        if round == times {
            let after = settled(&mut machine, 3, PATIENCE)?;
            ensure!(*first == after, "before {times} guests {first:?}, after them {after:?}");
        }
    }
    audited(&mut machine)?;
    power_off(machine)?;
    std::fs::remove_file(disk(dir, 0))?;
    Ok(format!("{times} times: the same free frames, event channels and grants as before; audit: ok, 0 findings"))
}

/// What a guest reports of a step, from a line of the log on; an error if it failed.
fn reported(machine: &mut Running, who: &str, step: &str, from: usize) -> Result<String> {
    let read = |line: &str| {
        let entry = Entry::parse(line).filter(|entry| entry.who == who)?;
        let (mark, rest) = entry.console()?.split_once(' ')?;
        let said = rest.trim_start().strip_prefix(step)?.trim().to_string();
        (mark == "ok" || mark == "FAIL").then(|| (mark == "ok", said))
    };
    let index = machine.wait_line(from, PATIENCE, |line| read(line).is_some());
    let line = index.and_then(|index| machine.lines().get(index)).and_then(|line| read(&line.text));
    let (good, said) = line.with_context(|| format!("{who} says nothing of {step:?}: {}", machine.log.display()))?;
    ensure!(good, "{who}: {step}: {said}");
    Ok(said)
}

fn power_off(mut machine: Running) -> Result<()> {
    machine.send(b"poweroff\n")?;
    let ending = machine.finish(PATIENCE)?;
    ensure!(ending == Ending::PowerOff, "the machine ended as {ending:?}");
    Ok(())
}
