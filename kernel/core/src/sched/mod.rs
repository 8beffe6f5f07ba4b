//! Who runs where.
//!
//! Each CPU has a queue of the vCPUs that wait for it. A vCPU that becomes runnable goes to an idle CPU if its
//! affinity allows one, else to the one it ran on last; a CPU that would idle takes from others' queues. How long a
//! vCPU runs, and where in a queue it goes, is the [`Policy`]'s.
//!
//! The ring-0 image runs the switch: it calls [`Core::schedule`] when [`pending::RESCHEDULE`] is set, and where that
//! answers another vCPU, or none, it stores the state of the one before, gives up its `Run` lock, and only then calls
//! [`Core::descheduled`]. Nobody else can pick that vCPU before (see [`state`]).

mod policy;
mod queue;
#[cfg(test)]
pub(crate) mod sim;
pub mod state;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use core::iter;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::Errno;

pub use policy::{Place, Policy, RoundRobin};
pub use queue::Queue;
pub use state::Resched;
use state::State;

use crate::cpu::pending;
use crate::{Core, Cpu, CpuId, CpuSet, Domain, Platform, Vcpu, counters, refuse_if};

/// The policy in use.
type InUse = RoundRobin;

/// What a CPU is to do.
#[must_use]
pub enum Next<P: Platform> {
    /// Go on with the vCPU it runs, or with idling.
    Stay,
    /// Run this one. It is the caller's: nobody else has it.
    Switch(Arc<Vcpu<P>>),
    /// Stop running what it runs; there is nothing else.
    Idle,
}

/// What the scheduler knows of a vCPU.
pub struct VcpuSched {
    /// Whether it may run, and who has it.
    pub state: State,
    /// The CPU it runs on, ran on last, or is queued for.
    cpu: AtomicU32,
    /// The CPUs it may run on.
    affinity: AtomicU64,
    /// What is left of its time slice, in nanoseconds.
    slice: AtomicU64,
    /// When it stopped running last.
    left: AtomicU64,
    /// It gave up the rest of its turn.
    yielded: AtomicBool,
    /// The port it polls, if it polls just one.
    pub(crate) poll_port: AtomicU32,
    /// An NMI waits for it (VCPUOP_send_nmi).
    pub nmi: AtomicBool,
}

impl VcpuSched {
    /// Down, allowed everywhere.
    pub fn new() -> Self {
        Self {
            state: State::new(),
            cpu: AtomicU32::new(0),
            affinity: AtomicU64::new(u64::MAX),
            slice: AtomicU64::new(InUse::SLICE),
            left: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
            poll_port: AtomicU32::new(0),
            nmi: AtomicBool::new(false),
        }
    }

    /// The CPU it runs on, ran on last, or is queued for.
    pub fn cpu(&self) -> CpuId {
        CpuId(self.cpu.load(Ordering::SeqCst))
    }

    /// The CPUs it may run on.
    pub fn affinity(&self) -> CpuSet {
        CpuSet(self.affinity.load(Ordering::SeqCst))
    }
}

impl<P: Platform> Core<P> {
    /// A CPU by number.
    pub fn cpu(&self, id: CpuId) -> Option<&Cpu<P>> {
        self.cpus.get(id.0 as usize)
    }

    /// Makes room in all queues for the vCPUs and the watchdogs of all domains and of one more with `vcpus`, so that
    /// nothing is allocated when a vCPU is woken or sleeps. ENOMEM if there is none. Called before its vCPUs run, with
    /// the domain table locked.
    pub(crate) fn make_room(&self, domains: &[Arc<Domain<P>>], vcpus: usize) -> Result<(), Errno> {
        let all = domains.iter().fold(vcpus, |sum, domain| sum.saturating_add(domain.vcpus.len()));
        let fits = |cpu: &Cpu<P>| cpu.queue.reserve(all) && cpu.timers.reserve(all.saturating_add(domains.len() + 1));
        refuse_if(!self.cpus.iter().all(fits), Errno::ENOMEM)
    }

    /// Takes the vCPUs of a domain, which are all down or paused and run nowhere, off all queues.
    pub fn discharge(&self, domain: &Arc<Domain<P>>) {
        for cpu in &self.cpus {
            cpu.queue.remove(|v| domain.vcpus.iter().any(|own| Arc::ptr_eq(own, v)));
            cpu.timers.forget(domain);
        }
    }

    /// Ends a vCPU's waiting, if it waits: what it waited for is here.
    pub fn wake(&self, vcpu: &Arc<Vcpu<P>>) {
        let (polled, todo) = vcpu.sched.state.unblock();
        if polled && let Some(domain) = vcpu.domain.upgrade() {
            domain.events.pollers.fetch_sub(1, Ordering::SeqCst);
        }
        self.apply(vcpu, todo);
    }

    /// Makes a vCPU notice what was put into its `vcpu_info`: wakes it, or interrupts the CPU it runs on.
    pub fn kick(&self, vcpu: &Arc<Vcpu<P>>) {
        let view = vcpu.sched.state.view();
        if view.blocked() {
            self.wake(vcpu);
        } else if view.running() {
            self.interrupt(vcpu.sched.cpu());
        }
    }

    /// Adds a reason for a vCPU not to run. It may go on for a moment: see [`is_running`](Self::is_running).
    pub fn pause(&self, vcpu: &Arc<Vcpu<P>>) {
        self.apply(vcpu, vcpu.sched.state.pause());
    }

    /// Takes a reason away.
    pub fn unpause(&self, vcpu: &Arc<Vcpu<P>>) {
        self.apply(vcpu, vcpu.sched.state.unpause());
    }

    /// Pauses all vCPUs of a domain.
    pub fn pause_domain(&self, domain: &Domain<P>) {
        domain.vcpus.iter().for_each(|v| self.pause(v));
    }

    /// Unpauses all vCPUs of a domain.
    pub fn unpause_domain(&self, domain: &Domain<P>) {
        domain.vcpus.iter().for_each(|v| self.unpause(v));
    }

    /// Does a CPU run it, or hold its state? A hypercall that needs a paused vCPU to stand still ends with
    /// `PREEMPTED` until this is false.
    pub fn is_running(&self, vcpu: &Vcpu<P>) -> bool {
        vcpu.sched.state.view().running()
    }

    /// Brings a vCPU up; see VCPUOP_up.
    pub fn bring_up(&self, vcpu: &Arc<Vcpu<P>>) {
        self.apply(vcpu, vcpu.sched.state.up());
    }

    /// Takes a vCPU down; see VCPUOP_down.
    pub fn take_down(&self, vcpu: &Arc<Vcpu<P>>) {
        self.apply(vcpu, vcpu.sched.state.down());
    }

    /// The running vCPU gives up the rest of its turn. Costs nothing where nobody waits.
    pub fn yield_now(&self, cpu: &Cpu<P>, vcpu: &Vcpu<P>) {
        if !cpu.queue.is_empty() {
            vcpu.sched.yielded.store(true, Ordering::Relaxed);
            cpu.post(pending::RESCHEDULE);
        }
    }

    /// Lets a vCPU run on some CPUs only. EINVAL if none of them is online.
    pub fn set_affinity(&self, vcpu: &Arc<Vcpu<P>>, to: CpuSet) -> Result<(), Errno> {
        refuse_if(!self.cpus.iter().any(|cpu| to.has(cpu.id)), Errno::EINVAL)?;
        vcpu.sched.affinity.store(to.0, Ordering::SeqCst);
        let Some(cpu) = self.cpu(vcpu.sched.cpu()) else { return Ok(()) };
        if cpu.queue.remove(|v| Arc::ptr_eq(v, vcpu)) != 0 {
            self.enqueue(vcpu.clone(), Place::Back);
        } else if !to.has(cpu.id) {
            self.post(cpu, pending::RESCHEDULE);
        }
        Ok(())
    }

    /// What `cpu`, which this runs on, is to do now. Sets its timer.
    pub fn schedule(&self, cpu: &Cpu<P>, current: Option<&Arc<Vcpu<P>>>) -> Next<P> {
        let now = self.platform.now();
        cpu.queue.set_idle(false);
        let ran = now.saturating_sub(cpu.queue.since.load(Ordering::Relaxed));
        let next = match current {
            Some(v) if self.may_stay(cpu, v, ran) => Next::Stay,
            _ => self.pick(cpu, current),
        };
        if let Some(before) = current {
            let stays = matches!(next, Next::Stay);
            self.charge(cpu, before, now, ran, stays);
            if !stays {
                before.sched.left.store(now, Ordering::Relaxed);
                before.sched.state.leave();
                self.note_runstate(before, now);
            }
        }
        let runs = match &next {
            Next::Stay => current,
            Next::Switch(v) => {
                v.sched.cpu.store(cpu.id.0, Ordering::SeqCst);
                cpu.queue.since.store(now, Ordering::Relaxed);
                self.note_runstate(v, now);
                self.unpark(v);
                self.fire_running(v, now);
                counters::add(&cpu.switches, 1);
                match current {
                    Some(_) => self.share(cpu),
                    // It was idle, so that others may have counted on it: somebody else is to take from them.
                    None => self.cpus.iter().for_each(|cpu| self.share(cpu)),
                }
                Some(v)
            }
            Next::Idle => None,
        };
        cpu.queue.until.store(runs.map_or(u64::MAX, |v| self.turn_ends(cpu, v)), Ordering::Relaxed);
        self.program(cpu, runs);
        next
    }

    /// The state of the vCPU that `cpu` ran is stored and its `Run` lock is free: others may pick it.
    pub fn descheduled(&self, cpu: &Cpu<P>, vcpu: Arc<Vcpu<P>>) {
        self.park(cpu, &vcpu);
        let yielded = vcpu.sched.yielded.swap(false, Ordering::Relaxed);
        let place = InUse::stopped(vcpu.sched.slice.load(Ordering::Relaxed), yielded);
        let todo = vcpu.sched.state.release();
        self.note_runstate(&vcpu, self.platform.now());
        if todo == Resched::Enqueue {
            self.enqueue(vcpu, place);
        }
    }

    /// Does what a change of a vCPU's state asks for.
    fn apply(&self, vcpu: &Arc<Vcpu<P>>, todo: Resched) {
        let now = self.platform.now();
        self.note_runstate(vcpu, now);
        match todo {
            Resched::Stay => {}
            Resched::Enqueue => {
                let others = self.cpu(vcpu.sched.cpu()).map_or(0, |cpu| cpu.queue.len() as u64 + 1);
                let slept = now.saturating_sub(vcpu.sched.left.load(Ordering::Relaxed));
                let slice = InUse::rested(vcpu.sched.slice.load(Ordering::Relaxed), slept, others);
                vcpu.sched.slice.store(slice, Ordering::Relaxed);
                self.enqueue(vcpu.clone(), InUse::woken(slice));
            }
            Resched::Vacate => {
                if let Some(cpu) = self.cpu(vcpu.sched.cpu()) {
                    self.post(cpu, pending::RESCHEDULE);
                }
            }
        }
    }

    /// Leaves word for a CPU, and interrupts it if it is another.
    pub(crate) fn post(&self, cpu: &Cpu<P>, bits: u32) {
        cpu.post(bits);
        self.interrupt(cpu.id);
    }

    /// Interrupts a CPU, if it is another.
    fn interrupt(&self, cpu: CpuId) {
        let here = self.platform.this_cpu();
        if cpu != here {
            self.platform.kick(cpu);
            if let Some(cpu) = self.cpu(here) {
                counters::add(&cpu.kicks, 1);
            }
        }
    }

    /// Puts a vCPU whose `QUEUED` bit the caller has set on a queue.
    fn enqueue(&self, vcpu: Arc<Vcpu<P>>, place: Place) {
        if place == Place::Back {
            vcpu.sched.slice.store(InUse::SLICE, Ordering::Relaxed);
        }
        let allowed = vcpu.sched.affinity();
        let last = vcpu.sched.cpu();
        let free = |cpu: &&Cpu<P>| allowed.has(cpu.id) && cpu.queue.is_free();
        let home = self.cpu(last).filter(|cpu| allowed.has(cpu.id));
        let Some(cpu) = home
            .filter(free)
            .or_else(|| self.cpus.iter().find(free))
            .or(home)
            .or_else(|| self.cpus.iter().find(|cpu| allowed.has(cpu.id)))
        else {
            return; // set_affinity leaves at least one CPU that is online, and CPUs do not go offline.
        };
        vcpu.sched.cpu.store(cpu.id.0, Ordering::SeqCst);
        let alone = cpu.queue.push(vcpu, place);
        if alone || place == Place::Ahead {
            self.post(cpu, pending::RESCHEDULE);
        }
        // A CPU that went idle since looked at the queues either before the push, then it is seen here, or after it.
        if !(alone && cpu.queue.is_idle())
            && let Some(other) = self.cpus.iter().find(free)
        {
            self.post(other, pending::RESCHEDULE);
        }
    }

    /// May the vCPU that runs go on?
    fn may_stay(&self, cpu: &Cpu<P>, vcpu: &Vcpu<P>, ran: u64) -> bool {
        vcpu.sched.state.view().runnable()
            && vcpu.sched.affinity().has(cpu.id)
            && !vcpu.sched.yielded.load(Ordering::Relaxed)
            && (vcpu.sched.slice.load(Ordering::Relaxed) > ran || cpu.queue.is_empty())
            && !(cpu.queue.pressed.load(Ordering::SeqCst) && ran >= InUse::LEAST)
    }

    /// The vCPU to run in place of `current`.
    fn pick(&self, cpu: &Cpu<P>, current: Option<&Arc<Vcpu<P>>>) -> Next<P> {
        if let Some(v) = cpu.queue.pop(cpu.id) {
            return Next::Switch(v);
        }
        if let Some(v) = current
            && v.sched.state.view().runnable()
            && v.sched.affinity().has(cpu.id)
        {
            v.sched.yielded.store(false, Ordering::Relaxed);
            return Next::Stay;
        }
        // Say that this CPU is idle, then look at the queues once more: see `enqueue`.
        cpu.queue.set_idle(true);
        match iter::once(cpu).chain(&self.cpus).find_map(|from| from.queue.pop(cpu.id)) {
            Some(v) => {
                cpu.queue.set_idle(false);
                Next::Switch(v)
            }
            None if current.is_some() => Next::Idle,
            None => Next::Stay,
        }
    }

    /// Lets idle CPUs take from those that still wait for `cpu`.
    fn share(&self, cpu: &Cpu<P>) {
        let waiting = cpu.queue.len();
        if waiting != 0 {
            let takers = self.cpus.iter().filter(|other| other.queue.is_free() && cpu.queue.has_for(other.id));
            takers.take(waiting).for_each(|other| self.post(other, pending::RESCHEDULE));
        }
    }

    /// Takes the time it ran off a vCPU's slice; one that used it up while nobody waits gets another. The turn of one
    /// that stays goes on: however often it is looked at, it began when it began.
    fn charge(&self, cpu: &Cpu<P>, vcpu: &Vcpu<P>, now: u64, ran: u64, stays: bool) {
        let left = vcpu.sched.slice.load(Ordering::Relaxed).saturating_sub(ran);
        if stays && left != 0 {
            return;
        }
        let left = if left == 0 && (stays || cpu.queue.is_empty()) { InUse::SLICE } else { left };
        vcpu.sched.slice.store(left, Ordering::Relaxed);
        cpu.queue.since.store(now, Ordering::Relaxed);
    }

    /// When the turn of the vCPU that runs ends: never, while nobody waits.
    fn turn_ends(&self, cpu: &Cpu<P>, vcpu: &Vcpu<P>) -> u64 {
        if cpu.queue.is_empty() {
            return u64::MAX;
        }
        let slice = vcpu.sched.slice.load(Ordering::Relaxed);
        let length = if cpu.queue.pressed.load(Ordering::SeqCst) { slice.min(InUse::LEAST) } else { slice };
        cpu.queue.since.load(Ordering::Relaxed).saturating_add(length)
    }
}
