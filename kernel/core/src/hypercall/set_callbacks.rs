//! `set_callbacks` (4): where events, unrestorable state and system calls go; the old form of `callback_op`.
//!
//! - Arguments: the addresses of the event, the failsafe and the system-call callback.
//! - Returns: 0, always; an address that is not canonical leaves that callback as it was.
//! - Faults: none.
//! - Notes: no callback masks events on entry afterwards, but the event callback, which always does.
//! - Source: `xen.h`.

use crate::trap::Callback;
use crate::{Args, Caller, HcResult, Platform};
use abi::Vaddr;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [event, failsafe, syscall, ..] = *a;
    let callbacks = &mut c.run.callbacks;
    let slots = [&mut callbacks.event, &mut callbacks.failsafe, &mut callbacks.syscall];
    for (slot, address) in slots.into_iter().zip([event, failsafe, syscall]) {
        if Vaddr(address).is_canonical() {
            *slot = Callback { address, masks: false };
        }
    }
    Ok(0)
}
