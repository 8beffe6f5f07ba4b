//! `set_debugreg` (8) and `get_debugreg` (9).
//!
//! - Arguments: the register's number; to set, its value.
//! - Returns: 0; to get, the value itself, which looks like an error if it is one.
//! - Faults: ENODEV: no such register (4 and 5 under CR4.DE). EINVAL: DR6 or DR7 with upper bits. EPERM: DR0-3
//!   inside the core's own addresses, DR7 with general detect, or an I/O breakpoint without CR4.DE.
//! - Notes: 4 and 5 are other names of 6 and 7. Reserved bits take their fixed values. I/O breakpoints are remembered
//!   but never given to the hardware.
//! - Source: `xen.h`.

use crate::trap::DR6_DEFAULT;
use crate::{Args, Caller, HcResult, Platform, Run, Stop, refuse_if};
use abi::Errno;

/// The bits of DR6 that are always zero.
const DR6_ZEROS: u64 = 0x1000;
/// CR4.DE: I/O breakpoints.
const CR4_DE: u64 = 8;

/// `set_debugreg`.
pub fn set<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [register, value, ..] = *a;
    write(c, register as u32, value)?;
    Ok(0)
}

/// `get_debugreg`.
pub fn get<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [register, ..] = *a;
    Ok(read(c.run, register as u32).ok_or(Errno::ENODEV)? as i64)
}

/// The number that 4 and 5 stand for.
fn resolve(run: &Run, register: u32) -> Option<usize> {
    match register {
        0..=3 | 6 | 7 => Some(register as usize),
        4 | 5 if run.cr4 & CR4_DE == 0 => Some(register as usize + 2),
        _ => None,
    }
}

/// What the guest sees in a debug register.
pub fn read(run: &Run, register: u32) -> Option<u64> {
    let value = run.debug.get(resolve(run, register)?).copied()?;
    // Index 5 keeps the enable bits of I/O breakpoints, which the hardware's DR7 does not have.
    Some(if register | 2 == 7 { value | run.debug[5] } else { value })
}

/// Changes a debug register, and the hardware's.
pub fn write<P: Platform>(c: &mut Caller<'_, P>, register: u32, value: u64) -> Result<(), Stop> {
    admit(c.run, register, value)?;
    c.core.platform.load_debug_registers(c.run);
    Ok(())
}

/// Changes a debug register in the vCPU's state alone.
pub fn admit(run: &mut Run, register: u32, value: u64) -> Result<(), Errno> {
    let register = resolve(run, register).ok_or(Errno::ENODEV)?;
    let value = match register {
        6 if value >> 32 != 0 => return Err(Errno::EINVAL),
        6 => value & !DR6_ZEROS | DR6_DEFAULT,
        7 => {
            let (hardware, io) = admit7(value, run.cr4 & CR4_DE != 0)?;
            run.debug[5] = io;
            hardware
        }
        _ if !(1 << 47..abi::layout::HYPERVISOR_VIRT_END.0).contains(&value) => value,
        _ => return Err(Errno::EPERM),
    };
    if let Some(slot) = run.debug.get_mut(register) {
        *slot = value;
    }
    Ok(())
}

/// DR7 for the hardware, and the enable bits of I/O breakpoints taken out of it.
fn admit7(value: u64, io_allowed: bool) -> Result<(u64, u64), Errno> {
    const ZEROS: u64 = 0xd800;
    const ONES: u64 = 0x400;
    const DETECT: u64 = 0x2000;
    const ENABLES: u64 = 0xff;
    const ON_IO: u64 = 2;
    refuse_if(value >> 32 != 0, Errno::EINVAL)?;
    refuse_if(value & DETECT != 0, Errno::EPERM)?;
    let value = value & !ZEROS | ONES;
    let mut io = 0;
    if value & ENABLES != 0 {
        for n in 0..4 {
            if value >> (16 + 4 * n) & 3 == ON_IO {
                refuse_if(!io_allowed, Errno::EPERM)?;
                io |= value & 3 << (2 * n);
            }
        }
    }
    Ok((value & !io, io))
}
