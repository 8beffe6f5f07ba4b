//! Operands of decoded instructions: general registers of every width, and the flags of arithmetic.

use abi::regs::{CpuUserRegs, rflags};
use iced_x86::{Instruction, OpKind, Register};

/// A general register by its number in an instruction.
pub fn general(r: &mut CpuUserRegs, number: u8) -> &mut u64 {
    match number & 15 {
        0 => &mut r.rax,
        1 => &mut r.rcx,
        2 => &mut r.rdx,
        3 => &mut r.rbx,
        4 => &mut r.rsp,
        5 => &mut r.rbp,
        6 => &mut r.rsi,
        7 => &mut r.rdi,
        8 => &mut r.r8,
        9 => &mut r.r9,
        10 => &mut r.r10,
        11 => &mut r.r11,
        12 => &mut r.r12,
        13 => &mut r.r13,
        14 => &mut r.r14,
        _ => &mut r.r15,
    }
}

/// Bytes of an operand in memory, where they are 1, 2, 4 or 8.
pub fn memory_bytes(i: &Instruction) -> Option<u8> {
    let bytes = i.memory_size().size();
    matches!(bytes, 1 | 2 | 4 | 8).then_some(bytes as u8)
}

/// All ones in `bytes` (1 to 8) bytes.
pub fn mask(bytes: u8) -> u64 {
    // A shift by 64 less so many bits: shifts count modulo 64.
    u64::MAX.wrapping_shr((8 * u32::from(bytes)).wrapping_neg())
}

/// Where a general register is: its number, its lowest bit, its bytes.
fn place(register: Register) -> Option<(u8, u32, u8)> {
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    let number = register.full_register().number();
    register.is_gpr().then(|| (number as u8, if high { 8 } else { 0 }, register.size() as u8))
}

/// What is in a general register.
pub fn get(r: &CpuUserRegs, register: Register) -> Option<u64> {
    let (number, shift, bytes) = place(register)?;
    Some(*general(&mut r.clone(), number) >> shift & mask(bytes))
}

/// Changes a general register; 32 bits clear the upper half, as everywhere.
pub fn set(r: &mut CpuUserRegs, register: Register, value: u64) {
    if let Some((number, shift, bytes)) = place(register) {
        let slot = general(r, number);
        let kept = if bytes == 4 { 0 } else { *slot & !(mask(bytes) << shift) };
        *slot = kept | (value & mask(bytes)) << shift;
    }
}

/// The value of a register or immediate operand.
pub fn source(r: &CpuUserRegs, i: &Instruction, operand: u32) -> Option<u64> {
    match i.try_op_kind(operand).ok()? {
        OpKind::Register => get(r, i.try_op_register(operand).ok()?),
        _ => i.try_immediate(operand).ok(),
    }
}

/// The six arithmetic flags.
pub const ARITHMETIC: u64 = rflags::CF | rflags::PF | rflags::AF | rflags::ZF | rflags::SF | rflags::OF;

/// Flags by a result alone: zero, sign, parity.
pub fn flags_of(result: u64, bytes: u8) -> u64 {
    let result = result & mask(bytes);
    let (negative, ones) = (result >> (8 * u32::from(bytes) - 1) & 1 != 0, (result as u8).count_ones());
    crate::flags([(result == 0, rflags::ZF), (negative, rflags::SF), (ones.is_multiple_of(2), rflags::PF)])
}

/// `a + b`, or `a - b`: the result and its flags.
pub fn add(a: u64, b: u64, bytes: u8, subtract: bool) -> (u64, u64) {
    let mask = mask(bytes);
    let (a, b) = (a & mask, b & mask);
    let result = if subtract { a.wrapping_sub(b) } else { a.wrapping_add(b) } & mask;
    let sign = 8 * u32::from(bytes) - 1;
    let (carry, overflow) = match subtract {
        true => (a < b, (a ^ b) & (a ^ result)),
        false => (result < a, !(a ^ b) & (a ^ result)),
    };
    let half = (a ^ b ^ result) & rflags::AF != 0;
    let carries = crate::flags([(carry, rflags::CF), (overflow >> sign & 1 != 0, rflags::OF), (half, rflags::AF)]);
    (result, flags_of(result, bytes) | carries)
}
