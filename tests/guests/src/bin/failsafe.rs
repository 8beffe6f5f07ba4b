//! The failsafe callback: a vCPU is switched to whose segment is gone from the GDT meanwhile. Two vCPUs on one CPU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::vcpu::{VcpuGuestContext, VcpuOp};
use conformance_guests::domain_rt::probe::{self, Entry, Regs, call, exec};
use conformance_guests::ops::vcpu;
use conformance_guests::{Test, guest};

guest!(run);

/// A flat data segment of ring 3.
const DATA3: u64 = 0x00cf_f300_0000_ffff;
const SELECTOR: u64 = 5 << 3 | 3;
const CODE: [u8; 25] = [
    0x8e, 0xd8, // mov ds, ax
    0xb8, 10, 0, 0, 0, // mov eax, update_descriptor; of rdi, to rsi
    0x0f, 0x05, // syscall
    0xbf, 0, 0, 0, 0, // mov edi, yield
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0x0f, 0x05, // syscall
    0xff, 0xcb, // dec ebx
    0x75, 0xf0, // jnz to the yield
];

fn run(t: &mut Test) {
    let mut context = VcpuGuestContext::default();
    probe::ap_context(&mut context, probe::mfn_of(t.info.pt_base.0).maddr().0);
    t.ok("initialise", vcpu(VcpuOp::INITIALISE, 1, &mut context));
    t.ok("up", call(Hypercall::VCPU_OP, &[VcpuOp::UP.0.into(), 1, 0]));
    let page = probe::page();
    t.ok("protect", page.protect(false));
    let mut frames = [page.mfn.0];
    t.ok("set_gdt", call(Hypercall::SET_GDT, &[frames.as_mut_ptr() as u64, 512]));
    t.ok("descriptor", call(Hypercall::UPDATE_DESCRIPTOR, &[page.slot(5), DATA3]));
    let mut regs = Regs { rax: SELECTOR, rbx: 1_000_000, rdi: page.slot(5), rsi: 0, ..Regs::default() };
    let got = exec(&CODE, &mut regs);
    let start = probe::code_page();
    t.eq(
        "failsafe",
        got.map(|f| (f.entry, f.rip.wrapping_sub(start), f.cs, f.ss & 0xffff, f.masked)),
        Some((Entry::Failsafe, 21, 0xe030, 0xe02b, true)),
    );
    t.eq("the selectors", got.map(|f| f.selectors), Some([SELECTOR, 0, 0, 0]));
    t.eq("16-aligned", got.map(|f| (f.frame_at + 11 * 8) % 16), Some(0));
    t.ok("down", call(Hypercall::VCPU_OP, &[VcpuOp::DOWN.0.into(), 1, 0]));
}
