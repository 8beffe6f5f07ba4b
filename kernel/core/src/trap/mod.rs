//! Exceptions, system calls and events, and how they reach a guest.
//!
//! A guest kernel runs in ring 3 and has no IDT. It registers handlers ([`TrapTable`], [`Callbacks`]), and the core
//! enters them by a bounce frame on the guest's kernel stack ([`bounce`]). Before an exception is bounced the core
//! looks whether it is one that it emulates instead: a write to a page table, a privileged instruction, a software
//! interrupt, CPUID by the forced prefix ([`crate::emulate`]).

mod bounce;
mod crash;
#[cfg(test)]
mod tests;

use core::sync::atomic::Ordering::Relaxed;

use crate::hypercall::fpu_taskswitch;
use crate::{Caller, Core, Platform, Vcpu};
use abi::Vaddr;
use abi::layout::{FLAT_RING3_CS32, FLAT_RING3_SS64};
use abi::regs::rflags;
use abi::trap::{TrapInfo, fault, vector};
pub(crate) use bounce::ARCHITECTURAL_IOPL;
pub use crash::Crash;

/// CR0.TS.
pub const CR0_TS: u64 = 8;
/// DR6 when nothing has happened: the bits that are always one.
pub const DR6_DEFAULT: u64 = 0xffff_0ff0;
/// In `entry_vector`: the vCPU may be resumed by SYSRET, rcx and r11 hold no more than rip and rflags.
pub const ENTRY_SYSCALL: u32 = 0x100;

/// A guest's trap table: a handler for each vector.
pub struct TrapTable([TrapInfo; 256]);

impl Default for TrapTable {
    /// No handlers.
    fn default() -> Self {
        Self([TrapInfo::default(); 256])
    }
}

impl TrapTable {
    /// The handler of a vector.
    pub fn get(&self, vector: u8) -> TrapInfo {
        self.0[usize::from(vector)]
    }

    /// Replaces the handler of the vector that `info` names.
    pub fn set(&mut self, info: TrapInfo) {
        self.0[usize::from(info.vector)] = info;
    }
}

/// A callback: where, and whether events are masked on entry. Address 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callback {
    /// Where it is. Canonical.
    pub address: u64,
    /// Are events masked on entry?
    pub masks: bool,
}

/// A guest's callbacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// Event delivery; always masks events.
    pub event: Callback,
    /// Guest state that could not be restored.
    pub failsafe: Callback,
    /// SYSCALL from 64-bit user mode.
    pub syscall: Callback,
    /// SYSCALL from 32-bit code; without it that is an invalid opcode.
    pub syscall32: Callback,
    /// SYSENTER.
    pub sysenter: Callback,
    /// An NMI handler runs and has not yet returned by `iret`.
    pub in_nmi: bool,
}

/// What is delivered to a guest's handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code, where the vector has one.
    pub error: Option<u32>,
    /// The faulting address of a page fault.
    pub address: u64,
}

impl Exception {
    /// One without an error code.
    pub const fn new(vector: u8) -> Self {
        Self { vector, error: None, address: 0 }
    }

    /// A general-protection fault.
    pub const fn protection(error: u32) -> Self {
        Self { vector: vector::GP, error: Some(error), address: 0 }
    }
}

impl<P: Platform> Core<P> {
    /// Everything that the hardware raised while a guest ran, and everything its own IRETQ raised with the guest's
    /// frame in place: mends, emulates, or bounces to the guest.
    ///
    /// `extra` is CR2 for a page fault, DR6 for a debug trap, else 0.
    pub fn exception(&self, c: &mut Caller<'_, P>, vector: u8, error: u32, extra: u64) {
        match vector {
            vector::PF => self.page_fault(c, error, extra),
            vector::GP => self.general_protection(c, error),
            vector::UD => self.invalid_opcode(c),
            vector::NM => self.device_not_available(c),
            vector::DB => {
                let seen = &mut c.run.debug[6];
                *seen = (*seen | (extra & !DR6_DEFAULT)) & (extra | !DR6_DEFAULT);
                self.inject(c, Exception::new(vector::DB));
            }
            _ => {
                let error = vector::has_error_code(vector).then_some(error);
                self.inject(c, Exception { vector, error, address: 0 });
            }
        }
    }

    #[inline(never)]
    fn page_fault(&self, c: &mut Caller<'_, P>, error: u32, address: u64) {
        let write = error & !fault::USER == fault::PRESENT | fault::WRITE;
        if c.run.kernel_mode && write && self.emulate_table_write(c, address) {
            return;
        }
        // The guest's LDT is mapped where it is used. Its own tables decide whether that can be.
        let address = match self.platform.ldt_offset(address).filter(|_| error & fault::USER == 0) {
            Some(offset) if c.map_ldt(offset) => return,
            Some(offset) => c.run.ldt_base.wrapping_add(offset),
            None => address,
        };
        self.inject(c, Exception { vector: vector::PF, error: Some(error), address });
    }

    /// `int n` traps with the vector in the error code, since no gate of the hardware's table may be used from
    /// ring 3 but those of int3 and into.
    #[inline(never)]
    fn general_protection(&self, c: &mut Caller<'_, P>, error: u32) {
        // The bits EXT and IDT.
        if error & 3 == 2 {
            let vector = (error >> 3) as u8;
            let needed = if c.run.kernel_mode { 1 } else { 3 };
            if c.run.traps.get(vector).dpl() >= needed {
                c.run.regs.rip = c.run.regs.rip.wrapping_add(2);
                return self.inject(c, Exception::new(vector));
            }
        }
        if error == 0 && (self.emulate_privileged(c) || self.sysenter(c)) {
            return;
        }
        self.inject(c, Exception::protection(error));
    }

    /// `int n` through a gate that the hardware let ring 3 use: rip is behind it. One that has no handler, whatever its
    /// privilege, is the protection fault that it would have been on a gate of privilege 0.
    pub fn software_interrupt(&self, c: &mut Caller<'_, P>, vector: u8) {
        if c.run.traps.get(vector).address != Vaddr::NULL {
            return self.inject(c, Exception::new(vector));
        }
        c.run.regs.rip = c.run.regs.rip.wrapping_sub(2);
        self.general_protection(c, u32::from(vector) << 3 | 2);
    }

    fn device_not_available(&self, c: &mut Caller<'_, P>) {
        let wanted = c.run.cr0 & CR0_TS != 0;
        fpu_taskswitch::switch(c, false);
        if wanted {
            self.inject(c, Exception::new(vector::NM));
        }
    }

    /// Bounces an exception to the guest's handler. Without one the domain crashes.
    pub fn inject(&self, c: &mut Caller<'_, P>, e: Exception) {
        let gate = c.run.traps.get(e.vector);
        let mut error = e.error;
        if e.vector == vector::PF {
            // The hardware saw ring 3 in either mode; the guest is told its own.
            let user = if c.run.kernel_mode { 0 } else { fault::USER };
            error = error.map(|bits| bits & !fault::USER | user);
            self.set_cr2(c, e.address);
        }
        if gate.address == Vaddr::NULL {
            return self.crash(c, Crash::Unhandled(e));
        }
        self.bounce(c, Callback { address: gate.address.0, masks: gate.masks_events() }, error);
    }

    /// A guest's user mode executed SYSCALL, or 32-bit code in either mode. `regs` hold rip behind it, and the 32-bit
    /// selector if it was such code.
    pub fn syscall_from_user(&self, c: &mut Caller<'_, P>) {
        let Callbacks { syscall, syscall32, .. } = c.run.callbacks;
        // Events are masked as for 64-bit code, as Xen does it.
        let compat = c.run.regs.cs == FLAT_RING3_CS32;
        let callback = if compat { Callback { masks: syscall.masks, ..syscall32 } } else { syscall };
        if callback.address == 0 {
            c.run.regs.rip = c.run.regs.rip.wrapping_sub(2);
            return self.inject(c, Exception::new(vector::UD));
        }
        self.bounce(c, callback, None);
        c.run.regs.rflags &= !rflags::DF;
        c.run.regs.r11 = c.run.regs.rflags;
    }

    /// SYSENTER, which the core leaves to fault: the guest's callback hears of it as if the processor had entered ring 0,
    /// which forgets where it was; without one it is a protection fault from there.
    fn sysenter(&self, c: &mut Caller<'_, P>) -> bool {
        let taken = self.fetch(c).is_some_and(|code| code.starts_with(&[0x0f, 0x34]));
        if taken {
            let r = &mut c.run.regs;
            (r.rip, r.cs, r.rsp, r.ss) = (0, 3, 0, FLAT_RING3_SS64);
            match c.run.callbacks.sysenter {
                Callback { address: 0, .. } => self.inject(c, Exception::protection(0)),
                callback => self.bounce(c, callback, None),
            }
        }
        taken
    }

    /// Is there something to tell the guest before it goes on?
    pub fn has_news(&self, vcpu: &Vcpu<P>) -> bool {
        self.upcall_due(vcpu) || vcpu.sched.nmi.load(Relaxed)
    }

    /// An NMI or an upcall that is due becomes a bounce frame.
    ///
    /// Whether the address that the guest goes on at is canonical (lesson 15) is looked at by the very last
    /// instructions: no SYSRET meets one that is not, and the fault of an IRETQ becomes the guest's.
    #[inline(never)]
    pub fn deliver_news(&self, c: &mut Caller<'_, P>) {
        if !c.run.callbacks.in_nmi && c.vcpu.sched.nmi.swap(false, Relaxed) {
            let gate = c.run.traps.get(vector::NMI);
            if gate.address != Vaddr::NULL {
                c.run.callbacks.in_nmi = true;
                self.bounce(c, Callback { address: gate.address.0, masks: gate.masks_events() }, None);
            }
        }
        if self.upcall_due(c.vcpu) {
            self.bounce(c, Callback { masks: true, ..c.run.callbacks.event }, None);
        }
    }

    /// The IRETQ to the guest faulted: what it wants to go on with cannot be loaded. It is told as if it had faulted
    /// itself, with its own frame as it stands; `address` is CR2.
    pub fn failed_return(&self, c: &mut Caller<'_, P>, vector: u8, error: u32, address: u64) {
        if error == 0 && vector == vector::GP {
            // No instruction of the guest's is at fault: there is nothing to emulate.
            return self.inject(c, Exception::protection(0));
        }
        self.exception(c, vector, error, address);
    }

    /// Moves between kernel and user mode: the GS base and the page table go along.
    pub fn toggle_mode(&self, c: &mut Caller<'_, P>) {
        self.platform.swap_gs(c.run);
        c.run.kernel_mode = !c.run.kernel_mode;
        c.run.hardware_root = c.run.root();
        self.load_root(c.cpu, c.run);
    }

    /// An emulated instruction of `length` bytes is done: goes on behind it, or steps.
    pub(crate) fn retire(&self, c: &mut Caller<'_, P>, length: u64) {
        const DR6_STEP: u64 = 1 << 14;
        let r = &mut c.run.regs;
        r.rip = r.rip.wrapping_add(length);
        r.rflags &= !rflags::RF;
        if r.rflags & rflags::TF != 0 {
            c.run.debug[6] |= DR6_STEP | DR6_DEFAULT;
            self.inject(c, Exception::new(vector::DB));
        }
    }

    /// Writes the guest's CR2, which is in its `vcpu_info`.
    pub(crate) fn set_cr2(&self, c: &Caller<'_, P>, value: u64) {
        let (frame, at) = c.vcpu.info.get();
        crate::guest::store(&self.platform, frame, at + crate::event::layout::CR2, value);
    }

    /// Reads the guest's CR2.
    pub(crate) fn cr2(&self, c: &Caller<'_, P>) -> u64 {
        let (frame, at) = c.vcpu.info.get();
        crate::guest::load(&self.platform, frame, at + crate::event::layout::CR2)
    }
}
