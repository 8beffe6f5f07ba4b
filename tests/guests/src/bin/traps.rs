//! Exceptions from kernel mode: vector, error code, CR2, frame, masks, iret.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::trap::{TrapInfo, vector};
use conformance_guests::abi::{Errno, Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Regs, call, call_with, exec, exec_resuming};
use conformance_guests::{Test, code, guest, ops};

guest!(run);

fn run(t: &mut Test) {
    faults(t);
    frames(t);
    page_faults(t);
    masks(t);
    resumes(t);
    table(t);
    refused(t);
}

fn faults(t: &mut Test) {
    let cases: [(&'static str, &[u8], u8, u64); 6] = [
        ("ud2", code::UD2, vector::UD, 0),
        ("int3", code::INT3, vector::BP, 0),
        ("div by 0", code::DIV_0, vector::DE, 0),
        ("hlt", code::HLT, vector::GP, 0),
        ("ltr", code::LTR, vector::GP, 0),
        ("single step", code::SINGLE_STEP, vector::DB, 0),
    ];
    for (what, bytes, vector, error) in cases {
        t.traps(what, exec(bytes, &mut Regs::default()), Entry::Exception(vector), error);
    }
    let mut regs = Regs { rdi: 0x8000_0000_0000, ..Regs::default() };
    t.traps("load from a non-canonical address", exec(code::LOAD, &mut regs), Entry::Exception(vector::GP), 0);
    let got = exec(code::JMP, &mut regs);
    t.traps("jump to a non-canonical address", got, Entry::Exception(vector::GP), 0);
    let mut regs = Regs { rax: 0x1234_0008, ..Regs::default() };
    t.traps("ds of ring 0", exec(code::MOV_DS, &mut regs), Entry::Exception(vector::GP), 8);
    let mut regs = Regs { rax: 0x7, ..Regs::default() };
    t.traps("ds in no LDT", exec(code::MOV_DS, &mut regs), Entry::Exception(vector::GP), 4);
}

/// What the frame holds, and that registers come through.
fn frames(t: &mut Test) {
    let start = Regs {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rbp: 7,
        r8: 8,
        r9: 9,
        r10: 10,
        r11: 11,
        r12: 12,
        r13: 13,
        r14: 14,
        r15: 15,
        rflags: 0x202 | 0x8d5,
        rsp: 0,
    };
    let mut regs = start;
    let Some(frame) = t.traps("ud2 after nop", exec(&[0x90, 0x0f, 0x0b], &mut regs), Entry::Exception(vector::UD), 0)
    else {
        return;
    };
    t.eq("registers", regs, start);
    t.eq("rip of a fault", frame.rip, probe::code_page() + 1);
    t.eq("cs has RPL 0", frame.cs, 0xe030);
    t.eq("ss", frame.ss & 0xffff, 0xe02b);
    // IF is the inverse of the event mask, which is set at the start.
    // CPUs set RF in the flags that a fault saves, TCG does not.
    t.eq("flags", frame.rflags & !0x1_3000, 0x8d7);
    t.eq("frame is on the interrupted stack", frame.frame_at <= frame.rsp && frame.rsp - frame.frame_at < 0x60, true);
    t.eq("frame ends 16-aligned", (frame.frame_at + 7 * 8) % 16, 0);
    if let Some(frame) = exec(code::INT3, &mut Regs::default()) {
        t.eq("rip of a trap", frame.rip, probe::code_page() + 1);
    }
    let mut odd = Regs { rsp: probe::page().va + 0x803, ..Regs::default() };
    if let Some(frame) = exec(code::UD2, &mut odd) {
        t.eq("rsp as it was", frame.rsp & 0xfff, 0x803);
        t.eq("frame under it, aligned", frame.frame_at & 0xfff, 0x800 - 7 * 8);
    }
}

fn page_faults(t: &mut Test) {
    let page = probe::page();
    let pf = Entry::Exception(vector::PF);
    let at = |va: u64| Regs { rdi: va, rax: 1, ..Regs::default() };
    let cr2 = |t: &mut Test, what, got: Option<probe::Frame>, want: u64| {
        t.eq(what, got.map(|f| f.cr2), Some(want));
    };
    // PV kernels run in ring 3, but their faults are told as a kernel's: no user bit.
    let got = exec(code::LOAD, &mut at(0x1000));
    t.traps("read of nothing", got, pf, 0);
    cr2(t, "cr2 of a read", got, 0x1000);
    t.traps("write to nothing", exec(code::STORE, &mut at(0x1008)), pf, 2);
    t.ok("protect", page.protect(false));
    let got = exec(code::STORE, &mut at(page.va + 0x10));
    t.traps("write to read-only", got, pf, 3);
    cr2(t, "cr2 of a write", got, page.va + 0x10);
    t.ok("unprotect", page.protect(true));
    t.runs("write", exec(code::STORE, &mut at(page.va)));
    let got = exec(code::JMP, &mut at(0x3000));
    t.yes("fetch of nothing is #PF", got.is_some_and(|f| f.entry == pf && f.error_code & !0x10 == 0));
    cr2(t, "cr2 of a fetch", got, 0x3000);
    t.eq("rip of a fetch", got.map(|f| f.rip), Some(0x3000));
    let hypervisor = 0xffff_8300_0000_0000;
    let got = exec(code::LOAD, &mut at(hypervisor));
    t.yes("read of the hypervisor is #PF", got.is_some_and(|f| f.entry == pf && f.error_code & 2 == 0));
    cr2(t, "cr2 in the hypervisor", got, hypervisor);
    let got = exec(code::STORE, &mut at(0xffff_8000_0000_0000));
    t.traps("write to the M2P", got, pf, 3);
    t.runs("read of the M2P", exec(code::LOAD, &mut at(0xffff_8000_0000_0000)));
    t.ok("unmap", ops::update_va(page.va, Pte::EMPTY, 2));
    t.traps("write to unmapped", exec(code::STORE, &mut at(page.va)), pf, 2);
    // Across the page before, which is mapped, into this one.
    let (first, second) = (probe::page(), probe::page());
    t.ok("unmap the second", ops::update_va(second.va, Pte::EMPTY, 2));
    let got = exec(code::LOAD, &mut at(first.va + 0xffc));
    t.traps("read across", got, pf, 0);
    cr2(t, "cr2 across", got, second.va);
}

/// The event mask at entry and in the frame.
fn masks(t: &mut Test) {
    let info = probe::vcpu_info();
    for (masking, before) in [(0, false), (0, true), (1 << vector::UD, false), (1 << vector::UD, true)] {
        probe::install(info, masking, 0);
        probe::mask_events(before);
        let got = exec(code::UD2, &mut Regs::default());
        probe::mask_events(true);
        t.eq("mask in the handler", got.map(|f| f.masked), Some(before || masking != 0));
        t.eq("saved mask", got.map(|f| f.cs_word >> 32 & 0xff), Some(before.into()));
        t.eq("IF in the frame", got.map(|f| f.rflags & 0x200 != 0), Some(!before));
    }
    probe::install(info, 0, 0);
}

/// iret back into the code.
fn resumes(t: &mut Test) {
    // int3; inc rax; ud2
    let code = [0xcc, 0x48, 0xff, 0xc0];
    let mut regs = Regs { rax: 41, rcx: 3, r11: 11, ..Regs::default() };
    let (frame, count) = exec_resuming(&code, &mut regs, 0);
    t.eq("one entry", count, 1);
    t.eq("by int3", frame.map(|f| f.entry), Some(Entry::Exception(vector::BP)));
    t.eq("rax", regs.rax, 42);
    t.eq("rcx and r11", (regs.rcx, regs.r11), (3, 11));
    // mov rax, [rdi] (3 bytes), skipped twice.
    let code = [code::LOAD, code::LOAD].concat_into::<6>();
    let mut regs = Regs { rdi: 0x1000, rax: 5, ..Regs::default() };
    let (_, count) = exec_resuming(&code, &mut regs, 3);
    t.eq("two entries with error codes", count, 2);
    t.eq("rax unchanged", regs.rax, 5);
}

/// Joins two pieces of code.
trait Concat {
    fn concat_into<const N: usize>(self) -> [u8; N];
}

impl Concat for [&[u8]; 2] {
    fn concat_into<const N: usize>(self) -> [u8; N] {
        let mut out = [0x90; N];
        let bytes = self.into_iter().flatten();
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        out
    }
}

/// set_trap_table itself.
fn table(t: &mut Test) {
    let set = |table: &mut [TrapInfo]| call_with(Hypercall::SET_TRAP_TABLE, &[], table);
    let entry = |vector, address| TrapInfo { vector, flags: 0, cs: 0xe033, _pad: 0, address: Vaddr(address) };
    t.err("table at a bad address", call(Hypercall::SET_TRAP_TABLE, &[0x1000]), Errno::EFAULT);
    t.err("non-canonical handler", set(&mut [entry(6, 0x8000_0000_0000), entry(0, 0)]), Errno::EINVAL);
    t.ok("hypervisor handler", set(&mut [entry(200, 0xffff_8300_0000_0000), entry(0, 0)]));
    t.ok("empty table", set(&mut [entry(0, 0)]));
    let info = probe::vcpu_info();
    t.ok("again", probe::install(info, 0, 0));
    t.traps("after it", exec(code::UD2, &mut Regs::default()), Entry::Exception(vector::UD), 0);
    // From kernel mode, the gate's privilege does not matter below ring 1.
    let got = exec(code::INT_80, &mut Regs::default());
    t.traps("int 0x80 without a gate", got, Entry::Exception(vector::GP), 0x80 * 8 + 2);
}

/// A frame that the hardware's own return refuses is the guest's exception, where it was to go.
fn refused(t: &mut Test) {
    let code = |selector: u8| {
        [
            0x48, 0x89, 0xe3, // mov rbx, rsp
            0x6a, selector, // push the stack selector
            0x53,     // push rbx
            0x6a, 2, // push rflags, events masked
            0x68, 0x30, 0xe0, 0, 0, // push the code selector, kernel mode
            0x48, 0x8d, 0x0d, 18, 0, 0, 0, 0x51, // push the address of the end
            0x6a, 0, 0x6a, 7, 0x6a, 8, 0x6a, 9, // push flags, rcx, r11, rax
            0xb8, 23, 0, 0, 0, // mov eax, iret
            0x0f, 0x05, // syscall
            0x0f, 0x0b, // ud2
        ]
    };
    let got = exec(&code(0x57), &mut Regs::default());
    let behind = probe::code_page() + code(0).len() as u64;
    let got = t.traps("iret to no stack segment", got, Entry::Exception(vector::GP), 0x54);
    t.eq("rip, ss", got.map(|frame| (frame.rip, frame.ss & 0xffff)), Some((behind, 0x57)));
}
