//! A guest's writes to its own page tables: the trapped instruction is decoded, what it would have stored is computed,
//! and [`Caller::emulate_write`] checks and stores it.

use abi::Vaddr;
use abi::regs::{CpuUserRegs, rflags};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::Undone;
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
        let done = self.write_table(c, &i, Vaddr(address)).unwrap_or(Err(Undone::Refused));
        self.finish(c, done)
    }

    fn write_table(&self, c: &mut Caller<'_, P>, i: &Instruction, at: Vaddr) -> Option<Result<u64, Undone>> {
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
                    return Some(Ok(i.len() as u64));
                }
                Trapped::Changed(now) => held = now,
            }
        }
        Some(Err(Undone::Again))
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
    let source = || operand::source(r, i, 1);
    let exchanged = Some((i.op1_register(), held));
    let simple = |stored, flags| Effect { stored, flags, loaded: None, reads: true };
    let logic = |stored| simple(stored, (ARITHMETIC, operand::flags_of(stored, bytes)));
    let sum = |by, subtract, changed| {
        let (result, flags) = operand::add(held, by, bytes, subtract);
        simple(result, (changed, flags))
    };
    Some(match i.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti => Effect { reads: false, ..simple(source()?, (0, 0)) },
        Mnemonic::And => logic(held & source()?),
        Mnemonic::Or => logic(held | source()?),
        Mnemonic::Xor => logic(held ^ source()?),
        Mnemonic::Not => simple(!held, (0, 0)),
        Mnemonic::Add => sum(source()?, false, ARITHMETIC),
        Mnemonic::Sub => sum(source()?, true, ARITHMETIC),
        Mnemonic::Inc => sum(1, false, ARITHMETIC & !rflags::CF),
        Mnemonic::Dec => sum(1, true, ARITHMETIC & !rflags::CF),
        Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            let bit = 1u64 << (source()? & (8 * u64::from(bytes) - 1));
            let stored = match i.mnemonic() {
                Mnemonic::Bts => held | bit,
                Mnemonic::Btr => held & !bit,
                _ => held ^ bit,
            };
            let carry = if held & bit != 0 { rflags::CF } else { 0 };
            simple(stored, (rflags::CF, carry))
        }
        Mnemonic::Xchg => Effect { loaded: exchanged, ..simple(source()?, (0, 0)) },
        Mnemonic::Xadd => Effect { loaded: exchanged, ..sum(source()?, false, ARITHMETIC) },
        Mnemonic::Cmpxchg => {
            let (difference, flags) = operand::add(r.rax, held, bytes, true);
            let accumulator = [Register::AL, Register::AX, Register::EAX, Register::RAX];
            let accumulator = *accumulator.get(bytes.trailing_zeros() as usize)?;
            match difference {
                0 => simple(source()?, (ARITHMETIC, flags)),
                _ => Effect { loaded: Some((accumulator, held)), ..simple(held, (ARITHMETIC, flags)) },
            }
        }
        _ => return None,
    })
}
