//! Timers: the single-shot, periodic and poll timers of vCPUs, and the watchdogs of domains.
//!
//! The timers of the vCPU that runs are looked up in the vCPU itself, so that setting one is a store. When a vCPU
//! stops running with a timer set, it is *parked*: put on the timer queue of the CPU it ran on, and taken off when
//! it runs again. So it is on one queue at most, and all queues have room for it ([`Core::make_room`]).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::Virq;
use abi::sched::ShutdownReason;

use super::VcpuTime;
use crate::cpu::pending;
use crate::{Core, Cpu, CpuId, Domain, Lock, Platform, Vcpu, counters};

/// The deadline of a timer that is not set.
pub const NEVER: u64 = u64::MAX;
/// That of a watchdog that is in use and not set: it went off.
const BITTEN: u64 = NEVER - 1;
/// No CPU.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Whose timer it is.
pub(super) enum Owner<P: Platform> {
    Vcpu(Arc<Vcpu<P>>),
    Watchdog(Arc<Domain<P>>),
}

/// Which of a vCPU's timers went off.
pub(super) struct Due {
    /// VIRQ_TIMER is to be raised.
    tick: bool,
    /// Its poll is over.
    poll: bool,
}

/// A CPU's timer queue.
pub struct Timers<P: Platform> {
    /// The latest deadline first, so that the next one is taken off the end. There is room for every vCPU and a
    /// watchdog of every domain ([`Core::make_room`]).
    queue: Lock<P, Parked<P>>,
    /// The first deadline in the queue; to be read without the lock.
    first: AtomicU64,
    /// What the hardware was last asked for.
    programmed: AtomicU64,
}

/// Deadlines, and whose they are.
type Parked<P> = Vec<(u64, Owner<P>)>;

impl<P: Platform> Timers<P> {
    /// Empty.
    pub fn new() -> Self {
        Self { queue: Lock::<P, _>::new(Vec::new()), first: AtomicU64::new(NEVER), programmed: AtomicU64::new(NEVER) }
    }

    /// Makes room for `most` owners of timers; false if there is no memory.
    pub(crate) fn reserve(&self, most: usize) -> bool {
        let mut queue = self.queue.lock();
        let missing = most.saturating_sub(queue.len());
        queue.try_reserve(missing).is_ok()
    }

    /// Is there nothing to come but of vCPUs that run?
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.first.load(SeqCst) == NEVER
    }

    /// Changes the queue, and notes what is first in it then.
    fn change<R>(&self, change: impl FnOnce(&mut Parked<P>) -> R) -> R {
        let mut queue = self.queue.lock();
        let done = change(&mut queue);
        self.first.store(queue.last().map_or(NEVER, |(d, _)| *d), SeqCst);
        done
    }

    fn insert(&self, deadline: u64, owner: Owner<P>) {
        self.change(|queue| insert(queue, deadline, owner));
    }

    /// Takes the first one that is due. A vCPU that has another timer set stays on the queue for that: all in one
    /// step, so that whoever runs it meanwhile finds it there or not at all.
    pub(super) fn pop(&self, now: u64) -> Option<(Owner<P>, Due)> {
        if self.first.load(SeqCst) > now {
            return None;
        }
        self.change(|queue| {
            let (_, owner) = queue.pop_if(|(d, _)| *d <= now)?;
            let mut due = Due { tick: false, poll: false };
            if let Owner::Vcpu(v) = &owner {
                due = v.time.take_due(now);
                match v.time.asleep_until() {
                    NEVER => v.time.parked.store(NOWHERE, SeqCst),
                    next => insert(queue, next, Owner::Vcpu(v.clone())),
                }
            }
            Some((owner, due))
        })
    }

    fn retain(&self, keep: impl Fn(&Owner<P>) -> bool) {
        self.change(|queue| queue.retain(|(_, owner)| keep(owner)));
    }

    /// Takes off all that belongs to a domain.
    pub(crate) fn forget(&self, domain: &Arc<Domain<P>>) {
        self.retain(|owner| match owner {
            Owner::Vcpu(v) => !domain.vcpus.iter().any(|own| Arc::ptr_eq(own, v)),
            Owner::Watchdog(d) => !Arc::ptr_eq(d, domain),
        });
    }
}

fn insert<P: Platform>(queue: &mut Parked<P>, deadline: u64, owner: Owner<P>) {
    let at = queue.partition_point(|(d, _)| *d > deadline);
    queue.insert(at, (deadline, owner));
}

impl<P: Platform> VcpuTime<P> {
    /// The deadline of the timers that go on while it does not run.
    fn asleep_until(&self) -> u64 {
        self.singleshot.load(SeqCst).min(self.poll.load(SeqCst))
    }

    /// Which of these are due. Each is no longer set then; one caller only is told so.
    fn take_due(&self, now: u64) -> Due {
        Due { tick: take_due(&self.singleshot, now, NEVER), poll: take_due(&self.poll, now, NEVER) }
    }

    /// The next tick of the periodic timer.
    fn next_tick(&self) -> u64 {
        match self.period.load(Relaxed) {
            0 => NEVER,
            period => self.ticked.load(Relaxed).saturating_add(period),
        }
    }
}

/// Is the timer due? If so its deadline is `then`; one caller only is told so.
fn take_due(timer: &AtomicU64, now: u64, then: u64) -> bool {
    let deadline = timer.load(SeqCst);
    deadline <= now && timer.compare_exchange(deadline, then, SeqCst, SeqCst).is_ok()
}

impl<P: Platform> Core<P> {
    /// The timer of `cpu`, which this runs on, went off: does all that is due, and sets it again.
    pub fn run_timers(&self, cpu: &Cpu<P>, current: Option<&Arc<Vcpu<P>>>) {
        counters::add(&cpu.timed, 1);
        cpu.timers.programmed.store(NEVER, Relaxed);
        let now = self.platform.now();
        while let Some((owner, due)) = cpu.timers.pop(now) {
            match owner {
                Owner::Vcpu(v) => self.fire(&v, due),
                Owner::Watchdog(domain) => self.watch(cpu, &domain, now),
            }
        }
        if let Some(v) = current {
            self.fire_running(v, now);
        }
        if now >= cpu.queue.until.load(Relaxed) {
            cpu.post(pending::RESCHEDULE);
        }
        self.program(cpu, current);
    }

    /// Does what is due of the timers of a vCPU that runs, or is about to.
    pub(crate) fn fire_running(&self, vcpu: &Arc<Vcpu<P>>, now: u64) {
        let mut due = vcpu.time.take_due(now);
        if now >= vcpu.time.next_tick() {
            vcpu.time.ticked.store(now, Relaxed);
            due.tick = true;
        }
        self.fire(vcpu, due);
    }

    fn fire(&self, vcpu: &Arc<Vcpu<P>>, due: Due) {
        if due.tick
            && let Some(domain) = vcpu.domain.upgrade()
        {
            self.send_virq(&domain, Some(vcpu.id), Virq::TIMER);
        }
        if due.poll {
            self.wake(vcpu);
        }
    }

    /// Sets the hardware's timer for the first thing to come on this CPU, if it is not set for that.
    pub(crate) fn program(&self, cpu: &Cpu<P>, current: Option<&Arc<Vcpu<P>>>) {
        let own = current.map_or(NEVER, |v| v.time.singleshot.load(SeqCst).min(v.time.next_tick()));
        let next = cpu.timers.first.load(SeqCst).min(cpu.queue.until.load(Relaxed)).min(own);
        if next != cpu.timers.programmed.load(Relaxed) {
            cpu.timers.programmed.store(next, Relaxed);
            self.platform.set_timer(next);
        }
    }

    /// Makes sure that the hardware's timer goes off by `deadline`. An earlier one stays: it costs one look too many.
    fn program_by(&self, cpu: &Cpu<P>, deadline: u64) {
        if deadline < cpu.timers.programmed.load(Relaxed) {
            if deadline <= self.platform.now() {
                // It is here already: no need to wait for an interrupt to say so.
                cpu.post(pending::TIMER);
                return;
            }
            cpu.timers.programmed.store(deadline, Relaxed);
            self.platform.set_timer(deadline);
        }
    }

    /// Sets a timer of the vCPU that runs on `cpu`: its single-shot one, or the limit of the poll that it is about to
    /// enter. [`NEVER`] stops it.
    pub(crate) fn set_timer(&self, cpu: &Cpu<P>, timer: &AtomicU64, deadline: u64) {
        timer.store(deadline, SeqCst);
        self.program_by(cpu, deadline);
    }

    /// Sets a vCPU's periodic timer; 0 stops it.
    pub fn set_periodic(&self, vcpu: &Arc<Vcpu<P>>, period: u64) {
        vcpu.time.ticked.store(self.platform.now(), Relaxed);
        vcpu.time.period.store(period, Relaxed);
        if let Some(cpu) = self.cpu(vcpu.sched.cpu()) {
            if cpu.id == self.platform.this_cpu() {
                self.program_by(cpu, vcpu.time.next_tick());
            } else if vcpu.sched.state.view().running() {
                self.post(cpu, pending::TIMER);
            }
        }
    }

    /// A vCPU stops running on `cpu`: its timers go on there. The caller still has it.
    pub(crate) fn park(&self, cpu: &Cpu<P>, vcpu: &Arc<Vcpu<P>>) {
        let deadline = vcpu.time.asleep_until();
        if deadline != NEVER {
            vcpu.time.parked.store(cpu.id.0, SeqCst);
            cpu.timers.insert(deadline, Owner::Vcpu(vcpu.clone()));
            self.program_by(cpu, deadline);
        }
    }

    /// A vCPU is about to run: its timers are looked up in itself from now on.
    pub(crate) fn unpark(&self, vcpu: &Arc<Vcpu<P>>) {
        let at = vcpu.time.parked.swap(NOWHERE, SeqCst);
        if let Some(cpu) = self.cpu(CpuId(at)) {
            cpu.timers.retain(|owner| !matches!(owner, Owner::Vcpu(v) if Arc::ptr_eq(v, vcpu)));
        }
        // A poll's time limit ends with the poll, and who polls does not run.
        vcpu.time.poll.store(NEVER, SeqCst);
    }

    /// A domain's watchdogs are to be looked at by `deadline`.
    ///
    /// One entry a domain, at the first deadline it had: poking a watchdog later is a store alone.
    pub(crate) fn watch_by(&self, cpu: &Cpu<P>, domain: &Arc<Domain<P>>, deadline: u64) {
        if deadline < BITTEN && !domain.clock.watched.swap(true, SeqCst) {
            cpu.timers.insert(deadline, Owner::Watchdog(domain.clone()));
            self.program_by(cpu, deadline);
        }
    }

    /// Looks at a domain's watchdogs.
    fn watch(&self, cpu: &Cpu<P>, domain: &Arc<Domain<P>>, now: u64) {
        let watchdogs = &domain.clock.watchdogs;
        domain.clock.watched.store(false, SeqCst);
        if watchdogs.iter().any(|w| take_due(w, now, BITTEN)) {
            return self.shutdown(domain, ShutdownReason::WATCHDOG);
        }
        self.watch_by(cpu, domain, watchdogs.iter().map(|w| w.load(SeqCst)).min().unwrap_or(NEVER));
    }
}
