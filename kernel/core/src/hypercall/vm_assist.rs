//! `vm_assist` (21): kinds of help that the domain asks for.
//!
//! - Arguments: the command (0 enable, 1 disable); the kind.
//! - Returns: 0.
//! - Faults: EINVAL: no such kind. ENOSYS: no such command.
//! - Notes: kinds 0 and 1 (4 GiB segments), 2 (writable page tables: always given) and 3 (extended cr3) change nothing
//!   in a 64-bit guest; 4 (architectural IOPL), 5 (runstate update flag) and 32 (strict M2P) do.
//! - Source: `xen.h`.

use crate::{Args, Caller, HcResult, Platform};
use abi::Errno;
use core::sync::atomic::Ordering;

/// The kinds that there are, a bit each.
pub const KINDS: u64 = 0x3f | 1 << 32;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [command, kind, ..] = *a;
    let bit = 1u64.checked_shl(kind as u32).filter(|bit| bit & KINDS != 0).ok_or(Errno::EINVAL)?;
    match command as u32 {
        0 => c.domain.assist.fetch_or(bit, Ordering::SeqCst),
        1 => c.domain.assist.fetch_and(!bit, Ordering::SeqCst),
        _ => return Err(Errno::ENOSYS.into()),
    };
    Ok(0)
}
