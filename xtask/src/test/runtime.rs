//! domain-rt by itself: test guests that use it as the initial domain.

use super::e2e::{Case, Setting, expect_ending, expect_line};
use crate::build::{Part, built};
use crate::qemu::{Ending, Machine};
use anyhow::{Context, Result};

/// On one CPU and on two.
pub const CASES: &[Case] = &[("runtime", runtime), ("virtio-disk", virtio_disk)];

/// Bytes of the disk.
const DISK: u64 = 16 << 20;

fn machine(setting: &Setting<'_>, guest: &str) -> Result<Machine> {
    let image = built(setting.place, Part::Guests, guest).with_context(|| format!("no guest {guest}"))?;
    Ok(setting.machine("", &image.display().to_string()))
}

fn succeeds(setting: &Setting<'_>, machine: &Machine) -> Result<()> {
    let mut running = setting.start(machine)?;
    expect_line(&mut running, "SUCCESS")?;
    expect_ending(running, Ending::PowerOff)
}

/// Memory, allocator, tasks, events, time, grants.
fn runtime(setting: &Setting<'_>) -> Result<()> {
    succeeds(setting, &machine(setting, "runtime")?)
}

/// Virtqueues, interrupts and DMA: 500 writes read back.
fn virtio_disk(setting: &Setting<'_>) -> Result<()> {
    let image = setting.log.with_extension("disk");
    std::fs::File::create(&image)?.set_len(DISK)?;
    let mut machine = machine(setting, "virtio")?;
    let drive = format!("if=none,id=disk0,format=raw,file={}", image.display());
    let device = "virtio-blk-pci,drive=disk0,addr=3,ioeventfd=off";
    machine.extra = ["-drive", &drive, "-device", device].map(str::to_string).to_vec();
    let held = succeeds(setting, &machine);
    std::fs::remove_file(image)?;
    held
}
