//! `set_segment_base` (25): the bases of FS and GS, which ring 3 cannot write by itself.
//!
//! - Arguments: which (0 FS, 1 user mode's GS, 2 kernel mode's GS, 3 user mode's GS by selector); the base or selector.
//! - Returns: 0.
//! - Faults: EINVAL: no such base, or one that is not canonical.
//! - Notes: a selector that cannot be loaded is taken as 0.
//! - Source: `arch-x86/xen-x86_64.h`.

use crate::{Args, Caller, HcResult, Platform, Run, refuse_if};
use abi::{Errno, Vaddr};

/// Where a vCPU has one of its bases.
pub type Base = fn(&mut Run) -> &mut u64;
/// That of FS.
pub const FS: Base = |run| &mut run.fs_base;
/// That of user mode's GS.
pub const GS_USER: Base = |run| &mut run.gs_base_user;
/// That of kernel mode's GS.
pub const GS_KERNEL: Base = |run| &mut run.gs_base_kernel;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [which, value, ..] = *a;
    match which as u32 {
        0 => set(c, FS, value)?,
        1 => set(c, GS_USER, value)?,
        2 => set(c, GS_KERNEL, value)?,
        3 => c.core.platform.load_user_gs(c.run, value as u16),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// Sets a base; EINVAL if it is not canonical.
pub fn set<P: Platform>(c: &mut Caller<'_, P>, which: Base, base: u64) -> Result<(), Errno> {
    refuse_if(!Vaddr(base).is_canonical(), Errno::EINVAL)?;
    c.core.platform.save_bases(c.run);
    *which(c.run) = base;
    c.core.platform.load_bases(c.run);
    Ok(())
}
