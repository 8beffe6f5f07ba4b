//! Traps: emulated ones, and those that the guest's own handlers take and return from.

use crate::clock::{Clock, Row, TIMES};
use crate::tables::copy_of_l4;
use conformance_guests::abi::Pte;
use conformance_guests::abi::mmu::MmuextCmd;
use conformance_guests::domain_rt::probe::{self, Regs, exec, exec_user};
use conformance_guests::ops::{READ, mmuext};
use conformance_guests::{Test, code};

/// A clock and marks around code, in the code itself: the difference comes in `r8`.
fn timed(op: &[u8]) -> ([u8; 128], usize) {
    // movnti [r13], rax; rdtsc; shl rdx, 32; or rax, rdx; mov r8, rax; mov rax, r9; mov rdx, r10
    const BEFORE: &[u8] = &[
        0x49, 0x0f, 0xc3, 0x45, 0, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0, 0x49, 0x89, 0xc0, 0x4c, 0x89,
        0xc8, 0x4c, 0x89, 0xd2,
    ];
    // rdtsc; shl rdx, 32; or rax, rdx; sub rax, r8; mov r8, rax; movnti [r14], rax
    const AFTER: &[u8] = &[
        0x0f, 0x31, 0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0, 0x4c, 0x29, 0xc0, 0x49, 0x89, 0xc0, 0x49, 0x0f, 0xc3, 0x06,
    ];
    let mut code = [0x90; 128];
    let bytes = BEFORE.iter().chain(op).chain(AFTER);
    code.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    (code, BEFORE.len() + op.len() + AFTER.len())
}

/// Measures code by the clock around it.
fn code_row(row: Row, op: &[u8], regs: Regs, run: impl Fn(&[u8], &mut Regs)) {
    let ticks = |op: &[u8], number| {
        let (code, len) = timed(op);
        let mut regs = Regs { r13: probe::mark_at(0), r14: probe::mark_at(number), ..regs };
        run(code.get(..len).unwrap_or(&[]), &mut regs);
        regs.r8
    };
    let mut row = row.over(ticks(&[], 0));
    for _ in 0..TIMES {
        row.add(ticks(op, row.number()));
    }
    row.each_of(1);
}

pub fn measure(t: &mut Test, clock: &mut Clock) {
    let page = probe::page();
    page.set(1, Pte::new(page.mfn, READ).0);
    t.ok("protect", page.protect(false));
    t.ok("pin", mmuext(MmuextCmd::PIN_L1_TABLE, page.mfn.0, 0));
    let kernel = |code: &[u8], regs: &mut Regs| {
        exec(code, regs);
    };
    let mut measure = |name, op: &[u8], regs: Regs| {
        code_row(clock.row(name), op, regs, kernel);
        t.runs(name, exec(op, &mut { regs }));
    };
    let entry = Regs { rdi: page.va + 8, r9: Pte::new(page.mfn, READ).0, ..Regs::default() };
    measure("pte_write_trapped", code::STORE, entry);
    measure("read_cr0", code::READ_CR0, Regs::default());
    measure("rdmsr", code::RDMSR, Regs { rcx: 0xc000_0080, ..Regs::default() });
    measure("wrmsr", code::WRMSR, Regs { rcx: 0xc000_0100, ..Regs::default() });
    measure("cpuid_forced", code::CPUID, Regs { r9: 0x4000_0001, ..Regs::default() });
    t.ok("handlers", probe::return_at_once());
    let mut measure = |name, op: &[u8], regs: Regs| {
        code_row(clock.row(name), op, regs, kernel);
        t.runs(name, exec(op, &mut { regs }));
    };
    measure("int3_bounce", code::INT3, Regs::default());
    measure("page_fault_bounce", code::LOAD, Regs { rdi: 0x1000, ..Regs::default() });
    let user = copy_of_l4(t);
    t.ok("user base", mmuext(MmuextCmd::NEW_USER_BASEPTR, user.mfn.0, 0));
    code_row(clock.row("user_syscall"), code::SYSCALL, Regs { r9: probe::RETURN, ..Regs::default() }, |code, regs| {
        exec_user(code, regs);
    });
}
