//! What a CPU has done, counted: cheap enough to be always on, read by a debug key and by sysctl.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{Core, Cpu, Platform};

/// Hypercall numbers that are told apart.
const HYPERCALLS: usize = 64;
/// Sub-operations of a hypercall that are told apart.
const SUB_OPS: usize = 16;
/// Hypercalls whose sub-operations are told apart: see [`family`].
const FAMILIES: usize = 6;
/// Exception vectors.
const VECTORS: usize = 32;

const SUBS_AT: usize = HYPERCALLS;
const VECTORS_AT: usize = SUBS_AT + FAMILIES * SUB_OPS;
const EVENTS_AT: usize = VECTORS_AT + VECTORS;
const COUNT: usize = EVENTS_AT + Event::NAMES.len();

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A hypercall, by number.
    Hypercall(u32),
    /// A sub-operation of one of the hypercalls that have them: number, operation.
    Sub(u32, u32),
    /// An exception raised by a guest, by vector.
    Exception(u8),
    /// Anything else.
    Event(Event),
}

/// Things counted that are neither hypercalls nor exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A hypercall that was preempted, to be made again.
    Continuation,
    /// Another vCPU than before was put on the CPU.
    Switch,
    /// The CPU went idle.
    Idle,
    /// A root was loaded (CR3).
    RootLoad,
    /// A TLB flush that was asked of some set of CPUs.
    Flush,
    /// Another CPU was interrupted to look at its flags.
    Kick,
    /// An upcall was bounced into a guest.
    Upcall,
    /// An instruction was emulated.
    Emulation,
    /// A write to a page table was emulated.
    TableWrite,
    /// The timer went off.
    Timer,
    /// A vCPU was taken from another CPU's queue.
    Steal,
}

impl Event {
    /// The names, in the order of the numbers.
    pub const NAMES: [&'static str; 11] = [
        "continuations",
        "switches",
        "idle",
        "root loads",
        "flushes",
        "kicks",
        "upcalls",
        "emulations",
        "table writes",
        "timer",
        "steals",
    ];
}

/// Which family of sub-operations a hypercall has: memory_op, vcpu_op, grant_table_op, mmuext_op, sched_op,
/// event_channel_op.
const fn family(number: u32) -> Option<usize> {
    match number {
        12 => Some(0),
        20 => Some(1),
        24 => Some(2),
        26 => Some(3),
        29 => Some(4),
        32 => Some(5),
        _ => None,
    }
}

impl Counter {
    /// Where it is kept; what has no place of its own shares the last of its kind.
    #[inline(always)]
    const fn index(self) -> Option<usize> {
        match self {
            Self::Hypercall(n) if (n as usize) < HYPERCALLS => Some(n as usize),
            Self::Hypercall(_) => Some(HYPERCALLS - 1),
            Self::Sub(n, op) => match family(n) {
                Some(f) => {
                    let op = if (op as usize) < SUB_OPS { op as usize } else { SUB_OPS - 1 };
                    Some(SUBS_AT + f * SUB_OPS + op)
                }
                None => None,
            },
            Self::Exception(v) => Some(VECTORS_AT + v as usize % VECTORS),
            Self::Event(e) => Some(EVENTS_AT + e as usize),
        }
    }
}

/// One CPU's counters. Only that CPU adds to them, so no locked instruction is needed; anybody reads.
pub struct Counters([AtomicU64; COUNT]);

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Self([const { AtomicU64::new(0) }; COUNT])
    }

    /// One more.
    #[inline(always)]
    pub fn add(&self, what: Counter) {
        if let Some(slot) = what.index().and_then(|i| self.0.get(i)) {
            slot.store(slot.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// How often it has happened here.
    pub fn get(&self, what: Counter) -> u64 {
        what.index().and_then(|i| self.0.get(i)).map_or(0, |slot| slot.load(Ordering::Relaxed))
    }
}

impl<P: Platform> Core<P> {
    /// Counts something that happens on `cpu`, which is the one this runs on.
    #[inline(always)]
    pub fn count(&self, cpu: &Cpu<P>, what: Counter) {
        cpu.counters.add(what);
    }

    /// How often something has happened on all CPUs.
    pub fn counted(&self, what: Counter) -> u64 {
        self.cpus.iter().map(|cpu| cpu.counters.get(what)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_own_place() {
        let c = Counters::new();
        c.add(Counter::Hypercall(32));
        c.add(Counter::Sub(32, 4));
        c.add(Counter::Exception(14));
        c.add(Counter::Event(Event::Steal));
        c.add(Counter::Event(Event::Steal));
        assert_eq!(c.get(Counter::Hypercall(32)), 1);
        assert_eq!(c.get(Counter::Sub(32, 4)), 1);
        assert_eq!(c.get(Counter::Sub(32, 5)), 0);
        assert_eq!(c.get(Counter::Exception(14)), 1);
        assert_eq!(c.get(Counter::Event(Event::Steal)), 2);
        assert_eq!(c.0.iter().map(|x| x.load(Ordering::Relaxed)).sum::<u64>(), 5);
    }

    #[test]
    fn numbers_out_of_range_are_counted_or_dropped_never_a_panic() {
        let c = Counters::new();
        c.add(Counter::Hypercall(u32::MAX));
        c.add(Counter::Sub(20, u32::MAX));
        c.add(Counter::Sub(1, 1));
        c.add(Counter::Exception(255));
        assert_eq!(c.0.iter().map(|x| x.load(Ordering::Relaxed)).sum::<u64>(), 3);
    }
}
