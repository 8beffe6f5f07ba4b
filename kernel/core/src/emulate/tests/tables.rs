//! Trapped writes to page tables.

use abi::Pte;
use abi::regs::{CpuUserRegs, rflags};
use abi::trap::vector;

use super::{CODE, HANDLER, Setup, TABLE, ordinary};
use crate::guest;
use crate::mm::PageType;
use crate::testing::{self, WRITABLE};

/// Executes an instruction that writes entry 8 of the guest's L1, which is empty, through the read-only mapping.
/// Returns the entry, and the registers if it was emulated.
fn write_entry(code: &[u8], before: u64, set: impl FnOnce(&Setup, &mut CpuUserRegs)) -> (u64, Option<CpuUserRegs>) {
    let s = ordinary();
    let word = |s: &Setup| guest::load(&s.core.platform, s.guest.tables[0], 8);
    if before != 0 {
        s.guest.map(&s.core, 8, Pte(before | s.guest.frames[0].mfn().0 << 12)).unwrap();
    }
    let at = s.guest.va(TABLE).0 + 8 * 8;
    s.guest.poke(&s.core, CODE, 0x100, code);
    let rip = s.guest.va(CODE).0 + 0x100;
    let done = s.with(|c| {
        c.run.regs.rip = rip;
        c.run.regs.rdi = at;
        set(&s, &mut c.run.regs);
        c.core.exception(c, vector::PF, 3 | 4, at);
        (c.run.regs.rip == rip + code.len() as u64).then_some(c.run.regs)
    });
    let mfn = s.guest.frames[0].mfn().0 << 12;
    assert_eq!(s.core.frames.info(s.guest.tables[0]).state().kind(), PageType::L1);
    let entry = word(&s);
    (if entry & 1 != 0 { entry.wrapping_sub(mfn) & 0xf_ffff_ffff_ffff } else { entry }, done)
}

const U: u64 = 1 << 8; // GLOBAL, which the core adds to user mappings.

#[test]
fn page_table_writes_every_form() {
    let frame = |s: &Setup| s.guest.frames[0].mfn().0 << 12;
    // mov %rsi,(%rdi)
    let (entry, done) = write_entry(&[0x48, 0x89, 0x37], 0, |s, r| r.rsi = frame(s) | 0x65);
    assert!(done.is_some());
    assert_eq!(entry & !U, 0x65);
    // movq $0,(%rdi)
    let (entry, done) = write_entry(&[0x48, 0xc7, 0x07, 0, 0, 0, 0], 0x67, |_, _| ());
    assert!(done.is_some());
    assert_eq!(entry, 0);
    // xchg %rax,(%rdi): get and clear.
    let (entry, done) = write_entry(&[0x48, 0x87, 0x07], 0x67, |_, r| r.rax = 0);
    assert_eq!((entry, done.unwrap().rax & 0x67), (0, 0x67));
    // lock btrq $5,(%rdi): clear accessed; CF is the old bit.
    let (entry, done) = write_entry(&[0xf0, 0x48, 0x0f, 0xba, 0x37, 5], 0x67, |_, _| ());
    assert_eq!((entry & 0x67, done.unwrap().rflags & rflags::CF), (0x47, rflags::CF));
    // lock andb $0xfd,(%rdi): write-protect.
    let (entry, done) = write_entry(&[0xf0, 0x80, 0x27, 0xfd], 0x67, |_, _| ());
    assert!(done.is_some());
    assert_eq!(entry & 0x67, 0x65);
    // lock orb $0x40,(%rdi)
    let (entry, _) = write_entry(&[0xf0, 0x80, 0x0f, 0x40], 0x27, |_, _| ());
    assert_eq!(entry & 0x67, 0x67);
    // lock btsq %rdx,(%rdi)
    let (entry, done) = write_entry(&[0xf0, 0x48, 0x0f, 0xab, 0x17], 0x27, |_, r| r.rdx = 6);
    assert_eq!((entry & 0x67, done.unwrap().rflags & rflags::CF), (0x67, 0));
    // movl and movw: the other part of the entry stays.
    let (entry, done) = write_entry(&[0xc7, 0x47, 4, 0, 0, 0, 0], 0, |_, _| ());
    assert!(done.is_none(), "at another address than the fault's");
    assert_eq!(entry, 0);
    let (entry, done) = write_entry(&[0xc6, 0x07, 0], 0x67, |_, _| ());
    assert!(done.is_some());
    assert_eq!(entry & 1, 0, "not present any more");
    // xadd, add, sub, inc, dec, not, xor
    let (entry, done) = write_entry(&[0xf0, 0x48, 0x83, 0x07, 0x40], 0x27, |_, _| ());
    assert_eq!((entry & 0x67, done.is_some()), (0x67, true));
    let (entry, _) = write_entry(&[0x48, 0x83, 0x2f, 0x40], 0x67, |_, _| ());
    assert_eq!(entry & 0x67, 0x27);
    let (entry, _) = write_entry(&[0x80, 0x37, 0x40], 0x67, |_, _| ());
    assert_eq!(entry & 0x67, 0x27);
}

#[test]
fn cmpxchg_stores_only_where_memory_is_as_expected() {
    let cmpxchg = [0xf0, 0x48, 0x0f, 0xb1, 0x0f]; // lock cmpxchg %rcx,(%rdi)
    let (entry, done) = write_entry(&cmpxchg, 0, |s, r| (r.rax, r.rcx) = (0, s.guest.frames[0].mfn().0 << 12 | 0x65));
    assert_eq!((entry & 0x67, done.unwrap().rflags & rflags::ZF), (0x65, rflags::ZF));
    let (entry, done) = write_entry(&cmpxchg, 0x67, |_, r| (r.rax, r.rcx) = (0, 0));
    let r = done.unwrap();
    assert_eq!((entry & 0x67, r.rflags & rflags::ZF, r.rax & 0x67), (0x67, 0, 0x67));
}

#[test]
fn a_page_table_write_that_may_not_be_is_the_guests_page_fault() {
    // A writable mapping of the L1 itself, by mov %rsi,(%rdi).
    let s = ordinary();
    let at = s.guest.va(TABLE).0 + 8 * 8;
    s.guest.poke(&s.core, CODE, 0x100, &[0x48, 0x89, 0x37]);
    let rip = s.guest.va(CODE).0 + 0x100;
    let table = s.guest.tables[0].mfn().0 << 12;
    s.with(|c| {
        c.run.regs.rip = rip;
        (c.run.regs.rdi, c.run.regs.rsi) = (at, table | 7);
        c.core.exception(c, vector::PF, 3 | 4, at);
        assert_eq!(c.run.regs.rip, HANDLER);
        assert_eq!(c.core.cr2(c), at);
    });
    assert_eq!(guest::load(&s.core.platform, s.guest.tables[0], 8), 0);
}

#[test]
fn user_mode_and_other_read_only_pages_are_no_page_table_writes() {
    let s = ordinary();
    s.guest.map(&s.core, 9, Pte::new(s.guest.frames[0].mfn(), testing::READ_ONLY)).unwrap();
    s.guest.poke(&s.core, CODE, 0x100, &[0x48, 0x89, 0x37]);
    let rip = s.guest.va(CODE).0 + 0x100;
    for (at, kernel) in [(s.guest.va(9).0, true), (s.guest.va(TABLE).0 + 64, false)] {
        s.with(|c| {
            c.run.kernel_mode = kernel;
            c.run.kernel_sp = s.guest.va(1).0 + 0x1000;
            c.run.regs.rip = rip;
            c.run.regs.rdi = at;
            c.core.exception(c, vector::PF, 3 | 4, at);
            assert_eq!(c.run.regs.rip, HANDLER);
        });
    }
    assert_eq!(WRITABLE.0 & 2, 2);
}

/// Every instruction that changes its operand, on an entry that is not present: whose value is free, but for bit 0.
#[test]
fn what_each_instruction_makes_of_its_operand() {
    const CF: u64 = rflags::CF;
    const PF: u64 = rflags::PF;
    const AF: u64 = rflags::AF;
    const ZF: u64 = rflags::ZF;
    const SF: u64 = rflags::SF;
    const OF: u64 = rflags::OF;
    const ALL: u64 = CF | PF | AF | ZF | SF | OF;
    /// Flags that no instruction here changes: IF, DF.
    const OTHERS: u64 = 0x600;
    struct Row {
        what: &'static str,
        code: &'static [u8],
        /// The byte of the entry that the operand begins at.
        at: u64,
        held: u64,
        /// rsi before and after.
        rsi: (u64, u64),
        stored: u64,
        /// The flags that it changes, and those of them that it sets.
        flags: (u64, u64),
    }
    let row = |what, code, at, held, rsi, stored, flags| Row { what, code, at, held, rsi: (rsi, rsi), stored, flags };
    let exchange = |what, code, held, rsi, stored, flags| Row { what, code, at: 0, held, rsi, stored, flags };
    const H: u64 = 0x1122_3344_5566_7788;
    const S: u64 = 0x99aa_bbcc_ddee_ff00;
    let rows = [
        row("mov", &[0x48, 0x89, 0x37], 0, H, S, S, (0, 0)),
        row("movnti", &[0x48, 0x0f, 0xc3, 0x37], 0, H, S, S, (0, 0)),
        row("movl", &[0x89, 0x37], 4, H, S, 0xddee_ff00_5566_7788, (0, 0)),
        row("movw", &[0x66, 0x89, 0x37], 2, H, S, 0x1122_3344_ff00_7788, (0, 0)),
        row("movb", &[0x40, 0x88, 0x37], 7, H, S | 0x42, 0x4222_3344_5566_7788, (0, 0)),
        row("movb from dh", &[0x88, 0x37], 7, H, S, 0x7722_3344_5566_7788, (0, 0)),
        row("movl imm", &[0xc7, 0x07, 0x44, 0x33, 0x22, 0x11], 0, H, S, 0x1122_3344_1122_3344, (0, 0)),
        row("movq imm", &[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff], 0, H, S, u64::MAX - 1, (0, 0)),
        row("and", &[0x48, 0x21, 0x37], 0, 0xff0, 0xf0, 0xf0, (ALL, PF)),
        row("or", &[0x48, 0x09, 0x37], 0, 0xff0, 0x8000_0000_0000_00e0, 0x8000_0000_0000_0ff0, (ALL, SF | PF)),
        row("xor", &[0x48, 0x31, 0x37], 0, 0xff0, 0xff0, 0, (ALL, ZF | PF)),
        row("not", &[0xf6, 0x17], 1, 0xf00, 0, 0xf000, (0, 0)),
        row("add", &[0x48, 0x01, 0x37], 0, !0xf, 0x20, 0x10, (ALL, CF)),
        row("sub", &[0x48, 0x29, 0x37], 0, 0x10, 0x20, !0xf, (ALL, CF | SF | PF)),
        row("inc", &[0xfe, 0x07], 1, 0x7f00, 0, 0x8000, (ALL & !CF, OF | AF | SF)),
        row("inc", &[0xfe, 0x07], 1, 0xff00, 0, 0, (ALL & !CF, AF | ZF | PF)),
        row("dec", &[0xfe, 0x0f], 1, 0, 0, 0xff00, (ALL & !CF, AF | SF | PF)),
        row("bts, clear", &[0x48, 0x0f, 0xba, 0x2f, 40], 0, 0, 0, 1 << 40, (CF, 0)),
        row("bts, set", &[0x48, 0x0f, 0xab, 0x37], 0, 0x30, 5, 0x30, (CF, CF)),
        row("btr, clear", &[0x48, 0x0f, 0xb3, 0x37], 0, 0x10, 5, 0x10, (CF, 0)),
        row("btr, set", &[0x48, 0x0f, 0xba, 0x37, 40], 0, 1 << 40 | 2, 0, 2, (CF, CF)),
        row("btc, clear", &[0x48, 0x0f, 0xbb, 0x37], 0, 0x10, 5, 0x30, (CF, 0)),
        row("btc, set", &[0x48, 0x0f, 0xba, 0x3f, 40], 0, 1 << 40 | 2, 0, 2, (CF, CF)),
        exchange("xchg", &[0x48, 0x87, 0x37], H, (S, H), S, (0, 0)),
        exchange("xadd", &[0x48, 0x0f, 0xc1, 0x37], 0x10, (!0xf, 0x10), 0, (ALL, CF | ZF | PF)),
        exchange("xadd", &[0x48, 0x0f, 0xc1, 0x37], 0x18, (0x28, 0x18), 0x40, (ALL, AF)),
    ];
    for Row { what, code, at, held, rsi, stored, flags: (changed, set) } in rows {
        for before in [0, ALL] {
            let s = ordinary();
            guest::store(&s.core.platform, s.guest.tables[0], 8, held);
            let address = s.guest.va(TABLE).0 + 8 * 8 + at;
            s.guest.poke(&s.core, CODE, 0x100, code);
            let rip = s.guest.va(CODE).0 + 0x100;
            let r = s.with(|c| {
                let r = &mut c.run.regs;
                (r.rip, r.rdi, r.rsi, r.rdx, r.rflags) = (rip, address, rsi.0, 0x7700, OTHERS | before);
                c.core.exception(c, vector::PF, 3 | 4, address);
                c.run.regs
            });
            assert_eq!(r.rip, rip + code.len() as u64, "{what}");
            assert_eq!(guest::load(&s.core.platform, s.guest.tables[0], 8), stored, "{what}");
            assert_eq!((r.rsi, r.rflags), (rsi.1, OTHERS | before & !changed | set), "{what}, flags {before:#x}");
        }
    }
}

#[test]
fn only_the_access_that_faulted_is_made() {
    let mov = [0x48, 0x89, 0x77, 8]; // mov %rsi,8(%rdi)
    assert!(write_entry(&mov, 0, |_, r| r.rdi -= 8).1.is_some());
    assert!(write_entry(&mov, 0, |_, r| r.rdi -= 16).1.is_none());
    // A bit number in a register moves the access, one in the instruction does not.
    let bts = [0x48, 0x0f, 0xab, 0x17]; // bts %rdx,(%rdi)
    assert_eq!(write_entry(&bts, 0, |_, r| (r.rdi, r.rdx) = (r.rdi - 8, 64 + 6)).0, 1 << 6);
    let bts = [0x48, 0x0f, 0xba, 0x2f, 6]; // bts $6,(%rdi)
    assert_eq!(write_entry(&bts, 0, |_, _| ()).0, 1 << 6);
    assert!(write_entry(&bts, 0, |_, r| r.rdi -= 8).1.is_none());
    // By a segment with a base: mov %rsi,%fs:(%rdi) and %gs:.
    for (prefix, fs) in [(0x64, true), (0x65, false)] {
        let s = ordinary();
        s.guest.poke(&s.core, CODE, 0x100, &[prefix, 0x48, 0x89, 0x37]);
        let (rip, at) = (s.guest.va(CODE).0 + 0x100, s.guest.va(TABLE).0 + 8 * 8);
        s.with(|c| {
            (c.run.fs_base, c.run.gs_base_kernel) = if fs { (0x1000, 0) } else { (0, 0x1000) };
            (c.run.regs.rip, c.run.regs.rdi, c.run.regs.rsi) = (rip, at - 0x1000, 0x42);
            c.core.exception(c, vector::PF, 3 | 4, at);
            assert_eq!(c.run.regs.rip, rip + 4);
        });
    }
}
