//! Control and debug registers, MSRs, and the rest that needs no operand decoding: two opcode bytes and a ModRM of two
//! registers.

use super::Undone;
use super::operand::general;
use crate::cpuid::CR4_OSXSAVE;
use crate::hypercall::{debugreg, fpu_taskswitch};
use crate::trap::CR0_TS;
use crate::{Caller, Core, Platform, Stop, refuse_if};
use abi::regs::msr;

/// CR0 as every guest sees it: PE, MP, ET, NE, WP, AM, PG.
pub const CR0: u64 = 0x8005_0033;
/// CR4 bits that a guest always sees: PAE, MCE, OSFXSR, OSXMMEXCPT.
pub const CR4_SHOWN: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;

impl<P: Platform> Core<P> {
    /// The instructions that are worth no decoder. Of the guest's kernel mode alone. Returns their length.
    pub(super) fn emulate_short(&self, c: &mut Caller<'_, P>, code: &[u8]) -> Result<u64, Undone> {
        refuse_if(!c.run.kernel_mode, Undone::Refused)?;
        // REX only extends the register numbers here: operands are 64 bits wide anyway.
        let (rex, code) = match code {
            [rex @ 0x40..=0x4f, code @ ..] => (*rex, code),
            _ => (0, code),
        };
        let (prefix, register) = (u64::from(rex != 0), c.run.regs.rcx as u32);
        match *code {
            [0x0f, 0x30, ..] => self.write_msr(c, register)?,
            [0x0f, 0x31, ..] => self.read_msr(c, msr::TSC)?,
            [0x0f, 0x32, ..] => self.read_msr(c, register)?,
            [0x0f, opcode @ 0x20..=0x23, modrm, ..] => {
                // The upper two bits of ModRM are ignored: both operands are registers.
                let special = modrm >> 3 & 7 | (rex & 4) << 1;
                let number = modrm & 7 | (rex & 1) << 3;
                self.move_special(c, opcode, special, number)?;
                return Ok(prefix + 3);
            }
            [0x0f, 0x06, ..] => fpu_taskswitch::switch(c, false),
            // WBINVD: guests' memory is write-back only. INVD would lose data, and is refused.
            [0x0f, 0x09, ..] => {}
            [0x0f, 0xa2, ..] => self.answer_cpuid(c),
            // CLI and STI, where the virtual IOPL allows them: events are masked in vcpu_info alone.
            [0xfa | 0xfb, ..] if self.has_iopl(c) => return Ok(prefix + 1),
            [0x0f, 0x01, 0xd1, ..] => {
                self.set_xcr(c, register)?;
                return Ok(prefix + 3);
            }
            _ => return Err(Undone::Refused),
        }
        Ok(prefix + 2)
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

    /// MOV to and from control and debug registers.
    fn move_special(&self, c: &mut Caller<'_, P>, opcode: u8, special: u8, number: u8) -> Result<(), Undone> {
        let given = *general(&mut c.run.regs, number);
        let value = match (opcode, special) {
            (0x20, 0) => CR0 | c.run.cr0 & CR0_TS,
            (0x20, 2) => self.cr2(c),
            (0x20, 3) => c.run.kernel_root.map_or(0, |f| f.mfn().0 << abi::PAGE_SHIFT),
            (0x20, 4) => c.run.cr4 | CR4_SHOWN,
            (0x21, _) => debugreg::read(c.run, special.into()).ok_or(Undone::InvalidOpcode)?,
            (0x22, _) => return self.write_control(c, special, given),
            (0x23, _) => return debugreg::write(c, special.into(), given).map_err(|_| Undone::Refused),
            _ => return Err(Undone::Refused),
        };
        *general(&mut c.run.regs, number) = value;
        Ok(())
    }

    fn write_control(&self, c: &mut Caller<'_, P>, number: u8, value: u64) -> Result<(), Undone> {
        match number {
            0 if (value ^ CR0) & !CR0_TS == 0 => fpu_taskswitch::switch(c, value & CR0_TS != 0),
            2 => self.set_cr2(c, value),
            3 => {
                let set = self.mm(c.domain).new_baseptr(c.cpu, c.run, abi::Mfn(value >> abi::PAGE_SHIFT));
                set.map_err(|stop| if stop == Stop::PREEMPTED { Undone::Again } else { Undone::Refused })?;
            }
            4 => {
                c.run.cr4 = self.admit_cr4(value);
                self.platform.load_control(c.run);
            }
            _ => return Err(Undone::Refused),
        }
        Ok(())
    }

    /// What becomes of a CR4 value: the bits that are the guest's own and that the CPU has.
    pub fn admit_cr4(&self, value: u64) -> u64 {
        let [_, structured, _, _] = self.platform.cpuid(7, 0);
        let xsave = if self.platform.xcr0_offered() != 0 { CR4_OSXSAVE } else { 0 };
        let fsgsbase = u64::from(structured & 1) << 16;
        value & (1 << 2 | 1 << 3 | xsave | fsgsbase)
    }

    /// XSETBV of XCR0, with what is shown of it: x87 is always on, AVX needs SSE, AVX-512 comes whole and needs AVX.
    fn set_xcr(&self, c: &mut Caller<'_, P>, register: u32) -> Result<(), Undone> {
        let value = c.run.regs.rdx << 32 | c.run.regs.rax & 0xffff_ffff;
        refuse_if(c.run.cr4 & CR4_OSXSAVE == 0, Undone::InvalidOpcode)?;
        let fit = matches!(value, 1 | 3 | 7 | 0xe7) && value & !self.platform.xcr0_offered() == 0;
        refuse_if(register != 0 || !fit, Undone::Refused)?;
        self.platform.set_xcr0(value);
        c.run.xcr0 = value;
        Ok(())
    }
}
