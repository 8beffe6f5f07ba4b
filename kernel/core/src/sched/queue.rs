//! A CPU's run queue.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::Place;
use crate::{CpuId, Lock, Platform, Vcpu};

/// The vCPUs that wait for a CPU, and the turn of the one that runs there.
pub struct Queue<P: Platform> {
    /// In the order of their turns. There is room for every vCPU ([`Core::make_room`](crate::Core::make_room)).
    waiting: Lock<P, VecDeque<Arc<Vcpu<P>>>>,
    /// How many wait; to be read without the lock.
    len: AtomicUsize,
    /// The CPU has nothing to run.
    idle: AtomicBool,
    /// One that was woken is in front and wants the CPU.
    pub(super) pressed: AtomicBool,
    /// When the turn of the vCPU that runs began.
    pub(super) since: AtomicU64,
    /// When it ends, in system time; `u64::MAX` while nobody waits.
    pub(crate) until: AtomicU64,
}

impl<P: Platform> Queue<P> {
    /// Empty, and its CPU idle.
    pub fn new() -> Self {
        Self {
            waiting: Lock::<P, _>::new(VecDeque::new()),
            len: AtomicUsize::new(0),
            idle: AtomicBool::new(true),
            pressed: AtomicBool::new(false),
            since: AtomicU64::new(0),
            until: AtomicU64::new(u64::MAX),
        }
    }

    /// Makes room for `most` vCPUs; false if there is no memory.
    pub(super) fn reserve(&self, most: usize) -> bool {
        let mut waiting = self.waiting.lock();
        let missing = most.saturating_sub(waiting.len());
        waiting.try_reserve(missing).is_ok()
    }

    /// Adds one. True if none waited.
    pub(super) fn push(&self, vcpu: Arc<Vcpu<P>>, place: Place) -> bool {
        let mut waiting = self.waiting.lock();
        match place {
            Place::Back => waiting.push_back(vcpu),
            Place::Front | Place::Ahead => waiting.push_front(vcpu),
        }
        if place == Place::Ahead {
            self.pressed.store(true, Ordering::SeqCst);
        }
        self.len.store(waiting.len(), Ordering::SeqCst);
        waiting.len() == 1
    }

    /// Takes the first that may run and is allowed on `cpu`; it is the caller's from then on.
    pub(super) fn pop(&self, cpu: CpuId) -> Option<Arc<Vcpu<P>>> {
        while !self.is_empty() {
            let vcpu = {
                let mut waiting = self.waiting.lock();
                let at = waiting.iter().position(|v| v.sched.affinity().has(cpu))?;
                let vcpu = if at == 0 { waiting.pop_front() } else { waiting.remove(at) }?;
                self.pressed.store(false, Ordering::SeqCst);
                self.len.store(waiting.len(), Ordering::SeqCst);
                vcpu
            };
            if vcpu.sched.state.take() {
                return Some(vcpu);
            }
        }
        None
    }

    /// Does one wait that is allowed on `cpu`?
    pub(super) fn has_for(&self, cpu: CpuId) -> bool {
        self.waiting.lock().iter().any(|v| v.sched.affinity().has(cpu))
    }

    /// Takes off all that `which` names, without changing their state; returns how many.
    pub(super) fn remove(&self, which: impl Fn(&Arc<Vcpu<P>>) -> bool) -> usize {
        let mut waiting = self.waiting.lock();
        let before = waiting.len();
        waiting.retain(|v| !which(v));
        self.len.store(waiting.len(), Ordering::SeqCst);
        before - waiting.len()
    }

    /// Looks at each that waits, for tests.
    #[cfg(test)]
    pub(super) fn each(&self, f: impl FnMut(&Arc<Vcpu<P>>)) {
        self.waiting.lock().iter().for_each(f);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has the CPU nothing to run?
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    /// Has the CPU nothing to run, and will it have nothing soon?
    pub(super) fn is_free(&self) -> bool {
        self.is_idle() && self.is_empty()
    }

    pub(super) fn set_idle(&self, idle: bool) {
        if self.idle.load(Ordering::Relaxed) != idle {
            self.idle.store(idle, Ordering::SeqCst);
        }
    }
}
