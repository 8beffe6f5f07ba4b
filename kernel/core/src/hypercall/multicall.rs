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

use abi::Errno;
use abi::multicall::MulticallEntry;

use crate::{Args, Caller, HcResult, Platform, Stage, Stop, dispatch};

const MULTICALL: u64 = 13;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [at, left, ..] = &mut a.0;
    *left = u64::from(*left as u32);
    while *left > 0 {
        // The last argument is no hypercall's.
        let [op, _, a0, a1, a2, a3, a4]: [u64; 7] = c.get(*at)?;
        let mut args = Args([a0, a1, a2, a3, a4]);
        let result = match op {
            MULTICALL => Err(Stop::Error(Errno::EINVAL)),
            _ => dispatch::call(c, u32::try_from(op).unwrap_or(u32::MAX), &mut args),
        };
        let result = match result {
            Ok(value) => value as u64,
            Err(Stop::Error(errno)) => errno.code() as u64,
            Err(Stop::Replaced) => return Err(Stop::Replaced),
            Err(Stop::Preempted) => {
                c.put(at.wrapping_add(ARGS_AT), &args.0)?;
                return Err(Stop::Preempted);
            }
        };
        c.put(at.wrapping_add(RESULT_AT), &result)?;
        if !c.run.kernel_mode || c.domain.stage() != Stage::Alive {
            return Err(Stop::Replaced);
        }
        (*at, *left) = (at.wrapping_add(ENTRY_BYTES), *left - 1);
        // An event that came up meanwhile does not wait for the rest.
        if *left > 0 && (c.core.platform.preempt() || c.core.upcall_due(c.vcpu)) {
            return Err(Stop::Preempted);
        }
    }
    Ok(0)
}

const ENTRY_BYTES: u64 = size_of::<MulticallEntry>() as u64;
const RESULT_AT: u64 = core::mem::offset_of!(MulticallEntry, result) as u64;
const ARGS_AT: u64 = core::mem::offset_of!(MulticallEntry, args) as u64;
const _: () = assert!(core::mem::offset_of!(MulticallEntry, op) == 0 && RESULT_AT == 8 && ARGS_AT == 16);
