//! `multicall` (13): several hypercalls in one.
//!
//! - Arguments: rdi, address of an array of `multicall_entry`; rsi, how many.
//! - Returns: 0; each entry's `result` has its own call's.
//! - Faults: EFAULT where an entry cannot be read or its result not written (those before it are done), EINVAL for
//!   entries in a multicall inside a multicall.
//! - Notes: a call that is preempted leaves in its entry what is left to do, and the multicall begins with that entry when
//!   it is made again. A call after which the vCPU is no longer in kernel mode, or whose domain crashed, ends the batch
//!   (lesson 4): what follows would run with another privilege.
//! - Source: `xen.h` (`struct multicall_entry`).

use core::mem::offset_of;

use abi::Errno;
use abi::multicall::MulticallEntry;
use zerocopy::FromZeros;

use crate::{Args, Caller, HcResult, Platform, Stage, Stop, dispatch};

const MULTICALL: u64 = 13;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [at, left, ..] = a;
    *left = u64::from(*left as u32);
    let mut entry = MulticallEntry::new_zeroed();
    while *left > 0 {
        c.get_to(*at, &mut entry)?;
        let result = match entry.op {
            MULTICALL => Err(Errno::EINVAL.into()),
            number => dispatch::call(c, number, &mut entry.args),
        };
        let result = match result {
            Err(Stop::REPLACED) => return result,
            Err(Stop::PREEMPTED) => {
                c.put(at.wrapping_add(offset_of!(MulticallEntry, args) as u64), &entry.args)?;
                return result;
            }
            Ok(value) | Err(Stop(value)) => value,
        };
        c.put(at.wrapping_add(offset_of!(MulticallEntry, result) as u64), &result)?;
        if !c.run.kernel_mode || c.domain.stage() != Stage::Alive {
            return Err(Stop::REPLACED);
        }
        (*at, *left) = (at.wrapping_add(size_of::<MulticallEntry>() as u64), *left - 1);
        // An event that came up meanwhile does not wait for the rest.
        if *left > 0 && (c.core.platform.preempt() || c.core.upcall_due(c.vcpu)) {
            return Err(Stop::PREEMPTED);
        }
    }
    Ok(0)
}
