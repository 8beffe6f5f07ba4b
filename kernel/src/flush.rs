//! TLB flushes on other CPUs, without a lock.
//!
//! Each CPU has a count of flushes that were asked of it and a count of those done. Whoever wants one raises the first,
//! sends an interrupt and waits until the second has caught up; a CPU serves when the interrupt arrives, and when it
//! waits for a lock or for others itself.

use core::sync::atomic::{AtomicU64, Ordering};

use ferrule_core::cpu::MAX_CPUS;
use ferrule_core::{CpuSet, Flush};
use x86_64::VirtAddr;
use x86_64::instructions::tlb;

use crate::{apic, percpu};

/// One CPU's counts, on a cache line of their own.
#[repr(align(64))]
struct Requests {
    wanted: AtomicU64,
    done: AtomicU64,
}

static REQUESTS: [Requests; MAX_CPUS] =
    [const { Requests { wanted: AtomicU64::new(0), done: AtomicU64::new(0) } }; MAX_CPUS];

fn requests(cpu: u32) -> &'static Requests {
    &REQUESTS[cpu as usize % MAX_CPUS]
}

/// Does what was asked of this CPU.
pub fn serve() {
    let mine = requests(percpu::id());
    let wanted = mine.wanted.load(Ordering::Acquire);
    if mine.done.load(Ordering::Relaxed) != wanted {
        tlb::flush_all();
        mine.done.store(wanted, Ordering::Release);
    }
}

/// Flushes this CPU's own TLB.
pub fn local(what: Flush) {
    match what {
        Flush::All => tlb::flush_all(),
        Flush::Page(at) => tlb::flush(VirtAddr::new_truncate(at.0)),
    }
}

/// Flushes on all of `cpus`, and returns when that is done.
pub fn on(cpus: CpuSet, what: Flush) {
    let me = ferrule_core::CpuId(percpu::id());
    let others = cpus.without(me);
    for cpu in others.iter() {
        requests(cpu.0).wanted.fetch_add(1, Ordering::AcqRel);
        apic::send(cpu.0, apic::FLUSH_VECTOR);
    }
    if cpus.has(me) {
        local(what);
    }
    // Whoever has served a later request has served this one too.
    for cpu in others.iter().map(|cpu| requests(cpu.0)) {
        let wanted = cpu.wanted.load(Ordering::Acquire);
        while cpu.done.load(Ordering::Acquire) < wanted {
            serve();
            core::hint::spin_loop();
        }
    }
}
