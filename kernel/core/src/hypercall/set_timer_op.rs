//! `set_timer_op(deadline)`, hypercall 15: the calling vCPU's single-shot timer.
//!
//! - Arguments: system time in nanoseconds at which to raise VIRQ_TIMER; 0 stops the timer.
//! - Returns: 0.
//! - Faults: none.
//! - Notes: a deadline that is "negative", or more than 2^50 ns (13 days) ahead, fires in 100 ms, as in Xen: kernels
//!   with wrapped time arithmetic depend on it. One that has passed fires at once. The same timer as
//!   VCPUOP_set_singleshot_timer.
//! - Source: `xen.h` (set_timer_op), `vcpu.h`.

use crate::time::NEVER;
use crate::{Args, Caller, HcResult, Platform};

/// The farthest deadline that is believed, in nanoseconds ahead.
const FARTHEST: u64 = 1 << 50;
/// What the others get, in nanoseconds.
const INSTEAD: u64 = 100_000_000;

/// See the head of this file.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let deadline = match a[0] {
        0 => NEVER,
        far if far >= FARTHEST => {
            // Only now is it worth while to read the clock.
            let now = c.core.platform.now();
            if far.saturating_sub(now) >= FARTHEST { now.saturating_add(INSTEAD) } else { far }
        }
        near => near,
    };
    c.core.set_timer(c.cpu, &c.vcpu.time.singleshot, deadline);
    Ok(0)
}
