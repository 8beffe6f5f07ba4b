//! `stack_switch` (3): the stack that the kernel is entered on from user mode.
//!
//! - Arguments: ss; rsp.
//! - Returns: 0.
//! - Faults: none. A stack that cannot take a frame crashes the domain when it is needed.
//! - Notes: in 64-bit guests the kernel runs on the flat stack segment whatever ss says.
//! - Source: `xen.h`.

use crate::{Args, Caller, HcResult, Platform};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [ss, sp, ..] = *a;
    c.run.kernel_ss = ss | 3;
    c.run.kernel_sp = sp;
    Ok(0)
}
