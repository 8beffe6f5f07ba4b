//! `iret` (23): goes back to where a bounce frame came from, in kernel or user mode.
//!
//! - Arguments: none in registers. On the stack, from rsp: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss.
//! - Returns: not. All registers named in the frame are replaced; r11 and rcx are left for SYSRET's own use where
//!   flags has `VGCF_in_syscall`. An RPL of 3 in cs means user mode. RPL 3 is forced on cs and ss, the upcall mask
//!   becomes the inverse of the frame's IF, and an NMI may be delivered again.
//! - Faults: none. A frame that cannot be read, or user mode without a user page table, crashes the domain.
//! - Notes: under `VMASST_TYPE_architectural_iopl` the frame's IOPL becomes the virtual one.
//! - Source: `arch-x86/xen-x86_64.h`.

use crate::trap::{ARCHITECTURAL_IOPL, Crash, ENTRY_SYSCALL};
use crate::{Args, Caller, HcResult, Platform, Stop};
use abi::regs::{IretContext, rflags};
use core::sync::atomic::Ordering;
use zerocopy::FromZeros;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, _: &mut Args) -> HcResult {
    let sp = c.run.regs.rsp;
    let mut frame = IretContext::new_zeroed();
    if c.get_to(sp, &mut frame).is_err() {
        c.core.crash(c, Crash::IretFrame(sp));
        return Err(Stop::REPLACED);
    }
    if frame.cs & 3 == 3 {
        if c.run.user_root.is_none() {
            c.core.crash(c, Crash::NoUserRoot);
            return Err(Stop::REPLACED);
        }
        c.core.toggle_mode(c);
    }
    if c.domain.assist.load(Ordering::Relaxed) & ARCHITECTURAL_IOPL != 0 {
        c.run.iopl = (frame.rflags >> 12 & 3) as u8;
    }
    let r = &mut c.run.regs;
    r.rax = frame.rax;
    r.rip = frame.rip;
    r.cs = frame.cs as u16 | 3;
    r.rflags = frame.rflags & !(rflags::IOPL | rflags::VM) | rflags::IF;
    r.rsp = frame.rsp;
    r.ss = frame.ss as u16 | 3;
    if frame.flags & IretContext::IN_SYSCALL == 0 {
        r.entry_vector &= !ENTRY_SYSCALL;
        r.r11 = frame.r11;
        r.rcx = frame.rcx;
    } else {
        r.rcx = r.rip;
        r.r11 = r.rflags;
    }
    c.run.callbacks.in_nmi = false;
    c.core.set_upcall_mask(c.vcpu, frame.rflags & rflags::IF == 0);
    Err(Stop::REPLACED)
}
