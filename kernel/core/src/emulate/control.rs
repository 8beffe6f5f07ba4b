//! Control and debug registers, MSRs, and the rest that needs no operand decoding: two opcode bytes and a ModRM of two
//! registers.

use super::Outcome;
use super::operand::general;
use crate::hypercall::{debugreg, fpu_taskswitch};
use crate::trap::{CR0_TS, Exception};
use crate::{Caller, Core, Platform, Stop};
use abi::trap::vector;

/// CR0 as every guest sees it: PE, MP, ET, NE, WP, AM, PG.
pub const CR0: u64 = 0x8005_0033;
/// CR4 bits that a guest always sees: PAE, MCE, OSFXSR, OSXMMEXCPT.
pub const CR4_SHOWN: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
impl<P: Platform> Core<P> {
    /// The instructions that are worth no decoder. Of the guest's kernel mode alone.
    pub(super) fn emulate_short(&self, c: &mut Caller<'_, P>, code: &[u8]) -> Outcome {
        if !c.run.kernel_mode {
            return Outcome::Refused;
        }
        // REX only extends the register numbers here: operands are 64 bits wide anyway.
        let (rex, code) = match code {
            [rex @ 0x40..=0x4f, code @ ..] => (*rex, code),
            _ => (0, code),
        };
        let prefix = u64::from(rex != 0);
        match *code {
            [0x0f, 0x30, ..] => self.write_msr(c, prefix + 2),
            [0x0f, 0x32, ..] => self.read_msr(c, prefix + 2),
            [0x0f, opcode @ 0x20..=0x23, modrm, ..] => {
                // The upper two bits of ModRM are ignored: both operands are registers.
                let special = modrm >> 3 & 7 | (rex & 4) << 1;
                let number = modrm & 7 | (rex & 1) << 3;
                self.move_special(c, opcode, special, number).unwrap_or(Outcome::Done(prefix + 3))
            }
            [0x0f, 0x06, ..] => {
                fpu_taskswitch::switch(c, false);
                Outcome::Done(prefix + 2)
            }
            // WBINVD: guests' memory is write-back only. INVD would lose data, and is refused.
            [0x0f, 0x09, ..] => Outcome::Done(prefix + 2),
            // CLI and STI, where the virtual IOPL allows them: events are masked in vcpu_info alone.
            [0xfa | 0xfb, ..] if self.has_iopl(c) => Outcome::Done(prefix + 1),
            [0x0f, 0xa2, ..] => {
                self.answer_cpuid(c);
                Outcome::Done(prefix + 2)
            }
            [0x0f, 0x31, ..] => {
                let tsc = self.platform.tsc();
                (c.run.regs.rax, c.run.regs.rdx) = (tsc & 0xffff_ffff, tsc >> 32);
                Outcome::Done(prefix + 2)
            }
            [0x0f, 0x01, 0xd1, ..] => self.set_xcr(c, prefix + 3),
            _ => Outcome::Refused,
        }
    }

    /// Is the virtual I/O privilege level enough for the mode the guest is in?
    pub(super) fn has_iopl(&self, c: &Caller<'_, P>) -> bool {
        let architectural =
            c.domain.assist.load(core::sync::atomic::Ordering::Relaxed) & crate::trap::ARCHITECTURAL_IOPL;
        let needed = match (c.run.kernel_mode, architectural != 0) {
            (false, _) => 3,
            (true, false) => 1,
            (true, true) => 0,
        };
        c.run.iopl >= needed
    }

    /// MOV to and from control and debug registers. None: done, go on behind it.
    fn move_special(&self, c: &mut Caller<'_, P>, opcode: u8, special: u8, number: u8) -> Option<Outcome> {
        let given = *general(&mut c.run.regs, number);
        match opcode {
            0x20 => {
                let value = match special {
                    0 => CR0 | c.run.cr0 & CR0_TS,
                    2 => self.cr2(c),
                    3 => c.run.kernel_root.map_or(0, |f| f.mfn().0 << abi::PAGE_SHIFT),
                    4 => c.run.cr4 | CR4_SHOWN,
                    _ => return Some(Outcome::Refused),
                };
                *general(&mut c.run.regs, number) = value;
            }
            0x21 => match debugreg::read(c.run, u32::from(special)) {
                Some(value) => *general(&mut c.run.regs, number) = value,
                None => return Some(Outcome::Raise(Exception::new(vector::UD))),
            },
            0x22 => return self.write_control(c, special, given),
            _ => return debugreg::write(c, u32::from(special), given).err().map(|_| Outcome::Refused),
        }
        None
    }

    fn write_control(&self, c: &mut Caller<'_, P>, number: u8, value: u64) -> Option<Outcome> {
        match number {
            0 if (value ^ CR0) & !CR0_TS == 0 => fpu_taskswitch::switch(c, value & CR0_TS != 0),
            2 => self.set_cr2(c, value),
            3 => match self.mm(c.domain).new_baseptr(c.cpu, c.run, abi::Mfn(value >> abi::PAGE_SHIFT)) {
                Ok(()) => {}
                Err(Stop::Preempted) => return Some(Outcome::Again),
                Err(_) => return Some(Outcome::Refused),
            },
            4 => {
                c.run.cr4 = self.admit_cr4(value);
                self.platform.load_control(c.run);
            }
            _ => return Some(Outcome::Refused),
        }
        None
    }

    /// What becomes of a CR4 value: the bits that are the guest's own and that the CPU has.
    pub fn admit_cr4(&self, value: u64) -> u64 {
        let [_, structured, _, _] = self.platform.cpuid(7, 0);
        let xsave = if self.platform.xcr0_offered() != 0 { 1 << 18 } else { 0 };
        let fsgsbase = u64::from(structured & 1) << 16;
        value & (1 << 2 | 1 << 3 | xsave | fsgsbase)
    }

    /// XSETBV of XCR0, with what is shown of it.
    fn set_xcr(&self, c: &mut Caller<'_, P>, length: u64) -> Outcome {
        let r = &c.run.regs;
        let value = r.rdx << 32 | r.rax & 0xffff_ffff;
        if c.run.cr4 & 1 << 18 == 0 {
            return Outcome::Raise(Exception::new(vector::UD));
        }
        if r.rcx as u32 != 0 || value & !self.platform.xcr0_offered() != 0 || !is_xcr0(value) {
            return Outcome::Refused;
        }
        self.platform.set_xcr0(value);
        c.run.xcr0 = value;
        Outcome::Done(length)
    }
}

/// Does the architecture allow this XCR0? x87 is always on, AVX needs SSE, AVX-512 comes whole and needs AVX.
fn is_xcr0(value: u64) -> bool {
    const AVX_512: u64 = 0xe0;
    let (avx, avx_512) = (value & 4 != 0, value & AVX_512);
    value & 1 != 0 && (!avx || value & 2 != 0) && (avx_512 == 0 || avx_512 == AVX_512 && avx)
}
