//! A CPU as the core's logic sees it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Platform;

/// The most CPUs that are brought online; a [`CpuSet`] is one word.
pub const MAX_CPUS: usize = 64;

/// A CPU that is online, counted from 0 (the one that started the machine).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuId(pub u32);

/// A set of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// No CPU.
    pub const NONE: Self = Self(0);

    /// Just one.
    pub fn of(cpu: CpuId) -> Self {
        // There are MAX_CPUS at most.
        Self(1u64.wrapping_shl(cpu.0))
    }

    /// This set without `cpu`.
    pub fn without(self, cpu: CpuId) -> Self {
        Self(self.0 & !Self::of(cpu).0)
    }

    /// Is `cpu` in it?
    pub fn has(self, cpu: CpuId) -> bool {
        self.0 & Self::of(cpu).0 != 0
    }

    /// Is nobody in it?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let cpu = (rest != 0).then(|| CpuId(rest.trailing_zeros()))?;
            rest &= rest - 1;
            Some(cpu)
        })
    }
}

/// What waits for a CPU before it may go back to a guest: bits of [`Cpu::pending`].
pub mod pending {
    /// Somebody else should run: look at the run queue.
    pub const RESCHEDULE: u32 = 1;
    /// The timer went off: look at the timer queue.
    pub const TIMER: u32 = 2;
}

/// One CPU.
pub struct Cpu<P: Platform> {
    /// Which one.
    pub id: CpuId,
    /// What waits for it; see [`pending`]. Set by anyone, taken by the CPU itself.
    pub pending: AtomicU32,
    /// The flush clock when its TLB was last flushed of everything a guest mapped; see [`Cpu::note_flush`].
    pub flushed: AtomicU64,
    /// Who is to run here, and who does.
    pub queue: crate::sched::Queue<P>,
    /// Nanoseconds that it has been halted, with nobody to run; while it is, less the moment since when, so negative.
    pub idle: AtomicU64,
    /// How often another vCPU than before was put on it.
    pub switches: AtomicU64,
    /// How often its timer went off.
    pub timed: AtomicU64,
    /// How often it interrupted another CPU, to look at its flags.
    pub kicks: AtomicU64,
    /// What is to happen here, and when.
    pub timers: crate::time::Timers<P>,
}

impl<P: Platform> Cpu<P> {
    /// A CPU with nothing to do.
    pub fn new(id: CpuId) -> Self {
        Self {
            id,
            pending: AtomicU32::new(0),
            flushed: AtomicU64::new(1),
            idle: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            timed: AtomicU64::new(0),
            kicks: AtomicU64::new(0),
            queue: crate::sched::Queue::new(),
            timers: crate::time::Timers::new(),
        }
    }

    /// Notes that its TLB was flushed of everything a guest ever mapped since `moment`.
    pub fn note_flush(&self, moment: u64) {
        if self.flushed.load(Ordering::Relaxed) < moment {
            self.flushed.fetch_max(moment, Ordering::SeqCst);
        }
    }

    /// Nanoseconds that it has been halted, until `now`.
    pub fn idle_until(&self, now: u64) -> u64 {
        let idle = self.idle.load(Ordering::Relaxed).cast_signed();
        if idle < 0 { idle.saturating_add_unsigned(now).max(0) } else { idle }.cast_unsigned()
    }

    /// Leaves word for the CPU; the caller kicks it where it is another.
    pub fn post(&self, bits: u32) {
        self.pending.fetch_or(bits, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_leaves_a_set() {
        let set = CpuSet(0b1011);
        assert_eq!([0, 1, 2].map(|cpu| set.without(CpuId(cpu)).0), [0b1010, 0b1001, 0b1011]);
    }

    #[test]
    fn a_cpu_that_is_halted_is_idle_until_now() {
        let cpu = Cpu::<crate::testing::TestMachine>::new(CpuId(0));
        let add = |more| crate::counters::add(&cpu.idle, more);
        let told = |now| cpu.idle_until(now);
        add(100_u64.wrapping_neg());
        assert_eq!([100, 101, 170].map(told), [0, 1, 70]);
        assert_eq!(told(99), 0, "by a clock that is behind");
        add(180);
        assert_eq!([180, 999].map(told), [80, 80]);
        add(200_u64.wrapping_neg());
        assert_eq!([200, 250].map(told), [80, 130]);
    }

    #[test]
    fn members_of_a_set_are_named_once_lowest_first() {
        let members = |bits: u64| CpuSet(bits).iter().map(|cpu| cpu.0).collect::<std::vec::Vec<_>>();
        assert_eq!(members(0), []);
        assert_eq!(members(1), [0]);
        assert_eq!(members(1 << 63 | 0b1011), [0, 1, 3, 63]);
        assert_eq!(members(u64::MAX), (0..64).collect::<std::vec::Vec<_>>());
    }
}
