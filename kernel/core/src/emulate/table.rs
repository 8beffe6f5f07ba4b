//! A guest's writes to its own page tables: the trapped instruction is decoded, what it would have stored is computed,
//! and [`Caller::emulate_write`] checks and stores it.

use abi::Vaddr;
use abi::regs::{CpuUserRegs, rflags};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::Outcome;
use super::operand::{self, ARITHMETIC};
use crate::mm::Trapped;
use crate::{Caller, Core, Platform};

/// What an instruction does to its memory operand.
struct Effect {
    /// What it stores.
    stored: u64,
    /// The arithmetic flags that it changes, and to what.
    flags: (u64, u64),
    /// The register that gets a value, if one does.
    loaded: Option<(Register, u64)>,
    /// Does what it stores depend on what is there? Then it must still be.
    reads: bool,
}

/// How often an instruction is tried again whose operand others change meanwhile; then the guest executes it again.
const TRIES: u32 = 8;

impl<P: Platform> Core<P> {
    /// A write of the guest's kernel that a read-only mapping refused: is it one to a page table? Then it is done.
    pub(crate) fn emulate_table_write(&self, c: &mut Caller<'_, P>, address: u64) -> bool {
        if !c.is_page_table(Vaddr(address)) {
            return false;
        }
        let Some(code) = self.fetch(c).filter(|_| self.is_long_mode(c)) else { return false };
        let i = Decoder::with_ip(64, &code, c.run.regs.rip, DecoderOptions::NONE).decode();
        let outcome = self.write_table(c, &i, Vaddr(address)).unwrap_or(Outcome::Refused);
        self.finish(c, outcome)
    }

    fn write_table(&self, c: &mut Caller<'_, P>, i: &Instruction, at: Vaddr) -> Option<Outcome> {
        let bytes = operand::memory_bytes(i).filter(|_| i.op0_kind() == OpKind::Memory)?;
        if !reaches(&c.run.regs, c.run.fs_base, c.run.gs_base_kernel, i, at) {
            return None;
        }
        let mut buffer = [0u8; 8];
        self.platform.copy_from_guest(c.space().ok()?, at, buffer.get_mut(..usize::from(bytes))?).ok()?;
        let mut held = u64::from_le_bytes(buffer);
        for _ in 0..TRIES {
            let effect = effect(&c.run.regs, i, bytes, held)?;
            let old = effect.reads.then_some(held);
            match c.emulate_write(at, bytes, old, effect.stored).ok()? {
                Trapped::Done => {
                    let (changed, flags) = effect.flags;
                    c.run.regs.rflags = c.run.regs.rflags & !changed | flags & changed;
                    if let Some((register, value)) = effect.loaded {
                        operand::set(&mut c.run.regs, register, value);
                    }
                    return Some(Outcome::Done(i.len() as u64));
                }
                Trapped::Changed(now) => held = now,
            }
        }
        Some(Outcome::Again)
    }
}

/// Is `at` the address of the memory operand? (The fault could be that of an access which crosses a page's end.)
fn reaches(r: &CpuUserRegs, fs_base: u64, gs_base: u64, i: &Instruction, at: Vaddr) -> bool {
    let by_register =
        matches!(i.mnemonic(), Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc) && i.op1_kind() == OpKind::Register;
    let computed = i.virtual_address(0, 0, |register, _, _| match register {
        Register::FS => Some(fs_base),
        Register::GS => Some(gs_base),
        Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
        other => operand::get(r, other),
    });
    // A bit number in a register moves the access away from the operand.
    by_register || computed == Some(at.0)
}

/// Computes what an instruction does, given what its operand holds. None: not one that is emulated.
fn effect(r: &CpuUserRegs, i: &Instruction, bytes: u8, held: u64) -> Option<Effect> {
    let simple = |stored, flags, reads| Some(Effect { stored, flags, loaded: None, reads });
    let logic = |stored: u64| simple(stored, (ARITHMETIC, operand::flags_of(stored, bytes)), true);
    let source = || operand::source(r, i, 1);
    match i.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti => simple(source()?, (0, 0), false),
        Mnemonic::And => logic(held & source()?),
        Mnemonic::Or => logic(held | source()?),
        Mnemonic::Xor => logic(held ^ source()?),
        Mnemonic::Not => simple(!held, (0, 0), true),
        Mnemonic::Add | Mnemonic::Sub => {
            let (result, flags) = operand::add(held, source()?, bytes, i.mnemonic() == Mnemonic::Sub);
            simple(result, (ARITHMETIC, flags), true)
        }
        Mnemonic::Inc | Mnemonic::Dec => {
            let (result, flags) = operand::add(held, 1, bytes, i.mnemonic() == Mnemonic::Dec);
            simple(result, (ARITHMETIC & !rflags::CF, flags), true)
        }
        Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            let bit = 1u64 << (source()? & (8 * u64::from(bytes) - 1));
            let stored = match i.mnemonic() {
                Mnemonic::Bts => held | bit,
                Mnemonic::Btr => held & !bit,
                _ => held ^ bit,
            };
            let carry = if held & bit != 0 { rflags::CF } else { 0 };
            simple(stored, (rflags::CF, carry), true)
        }
        Mnemonic::Xchg => {
            let loaded = Some((i.op1_register(), held));
            Some(Effect { stored: source()?, flags: (0, 0), loaded, reads: true })
        }
        Mnemonic::Xadd => {
            let (result, flags) = operand::add(held, source()?, bytes, false);
            let loaded = Some((i.op1_register(), held));
            Some(Effect { stored: result, flags: (ARITHMETIC, flags), loaded, reads: true })
        }
        Mnemonic::Cmpxchg => {
            let (result, flags) = operand::add(r.rax, held, bytes, true);
            let accumulator = [Register::AL, Register::AX, Register::EAX, Register::RAX];
            let accumulator = *accumulator.get(bytes.trailing_zeros() as usize)?;
            let equal = result == 0;
            Some(Effect {
                stored: if equal { source()? } else { held },
                flags: (ARITHMETIC, flags),
                loaded: (!equal).then_some((accumulator, held)),
                reads: true,
            })
        }
        _ => None,
    }
}
