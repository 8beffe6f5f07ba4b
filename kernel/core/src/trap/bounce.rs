//! The bounce frame.
//!
//! From low to high: rcx, r11, \[ds, es, fs, gs of the failsafe callback\], \[error code\], rip, cs with the saved upcall
//! mask in bits 32-39, rflags, rsp, ss; below a stack pointer aligned to 16 bytes. The frame's IF is the inverse of
//! the saved mask, its IOPL the virtual one where the guest asked for that, its cs has RPL 0 where kernel mode was
//! interrupted.

use zerocopy::IntoBytes;

use super::{Callback, Crash, ENTRY_SYSCALL};
use crate::Core;
use crate::dispatch::Caller;
use crate::platform::Platform;
use abi::Vaddr;
use abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::regs::rflags;

/// VMASST_TYPE_architectural_iopl of xen.h, as a bit.
pub(crate) const ARCHITECTURAL_IOPL: u64 = 1 << 4;

/// An entry into the guest's kernel.
#[derive(Clone, Copy, Debug)]
pub struct Bounce {
    /// Where to.
    pub address: u64,
    /// Mask events?
    pub masks: bool,
    /// The error code in the frame, if any.
    pub error: Option<u32>,
    /// ds, es, fs, gs in the frame of the failsafe callback.
    pub segments: Option<[u64; 4]>,
}

impl Bounce {
    /// To a callback.
    pub fn callback(to: Callback) -> Self {
        Self { address: to.address, masks: to.masks, error: None, segments: None }
    }
}

/// A frame under construction, lowest word first.
struct Frame {
    words: [u64; 12],
    len: usize,
}

impl Frame {
    fn push(&mut self, words: &[u64]) {
        for (slot, word) in self.words.iter_mut().skip(self.len).zip(words) {
            *slot = *word;
        }
        self.len = (self.len + words.len()).min(self.words.len());
    }
}

impl<P: Platform> Core<P> {
    /// Enters the guest's kernel at `b.address`. A guest that has no handler, or no stack that takes the frame, is
    /// crashed.
    pub fn bounce(&self, c: &mut Caller<'_, P>, b: &Bounce) {
        let mut cs = u64::from(c.run.regs.cs);
        let mut sp = c.run.regs.rsp;
        if c.run.kernel_mode {
            cs &= !3;
        } else {
            self.toggle_mode(c.run);
            sp = c.run.kernel_sp;
        }
        let masked = self.upcall_mask(c.vcpu);
        let r = &c.run.regs;
        let mut flags = r.rflags & !(rflags::IF | rflags::IOPL);
        if !masked {
            flags |= rflags::IF;
        }
        if c.domain.assist.load(core::sync::atomic::Ordering::Relaxed) & ARCHITECTURAL_IOPL != 0 {
            flags |= u64::from(c.run.iopl) << 12;
        }
        let mut frame = Frame { words: [0; 12], len: 0 };
        frame.push(&[r.rcx, r.r11]);
        if let Some(segments) = &b.segments {
            frame.push(segments);
        }
        if let Some(error) = b.error {
            frame.push(&[u64::from(error)]);
        }
        frame.push(&[r.rip, cs | u64::from(masked) << 32, flags, r.rsp, u64::from(r.ss)]);

        let words = frame.words.get(..frame.len).unwrap_or(&[]);
        let sp = (sp & !15).wrapping_sub(8 * frame.len as u64);
        let written = c.run.space().ok_or(crate::platform::Fault);
        if written.and_then(|s| self.platform.copy_to_guest(s, Vaddr(sp), words.as_bytes())).is_err() {
            return self.crash(c, Crash::Stack(sp));
        }
        if b.address == 0 {
            return self.crash(c, Crash::NoCallback);
        }
        if b.masks {
            self.set_upcall_mask(c.vcpu, true);
        }
        // The way in is that of SYSRET: rcx and r11, which the frame keeps, hold rip and rflags.
        let r = &mut c.run.regs;
        r.entry_vector |= ENTRY_SYSCALL;
        r.rflags &= !(rflags::AC | rflags::VM | rflags::RF | rflags::NT | rflags::IOPL | rflags::TF);
        r.rflags |= rflags::IF;
        r.rsp = sp;
        r.ss = FLAT_RING3_SS64;
        r.cs = FLAT_RING3_CS64;
        r.rip = b.address;
        r.rcx = r.rip;
        r.r11 = r.rflags;
    }
}
