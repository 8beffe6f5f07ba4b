//! `int n` for every n, by gates that let it through and by those that do not, from both modes; exceptions of 32-bit code,
//! of alignment and of SSE; NMIs from another vCPU, into both modes; what MOV SS puts off.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::FLAT_RING3_CS64;
use conformance_guests::abi::trap::{TrapInfo, vector};
use conformance_guests::abi::vcpu::{VcpuGuestContext, VcpuOp};
use conformance_guests::abi::{Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Frame, Page, Regs, call, call_with, exec, exec_user};
use conformance_guests::ops::{MAP, TABLE, mmu_update, vcpu};
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

const GP: Entry = Entry::Exception(vector::GP);
const UD: Entry = Entry::Exception(vector::UD);
/// "TCGT", of QEMU's own leaf: its processor checks no alignment and raises nothing for SSE, puts nothing off for MOV SS,
/// and puts twice the vector into the error code of an `int n` that it refuses.
const TCG: u64 = 0x5447_4354;

type Exec = fn(&[u8], &mut Regs) -> Option<Frame>;
const MODES: [(Exec, u16); 2] = [(exec, 0xe030), (exec_user, 0xe033)];

fn run(t: &mut Test) {
    let low = low_page(t);
    user_table(t);
    let mut native = Regs { rax: 0x4000_0000, ..Regs::default() };
    exec(code::NATIVE_CPUID, &mut native);
    let tcg = native.rbx == TCG;
    gates(t, tcg);
    in_32_bits(t, low);
    alignment(t, tcg);
    sse(t, tcg);
    put_off(t, tcg);
    nmis(t);
}

/// Where 32-bit code is.
const LOW: u64 = 0x1_0000;

fn low_page(t: &mut Test) -> Page {
    let [l3, l2, l1, page] = [(); 4].map(|()| probe::page());
    l1.set((LOW >> 12) as usize, Pte::new(page.mfn, MAP).0);
    l2.set(0, Pte::new(l1.mfn, TABLE).0);
    l3.set(0, Pte::new(l2.mfn, TABLE).0);
    for table in [l1, l2, l3] {
        t.ok("protect", table.protect(false));
    }
    let slot = probe::mfn_of(conformance_guests::l4()).maddr().0;
    t.ok("low addresses", mmu_update(slot, Pte::new(l3.mfn, TABLE).0));
    page
}

/// The code of every vector's handler, 2 bytes each: `ud2`, so that where it was says which.
fn gates(t: &mut Test, tcg: bool) {
    let stubs = probe::page();
    (0..256).for_each(|n| {
        probe::modify(stubs.va + 2 * n, |_| 0x0f);
        probe::modify(stubs.va + 2 * n + 1, |_| 0x0b);
    });
    // Whose number says it wrong, its vector is that of a gate that is not one of the 32.
    let vectors = || if tcg { 0x20..0x80u8 } else { 0x20..0xff };
    let told = |n: u8| if tcg { n.wrapping_mul(2) } else { n };
    for privilege in [0, 1, 2, 3] {
        let mut table = [TrapInfo::default(); 225];
        for (vector, entry) in (0x20..=0xffu8).zip(&mut table) {
            let address = Vaddr(stubs.va + 2 * u64::from(vector));
            *entry = TrapInfo { vector, flags: privilege, cs: FLAT_RING3_CS64, address, ..TrapInfo::default() };
        }
        t.ok("set_trap_table", call_with(Hypercall::SET_TRAP_TABLE, &[], &mut table));
        for (exec, cs) in MODES {
            let enough = if cs == 0xe030 { 1 } else { 3 };
            for n in vectors().chain([0x80]) {
                let vector = if n == 0x80 { n } else { told(n) };
                let got = exec(&[0x90, 0xcd, n], &mut Regs::default());
                // 0x80 has a gate of its own, that lets everything through which has a handler.
                if privilege < enough && n != 0x80 {
                    let error = u64::from(n) * if tcg { 16 } else { 8 } + 2;
                    let seen = got.map(|f| (f.entry, f.error_code, f.rip, f.cs));
                    t.eq("refused", seen, Some((GP, error, probe::code_page() + 1, cs)));
                    continue;
                }
                let handler = got.map(|f| (f.entry, f.rip, f.cs));
                t.eq("let through", handler, Some((UD, stubs.va + 2 * u64::from(vector), 0xe030)));
                let below = got.map(|f| (probe::peek(f.rsp + 16), probe::peek(f.rsp + 24) as u16));
                t.eq("from behind it", below, Some((probe::code_page() + 3, cs)));
            }
        }
    }
}

/// BOUND and INTO, which 64-bit code has not.
fn in_32_bits(t: &mut Test, low: Page) {
    let cases: [(&'static str, &[u8], u8, u64); 4] = [
        // bound eax, ss:[edi + 0x80], as there is no DS: 5 is not between 0 and 4
        ("bound", &[0xb8, 5, 0, 0, 0, 0x36, 0x62, 0x87, 0x80, 0, 0, 0], vector::BR, 5),
        // mov al, 0x7f; inc al; into
        ("into", &[0xb0, 0x7f, 0xfe, 0xc0, 0xce], vector::OF, 5),
        ("int3", &[0xcc], vector::BP, 1),
        ("ud2", &[0x90, 0x0f, 0x0b], vector::UD, 1),
    ];
    t.ok("handlers", probe::install(probe::vcpu_info(), 0, 1 << vector::OF | 1 << vector::BP));
    for (what, bytes, vector, offset) in cases {
        (low.va..).zip(bytes).for_each(|(at, byte)| probe::modify(at, |_| *byte));
        low.set(0x10, 4 << 32);
        for (exec, cs) in MODES {
            let mut regs = Regs { rdi: LOW, rsp: LOW + 0xf00, ..Regs::default() };
            let got = exec(code::TO_32, &mut regs);
            let seen = got.map(|f| (f.entry, f.error_code, f.rip, f.cs));
            t.eq(what, seen, Some((Entry::Exception(vector), 0, LOW + offset, cs - 16)));
        }
    }
}

/// A load that is not aligned, with AC set.
fn alignment(t: &mut Test, tcg: bool) {
    let page = probe::page();
    // mov rax, [rdi]; pushf; and dword [rsp], ~AC; popf
    let load = [0x48, 0x8b, 0x07, 0x9c, 0x81, 0x24, 0x24, 0xff, 0xff, 0xfb, 0xff, 0x9d];
    for (exec, cs) in MODES {
        for (at, fits) in [(page.va + 8, true), (page.va + 9, false)] {
            let mut regs = Regs { rdi: at, rflags: 0x202 | 1 << 18, ..Regs::default() };
            let got = exec(&load, &mut regs).filter(|f| f.entry != Entry::Syscall);
            let seen = got.map(|f| (f.entry, f.error_code, f.rip, f.cs));
            let wanted = (Entry::Exception(vector::AC), 0, probe::code_page(), cs);
            t.eq("a load", seen, (!fits && !tcg).then_some(wanted));
        }
    }
}

/// A division by 0 of SSE, not masked.
fn sse(t: &mut Test, tcg: bool) {
    let words = probe::page();
    words.set(0, 0x1d80);
    words.set(1, 0x1f80);
    let code = [
        0x0f, 0xae, 0x17, // ldmxcsr [rdi]
        0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
        0xf3, 0x0f, 0x2a, 0xc8, // cvtsi2ss xmm1, eax
        0xf3, 0x0f, 0x5e, 0xc8, // divss xmm1, xmm0
        0x90,
    ];
    for (exec, cs) in MODES {
        let mut regs = Regs { rdi: words.va, rax: 1, ..Regs::default() };
        let got = exec(&code, &mut regs).filter(|f| f.entry != Entry::Syscall);
        let seen = got.map(|f| (f.entry, f.error_code, f.rip, f.cs));
        let wanted = (Entry::Exception(vector::XM), 0, probe::code_page() + 10, cs);
        t.eq("divss", seen, (!tcg).then_some(wanted));
        exec_at_ease(words.va + 8);
    }
}

/// Masks SSE's exceptions again.
fn exec_at_ease(word: u64) {
    exec(&[0x0f, 0xae, 0x17], &mut Regs { rdi: word, ..Regs::default() });
}

/// A breakpoint on what MOV SS reads is put off until behind the next instruction; where that enters ring 0 it is no
/// business of the hypervisor's, which goes on.
fn put_off(t: &mut Test, tcg: bool) {
    let page = probe::page();
    page.set(0, 0xe02b);
    let set = |register: u64, value: u64| call(Hypercall::SET_DEBUGREG, &[register, value]);
    t.ok("address", set(0, page.va));
    // Reads and writes of two bytes.
    t.ok("enable", set(7, 0x0007_0401));
    let start = probe::code_page();
    for (exec, cs) in MODES {
        let at = || Regs { rdi: page.va, rax: 17, ..Regs::default() };
        let place = |got: Option<Frame>| got.map(|f| (f.entry, f.rip.wrapping_sub(start), f.cs));
        let debug = |offset| Some((Entry::Exception(vector::DB), offset, cs));
        let at_once = debug(2);
        // mov ss, [rdi]; nop; nop
        let got = exec(&[0x8e, 0x17, 0x90, 0x90], &mut at());
        t.eq("behind the next one", place(got), if tcg { at_once } else { debug(3) });
        let got = exec(&[0x8e, 0x17, 0xcc], &mut at());
        let int3 = Some((Entry::Exception(vector::BP), 3, cs));
        t.eq("int3 comes first", place(got), if tcg { at_once } else { int3 });
        let got = exec(&[0x8e, 0x17, 0x0f, 0x0b], &mut at());
        let ud2 = Some((UD, 2, cs));
        t.eq("ud2 too", place(got), if tcg { at_once } else { ud2 });
        if cs == 0xe030 {
            // xen_version, of a command that is none.
            let mut regs = at();
            let got = exec(&[0x8e, 0x17, 0x0f, 0x05, 0x90], &mut regs);
            t.eq("a hypercall", place(got), if tcg { at_once } else { None });
            t.yes("was made", tcg || regs.rax as i64 == -38);
        } else {
            let got = exec(&[0x8e, 0x17, 0x0f, 0x05], &mut at());
            t.eq("a system call", place(got), if tcg { at_once } else { Some((Entry::Syscall, 4, cs)) });
        }
        t.ok("forget", set(6, 0));
    }
    t.ok("disable", set(7, 0x400));
}

/// The other vCPU: sends an NMI to this one whenever a word at rbx says so, and gives the CPU away.
const OTHER: &[u8] = &[
    0x48, 0x83, 0x3b, 0, // cmp qword [rbx], 0
    0x74, 0x17, // jz 1f
    0x48, 0xc7, 0x03, 0, 0, 0, 0, // mov qword [rbx], 0
    0xb8, 24, 0, 0, 0, // mov eax, vcpu_op
    0xbf, 11, 0, 0, 0, // mov edi, send_nmi
    0x31, 0xf6, // xor esi, esi
    0x31, 0xd2, // xor edx, edx
    0x0f, 0x05, // syscall
    0x31, 0xff, // 1: xor edi, edi (yield)
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0x0f, 0x05, // syscall
    0xeb, 0xd8, // jmp to the start
];

fn nmis(t: &mut Test) {
    let [other, asked] = [(); 2].map(|()| probe::page());
    (other.va..).zip(OTHER).for_each(|(at, byte)| probe::modify(at, |_| *byte));
    let mut context = VcpuGuestContext::default();
    probe::ap_context(&mut context, probe::mfn_of(t.info.pt_base.0).maddr().0);
    (context.user_regs.rip, context.user_regs.rbx) = (other.va, asked.va);
    t.ok("initialise", vcpu(VcpuOp::INITIALISE, 1, &mut context));
    t.ok("up", call(Hypercall::VCPU_OP, &[VcpuOp::UP.0.into(), 1, 0]));
    for (exec, cs) in MODES {
        for masked in [false, true] {
            probe::mask_events(masked);
            probe::poke(asked.va, 1);
            // jmp to itself
            let got = exec(&[0xeb, 0xfe], &mut Regs { rflags: if masked { 2 } else { 0x202 }, ..Regs::default() });
            t.eq(
                "an NMI, whatever the mask",
                got.map(|f| (f.entry, f.rip, f.cs)),
                Some((Entry::Nmi, probe::code_page(), cs)),
            );
            t.eq(
                "in its frame, and in its handler",
                got.map(|f| (f.cs_word >> 32 & 0xff, f.masked)),
                Some((masked.into(), true)),
            );
            // Another one waits for the iret of this one: user mode's own entry is one.
            t.traps("a system call", exec_user(code::NOP, &mut Regs::default()), Entry::Syscall, 0);
        }
    }
    probe::mask_events(true);
    t.ok("down", call(Hypercall::VCPU_OP, &[VcpuOp::DOWN.0.into(), 1, 0]));
}
