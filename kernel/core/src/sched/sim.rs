//! CPUs for tests: what the ring-0 image does on its way back to a guest, without a guest.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use std::boxed::Box;
use std::vec::Vec;

use super::Next;
use crate::cpu::pending;
use crate::lifecycle::NewDomain;
use crate::testing::{self, TestCore, TestMachine};
use crate::{CpuId, Domain, Vcpu};

/// A machine whose CPUs run vCPUs.
pub(crate) struct Sim {
    pub(crate) core: Box<TestCore>,
    /// What each CPU runs.
    pub(crate) running: Vec<Option<Arc<Vcpu<TestMachine>>>>,
}

impl Sim {
    pub(crate) fn new(cpus: u32) -> Self {
        let core = testing::core(1024, cpus);
        Self { core, running: (0..cpus).map(|_| None).collect() }
    }

    /// A domain whose vCPUs are all up.
    pub(crate) fn domain(&self, vcpus: u32) -> Arc<Domain<TestMachine>> {
        let domain = self.core.create_domain(&NewDomain::ordinary(vcpus)).unwrap();
        self.core.unpause_from_outside(&domain).unwrap();
        for vcpu in &domain.vcpus {
            self.core.set_periodic(vcpu, 0);
            self.core.bring_up(vcpu);
        }
        domain
    }

    /// Everything else happens on this CPU.
    pub(crate) fn on(&self, cpu: usize) -> &Self {
        self.core.platform.cpu.store(cpu as u32, SeqCst);
        self
    }

    /// What a CPU does before it goes back to its guest.
    pub(crate) fn leave(&mut self, cpu: usize) {
        self.on(cpu);
        let here = &self.core.cpus[cpu];
        loop {
            let bits = here.pending.swap(0, SeqCst);
            if bits == 0 {
                return;
            }
            let slot = &mut self.running[cpu];
            if bits & pending::TIMER != 0 {
                self.core.run_timers(here, slot.as_ref());
            }
            if bits & pending::RESCHEDULE != 0 {
                let next = match self.core.schedule(here, slot.as_ref()) {
                    Next::Stay => continue,
                    Next::Switch(vcpu) => Some(vcpu),
                    Next::Idle => None,
                };
                if let Some(left) = std::mem::replace(slot, next) {
                    self.core.descheduled(here, left);
                }
            }
        }
    }

    /// All CPUs look after what waits for them, until nothing does.
    pub(crate) fn settle(&mut self) {
        while self.core.cpus.iter().any(|cpu| cpu.pending.load(SeqCst) != 0) {
            (0..self.running.len()).for_each(|cpu| self.leave(cpu));
        }
    }

    /// Time passes. Timers are looked at by every CPU, as often as `step`.
    pub(crate) fn pass(&mut self, nanoseconds: u64, step: u64) {
        let end = self.core.platform.clock.load(SeqCst) + nanoseconds;
        while self.core.platform.clock.load(SeqCst) < end {
            self.core.platform.clock.fetch_add(step, SeqCst);
            self.core.cpus.iter().for_each(|cpu| cpu.post(pending::TIMER));
            self.settle();
        }
    }

    /// Where a vCPU runs.
    pub(crate) fn runs_on(&self, vcpu: &Arc<Vcpu<TestMachine>>) -> Option<CpuId> {
        let at = self.running.iter().position(|r| r.as_ref().is_some_and(|v| Arc::ptr_eq(v, vcpu)));
        at.map(|cpu| CpuId(cpu as u32))
    }

    /// A running vCPU blocks, as by SCHEDOP_block.
    pub(crate) fn block(&mut self, vcpu: &Arc<Vcpu<TestMachine>>) {
        let cpu = self.runs_on(vcpu).expect("it runs").0 as usize;
        if self.on(cpu).core.block(vcpu) {
            self.core.cpus[cpu].post(pending::RESCHEDULE);
        }
        self.settle();
    }

    /// How long a vCPU has been in each runstate.
    pub(crate) fn times(&self, vcpu: &Vcpu<TestMachine>) -> [u64; 4] {
        self.core.run_times(vcpu, self.core.platform.clock.load(SeqCst)).time
    }
}
