//! Operands: registers of every width, and the flags of arithmetic.

use abi::regs::{CpuUserRegs, rflags};
use iced_x86::Register;

use super::super::operand::{add, general, get, mask, set};
use super::ordinary;

/// The registers by the numbers that instructions give them.
fn numbered(r: &CpuUserRegs) -> [u64; 16] {
    let low = [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi];
    let high = [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    core::array::from_fn(|n| if n < 8 { low[n] } else { high[n - 8] })
}

/// Registers that all differ, in each of their bytes.
fn distinct() -> CpuUserRegs {
    let mut r = CpuUserRegs::default();
    (0..16).for_each(|n| *general(&mut r, n) = 0x0123_4567_89ab_cdef_u64.wrapping_mul(2 * u64::from(n) + 1));
    r
}

#[test]
fn an_instruction_reaches_every_register_by_its_number() {
    for n in 0..16u8 {
        // mov %cr0,%rN
        let s = ordinary();
        let before = numbered(&s.regs());
        assert!(s.privileged(&[0x40 | n >> 3, 0x0f, 0x20, 0xc0 | n & 7], |_| ()));
        let mut expected = before;
        expected[usize::from(n)] = 0x8005_0033;
        assert_eq!(numbered(&s.regs()), expected, "{n}");
    }
}

#[test]
fn registers_of_every_width_are_part_of_those_of_64_bits() {
    use Register::{AH, AL, AX, EAX, RAX, SPL};
    // The first of so many registers; the number of the one it is part of, and its lowest bit and bytes there.
    for (first, count, number, shift, bytes) in [
        (AL, 4, 0, 0, 1),
        (AH, 4, 0, 8, 1),
        (SPL, 12, 4, 0, 1),
        (AX, 16, 0, 0, 2),
        (EAX, 16, 0, 0, 4),
        (RAX, 16, 0, 0, 8),
    ] {
        for n in 0..count {
            let (register, at) = (first + n, (number + n) as usize);
            let mut r = distinct();
            let before = numbered(&r);
            assert_eq!(get(&r, register), Some(before[at] >> shift & mask(bytes)), "{register:?}");
            set(&mut r, register, 0xfedc_ba98_7654_3210);
            let part = mask(bytes) << shift;
            let kept = if bytes == 4 { 0 } else { before[at] & !part };
            let mut expected = before;
            expected[at] = kept | 0xfedc_ba98_7654_3210 << shift & part;
            assert_eq!(numbered(&r), expected, "{register:?}");
        }
    }
    for other in [Register::None, Register::XMM0, Register::RIP, Register::ES, Register::CR0] {
        let mut r = distinct();
        assert_eq!(get(&r, other), None);
        set(&mut r, other, 1);
        assert_eq!(numbered(&r), numbered(&distinct()), "{other:?}");
    }
}

/// Arithmetic and its flags, against arithmetic that has room for every result.
fn check(a: u64, b: u64, bytes: u8, subtract: bool) {
    let bits = 8 * u32::from(bytes);
    let (a, b) = (a & mask(bytes), b & mask(bytes));
    let (result, flags) = add(a, b, bytes, subtract);
    let signed = |v: u64| i128::from((v << (64 - bits)) as i64 >> (64 - bits));
    let (wide, wide_signed) = match subtract {
        true => (i128::from(a) - i128::from(b), signed(a) - signed(b)),
        false => (i128::from(a) + i128::from(b), signed(a) + signed(b)),
    };
    let nibble = if subtract { (a & 15) < (b & 15) } else { (a & 15) + (b & 15) > 15 };
    assert_eq!(result, wide as u64 & mask(bytes));
    for (flag, expected) in [
        (rflags::CF, wide < 0 || wide > i128::from(mask(bytes))),
        (rflags::PF, (0..8).filter(|bit| result >> bit & 1 != 0).count() % 2 == 0),
        (rflags::AF, nibble),
        (rflags::ZF, result == 0),
        (rflags::SF, signed(result) < 0),
        (rflags::OF, signed(result) != wide_signed),
    ] {
        assert_eq!(flags & flag != 0, expected, "flag {flag:#x} of {a:#x}, {b:#x}, {bytes}, {subtract}");
    }
}

#[test]
fn flags_are_those_of_the_architecture() {
    for subtract in [false, true] {
        for (a, b) in (0..256).flat_map(|a| (0..256).map(move |b| (a, b))) {
            check(a, b, 1, subtract);
        }
        for bytes in [2, 4, 8] {
            let top = 1 << (8 * bytes - 1);
            let edges = [0, 1, 0xf, 0x10, 0xff, top - 1, top, top + 1, mask(bytes) - 1, mask(bytes)];
            edges.iter().for_each(|a| edges.iter().for_each(|b| check(*a, *b, bytes, subtract)));
        }
    }
}
