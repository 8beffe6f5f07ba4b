//! `fpu_taskswitch` (5): sets or clears CR0.TS.
//!
//! - Arguments: 0 to clear, anything else to set.
//! - Returns: 0.
//! - Faults: none.
//! - Notes: while set, the next use of the FPU raises #NM, which clears it.
//! - Source: `xen.h`.

use crate::trap::CR0_TS;
use crate::{Args, Caller, HcResult, Platform};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [set, ..] = *a;
    switch(c, set as u32 != 0);
    Ok(0)
}

/// Sets or clears CR0.TS, as the guest sees it and in the hardware.
pub fn switch<P: Platform>(c: &mut Caller<'_, P>, set: bool) {
    c.run.cr0 = if set { CR0_TS } else { 0 };
    c.core.platform.set_task_switched(c.run, set);
}
