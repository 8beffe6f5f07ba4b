//! SYSENTER, on a processor that has it in 64-bit code: the callback's frame, which says nothing of where it came from; its
//! mask; without a callback a protection fault. From user mode and from kernel mode.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::callback::{CallbackRegister, CallbackType};
use conformance_guests::abi::domctl::{CtlBitmap, DomctlOp, VcpuAffinity};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::FLAT_RING3_CS64;
use conformance_guests::abi::trap::{TrapInfo, vector};
use conformance_guests::abi::{DomId, Pte, Vaddr, VcpuId};
use conformance_guests::child::domctl;
use conformance_guests::domain_rt::probe::{self, Entry, Frame, Page, Regs, call, call_with, exec, exec_user};
use conformance_guests::ops::{MAP, TABLE, mmu_update};
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

const GP: Entry = Entry::Exception(vector::GP);
const UD: Entry = Entry::Exception(vector::UD);
/// CF, IF, DF.
const FLAGS: u64 = 0x601;
/// `mov rdi, rsp; mov rsp, r14; ud2`: says where its frame is, and ends on a stack that is known to be good.
const HANDLER: [u8; 8] = [0x48, 0x89, 0xe7, 0x4c, 0x89, 0xf4, 0x0f, 0x0b];

fn run(t: &mut Test) {
    let mut vendor = Regs::default();
    exec(code::NATIVE_CPUID, &mut vendor);
    user_table(t);
    if vendor.rcx != 0x6c65_746e {
        for exec in [exec, exec_user] {
            t.traps("on AMD's", exec(code::SYSENTER, &mut Regs::default()), UD, 0);
        }
        return t.skip("no SYSENTER in 64-bit code");
    }
    // Xen 4.17's boot CPU goes on with the stack it began with, and dies of a double fault; its others do not.
    let cpus = [2u64];
    let hard = CtlBitmap { bitmap: Vaddr((&raw const cpus) as u64), nr_bits: 2, ..CtlBitmap::default() };
    let place = VcpuAffinity { vcpu: VcpuId(0), flags: VcpuAffinity::HARD, hard, soft: CtlBitmap::default() };
    t.ok("setvcpuaffinity", domctl(DomctlOp::SETVCPUAFFINITY, DomId(0), &place).0);
    call(Hypercall::SCHED_OP, &[0, 0]);
    let handler = probe::page();
    (handler.va..).zip(HANDLER).for_each(|(at, byte)| probe::modify(at, |_| byte));
    from_user_mode(t, handler);
    from_kernel_mode(t, handler);
}

fn register(address: u64, flags: u16) -> i64 {
    let (kind, address) = (CallbackType::SYSENTER, Vaddr(address));
    call_with(
        Hypercall::CALLBACK_OP,
        &[0],
        &mut CallbackRegister { kind, flags, address, ..CallbackRegister::default() },
    )
}

fn start() -> Regs {
    Regs {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rbp: 7,
        r8: 8,
        r11: 11,
        r14: probe::user_stack_top(),
        r15: 15,
        rflags: 0x203,
        rdi: 0,
        ..Regs::default()
    }
}

/// What was before the callback: its frame (rip, selector, mask, flags, rsp, ss), and the mask in the callback.
type Seen = ([u64; 6], u64);

/// The callback's frame, found at `view` for the address that it is at.
fn seen(t: &mut Test, handler: Page, got: Option<Frame>, view: u64) -> Seen {
    let inside = got.map(|frame| (frame.entry, frame.rip, frame.cs));
    t.eq("in the callback", inside, Some((UD, handler.va + 6, 0xe030)));
    let [rip, cs, flags, rsp, ss] = [2, 3, 4, 5, 6].map(|word| probe::peek(view + 8 * word));
    let mask = got.map_or(99, |frame| frame.cs_word >> 32 & 0xff);
    ([rip, cs & 0xffff, cs >> 32 & 0xff, flags & FLAGS, rsp, ss & 0xffff], mask)
}

fn from_user_mode(t: &mut Test, handler: Page) {
    for (before, flags) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        t.ok("register", register(handler.va, flags));
        probe::mask_events(before);
        let mut regs = Regs { rflags: if before { 3 } else { 0x203 }, ..start() };
        let got = exec_user(code::SYSENTER, &mut regs);
        probe::mask_events(true);
        let (mask, enabled) = (u64::from(before), if before { 0 } else { 0x200 });
        let wanted = ([0, 3, mask, 1 | enabled, 0, 0xe02b], u64::from(before || flags != 0));
        let frame = seen(t, handler, got, regs.rdi);
        t.eq("the frame", frame, wanted);
        t.eq("rcx, r11", (probe::peek(regs.rdi), probe::peek(regs.rdi + 8)), (3, 11));
        let left = [regs.rax, regs.rbx, regs.rdx, regs.rsi, regs.rbp, regs.r8, regs.r15];
        t.eq("registers", left, [1, 2, 4, 5, 7, 8, 15]);
    }
    probe::mask_events(false);
    t.ok("no callback", register(0, 0));
    let got = exec_user(code::SYSENTER, &mut start());
    t.traps("a protection fault", got, GP, 0);
    let place = got.map(|f| (f.rip, f.cs, f.rsp, f.ss & 0xffff, f.rflags & FLAGS, f.masked));
    t.eq("from nowhere", place, Some((0, 3, 0, 0xe02b, 0x201, false)));
    t.ok("a callback that is nowhere", register(0x5000, 0));
    let got = exec_user(code::SYSENTER, &mut start());
    t.eq("a page fault", got.map(|f| (f.entry, f.rip, f.cs)), Some((Entry::Exception(vector::PF), 0x5000, 0xe030)));
    probe::mask_events(true);
}

/// The stack pointer is lost: the frame lies under address 0, which is at the end of all addresses.
fn from_kernel_mode(t: &mut Test, handler: Page) {
    let [l2, l1, page] = [(); 3].map(|()| probe::page());
    l1.set(511, Pte::new(page.mfn, MAP).0);
    l2.set(511, Pte::new(l1.mfn, TABLE).0);
    for table in [l1, l2] {
        t.ok("protect", table.protect(false));
    }
    let third = probe::pte_slot(Vaddr(probe::code_page()), 3).map_or(0, |(at, _)| at.0 | 0xff8);
    t.ok("map the end", mmu_update(third, Pte::new(l2.mfn, TABLE).0));
    t.ok("register", register(handler.va, 0));
    let mut regs = start();
    let got = exec(code::SYSENTER, &mut regs);
    t.eq("where the frame is", regs.rdi, 0u64.wrapping_sub(56));
    let frame = seen(t, handler, got, page.va + 0x1000 - 56);
    t.eq("the frame", frame, ([0, 0, 1, 1, 0, 0xe02b], 1));
    t.ok("no callback", register(0, 0));
    let gate = TrapInfo { vector: vector::GP, cs: FLAT_RING3_CS64, address: Vaddr(handler.va), ..TrapInfo::default() };
    t.ok("set_trap_table", call_with(Hypercall::SET_TRAP_TABLE, &[], &mut [gate, TrapInfo::default()]));
    let mut regs = start();
    let got = exec(code::SYSENTER, &mut regs);
    t.eq("where its frame is", regs.rdi, 0u64.wrapping_sub(64));
    t.eq("a protection fault", probe::peek(page.va + 0x1000 - 48), 0);
    let frame = seen(t, handler, got, page.va + 0x1000 - 56);
    t.eq("from nowhere", frame, ([0, 0, 1, 1, 0, 0xe02b], 1));
}
