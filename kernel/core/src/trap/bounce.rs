//! The bounce frame.
//!
//! From low to high: rcx, r11, \[error code; or ds, es, fs, gs of a failsafe\], rip, cs with the saved upcall mask in bits
//! 32-39, rflags, rsp, ss; below a stack pointer aligned to 16 bytes. The frame's IF is the inverse of the saved mask, its
//! IOPL the virtual one where the guest asked for that, its cs has RPL 0 where kernel mode was interrupted.

use zerocopy::IntoBytes;

use super::{Callback, Crash, ENTRY_SYSCALL};
use crate::{Caller, Core, Fault, Platform};
use abi::Vaddr;
use abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::regs::rflags;

/// VMASST_TYPE_architectural_iopl of xen.h, as a bit.
pub(crate) const ARCHITECTURAL_IOPL: u64 = 1 << 4;

impl<P: Platform> Core<P> {
    /// Enters the guest's kernel at a callback, with an error code in the frame or without. A guest that has no
    /// handler, or no stack that takes the frame, is crashed.
    pub fn bounce(&self, c: &mut Caller<'_, P>, to: Callback, error: Option<u32>) {
        let r = &c.run.regs;
        let frame = match error {
            Some(error) => (3, [0, 0, 0, r.rcx, r.r11, error.into()]),
            None => (4, [0, 0, 0, 0, r.rcx, r.r11]),
        };
        self.bounce_by(c, to, frame);
    }

    /// Tells the guest's kernel of selectors that did not load when its vCPU was switched to; they are in its frame.
    #[cold]
    pub fn failsafe(&self, c: &mut Caller<'_, P>) {
        let r = &c.run.regs;
        let [ds, es, fs, gs] = [r.ds, r.es, r.fs, r.gs].map(u64::from);
        self.bounce_by(c, c.run.callbacks.failsafe, (0, [r.rcx, r.r11, ds, es, fs, gs]));
    }

    /// Enters the guest's kernel. The frame's low end is some words less than six, as many as the first says.
    #[inline(always)]
    fn bounce_by(&self, c: &mut Caller<'_, P>, to: Callback, (first, low): (usize, [u64; 6])) {
        let mut cs = u64::from(c.run.regs.cs);
        let mut sp = c.run.regs.rsp;
        if c.run.kernel_mode {
            cs &= !3;
        } else {
            self.toggle_mode(c);
            sp = c.run.kernel_sp;
        }
        let masked = if to.masks { self.set_upcall_mask(c.vcpu, true) } else { self.upcall_mask(c.vcpu) };
        let run = &*c.run;
        let r = &run.regs;
        let mut flags = r.rflags & !(rflags::IF | rflags::IOPL);
        if !masked {
            flags |= rflags::IF;
        }
        if c.domain.assist.load(core::sync::atomic::Ordering::Relaxed) & ARCHITECTURAL_IOPL != 0 {
            flags |= u64::from(run.iopl) << 12;
        }
        cs |= u64::from(masked) << 32;
        let [a, b, d, e, f, g] = low;
        let frame = [a, b, d, e, f, g, r.rip, cs, flags, r.rsp, r.ss.into()];
        let words = frame.get(first..).unwrap_or(&[]);
        let sp = (sp & !15).wrapping_sub(8 * words.len() as u64);
        let written =
            run.space().ok_or(Fault).and_then(|s| self.platform.copy_to_guest(s, Vaddr(sp), words.as_bytes()));
        if written.is_err() {
            return self.crash(c, Crash::Stack(sp));
        }
        if to.address == 0 {
            return self.crash(c, Crash::NoCallback);
        }
        // The way in is that of SYSRET: rcx and r11, which the frame keeps, hold rip and rflags.
        let r = &mut c.run.regs;
        r.entry_vector |= ENTRY_SYSCALL;
        r.rflags &= !(rflags::AC | rflags::VM | rflags::RF | rflags::NT | rflags::IOPL | rflags::TF);
        r.rflags |= rflags::IF;
        r.rsp = sp;
        r.ss = FLAT_RING3_SS64;
        r.cs = FLAT_RING3_CS64;
        r.rip = to.address;
        r.rcx = r.rip;
        r.r11 = r.rflags;
    }
}
