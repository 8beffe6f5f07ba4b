//! Time: nanoseconds of system time from the shared clock, and embassy-time's driver over the one-shot timer.

use crate::events::Event;
use crate::hypercall;
use crate::shared;
use crate::sync::Local;
use abi::vcpu::{SetSingleshotTimer, VcpuOp};
use abi::{Errno, VcpuId, Virq};
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;
use embassy_time_driver::{Driver, time_driver_impl};
use embassy_time_queue_utils::Queue;

const _: () = assert!(embassy_time_driver::TICK_HZ == 1_000_000_000, "a tick is a nanosecond");

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The first deadline of the queue, and the one that the hypervisor's timer has.
static NEXT: AtomicU64 = AtomicU64::new(NEVER);
static ARMED: AtomicU64 = AtomicU64::new(NEVER);

/// The timer's interrupt. It ends the loop's sleep.
static EVENT: Local<Option<Event>> = Local::new(None);

struct Timers {
    queue: Local<Queue>,
}

time_driver_impl!(static TIMERS: Timers = Timers { queue: Local::new(Queue::new()) });

impl Driver for Timers {
    fn now(&self) -> u64 {
        now()
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        if self.queue.lock().schedule_wake(at, waker) {
            NEXT.fetch_min(at, Ordering::Relaxed);
        }
    }
}

/// Nanoseconds since the machine started; 0 before the runtime has.
pub fn now() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 and has no effect.
    if shared::ready() { shared::page().clock().at(unsafe { core::arch::x86_64::_rdtsc() }) } else { 0 }
}

/// Seconds and nanoseconds since 1970.
pub fn wall_clock() -> (u64, u32) {
    let (seconds, nanoseconds) = shared::page().wall_clock();
    let total = u64::from(nanoseconds) + now();
    (seconds + total / 1_000_000_000, (total % 1_000_000_000) as u32)
}

/// Stops the periodic timer that a vCPU starts with and binds the timer's interrupt.
pub fn init() -> Result<(), Errno> {
    hypercall::vcpu_op(VcpuOp::STOP_PERIODIC_TIMER, VcpuId(0), &mut ())?;
    *EVENT.lock() = Some(Event::bind_virq(Virq::TIMER)?);
    Ok(())
}

/// Wakes what is due; whether anything was.
pub fn fire() -> bool {
    if EVENT.lock().as_ref().is_some_and(Event::take) {
        // It has gone off, perhaps a little early: Xen serves timers that are nearly due along with others.
        ARMED.store(NEVER, Ordering::Relaxed);
    }
    let next = NEXT.load(Ordering::Relaxed);
    if next == NEVER || next > now() {
        return false;
    }
    let next = TIMERS.queue.lock().next_expiration(now());
    NEXT.store(next, Ordering::Relaxed);
    true
}

/// Sets the hypervisor's timer to the first deadline.
pub fn arm() {
    let next = NEXT.load(Ordering::Relaxed);
    if next == ARMED.swap(next, Ordering::Relaxed) && next > now() {
        return;
    }
    let set = if next == NEVER {
        hypercall::vcpu_op(VcpuOp::STOP_SINGLESHOT_TIMER, VcpuId(0), &mut ())
    } else {
        let mut timer = SetSingleshotTimer { timeout_abs_ns: next, ..SetSingleshotTimer::default() };
        hypercall::vcpu_op(VcpuOp::SET_SINGLESHOT_TIMER, VcpuId(0), &mut timer)
    };
    set.expect("a vCPU may set its own timer");
}
