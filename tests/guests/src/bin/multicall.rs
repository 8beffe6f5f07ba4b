//! multicall: results, failures in the middle, bad entries, nesting.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::{BindIpi, EvtchnOp, PortArg};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::multicall::MulticallEntry;
use conformance_guests::abi::{Errno, Port, VcpuId};
use conformance_guests::domain_rt::probe::{self, Regs, call, exec};
use conformance_guests::ops::evtchn;
use conformance_guests::{Test, guest};

guest!(run);

fn entry(op: Hypercall, args: &[u64]) -> MulticallEntry {
    let mut entry = MulticallEntry { op: op.0.into(), result: 0xdead, ..MulticallEntry::default() };
    entry.args.iter_mut().zip(args).for_each(|(to, from)| *to = *from);
    entry
}

/// Not inlined: all calls are made by the same instruction.
#[inline(never)]
fn multicall(entries: &mut [MulticallEntry]) -> i64 {
    call(Hypercall::MULTICALL, &[entries.as_mut_ptr() as u64, entries.len() as u64])
}

fn run(t: &mut Test) {
    t.ok("none", call(Hypercall::MULTICALL, &[0x1000, 0]));
    let mut calls = [
        entry(Hypercall::XEN_VERSION, &[0, 0]),
        entry(Hypercall::XEN_VERSION, &[7, 0]),
        entry(Hypercall(38), &[]),
        entry(Hypercall::XEN_VERSION, &[1, 0x1000]),
        entry(Hypercall::XEN_VERSION, &[7, 0]),
    ];
    t.ok("five", multicall(&mut calls));
    let results = core::hint::black_box(&calls).each_ref().map(|c| c.result as i64);
    let want = [0x4_0011, 4096, Errno::ENOSYS.code(), Errno::EFAULT.code(), 4096];
    t.eq("each has its result", results, want);
    t.eq("numbers stay", calls.each_ref().map(|c| c.op), [17, 17, 38, 17, 17]);
    let mut out = [entry(Hypercall(64), &[]), entry(Hypercall(u32::MAX), &[])];
    t.ok("numbers past the table", multicall(&mut out));
    t.eq("are unknown", out.each_ref().map(|c| c.result as i64), [Errno::ENOSYS.code(); 2]);
    let mut high = [entry(Hypercall::XEN_VERSION, &[7, 0])];
    if let Some(call) = high.first_mut() {
        call.op |= 1 << 32;
    }
    t.ok("a number of more than 32 bits", multicall(&mut high));
    t.eq("is unknown", high.each_ref().map(|c| c.result as i64), [Errno::ENOSYS.code()]);
    nested(t);
    faults(t);
    long(t);
    preempted(t);
    iret(t);
}

fn nested(t: &mut Test) {
    let mut inner = [entry(Hypercall::XEN_VERSION, &[7, 0])];
    let mut outer =
        [entry(Hypercall::MULTICALL, &[inner.as_mut_ptr() as u64, 1]), entry(Hypercall::XEN_VERSION, &[7, 0])];
    t.ok("outer of a nest", multicall(&mut outer));
    let results = core::hint::black_box(&outer).each_ref().map(|c| c.result as i64);
    t.eq("nesting", results, [Errno::EINVAL.code(), 4096]);
    t.eq("inner untouched", core::hint::black_box(&inner).each_ref().map(|c| c.result), [0xdead]);
}

fn faults(t: &mut Test) {
    t.err("entries nowhere", call(Hypercall::MULTICALL, &[0x1000, 1]), Errno::EFAULT);
    t.err("entries in the hypervisor", call(Hypercall::MULTICALL, &[0xffff_8300_0000_0000, 1]), Errno::EFAULT);
    t.ok("the count has 32 bits", call(Hypercall::MULTICALL, &[0x1000, 1 << 60]));
    // Read-only: the call runs, its result cannot be written.
    let page = probe::page();
    let words = [17, 0xdead, 7, 0];
    words.into_iter().enumerate().for_each(|(i, w)| page.set(i, w));
    t.ok("protect", page.protect(false));
    t.err("a result that cannot be written", call(Hypercall::MULTICALL, &[page.va, 1]), Errno::EFAULT);
    t.eq("is not", page.get(1), 0xdead);
    // Two entries, the second on a page that is not there.
    let (first, second) = (probe::page(), probe::page());
    t.ok("unmap", conformance_guests::ops::update_va(second.va, conformance_guests::abi::Pte::EMPTY, 2));
    let at = first.va + 4096 - 64;
    words.into_iter().enumerate().for_each(|(i, w)| probe::poke(at + 8 * i as u64, w));
    t.err("the second entry is not there", call(Hypercall::MULTICALL, &[at, 2]), Errno::EFAULT);
    t.eq("the first was done", probe::peek(at + 8), 4096);
}

/// As many as fit four pages: long enough to be preempted.
fn long(t: &mut Test) {
    const N: u64 = 4096 / 64;
    let page = probe::page();
    for i in 0..N {
        let at = page.va + 64 * i;
        [17, 0xdead, 7, 0].into_iter().enumerate().for_each(|(j, w)| probe::poke(at + 8 * j as u64, w));
    }
    t.ok("a page of them", call(Hypercall::MULTICALL, &[page.va, N]));
    t.eq("all done", (0..N).filter(|i| probe::peek(page.va + 64 * i + 8) == 4096).count(), N as usize);
}

/// An event that comes up in the middle is delivered before the next entry: the interrupted instruction is then the call
/// itself, which is made again for the rest.
fn preempted(t: &mut Test) {
    let mut ipi = BindIpi { vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind_ipi", evtchn(EvtchnOp::BIND_IPI, &mut ipi));
    let mut port = PortArg { port: ipi.port };
    let send = entry(Hypercall::EVENT_CHANNEL_OP, &[EvtchnOp::SEND.0.into(), &raw mut port as u64]);
    let version = entry(Hypercall::XEN_VERSION, &[7, 0]);
    let interrupted = |t: &mut Test, calls: &mut [MulticallEntry]| {
        probe::poke(probe::shared_info() + 2048, 0);
        probe::poke(probe::vcpu_info() + 8, 0);
        probe::modify(probe::vcpu_info(), |_| 0);
        let before = probe::upcalls();
        probe::mask_events(false);
        t.ok("multicall", multicall(calls));
        probe::mask_events(true);
        t.eq("one upcall", probe::upcalls() - before, 1);
        probe::upcall_frame().get(2).copied().unwrap_or(0)
    };
    let behind = interrupted(t, &mut [version, send]);
    let mut calls = [version, send, version, version];
    let at = interrupted(t, &mut calls);
    t.eq("preempted at the instruction", behind - at, 2);
    let results = core::hint::black_box(&calls).each_ref().map(|c| c.result as i64);
    t.eq("all done", results, [4096, 0, 4096, 4096]);
}

/// iret as an entry replaces the registers, and ends the batch.
fn iret(t: &mut Test) {
    let code = [
        0x48, 0x89, 0xe3, // mov rbx, rsp
        0x68, 0x2b, 0xe0, 0, 0,    // push the stack selector
        0x53, // push rbx
        0x6a, 2, // push rflags, events masked
        0x68, 0x30, 0xe0, 0, 0, // push the code selector, kernel mode
        0x48, 0x8d, 0x0d, 13, 0, 0, 0, 0x51, // push the address of the end
        0x6a, 0, 0x6a, 7, 0x6a, 8, 0x6a, 9, // push flags, rcx, r11, rax
        0x0f, 0x05, // syscall
        0x0f, 0x0b, // ud2
    ];
    let page = probe::page();
    let words = [23, 0xdead, 0, 0, 0, 0, 0, 0, 17, 0xdead, 7, 0];
    words.into_iter().enumerate().for_each(|(at, word)| page.set(at, word));
    let mut regs = Regs { rax: 13, rdi: page.va, rsi: 2, ..Regs::default() };
    t.runs("iret in a multicall", exec(&code, &mut regs));
    t.eq("rax, rcx, r11", (regs.rax, regs.rcx, regs.r11), (9, 7, 8));
    t.eq("the entry behind it was not made", page.get(9), 0xdead);
}
