//! Images that boot by themselves: from a BIOS and from UEFI in QEMU, and in Bochs.

use super::e2e::{Case, Setting};
use crate::conformance;
use crate::iso::{boot::Way, tour};
use anyhow::{Result, ensure};

pub const CASES: &[Case] = &[
    ("iso-bios", |setting| tour::take(setting.place, Way::Bios, setting.smp, &setting.log)),
    ("iso-uefi", |setting| tour::take(setting.place, Way::Uefi, setting.smp, &setting.log)),
    ("iso-bochs", bochs),
];

/// Three quick guests, one of which is there to crash: what they say in Bochs is what they say in QEMU. The others, and
/// the tour, are for `cargo xtask conformance --bochs`.
fn bochs(setting: &Setting<'_>) -> Result<()> {
    for name in ["user_mode", "traps", "bad_stack"] {
        let tally = conformance::run(setting.place, &conformance::Options::bochs(name), true)?;
        ensure!((tally.passed, tally.failed) == (1, 0), "{name} differs");
    }
    Ok(())
}
