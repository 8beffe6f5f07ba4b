//! User mode on its own page table: entries from it, returns to it, the kernel stack, non-canonical addresses.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::callback::{CallbackRegister, CallbackType};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::mmu::MmuextCmd;
use conformance_guests::abi::trap::vector;
use conformance_guests::abi::{Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Regs, call, call_with, exec, exec_user};
use conformance_guests::ops::{MAP, READ, TABLE, mmu_update, mmuext, update_va};
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

fn run(t: &mut Test) {
    low_code(t);
    let table = user_table(t);
    syscalls(t);
    syscalls_32(t);
    exceptions(t);
    interrupts(t);
    returns(t);
    stack(t);
    kernel_only(t, table);
}

fn syscalls(t: &mut Test) {
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
    let Some(frame) = t.traps("syscall", exec_user(code::NOP, &mut regs), Entry::Syscall, 0) else { return };
    let after = probe::code_page() + 3;
    t.eq("rip is behind it", frame.rip, after);
    t.eq("cs and ss are a user's", (frame.cs, frame.ss & 0xffff), (0xe033, 0xe02b));
    t.eq("rsp", frame.rsp, probe::user_stack_top());
    t.eq("flags", frame.rflags & 0xcd5, 0x8d5);
    t.yes("IF", frame.rflags & 0x200 != 0);
    t.eq(
        "registers",
        Regs { rcx: 0, r11: 0, rsp: 0, rflags: 0, ..regs },
        Regs { rcx: 0, r11: 0, rsp: 0, rflags: 0, ..start },
    );
    t.eq("rcx is the rip", regs.rcx, after);
    t.eq("r11 is the flags", regs.r11 & 0xcd5, 0x8d5);
    // User mode has no hypercalls.
    let mut regs = Regs { rax: 17, ..Regs::default() };
    t.traps("syscall 17 is a system call", exec_user(&[], &mut regs), Entry::Syscall, 0);
    t.eq("rax is left", regs.rax, 17);
}

/// Where the 32-bit code is, and its stack, with room above for what a handler looks at: such code has 32-bit addresses.
const LOW: u64 = 0x1_0000;
const LOW_STACK: u64 = LOW + 0x1f00;

/// Maps a page with `syscall` in it at [`LOW`], and a stack behind it.
fn low_code(t: &mut Test) {
    let [l3, l2, l1, code, stack] = [(); 5].map(|()| probe::page());
    code.set(0, u64::from_le_bytes([0x0f, 0x05, 0x0f, 0x0b, 0, 0, 0, 0]));
    l1.set((LOW >> 12) as usize, Pte::new(code.mfn, READ).0);
    l1.set((LOW >> 12) as usize + 1, Pte::new(stack.mfn, MAP).0);
    l2.set(0, Pte::new(l1.mfn, TABLE).0);
    l3.set(0, Pte::new(l2.mfn, TABLE).0);
    for table in [l1, l2, l3] {
        t.ok("protect", table.protect(false));
    }
    let slot = probe::mfn_of(conformance_guests::l4()).maddr().0;
    t.ok("low addresses", mmu_update(slot, Pte::new(l3.mfn, TABLE).0));
}

/// SYSCALL in 32-bit code: CPUs of one maker have none, those of the other enter ring 0 elsewhere, and for want of a
/// callback it is an invalid opcode as well.
fn syscalls_32(t: &mut Test) {
    let mut low = Regs { rdi: LOW, rsp: LOW_STACK, ..Regs::default() };
    let invalid = Entry::Exception(vector::UD);
    let got = t.traps("syscall in 32-bit code", exec_user(code::TO_32, &mut low), invalid, 0);
    t.eq("where", got.map(|f| (f.cs, f.rip, f.rsp)), Some((0xe023, LOW, LOW_STACK)));
    low.rsp = LOW_STACK;
    let got = t.traps("in kernel mode", exec(code::TO_32, &mut low), invalid, 0);
    t.eq("where", got.map(|f| (f.cs, f.rip, f.rsp)), Some((0xe020, LOW, LOW_STACK)));
    // With a callback of its own, which ends with an invalid opcode too.
    let handler = probe::page();
    handler.set(0, u64::from_le_bytes([0x0f, 0x0b, 0, 0, 0, 0, 0, 0]));
    let address = Vaddr(handler.va);
    let mut vendor = Regs::default();
    exec(code::NATIVE_CPUID, &mut vendor);
    let amd = vendor.rcx == 0x444d_4163;
    type Exec = fn(&[u8], &mut Regs) -> Option<probe::Frame>;
    let modes: [(Exec, u64); 2] = [(exec_user, 0xe023), (exec, 0xe020)];
    // Events are masked as for SYSCALL in 64-bit code, whatever was said of this one.
    for (own, flags) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        for (kind, flags) in [(CallbackType::SYSCALL32, own), (CallbackType::SYSCALL, flags)] {
            let mut arg = CallbackRegister { kind, flags, address, ..CallbackRegister::default() };
            t.ok("register", call_with(Hypercall::CALLBACK_OP, &[0], &mut arg));
        }
        for (exec, cs) in modes {
            probe::mask_events(false);
            let mut low = Regs { rdi: LOW, rsp: LOW_STACK, ..Regs::default() };
            let got = t.traps("a callback for it", exec(code::TO_32, &mut low), invalid, 0);
            probe::mask_events(true);
            if !amd {
                t.eq("there is none of it", got.map(|f| f.rip), Some(LOW));
                continue;
            }
            let inside = got.map(|f| (f.rip, f.cs, f.cs_word >> 32 & 0xff));
            t.eq("in it", inside, Some((handler.va, 0xe030, flags.into())));
            let frame = got.map(|f| [2, 3, 5].map(|word| probe::peek(f.rsp + 8 * word)));
            t.eq("from behind the instruction", frame, Some([LOW + 2, cs, LOW_STACK]));
        }
    }
    t.ok("as before", probe::install(probe::vcpu_info(), 0, 0));
}

fn exceptions(t: &mut Test) {
    let cases: [(&'static str, &[u8], u8, u64); 6] = [
        ("ud2", code::UD2, vector::UD, 0),
        ("int3, gate or not", code::INT3, vector::BP, 0),
        ("div by 0", code::DIV_0, vector::DE, 0),
        ("hlt", code::HLT, vector::GP, 0),
        ("cli", code::CLI, vector::GP, 0),
        ("read cr0", code::READ_CR0, vector::GP, 0),
    ];
    for (what, bytes, vector, error) in cases {
        let got = t.traps(what, exec_user(bytes, &mut Regs::default()), Entry::Exception(vector), error);
        t.eq("from user mode", got.map(|f| f.cs), Some(0xe033));
    }
    let pf = Entry::Exception(vector::PF);
    let at = |va: u64| Regs { rdi: va, ..Regs::default() };
    // Here the user bit is set.
    let got = exec_user(code::LOAD, &mut at(0x1000));
    t.traps("read of nothing", got, pf, 4);
    t.eq("cr2", got.map(|f| f.cr2), Some(0x1000));
    t.traps("write to nothing", exec_user(code::STORE, &mut at(0x1000)), pf, 6);
    t.traps("write to where kernels see the M2P", exec_user(code::STORE, &mut at(0xffff_8000_0000_0000)), pf, 6);
    let mut regs = at(0x8000_0000_0000);
    t.traps("read from a non-canonical address", exec_user(code::LOAD, &mut regs), Entry::Exception(vector::GP), 0);
    t.traps("jump to one", exec_user(code::JMP, &mut regs), Entry::Exception(vector::GP), 0);
    t.traps("rdmsr", exec_user(code::RDMSR, &mut Regs::default()), Entry::Exception(vector::GP), 0);
    let page = probe::page();
    let mut regs = Regs { rdx: 0x80, rdi: page.va, ..Regs::default() };
    t.traps("out", exec_user(code::OUT_AL, &mut regs), Entry::Exception(vector::GP), 0);
}

/// `int n` by the gates' privilege.
fn interrupts(t: &mut Test) {
    let info = probe::vcpu_info();
    probe::install(info, 0, 1 << vector::BP | 1 << vector::OF);
    let got = t.traps(
        "int3 by a gate for users",
        exec_user(code::INT3, &mut Regs::default()),
        Entry::Exception(vector::BP),
        0,
    );
    t.eq("rip is behind it", got.map(|f| f.rip), Some(probe::code_page() + 1));
    probe::install(info, 0, 0);
    let got = exec_user(code::INT_80, &mut Regs::default());
    t.traps("int 0x80 without a gate", got, Entry::Exception(vector::GP), 0x80 * 8 + 2);
    t.eq("rip is at it", got.map(|f| f.rip), Some(probe::code_page()));
}

/// Returns by iret with addresses that are none.
fn returns(t: &mut Test) {
    let mut regs = Regs { rsp: 0x8000_0000_0000, ..Regs::default() };
    let got = exec_user(code::NOP, &mut regs);
    t.traps("a non-canonical rsp", got, Entry::Syscall, 0);
    t.eq("is as it was", got.map(|f| f.rsp), Some(0x8000_0000_0000));
    // A syscall as the last bytes below the hole.
    let mut regs = Regs { rdi: 0x7fff_ffff_fffe, ..Regs::default() };
    let got = exec_user(code::JMP, &mut regs);
    t.traps("the last page below the hole", got, Entry::Exception(vector::PF), 0x14);
    t.eq("rip", got.map(|f| f.rip), Some(0x7fff_ffff_fffe));
}

/// Entries from user mode start on the stack that stack_switch gave.
fn stack(t: &mut Test) {
    let switch = |ss: u64, sp: u64| call(Hypercall::STACK_SWITCH, &[ss, sp]);
    let page = probe::page();
    t.ok("stack_switch", switch(0xe02b, page.va + 0x800));
    let got = exec_user(code::UD2, &mut Regs::default());
    t.eq("the frame is there", got.map(|f| f.frame_at), Some(page.va + 0x800 - 7 * 8));
    let got = exec_user(code::LOAD, &mut Regs { rdi: 0x1000, ..Regs::default() });
    t.eq("with an error code", got.map(|f| f.frame_at), Some(page.va + 0x800 - 8 * 8));
    t.ok("an odd stack", switch(0xe02b, page.va + 0x809));
    let got = exec_user(code::UD2, &mut Regs::default());
    t.eq("is aligned", got.map(|f| f.frame_at), Some(page.va + 0x800 - 7 * 8));
    t.ok("a stack that is not canonical", switch(0xe02b, 0x8000_0000_0000));
    t.ok("a selector of ring 0", switch(0xe028, page.va + 0x800));
    t.ok("back", switch(0xe02b, page.va + 0x800));
}

/// What the user table lacks, user mode does not see.
fn kernel_only(t: &mut Test, table: probe::Page) {
    let page = probe::page();
    let mut regs = Regs { rdi: page.va, ..Regs::default() };
    t.traps("shared tables", exec_user(code::LOAD, &mut regs), Entry::Syscall, 0);
    t.ok("unmap", update_va(page.va, Pte::EMPTY, 2));
    t.traps("are shared", exec_user(code::LOAD, &mut regs), Entry::Exception(vector::PF), 4);
    t.ok("no user table", mmuext(MmuextCmd::NEW_USER_BASEPTR, 0, 0));
    t.ok("unpin", mmuext(MmuextCmd::UNPIN_TABLE, table.mfn.0, 0));
    t.ok("it is free", table.protect(true));
}
