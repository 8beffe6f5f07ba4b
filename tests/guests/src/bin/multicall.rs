//! multicall: results, failures in the middle, bad entries, nesting.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::Errno;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::multicall::MulticallEntry;
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::{Test, guest};

guest!(run);

fn entry(op: Hypercall, args: &[u64]) -> MulticallEntry {
    let mut entry = MulticallEntry { op: op.0.into(), result: 0xdead, ..MulticallEntry::default() };
    entry.args.iter_mut().zip(args).for_each(|(to, from)| *to = *from);
    entry
}

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
