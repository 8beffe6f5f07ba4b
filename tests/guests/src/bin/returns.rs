//! Every way back to a guest, with addresses that are none or are at the edge: iret to both modes, by way of SYSRET and not;
//! hypercalls, system calls, breakpoints and emulated instructions that end where the hole begins; callbacks and handlers
//! that are nowhere; stacks at the edge; contexts of vCPUs.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::callback::{CallbackRegister, CallbackType};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::FLAT_RING3_CS64;
use conformance_guests::abi::regs::IretContext;
use conformance_guests::abi::trap::{TrapInfo, fault, vector};
use conformance_guests::abi::vcpu::{VcpuGuestContext, VcpuOp};
use conformance_guests::abi::{Errno, Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Frame, Page, Regs, call, call_with, exec, exec_user};
use conformance_guests::ops::{MAP, TABLE, mmu_update, vcpu};
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

/// The first address that is none, and the last.
const HOLE: u64 = 0x8000_0000_0000;
const HOLE_LAST: u64 = 0xffff_7fff_ffff_ffff;
/// An address of the hypervisor's own, and one where nothing is.
const HYPERVISOR: u64 = 0xffff_8300_0000_0000;
const NOWHERE: u64 = 0x5000;
const KERNEL: u64 = 0xe030;
const USER: u64 = 0xe033;
const GP: Entry = Entry::Exception(vector::GP);
const PF: Entry = Entry::Exception(vector::PF);

/// iret: `flags` in rcx, to rdi by cs in rdx with the stack in rsi; events masked.
const IRET: &[u8] = &[
    0x68, 0x2b, 0xe0, 0, 0,    // push ss
    0x56, // push rsi
    0x6a, 2,    // push rflags
    0x52, // push rdx
    0x57, // push rdi
    0x51, // push rcx
    0x6a, 9, 0x6a, 8, 0x6a, 7, // push rcx, r11, rax
    0xb8, 23, 0, 0, 0, // mov eax, iret
    0x0f, 0x05, // syscall
    0x0f, 0x0b, // ud2
    0x0f, 0x05, // syscall
];

fn run(t: &mut Test) {
    let top = top_page(t);
    user_table(t);
    irets(t);
    edge(t, top);
    stacks(t, top);
    last_bytes(t);
    nowhere(t);
    contexts(t);
}

/// Maps a page in front of the hole.
fn top_page(t: &mut Test) -> Page {
    let [l3, l2, l1, page] = [(); 4].map(|()| probe::page());
    l1.set(511, Pte::new(page.mfn, MAP).0);
    l2.set(511, Pte::new(l1.mfn, TABLE).0);
    l3.set(511, Pte::new(l2.mfn, TABLE).0);
    for table in [l1, l2, l3] {
        t.ok("protect", table.protect(false));
    }
    let slot = probe::mfn_of(conformance_guests::l4()).maddr().0 + 8 * 255;
    t.ok("the last addresses of the lower half", mmu_update(slot, Pte::new(l3.mfn, TABLE).0));
    page
}

/// Where a frame says that it was.
fn place(got: Option<Frame>) -> Option<(Entry, u64, u64, u64)> {
    got.map(|frame| (frame.entry, frame.error_code, frame.rip, frame.cs.into()))
}

fn irets(t: &mut Test) {
    let stack = probe::page().va + 0x800;
    for (what, flags) in [("iret", 0), ("iret of a system call", IretContext::IN_SYSCALL)] {
        for cs in [KERNEL, USER] {
            for rip in [HOLE, HOLE + 0x1000, HOLE_LAST, 1 << 63, 1 << 48] {
                let mut regs = Regs { rcx: flags, rdi: rip, rdx: cs, rsi: stack, rbp: 5, r15: 15, ..Regs::default() };
                let got = exec(IRET, &mut regs);
                t.eq(what, place(got), Some((GP, 0, rip, cs)));
                t.eq("its registers", (regs.rax, regs.rbp, regs.r15), (7, 5, 15));
                t.eq("its stack", got.map(|frame| frame.rsp), Some(stack));
            }
            // A stack that is none, of user mode: nothing uses it.
            if cs == USER {
                let (rip, rsi) = (probe::code_page() + IRET.len() as u64 - 2, HOLE);
                let got = exec(IRET, &mut Regs { rcx: flags, rdi: rip, rdx: cs, rsi, ..Regs::default() });
                let seen = got.map(|f| (f.entry, f.rip, f.rsp));
                t.eq("a stack that is none", seen, Some((Entry::Syscall, rip + 2, HOLE)));
            }
            let mut regs = Regs { rcx: flags, rdi: HYPERVISOR, rdx: cs, rsi: stack, ..Regs::default() };
            let got = exec(IRET, &mut regs);
            t.eq("the hypervisor", got.map(|f| (f.entry, f.rip, f.cr2)), Some((PF, HYPERVISOR, HYPERVISOR)));
        }
    }
}

type Exec = fn(&[u8], &mut Regs) -> Option<Frame>;

/// Instructions whose last byte is the last one in front of the hole.
fn edge(t: &mut Test, top: Page) {
    let modes: [(Exec, u64); 2] = [(exec, KERNEL), (exec_user, USER)];
    for (exec, cs) in modes {
        let at_end = |code: &[u8], rax| {
            let start = top.va + 0x1000 - code.len() as u64;
            (start..).zip(code).for_each(|(at, byte)| probe::modify(at, |_| *byte));
            let mut regs = Regs { rdi: HOLE - code.len() as u64, rax, ..Regs::default() };
            (exec(code::JMP, &mut regs), regs.rax)
        };
        t.eq("nop", place(at_end(code::NOP, 0).0), Some((GP, 0, HOLE, cs)));
        t.eq("int3", place(at_end(code::INT3, 0).0), Some((Entry::Exception(vector::BP), 0, HOLE, cs)));
        let (got, eax) = at_end(code::CPUID, 0x4000_0001);
        t.eq("cpuid", (place(got), eax), (Some((GP, 0, HOLE, cs)), 0x4_0011));
        if cs == KERNEL {
            // rdi is the place to jump to, and xen_version knows no such command.
            let (got, rax) = at_end(code::SYSCALL, Hypercall::XEN_VERSION.0.into());
            t.eq("a hypercall", (place(got), rax as i64), (Some((GP, 0, HOLE, cs)), Errno::ENOSYS.code()));
            t.eq("clts", place(at_end(code::CLTS, 0).0), Some((GP, 0, HOLE, cs)));
        } else {
            t.eq("a system call", place(at_end(code::SYSCALL, 5).0), Some((Entry::Syscall, 0, HOLE, cs)));
        }
        // What begins in front of the hole and ends in it.
        let (got, _) = at_end(&[0x48], 0);
        t.eq("an instruction across", place(got), Some((GP, 0, HOLE - 1, cs)));
    }
}

/// A kernel stack whose end is the hole's beginning is a stack.
fn stacks(t: &mut Test, top: Page) {
    // mov rdi, rsp; mov rsp, r14; ud2: says where its frame is, and ends on a stack that has something above it.
    let handler = probe::page();
    handler.set(0, u64::from_le_bytes([0x48, 0x89, 0xe7, 0x4c, 0x89, 0xf4, 0x0f, 0x0b]));
    let gate = TrapInfo { vector: vector::BP, cs: FLAT_RING3_CS64, address: Vaddr(handler.va), ..TrapInfo::default() };
    t.ok("set_trap_table", call_with(Hypercall::SET_TRAP_TABLE, &[], &mut [gate, TrapInfo::default()]));
    t.ok("a stack at the edge", call(Hypercall::STACK_SWITCH, &[0xe02b, HOLE]));
    let modes: [(Exec, u64, u64); 2] = [(exec_user, USER, probe::user_stack_top()), (exec, KERNEL, HOLE)];
    for (exec, cs, rsp) in modes {
        let mut regs = Regs { r14: probe::user_stack_top(), rsp, ..Regs::default() };
        let got = exec(code::INT3, &mut regs);
        let inner = got.map(|frame| (frame.entry, frame.rip));
        t.eq("its handler runs", inner, Some((Entry::Exception(vector::UD), handler.va + 6)));
        t.eq("the frame is in front of the hole", regs.rdi, HOLE - 56);
        let words = [2, 3, 5].map(|word| probe::peek(top.va + 0x1000 - 56 + 8 * word));
        t.eq("rip, cs, rsp", words, [probe::code_page() + 1, cs, rsp]);
    }
    t.ok("as before", probe::install(probe::vcpu_info(), 0, 0));
}

/// Arguments that end with the last byte of all, and those that go on behind it.
fn last_bytes(t: &mut Test) {
    let [l2, l1, page] = [(); 3].map(|()| probe::page());
    l1.set(511, Pte::new(page.mfn, MAP).0);
    l2.set(511, Pte::new(l1.mfn, TABLE).0);
    for table in [l1, l2] {
        t.ok("protect", table.protect(false));
    }
    let slot = probe::pte_slot(Vaddr(probe::code_page()), 3).map_or(0, |(at, _)| at.0 | 0xff8);
    t.ok("the last addresses of all", mmu_update(slot, Pte::new(l2.mfn, TABLE).0));
    // set_trap_table, of one entry that ends the table.
    for (before_end, wanted) in [(16, 0), (24, 0), (8, Errno::EFAULT.code()), (1, Errno::EFAULT.code())] {
        t.returns("set_trap_table", call(Hypercall::SET_TRAP_TABLE, &[0u64.wrapping_sub(before_end)]), wanted);
    }
    t.ok("as before", probe::install(probe::vcpu_info(), 0, 0));
}

/// Callbacks that are nowhere: the fetch is the kernel's page fault, with the callback's frame above.
fn nowhere(t: &mut Test) {
    let register = |kind, address| {
        let mut arg = CallbackRegister { kind, address: Vaddr(address), ..CallbackRegister::default() };
        call_with(Hypercall::CALLBACK_OP, &[0], &mut arg)
    };
    // xen_version, which ends with a look at events; send_nmi to oneself.
    let events = [0xb8, 17, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0x90];
    let nmi = [0xb8, 24, 0, 0, 0, 0xbf, 11, 0, 0, 0, 0x31, 0xf6, 0x31, 0xd2, 0x0f, 0x05, 0x90];
    for address in [NOWHERE, HYPERVISOR, HOLE - 0x2000] {
        let mut check = |what, got: Option<Frame>, cs: u64, masked: u64| {
            t.eq(what, got.map(|f| (f.entry, f.rip, f.cr2, f.cs)), Some((PF, address, address, 0xe030)));
            let Some(frame) = got else { return };
            t.yes("a fetch", frame.error_code & u64::from(fault::WRITE | fault::USER) == 0);
            t.eq("its frame is there", probe::peek(frame.rsp + 24) as u16, cs as u16);
            t.eq("events", frame.cs_word >> 32 & 0xff, masked);
            t.ok("as before", probe::install(probe::vcpu_info(), 0, 0));
            probe::mask_events(true);
        };
        register(CallbackType::EVENT, address);
        probe::modify(probe::vcpu_info(), |_| 1);
        probe::mask_events(false);
        let got = exec(&events, &mut Regs::default());
        probe::modify(probe::vcpu_info(), |_| 0);
        check("an upcall", got, KERNEL, 1);
        register(CallbackType::SYSCALL, address);
        check("a system call", exec_user(code::NOP, &mut Regs::default()), USER, 0);
        register(CallbackType::NMI, address);
        check("an NMI", exec(&nmi, &mut Regs::default()), KERNEL, 1);
    }
}

/// A context that is to be a vCPU's: each of its addresses.
fn contexts(t: &mut Test) {
    type Spoil = fn(&mut VcpuGuestContext);
    let cases: [(&'static str, Spoil); 13] = [
        ("rip", |c| c.user_regs.rip = HOLE),
        ("rsp", |c| c.user_regs.rsp = HOLE),
        ("kernel_sp", |c| c.kernel_sp = Vaddr(HOLE)),
        ("fs_base", |c| c.fs_base = HOLE),
        ("gs_base_kernel", |c| c.gs_base_kernel = HOLE),
        ("gs_base_user", |c| c.gs_base_user = HOLE_LAST),
        ("event_callback_eip", |c| c.event_callback_eip = Vaddr(HOLE)),
        ("failsafe_callback_eip", |c| c.failsafe_callback_eip = Vaddr(HOLE)),
        ("syscall_callback_eip", |c| c.syscall_callback_eip = Vaddr(HOLE_LAST)),
        ("the first handler", |c| c.trap_ctxt[0].address = Vaddr(HOLE)),
        ("the last handler", |c| c.trap_ctxt[255].address = Vaddr(HOLE)),
        ("ldt_base", |c| (c.ldt_base, c.ldt_ents) = (Vaddr(HOLE), 1)),
        ("cr3", |c| c.ctrlreg[3] = HOLE),
    ];
    let root = probe::mfn_of(t.info.pt_base.0).maddr().0;
    let mut context = VcpuGuestContext::default();
    for (what, spoil) in cases {
        probe::ap_context(&mut context, root);
        spoil(&mut context);
        t.err(what, vcpu(VcpuOp::INITIALISE, 1, &mut context), Errno::EINVAL);
    }
    probe::ap_context(&mut context, root);
    t.ok("all of it right", vcpu(VcpuOp::INITIALISE, 1, &mut context));
}
