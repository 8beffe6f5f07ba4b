//! A short slice of `cargo xtask campaign linux`, as far as it goes without Debian's disk.

use super::e2e::{Case, Setting};
use crate::campaign::minis::{come_and_go, four_at_once};

/// Taken once, on two CPUs.
pub const CASES: &[Case] = &[
    ("linux-four-at-once", |setting: &Setting<'_>| four_at_once(setting.place, &setting.dir(), 2).map(drop)),
    ("linux-comes-and-goes", |setting: &Setting<'_>| come_and_go(setting.place, &setting.dir(), 2, 2).map(drop)),
];
