//! From one vCPU to another, and to none.

use alloc::sync::Arc;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use ferrule_core::platform::Platform;
use ferrule_core::sched::Next;
use ferrule_core::{Caller, Cpu, CpuSet, Domain, Vcpu, counters};
use x86_64::instructions::interrupts;

use crate::machine::{self, Machine, core};
use crate::percpu::{self, Current};
use crate::trap::caller;
use crate::{fpu, paging};

/// Asks the scheduler who is to run here, and switches to it.
pub fn reschedule(cpu: &'static Cpu<Machine>) {
    let percpu = percpu::get();
    let next = match core().schedule(cpu, percpu.caller.get().map(|c| caller(c).vcpu)) {
        Next::Stay => return,
        Next::Switch(vcpu) => Some(vcpu),
        Next::Idle => None,
    };
    percpu.caller.set(None);
    // SAFETY: this CPU's own, and interrupts are off; what referred into them, the caller, is gone.
    let (seen, current) = unsafe { (&mut *percpu.seen.get(), &mut *percpu.current.get()) };
    *seen = None;
    let left = current.take().map(|mut left| {
        core().write_runstate(&left.domain, &left.vcpu, &left.run);
        save(&mut left);
        // The Run lock is free from here on: whoever takes the vCPU next can have its state.
        (left.domain, left.vcpu)
    });
    *current = next.and_then(lock);
    change_space(cpu, left.as_ref().map(|(domain, _)| domain), current.as_ref());
    *seen = current.as_mut().map(|Current { domain, vcpu, run }| Caller { core: core(), cpu, domain, vcpu, run });
    seen.as_mut().map(load);
    percpu.caller.set(seen.as_mut().map(NonNull::from));
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
    core().platform.save_bases(run);
    fpu::save(run);
}

/// Gives the hardware what it has to hold of a vCPU. Its root is loaded already.
fn load(c: &mut Caller<'_, Machine>) {
    machine::store_registers_in(c.run);
    c.core.platform.load_tables(c.run);
    let r = &c.run.regs;
    for selector in [r.es, r.ds, r.fs, r.gs] {
        // Those of the LDT are loaded from the window, where its pages are only once they are used.
        if selector & 4 != 0 {
            c.map_ldt(u64::from(selector & !7));
        }
    }
    let loaded = machine::load_selectors(c.run);
    c.core.platform.load_bases(c.run);
    fpu::load(c.run);
    c.core.platform.load_control(c.run);
    c.core.platform.load_debug_registers(c.run);
    c.core.write_runstate(c.domain, c.vcpu, c.run);
    if !loaded {
        c.core.failsafe(c);
    }
}

/// Loads the root of the vCPU that is entered, or the core's own. This CPU counts among those whose TLB may know a domain
/// from before its root is loaded until after another's is.
fn change_space(cpu: &Cpu<Machine>, left: Option<&Arc<Domain<Machine>>>, entered: Option<&Current>) {
    let here = CpuSet::of(cpu.id).0;
    match entered {
        Some(entered) => {
            entered.domain.dirty_cpus.fetch_or(here, Ordering::SeqCst);
            core().load_root(cpu, &entered.run);
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
        counters::add(&cpu.idle, core().platform.now().wrapping_neg());
        interrupts::enable_and_hlt();
        interrupts::disable();
        counters::add(&cpu.idle, core().platform.now());
    }
}
