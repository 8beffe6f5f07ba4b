//! `set_trap_table` (0): where exceptions and software interrupts go.
//!
//! - Arguments: `traps`, the address of an array of `trap_info` that ends with one whose address is 0; a null pointer
//!   clears the whole table.
//! - Returns: 0.
//! - Faults: EFAULT: an entry cannot be read. EINVAL: an address is not canonical. Entries before it have been taken.
//! - Notes: per vCPU. Preemptible between entries.
//! - Source: `arch-x86/xen.h`.

use crate::{Args, Caller, HcResult, Platform, Stop, refuse_if};
use abi::trap::TrapInfo;
use abi::{Errno, Vaddr};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [traps, ..] = a;
    if *traps == 0 {
        *c.run.traps = Default::default();
        return Ok(0);
    }
    loop {
        let info: TrapInfo = c.get(*traps)?;
        if info.address == Vaddr::NULL {
            return Ok(0);
        }
        refuse_if(!info.address.is_canonical(), Errno::EINVAL)?;
        c.run.traps.set(TrapInfo { cs: info.cs | 3, ..info });
        *traps = traps.wrapping_add(size_of::<TrapInfo>() as u64);
        if c.core.platform.preempt() {
            return Err(Stop::PREEMPTED);
        }
    }
}
