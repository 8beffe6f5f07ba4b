//! Domains: what there is of each, who exists, what each may do.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::DomId;

use crate::{CpuSet, Frame, Lock, Platform, RwLock, Vcpu};

bitflags::bitflags! {
    /// What a domain may do beyond looking after itself. A set, not "is it dom0".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Privilege: u32 {
        /// Create, change and destroy domains, and map their memory (domctl, DOMID arguments of others).
        const BUILDER = 1;
        /// Reach I/O ports, PCI configuration and interrupts of the machine, and give them away.
        const HARDWARE = 2;
        /// Read and write the machine's console.
        const CONSOLE = 4;
        /// Be the one that hears of dying domains (VIRQ_DOM_EXC).
        const STORE = 8;
        /// Its end is the machine's end.
        const INITIAL = 16;
    }
}

/// Where a domain is in its life. It only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stage {
    /// It can run.
    Alive = 0,
    /// It asked for shutdown, or crashed; it is paused until somebody destroys or resumes it.
    Shutdown = 1,
    /// It is being taken apart, a slice at a time.
    Dying = 2,
    /// All is given back but the frames that others still map.
    Zombie = 3,
}

/// A domain.
pub struct Domain<P: Platform> {
    /// Its number.
    pub id: DomId,
    /// The 128-bit handle its builder gave it.
    pub handle: Lock<P, [u8; 16]>,
    /// What it may do beyond looking after itself.
    pub privilege: Privilege,
    /// One bit a hypercall number: may it be called at all? All ones for an ordinary guest.
    pub hypercalls: AtomicU64,
    /// Its stage of life ([`Stage`]), low byte, and the reason of its shutdown, next byte.
    pub life: AtomicU32,
    /// The reason that its shutdown will have whatever is said then (SCHEDOP_shutdown_code), plus one; 0 for none.
    pub shutdown_code: AtomicU32,
    /// How often it has been paused from outside.
    pub paused: AtomicU32,
    /// The page that `shared_info` is on. Belongs to the domain, as in Xen, and is never freed before it.
    pub shared_info: Frame,
    /// Its vCPUs, by number. As many as it can ever have.
    pub vcpus: Box<[Arc<Vcpu<P>>]>,
    /// The CPUs whose TLB may hold translations of it.
    pub dirty_cpus: AtomicU64,
    /// Kinds of vm_assist that it switched on.
    pub assist: AtomicU64,
    /// Held while its page tables change.
    pub mm: Lock<P, crate::mm::State>,
    /// The frames it has, and may have.
    pub memory: Lock<P, crate::memory::Account>,
    /// Its event channels.
    pub events: crate::event::Events<P>,
    /// What it grants, and what it maps of others.
    pub grants: crate::grant::Grants<P>,
    /// The machine's interrupts, ports and frames that it was given.
    pub devices: Lock<P, crate::irq::Devices>,
    /// The line that it is writing to the console.
    pub console: Lock<P, crate::hypercall::console_io::Writer>,
    /// Its clock: offset of wall time, and counters.
    pub clock: crate::time::DomainClock,
}

impl<P: Platform> Domain<P> {
    /// The CPUs whose TLB may hold translations of it.
    pub fn dirty(&self) -> CpuSet {
        CpuSet(self.dirty_cpus.load(Ordering::SeqCst))
    }

    /// Its stage of life.
    pub fn stage(&self) -> Stage {
        match self.life.load(Ordering::Acquire) & 0xff {
            0 => Stage::Alive,
            1 => Stage::Shutdown,
            2 => Stage::Dying,
            _ => Stage::Zombie,
        }
    }

    /// Sets the reason that its shutdown will have; the first one counts. Returns the one that does.
    pub fn latch_shutdown_code(&self, reason: abi::sched::ShutdownReason) -> abi::sched::ShutdownReason {
        let latched = self.shutdown_code.compare_exchange(0, (reason.0 & 0xff) + 1, Ordering::SeqCst, Ordering::SeqCst);
        abi::sched::ShutdownReason(latched.map_or_else(|first| first - 1, |_| reason.0 & 0xff))
    }

    /// Has its end begun? Then nothing new may refer to it.
    pub fn is_dying(&self) -> bool {
        self.stage() >= Stage::Dying
    }

    /// A vCPU by number, if there is one.
    pub fn vcpu(&self, id: abi::VcpuId) -> Option<&Arc<Vcpu<P>>> {
        self.vcpus.get(id.0 as usize)
    }
}

/// Every domain that exists.
pub struct Domains<P: Platform> {
    /// By number, lowest first. Changed only by creation and the last step of destruction.
    pub table: RwLock<P, Vec<Arc<Domain<P>>>>,
    /// The number given last. Changed with `table` held for writing.
    last: AtomicU32,
}

impl<P: Platform> Domains<P> {
    /// None yet.
    pub fn new() -> Self {
        Self { table: RwLock::<P, _>::new(Vec::new()), last: AtomicU32::new(0) }
    }

    /// The next number that is free, going round, so that one that has just died is not soon another's.
    pub fn next_id(&self, table: &[Arc<Domain<P>>]) -> Option<DomId> {
        let first = self.last.load(Ordering::Relaxed);
        let end = DomId::FIRST_RESERVED.0;
        let mut round = (first + 1..u32::from(end)).chain(1..u32::from(end)).map(|id| DomId(id as u16));
        let free = round.find(|id| table.binary_search_by_key(&id.0, |d| d.id.0).is_err())?;
        self.last.store(u32::from(free.0), Ordering::Relaxed);
        Some(free)
    }

    /// Those whose number is not below this (0: all), one after the other. The table is not locked while one is looked at,
    /// so that any lock may be taken then.
    pub fn from(&self, number: u16) -> impl Iterator<Item = Arc<Domain<P>>> {
        let first = |number| self.table.read().iter().find(|d| d.id.0 >= number).cloned();
        core::iter::successors(first(number), move |last| first(last.id.0.saturating_add(1)))
    }

    /// The domain with this number. Zombies are found too.
    #[inline(never)]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain<P>>> {
        let table = self.table.read();
        table.binary_search_by_key(&id.0, |d| d.id.0).ok().and_then(|at| table.get(at)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::NewDomain;
    use crate::testing;
    use abi::sched::ShutdownReason;
    use core::sync::atomic::Ordering::SeqCst;

    #[test]
    fn numbers_go_round_past_those_that_are_taken() {
        let core = testing::core(128, 1);
        let create = |id| core.create_domain(&NewDomain { id, ..NewDomain::ordinary(1) }).unwrap().id.0;
        assert_eq!([create(None), create(Some(DomId(3))), create(None), create(None)], [1, 3, 2, 4]);
        let most = DomId::FIRST_RESERVED.0 - 1;
        core.domains.last.store(u32::from(most) - 1, SeqCst);
        assert_eq!([create(None), create(None)], [most, 5], "0 is the initial domain's");
    }

    #[test]
    fn the_first_reason_of_a_shutdown_counts() {
        let core = testing::core(128, 1);
        let domain = core.create_domain(&NewDomain::ordinary(1)).unwrap();
        let latch = |reason| domain.latch_shutdown_code(ShutdownReason(reason)).0;
        assert_eq!([latch(0x1ff), latch(0), latch(3)], [0xff; 3], "its low byte");
        domain.shutdown_code.store(0, SeqCst);
        assert_eq!([latch(0), latch(4)], [0; 2], "0 is a reason like any other");
    }
}
