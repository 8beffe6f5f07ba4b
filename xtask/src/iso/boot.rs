//! What boots an image: QEMU from a BIOS or from UEFI, or Bochs.

use super::bochs;
use crate::qemu::{Ending, Machine, QEMU, Running};
use crate::setup::Need;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// Debian's UEFI for QEMU.
pub const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

/// What all of them need, besides QEMU and what makes images.
pub fn needs() -> Vec<Need> {
    [&bochs::NEEDS[..], &[Need::File(OVMF, "ovmf")]].concat()
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// QEMU with its own BIOS.
    Bios,
    /// QEMU with OVMF.
    Uefi,
    /// Bochs with its own BIOS.
    Bochs,
}

impl Way {
    /// Makes the image of what the machine would start, beside the log, and boots it there.
    pub fn start(self, machine: &Machine, log: &Path) -> Result<Running> {
        let image = log.with_extension("iso");
        super::make(machine, &image)?;
        let firmware: &[&str] = match self {
            Way::Bochs => return bochs::start(machine, &image, log),
            Way::Bios => &[],
            Way::Uefi => &["-bios", OVMF],
        };
        let mut args = machine.board();
        args.extend(["-cdrom".to_string(), image.display().to_string()]);
        args.extend(firmware.iter().map(|arg| arg.to_string()));
        Running::start(QEMU, &args, log)
    }

    /// Waits for the machine's end, or ends it after `limit`; its image goes.
    pub fn finish(self, running: &mut Running, limit: Duration) -> Result<Ending> {
        let ending = match self {
            Way::Bochs => bochs::finish(running, limit),
            Way::Bios | Way::Uefi => running.finish(limit),
        };
        let _ = std::fs::remove_file(running.log.with_extension("iso"));
        ending
    }

    /// How much longer than under QEMU something may take.
    pub fn patience(self, limit: Duration) -> Duration {
        match self {
            Way::Bios => limit,
            Way::Uefi => limit * 2,
            Way::Bochs => limit * 5,
        }
    }
}
