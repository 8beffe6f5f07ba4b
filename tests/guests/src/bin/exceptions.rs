//! Each exception that code of ring 3 can raise, from kernel mode and from user mode: vector, error code, where it was.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::mmu::MmuextCmd;
use conformance_guests::abi::trap::vector;
use conformance_guests::domain_rt::probe::{self, Entry, Frame, Regs, call, exec, exec_user};
use conformance_guests::ops::mmuext;
use conformance_guests::{Test, code, guest};

guest!(run);

/// A data segment of ring 3 that is not present.
const ABSENT: u64 = 0x00cf_7300_0000_ffff;
/// Selectors of the LDT's entries 0 (not present) and 1 (empty), in ring 3.
const NOT_PRESENT: u64 = 7;
const EMPTY: u64 = 0xf;
const HOLE: u64 = 0x8000_0000_0000;

/// What is run: a name, the code, `rdi` and `rax`, what comes of it (vector, error code), and the offset in the code
/// that the frame names.
type Case = (&'static str, &'static [u8], u64, u64, u8, u64, u64);

/// A fault names its instruction, a trap the one behind. Not here is what QEMU's processor gets wrong: icebp, stacks that
/// are not canonical, loads that end in the hole, the error codes of `int n`.
const CASES: [Case; 22] = [
    ("div by 0", code::DIV_0, 0, 1, vector::DE, 0, 2),
    ("div that does not fit", code::DIV, 0, 0xffff, vector::DE, 0, 0),
    ("single step", code::SINGLE_STEP, 0, 0, vector::DB, 0, 10),
    ("int3", code::INT3, 0, 0, vector::BP, 0, 1),
    ("int 3", code::INT_3, 0, 0, vector::BP, 0, 2),
    ("int 4", code::INT_4, 0, 0, vector::OF, 0, 2),
    ("ud2", code::UD2, 0, 0, vector::UD, 0, 0),
    ("lock nop", &[0xf0, 0x90], 0, 0, vector::UD, 0, 0),
    ("push of es, which 64-bit code has not", &[0x06], 0, 0, vector::UD, 0, 0),
    ("mov to cs", &[0x90, 0x8e, 0xc8], 0, 0, vector::UD, 0, 1),
    ("es not present", &[0x8e, 0xc0], 0, NOT_PRESENT, vector::NP, 4, 0),
    ("fs not present", code::MOV_FS, 0, NOT_PRESENT, vector::NP, 4, 0),
    ("ss not present", &[0x8e, 0xd0], 0, NOT_PRESENT, vector::SS, 4, 0),
    ("an empty es", &[0x8e, 0xc0], 0, EMPTY, vector::GP, 0xc, 0),
    ("an empty ss", &[0x8e, 0xd0], 0, EMPTY, vector::GP, 0xc, 0),
    ("ss of the null selector", &[0x8e, 0xd0], 0, 0, vector::GP, 0, 0),
    ("hlt", code::HLT, 0, 0, vector::GP, 0, 0),
    ("load from the hole", code::LOAD, HOLE, 0, vector::GP, 0, 0),
    ("store to the hole's end", code::STORE, !(HOLE - 1) - 8, 0, vector::GP, 0, 0),
    ("mov to cr8", &[0x44, 0x0f, 0x22, 0xc0], 0, 0, vector::GP, 0, 0),
    // fninit; fldcw [rdi]; fld1; fldz; fdivp; fwait
    (
        "division by 0 of the FPU",
        &[0xdb, 0xe3, 0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b],
        0,
        0,
        vector::MF,
        0,
        10,
    ),
    // nop; fnop, with TS set
    ("fnop of a task that was switched", &[0x90, 0xd9, 0xd0], 0, 0, vector::NM, 0, 1),
];

fn run(t: &mut Test) {
    // `int 3` and `int 4` are for user mode as well, as in every system.
    t.ok("set_trap_table", probe::install(probe::vcpu_info(), 0, 1 << vector::BP | 1 << vector::OF));
    let ldt = probe::page();
    ldt.set(0, ABSENT);
    t.ok("protect", ldt.protect(false));
    t.ok("set_ldt", mmuext(MmuextCmd::SET_LDT, ldt.va, 512));
    cases(t, exec, 0xe030);
    user_table(t);
    cases(t, exec_user, 0xe033);
    breakpoints(t, exec);
    breakpoints(t, exec_user);
    masks(t);
}

fn user_table(t: &mut Test) {
    let page = probe::page();
    let kernel = conformance_guests::l4();
    (0..256).chain(272..512).for_each(|i| page.set(i, probe::peek(kernel + 8 * i as u64)));
    t.ok("protect", page.protect(false));
    t.ok("pin", mmuext(MmuextCmd::PIN_L4_TABLE, page.mfn.0, 0));
    t.ok("user base", mmuext(MmuextCmd::NEW_USER_BASEPTR, page.mfn.0, 0));
}

type Exec = fn(&[u8], &mut Regs) -> Option<Frame>;

fn cases(t: &mut Test, exec: Exec, cs: u16) {
    let word = probe::page();
    // The divisions by 0 of the FPU are not masked.
    word.set(0, 0x037b);
    let start = probe::code_page();
    for (what, code, rdi, rax, vector, error_code, offset) in CASES {
        let switched = vector == vector::NM;
        if switched {
            t.ok("fpu_taskswitch", call(Hypercall::FPU_TASKSWITCH, &[1]));
        }
        let rdi = if vector == vector::MF { word.va } else { rdi };
        let mut regs = Regs { rdi, rax, rcx: 1, ..Regs::default() };
        let got = exec(code, &mut regs);
        t.eq(
            what,
            got.map(|f| (f.entry, f.error_code, f.rip.wrapping_sub(start), f.cs)),
            Some((Entry::Exception(vector), error_code, offset, cs)),
        );
        if vector == vector::MF {
            exec(&[0xdb, 0xe3], &mut Regs::default());
        }
    }
}

/// Debug registers: an instruction, and a read.
fn breakpoints(t: &mut Test, exec: Exec) {
    let set = |reg: u64, value: u64| call(Hypercall::SET_DEBUGREG, &[reg, value]);
    let dr6 = || call(Hypercall::GET_DEBUGREG, &[6]) & 0xf;
    let (start, word) = (probe::code_page(), probe::page());
    let at = |got: Option<Frame>| got.map(|f| (f.entry, f.rip.wrapping_sub(start)));
    t.ok("address", set(1, start + 2));
    t.ok("enable", set(7, 0x404));
    let got = exec(&[0x90; 8], &mut Regs::default());
    t.eq("before the third instruction", at(got), Some((Entry::Exception(vector::DB), 2)));
    t.eq("dr6", dr6(), 2);
    t.ok("clear", set(6, 0));
    t.ok("address", set(1, word.va));
    // Reads and writes of 2 bytes, register 1.
    t.ok("enable", set(7, 0x0070_0404));
    let regs = Regs { rdi: word.va, ..Regs::default() };
    let got = exec(&[0x90, 0x48, 0x8b, 0x07, 0x90, 0x90], &mut regs.clone());
    t.eq("behind the read", at(got), Some((Entry::Exception(vector::DB), 4)));
    t.eq("dr6", dr6(), 2);
    t.ok("clear", set(6, 0));
    t.ok("disable", set(7, 0x400));
    t.runs("no more", exec(&[0x90, 0x48, 0x8b, 0x07], &mut regs.clone()).filter(|f| f.entry != Entry::Syscall));
}

/// An exception's own flag masks events in its handler; without it the mask is as it was.
fn masks(t: &mut Test) {
    for masking in [0, 1 << vector::DE | 1 << vector::MF] {
        t.ok("set_trap_table", probe::install(probe::vcpu_info(), masking, 0));
        let got = exec_user(code::DIV_0, &mut Regs::default());
        t.eq("from user mode", got.map(|f| (f.masked, f.rflags & 0x200)), Some((masking != 0, 0x200)));
    }
    // Those two the processor lets through whatever the guest's table says.
    for (what, code, vector) in
        [("int3", code::INT3, vector::BP), ("int 3", code::INT_3, vector::BP), ("int 4", code::INT_4, vector::OF)]
    {
        let got = exec_user(code, &mut Regs::default());
        t.eq(what, got.map(|f| (f.entry, f.error_code)), Some((Entry::Exception(vector), 0)));
    }
}
