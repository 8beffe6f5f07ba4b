//! What a CPU has done, counted: cheap enough to be always on, read by a debug key and by sysctl.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{Core, Cpu, Platform};

/// Hypercall numbers that are told apart; the last stands for all above.
const HYPERCALLS: usize = 64;
/// Sub-operations of a hypercall that are told apart; likewise.
const SUB_OPS: usize = 16;
/// Exception vectors.
const VECTORS: usize = 32;

const VECTORS_AT: usize = HYPERCALLS * (1 + SUB_OPS);
const EVENTS_AT: usize = VECTORS_AT + VECTORS;
const COUNT: usize = EVENTS_AT + Event::Steal as usize + 1;

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

impl Counter {
    /// Where it is kept; what has no place of its own shares the last of its kind.
    fn index(self) -> usize {
        let within = |number: u32, count: usize| (number as usize).min(count - 1);
        match self {
            Self::Hypercall(n) => within(n, HYPERCALLS),
            Self::Sub(n, op) => HYPERCALLS + within(n, HYPERCALLS) * SUB_OPS + within(op, SUB_OPS),
            Self::Exception(v) => VECTORS_AT + usize::from(v) % VECTORS,
            Self::Event(e) => EVENTS_AT + e as usize,
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
    pub fn add(&self, what: Counter) {
        if let Some(slot) = self.0.get(what.index()) {
            slot.store(slot.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// How often it has happened here.
    pub fn get(&self, what: Counter) -> u64 {
        self.0.get(what.index()).map_or(0, |slot| slot.load(Ordering::Relaxed))
    }
}

impl<P: Platform> Core<P> {
    /// Counts something that happens on `cpu`, which is the one this runs on.
    pub fn count(&self, cpu: &Cpu<P>, what: Counter) {
        cpu.counters.add(what);
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
    fn numbers_out_of_range_are_counted_with_the_last_never_a_panic() {
        let c = Counters::new();
        c.add(Counter::Hypercall(u32::MAX));
        c.add(Counter::Sub(20, u32::MAX));
        c.add(Counter::Sub(1, 1));
        c.add(Counter::Exception(255));
        assert_eq!(c.0.iter().map(|x| x.load(Ordering::Relaxed)).sum::<u64>(), 4);
    }
}
