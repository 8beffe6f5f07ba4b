//! Instructions that a guest's ring 3 cannot execute, executed for it.
//!
//! The instruction's bytes are read once. Privileged instructions are those of the guest's kernel mode alone; I/O
//! belongs to whoever has the virtual privilege level for it. What is not emulated is the guest's own #GP.

use abi::layout::FLAT_RING3_CS64;
use abi::trap::vector;
use abi::{PAGE_SIZE, Vaddr};

use crate::trap::Exception;
use crate::{Caller, Core, Platform, segment};

mod control;
mod msr;
mod operand;
mod port;
mod table;
#[cfg(test)]
mod tests;

pub use control::{CR0, CR4_SHOWN};

/// How an emulation ended that did not get to the end of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// To be executed again: it was preempted.
    Again,
    /// It is none that there is on this machine: #UD.
    InvalidOpcode,
    /// Nothing that is emulated: the guest gets the fault that brought it here.
    Refused,
}

/// The bytes of an instruction, read at once: what could be read of 15, one at least.
pub type Code = heapless::Vec<u8, 15>;

/// Makes the decoder ready: it builds its tables (80 KiB) when it is used first, and that is not to be by a guest's fault.
pub fn prepare() {
    let _ = iced_x86::Decoder::new(64, &[0x90], iced_x86::DecoderOptions::NONE).decode();
}

impl<P: Platform> Core<P> {
    /// Reads the instruction at rip, as far as it can be read.
    pub(crate) fn fetch(&self, c: &Caller<'_, P>) -> Option<Code> {
        let space = c.run.space()?;
        let rip = Vaddr(c.run.regs.rip);
        let mut code = Code::from_slice(&[0; 15]).ok()?;
        if self.platform.copy_from_guest(space, rip, &mut code).is_err() {
            // The page behind may not be there: what counts is what this one has.
            code.truncate(PAGE_SIZE - rip.page_offset());
            self.platform.copy_from_guest(space, rip, &mut code).ok()?;
        }
        Some(code)
    }

    /// The descriptor that a selector names in the guest's tables or among the flat ones.
    pub(crate) fn is_long_mode(&self, c: &Caller<'_, P>) -> bool {
        let cs = c.run.regs.cs;
        if cs == FLAT_RING3_CS64 {
            return true;
        }
        let index = usize::from(cs >> 3);
        let (frames, entries): (&[_], u32) = match cs & 4 {
            0 => (&c.run.gdt, c.run.gdt_entries),
            _ => (&c.run.ldt, c.run.ldt_entries),
        };
        let frame = frames.get(index / 512).copied().flatten().filter(|_| (index as u32) < entries);
        frame.is_some_and(|f| segment::is_long_code(crate::guest::load(&self.platform, f, index % 512)))
    }

    /// A #GP without error code: is it an instruction that is emulated? Then it is done.
    pub(crate) fn emulate_privileged(&self, c: &mut Caller<'_, P>) -> bool {
        let Some(code) = self.fetch(c).filter(|_| self.is_long_mode(c)) else { return false };
        let done = match self.emulate_short(c, &code) {
            Err(Undone::Refused) => self.emulate_io(c, &code).ok_or(Undone::Refused),
            done => done,
        };
        self.finish(c, done)
    }

    /// #UD: CPUID by the forced prefix, or the guest's own.
    #[inline(never)]
    pub(crate) fn invalid_opcode(&self, c: &mut Caller<'_, P>) {
        /// `ud2; .ascii "xen"; cpuid`.
        const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];
        if !self.fetch(c).is_some_and(|code| code.starts_with(&FORCED_CPUID)) {
            return self.inject(c, Exception::new(vector::UD));
        }
        self.answer_cpuid(c);
        self.retire(c, FORCED_CPUID.len() as u64);
    }

    fn answer_cpuid(&self, c: &mut Caller<'_, P>) {
        let (leaf, subleaf) = (c.run.regs.rax as u32, c.run.regs.rcx as u32);
        let answer = self.cpuid(c, leaf, subleaf);
        let r = &mut c.run.regs;
        [r.rax, r.rbx, r.rcx, r.rdx] = answer.map(u64::from);
    }

    /// Goes on behind an instruction of so many bytes, or as it ended instead. False if it is none that is emulated.
    #[inline(always)]
    fn finish(&self, c: &mut Caller<'_, P>, done: Result<u64, Undone>) -> bool {
        match done {
            Ok(length) => self.retire(c, length),
            Err(Undone::Again) => {}
            Err(Undone::InvalidOpcode) => self.inject(c, Exception::new(vector::UD)),
            Err(Undone::Refused) => return false,
        }
        true
    }
}
