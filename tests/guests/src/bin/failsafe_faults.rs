//! Exceptions in the failsafe callback: frames under its frame, masks; the callback that is nowhere; the callback for user
//! mode, whose segment another vCPU takes away while it runs. Two vCPUs on one CPU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::Vaddr;
use conformance_guests::abi::callback::{CallbackRegister, CallbackType};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::trap::vector;
use conformance_guests::abi::vcpu::{VcpuGuestContext, VcpuOp};
use conformance_guests::domain_rt::probe::{self, Entry, Frame, Page, Regs, call, call_with, exec, exec_user};
use conformance_guests::ops::vcpu;
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

/// A flat data segment of ring 3, and its selector.
const DATA3: u64 = 0x00cf_f300_0000_ffff;
const SELECTOR: u64 = 5 << 3 | 3;
/// `mov rax, [0x1000]`
const LOAD_1000: &[u8] = &[0x48, 0x8b, 0x04, 0x25, 0, 0x10, 0, 0];
/// Loads DS and gives the CPU away a million times.
const YIELDS: &[u8] = &[
    0x8e, 0xd8, // mov ds, ax
    0xbf, 0, 0, 0, 0, // mov edi, yield
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0x0f, 0x05, // syscall
    0xff, 0xcb, // dec ebx
    0x75, 0xf0, // jnz to the yield
];
/// Loads DS and computes.
const SPINS: &[u8] = &[
    0x8e, 0xd8, // mov ds, ax
    0xeb, 0xfe, // jmp to itself
];
/// The other vCPU: clears the descriptor at rbp, wherever it is asked to by a word at rbx, and gives the CPU away.
const OTHER: &[u8] = &[
    0x48, 0x83, 0x3b, 0, // cmp qword [rbx], 0
    0x74, 0x0c, // jz 1f
    0x48, 0x89, 0xef, // mov rdi, rbp
    0x31, 0xf6, // xor esi, esi
    0xb8, 10, 0, 0, 0, // mov eax, update_descriptor
    0x0f, 0x05, // syscall
    0x31, 0xff, // 1: xor edi, edi (yield)
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0x0f, 0x05, // syscall
    0xeb, 0xe3, // jmp to the start
];

/// What the experiment needs: the page with the GDT, a word that the other vCPU looks at, a handler's page.
struct Setup {
    gdt: Page,
    asked: Page,
    handler: Page,
}

fn write(page: Page, bytes: &[u8]) {
    (page.va..).zip(bytes).for_each(|(at, byte)| probe::modify(at, |_| *byte));
}

fn run(t: &mut Test) {
    let [gdt, asked, handler, other] = [(); 4].map(|()| probe::page());
    t.ok("protect", gdt.protect(false));
    t.ok("set_gdt", call(Hypercall::SET_GDT, &[(&raw const gdt.mfn.0) as u64, 512]));
    write(other, OTHER);
    let mut context = VcpuGuestContext::default();
    probe::ap_context(&mut context, probe::mfn_of(t.info.pt_base.0).maddr().0);
    (context.user_regs.rip, context.user_regs.rbx, context.user_regs.rbp) = (other.va, asked.va, gdt.slot(5));
    t.ok("initialise", vcpu(VcpuOp::INITIALISE, 1, &mut context));
    t.ok("up", call(Hypercall::VCPU_OP, &[VcpuOp::UP.0.into(), 1, 0]));
    user_table(t);
    let setup = Setup { gdt, asked, handler };
    faults(t, &setup);
    nowhere(t, &setup);
    from_user_mode(t, &setup);
    t.ok("down", call(Hypercall::VCPU_OP, &[VcpuOp::DOWN.0.into(), 1, 0]));
}

impl Setup {
    /// Has the code at an address be the failsafe callback.
    fn register(&self, t: &mut Test, address: u64, flags: u16) {
        let (kind, address) = (CallbackType::FAILSAFE, Vaddr(address));
        let mut arg = CallbackRegister { kind, flags, address, ..CallbackRegister::default() };
        t.ok("register", call_with(Hypercall::CALLBACK_OP, &[0], &mut arg));
    }

    /// Runs code whose segment goes while it runs. It may go too early: then that was the code's own fault, and it runs again.
    fn lose(&self, t: &mut Test, exec: fn(&[u8], &mut Regs) -> Option<Frame>, code: &[u8]) -> Option<Frame> {
        loop {
            probe::poke(self.asked.va, 0);
            t.ok("descriptor", call(Hypercall::UPDATE_DESCRIPTOR, &[self.gdt.slot(5), DATA3]));
            probe::poke(self.asked.va, 1);
            let mut regs = Regs { rax: SELECTOR, rbx: 1_000_000, ..Regs::default() };
            let got = exec(code, &mut regs);
            let early = got.is_some_and(|f| (f.rip, f.error_code) == (probe::code_page(), SELECTOR & !3));
            if !early {
                probe::poke(self.asked.va, 0);
                return got;
            }
        }
    }
}

/// Words of the failsafe frame above an exception's: ds, es, fs, gs; rip; cs and the mask; and the frame's own place.
fn above(frame: Frame) -> ([u64; 4], u64, u64, u64) {
    let word = |n: u64| probe::peek(frame.rsp + 8 * n);
    ([2, 3, 4, 5].map(word), word(6), word(7) & 0xffff, word(7) >> 32 & 0xff)
}

fn faults(t: &mut Test, setup: &Setup) {
    let cases: [(&'static str, &[u8], u8, u64, u64); 5] = [
        ("ud2 in it", code::UD2, vector::UD, 0, 0),
        ("a page fault in it", LOAD_1000, vector::PF, 0, 0),
        ("hlt in it", code::HLT, vector::GP, 0, 0),
        ("int3 in it", code::INT3, vector::BP, 0, 1),
        // mov ds, ax: the segment is still not there.
        ("the same segment in it", &[0xb8, SELECTOR as u8, 0, 0, 0, 0x8e, 0xd8], vector::GP, SELECTOR & !3, 5),
    ];
    for flags in [0, 1] {
        for (what, bytes, inner, error, offset) in cases {
            write(setup.handler, bytes);
            setup.register(t, setup.handler.va, flags);
            probe::mask_events(false);
            let got = setup.lose(t, exec, YIELDS);
            probe::mask_events(true);
            let Some(frame) = t.traps(what, got, Entry::Exception(inner), error) else { continue };
            t.eq("where", (frame.rip, frame.cs), (setup.handler.va + offset, 0xe030));
            t.eq("with the callback's mask", frame.cs_word >> 32 & 0xff, u64::from(flags != 0));
            t.eq("its frame is there", above(frame), ([SELECTOR, 0, 0, 0], probe::code_page() + 14, 0xe030, 0));
        }
    }
}

/// A callback where no code is: its fetch faults, under its frame.
fn nowhere(t: &mut Test, setup: &Setup) {
    for address in [0x5000, 0xffff_8300_0000_0000] {
        setup.register(t, address, 0);
        let got = setup.lose(t, exec, YIELDS);
        t.eq("a fetch", got.map(|f| (f.entry, f.rip, f.cr2)), Some((Entry::Exception(vector::PF), address, address)));
        let Some(frame) = got else { continue };
        t.eq("its frame is there", above(frame), ([SELECTOR, 0, 0, 0], probe::code_page() + 14, 0xe030, 1));
    }
}

/// User mode loses its segment while it computes: the frame is on the kernel's stack.
fn from_user_mode(t: &mut Test, setup: &Setup) {
    t.ok("as before", probe::install(probe::vcpu_info(), 0, 0));
    let got = setup.lose(t, exec_user, SPINS);
    t.eq("the callback", got.map(|f| (f.entry, f.rip, f.cs)), Some((Entry::Failsafe, probe::code_page() + 2, 0xe033)));
    t.eq("the selectors", got.map(|f| (f.selectors, f.rsp)), Some(([SELECTOR, 0, 0, 0], probe::user_stack_top())));
    write(setup.handler, code::UD2);
    setup.register(t, setup.handler.va, 0);
    let got = setup.lose(t, exec_user, SPINS);
    if let Some(frame) = t.traps("ud2 in it", got, Entry::Exception(vector::UD), 0) {
        t.eq("where", (frame.rip, frame.cs), (setup.handler.va, 0xe030));
        t.eq("its frame is there", above(frame), ([SELECTOR, 0, 0, 0], probe::code_page() + 2, 0xe033, 0));
    }
}
