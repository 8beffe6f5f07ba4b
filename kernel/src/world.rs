//! Standing still: one CPU works alone, all others wait where they hold nothing but the vCPUs that run there.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::machine::{self, core};
use crate::{apic, flush, time};

/// In [`ferrule_core::Cpu::pending`]: somebody wants to be alone.
pub const REST_PENDING: u32 = 1 << 29;

/// How many CPUs are at work, with [`ALONE`] while one wants to be the only one.
static AT_WORK: AtomicU32 = AtomicU32::new(0);
const ALONE: u32 = 1 << 31;
/// How long others are waited for, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;

/// Waits until nobody is alone. From then on this CPU is at work: in the core or in a guest.
pub fn begin() {
    loop {
        let now = AT_WORK.load(Ordering::Relaxed);
        if now & ALONE == 0 && AT_WORK.compare_exchange(now, now + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        flush::serve();
        core::hint::spin_loop();
    }
}

/// Lets whoever wants it be alone. The caller holds no lock but its vCPU's, and no reference into that.
pub fn rest() {
    AT_WORK.fetch_sub(1, Ordering::Release);
    begin();
}

/// Calls `f` while all other CPUs rest; false if one did not come to that: it may wait for a vCPU that runs on a CPU that
/// rests, or on this one, and is to be tried again once the caller has looked at what else there is to do. As for [`rest`].
pub fn alone(f: impl FnOnce()) -> bool {
    AT_WORK.fetch_sub(1, Ordering::Release);
    while AT_WORK.fetch_or(ALONE, Ordering::Acquire) & ALONE != 0 {
        flush::serve();
        core::hint::spin_loop();
    }
    let me = machine::cpu().id;
    for other in core().cpus.iter().filter(|cpu| cpu.id != me) {
        other.post(REST_PENDING);
        apic::send(other.id.0, apic::KICK_VECTOR);
    }
    let end = time::now() + PATIENCE;
    while AT_WORK.load(Ordering::Acquire) != ALONE {
        if time::now() > end {
            AT_WORK.fetch_and(!ALONE, Ordering::Release);
            begin();
            return false;
        }
        flush::serve();
        core::hint::spin_loop();
    }
    f();
    AT_WORK.store(1, Ordering::Release);
    true
}
