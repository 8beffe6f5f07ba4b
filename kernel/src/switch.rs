//! From one vCPU to another, and to none.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use ferrule_core::platform::Platform;
use ferrule_core::sched::Next;
use ferrule_core::{Cpu, CpuSet, Domain, Vcpu};
use x86_64::instructions::interrupts;

use crate::machine::{self, Machine, core};
use crate::percpu::{self, Current};
use crate::{fpu, paging};

/// Asks the scheduler who is to run here, and switches to it.
pub fn reschedule(cpu: &Cpu<Machine>) {
    let percpu = percpu::get();
    // SAFETY: this CPU's own, interrupts are off, and nobody else holds a reference into it here.
    let current = unsafe { &mut *percpu.current.get() };
    let next = match core().schedule(cpu, current.as_ref().map(|c| &c.vcpu)) {
        Next::Stay => return,
        Next::Switch(vcpu) => Some(vcpu),
        Next::Idle => None,
    };
    let left = current.take().map(|mut left| {
        core().write_runstate(&left.vcpu, &left.run);
        save(&mut left);
        // The Run lock is free from here on: whoever takes the vCPU next can have its state.
        (left.domain, left.vcpu)
    });
    *current = next.and_then(lock);
    let entered = current.as_ref();
    change_space(cpu, left.as_ref().map(|(domain, _)| domain), entered);
    if let Some(entered) = entered {
        load(entered);
        core().write_runstate(&entered.vcpu, &entered.run);
    }
    if let Some((_, vcpu)) = left {
        core().descheduled(cpu, vcpu);
    }
}

/// Takes a vCPU's state. None where its domain is gone, which cannot be while a queue had it.
fn lock(vcpu: Arc<Vcpu<Machine>>) -> Option<Current> {
    let domain = vcpu.domain.upgrade()?;
    let run = vcpu.run.lock_arc();
    Some(Current { domain, vcpu, run })
}

/// Keeps what the hardware holds of a vCPU.
fn save(current: &mut Current) {
    let run = &mut *current.run;
    machine::save_selectors(run);
    core().platform.save_segments(run);
    fpu::save(run);
}

/// Gives the hardware what it has to hold of a vCPU. Its root is loaded already.
fn load(current: &Current) {
    let run = &*current.run;
    machine::store_registers_in(run);
    machine::load_windows(run);
    machine::load_selectors(run);
    core().platform.load_bases(run);
    core().platform.load_control(run);
    core().platform.load_debug_registers(run);
    fpu::load(run);
}

/// Loads the root of the vCPU that is entered, or the core's own. This CPU counts among those whose TLB may know a domain
/// from before its root is loaded until after another's is.
fn change_space(cpu: &Cpu<Machine>, left: Option<&Arc<Domain<Machine>>>, entered: Option<&Current>) {
    let here = CpuSet::of(cpu.id).0;
    match entered {
        Some(entered) => {
            entered.domain.dirty_cpus.fetch_or(here, Ordering::SeqCst);
            core().platform.load_root(&entered.run);
        }
        None => machine::load_cr3(paging::root()),
    }
    if let Some(left) = left
        && entered.is_none_or(|entered| !Arc::ptr_eq(&entered.domain, left))
    {
        left.dirty_cpus.fetch_and(!here, Ordering::SeqCst);
    }
}

/// Waits for something to do, with nobody running here.
pub fn idle(cpu: &Cpu<Machine>) {
    while cpu.pending.load(Ordering::SeqCst) == 0 {
        let since = core().platform.now();
        interrupts::enable_and_hlt();
        interrupts::disable();
        cpu.idle.fetch_add(core().platform.now().saturating_sub(since), Ordering::Relaxed);
    }
}
