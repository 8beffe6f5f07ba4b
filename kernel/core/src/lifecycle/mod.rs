//! A domain's life: creation, shutdown, destruction.

mod context;
#[cfg(test)]
mod tests;

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::layout::LEGACY_MAX_VCPUS;
use abi::sched::ShutdownReason;
use abi::{DomId, Errno, VcpuId, Virq};
use lock_api::RwLockUpgradableReadGuard;

use crate::frame::Place;
use crate::platform::Halt;
use crate::{Core, Domain, Frame, Lock, Platform, Privilege, Run, Stage, Stop, Vcpu, guest, refuse_if};

/// Words of a `vcpu_info`.
const VCPU_INFO: usize = 8;

/// What is to be created.
#[derive(Clone, Copy, Debug)]
pub struct NewDomain {
    /// Its number; the next free one if none is asked for.
    pub id: Option<DomId>,
    /// Its handle.
    pub handle: [u8; 16],
    /// What it may do.
    pub privilege: Privilege,
    /// The pages it may have.
    pub max_pages: u64,
    /// Its vCPUs: 1 to 32.
    pub vcpus: u32,
    /// The grant-table frames it may have; 0 for the usual number.
    pub grant_frames: u32,
    /// The highest event-channel port it may have.
    pub highest_port: u32,
}

impl NewDomain {
    /// An ordinary domain without memory.
    pub const fn ordinary(vcpus: u32) -> Self {
        let privilege = Privilege::empty();
        Self { id: None, handle: [0; 16], privilege, max_pages: 0, vcpus, grant_frames: 0, highest_port: u32::MAX }
    }

    /// The initial domain.
    pub const fn initial(vcpus: u32) -> Self {
        Self { id: Some(DomId(0)), privilege: Privilege::all(), ..Self::ordinary(vcpus) }
    }
}

impl<P: Platform> Core<P> {
    /// Creates a domain: paused, its vCPUs down and without context, its memory empty.
    ///
    /// EINVAL: no or too many vCPUs, or a number that names no domain. EEXIST: the number is taken. ENOMEM.
    pub fn create_domain(&self, new: &NewDomain) -> Result<Arc<Domain<P>>, Errno> {
        let fits = (1..=LEGACY_MAX_VCPUS).contains(&(new.vcpus as usize)) && new.id.is_none_or(|id| id.is_real());
        refuse_if(!fits, Errno::EINVAL)?;
        crate::emulate::prepare();
        let shared_info = self.take_cleared(0, u64::MAX)?;
        self.assemble(new, shared_info).inspect_err(|_| self.free_frame(shared_info))
    }

    fn assemble(&self, new: &NewDomain, shared_info: Frame) -> Result<Arc<Domain<P>>, Errno> {
        let mut runs = Vec::new();
        runs.try_reserve_exact(new.vcpus as usize).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..new.vcpus {
            runs.push(Run::new()?);
        }
        let grants = crate::grant::Grants::new(new.grant_frames);
        let events = crate::event::Events::new(new.highest_port)?;

        // Keeps new readers out while it waits for those that are there; so does `reap`.
        let mut table = RwLockUpgradableReadGuard::upgrade(self.domains.table.upgradable_read());
        let id = match new.id {
            Some(id) => id,
            None => self.domains.next_id(&table).ok_or(Errno::ENOMEM)?,
        };
        let Err(at) = table.binary_search_by_key(&id.0, |d| d.id.0) else { return Err(Errno::EEXIST) };
        table.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.make_room(&table, runs.len())?;
        // What an `Arc` adds to each is two words; the list of vCPUs has one for each.
        crate::headroom::<(Domain<P>, Vcpu<P>, Lock<P, Run>, [usize; 7])>(runs.len())?;

        // Nothing fails from here on.
        self.share_page(shared_info, id);
        let mut memory = crate::memory::Account::new(new.max_pages);
        memory.core_pages = 1;
        let domain = Arc::new_cyclic(|weak: &Weak<Domain<P>>| {
            let vcpu = |(n, run)| {
                Arc::new(Vcpu::new(VcpuId(n as u32), weak.clone(), run, Place::new(shared_info, n * VCPU_INFO)))
            };
            Domain {
                id,
                handle: Lock::<P, _>::new(new.handle),
                privilege: new.privilege,
                hypercalls: AtomicU64::new(u64::MAX),
                life: AtomicU32::new(Stage::Alive as u32),
                shutdown_code: AtomicU32::new(0),
                paused: AtomicU32::new(1),
                shared_info,
                vcpus: runs.into_iter().enumerate().map(vcpu).collect(),
                dirty_cpus: AtomicU64::new(0),
                assist: AtomicU64::new(0),
                mm: Lock::<P, _>::new(Default::default()),
                memory: Lock::<P, _>::new(memory),
                events,
                grants,
                devices: Lock::<P, _>::new(Default::default()),
                console: Lock::<P, _>::new(Default::default()),
                clock: crate::time::DomainClock::new(&self.platform),
            }
        });
        for vcpu in 0..LEGACY_MAX_VCPUS {
            // evtchn_upcall_mask: events wait until the guest is ready for them.
            guest::store(&self.platform, shared_info, vcpu * VCPU_INFO, 1 << 8);
        }
        self.pause_domain(&domain);
        domain.vcpus.iter().for_each(|vcpu| self.update_time_page(&domain, vcpu));
        self.update_wall_clock(&domain);
        table.insert(at, domain.clone());
        Ok(domain)
    }

    /// Pauses a domain once more from outside. EOVERFLOW: too often.
    pub fn pause_from_outside(&self, domain: &Domain<P>) -> Result<(), Errno> {
        let counted = domain.paused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_add(1));
        if counted.map_err(|_| Errno::EOVERFLOW)? == 0 {
            self.pause_domain(domain);
        }
        Ok(())
    }

    /// Takes one pause from outside back. EINVAL if there is none.
    pub fn unpause_from_outside(&self, domain: &Domain<P>) -> Result<(), Errno> {
        let counted = domain.paused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if counted.map_err(|_| Errno::EINVAL)? == 1 {
            self.unpause_domain(domain);
        }
        Ok(())
    }

    /// Ends a domain's running, for the reason that it or its crash gives; the first reason counts. The end of the
    /// initial domain is the machine's.
    pub fn shutdown(&self, domain: &Domain<P>, reason: ShutdownReason) {
        let reason = domain.latch_shutdown_code(reason);
        let down = Stage::Shutdown as u32 | (reason.0 & 0xff) << 8;
        let first = domain.life.compare_exchange(Stage::Alive as u32, down, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !first {
            return;
        }
        if domain.privilege.contains(Privilege::INITIAL) {
            self.platform.halt(match reason {
                ShutdownReason::POWEROFF => Halt::PowerOff,
                ShutdownReason::REBOOT => Halt::Reboot,
                _ => Halt::DomainCrash,
            });
        }
        self.pause_domain(domain);
        self.send_global_virq(Privilege::STORE, Virq::DOM_EXC);
    }

    /// Lets a domain that was shut down (suspended) run again. One that was not goes on as it was.
    pub fn resume(&self, domain: &Domain<P>) {
        let alive = |life: u32| (life & 0xff == Stage::Shutdown as u32).then_some(Stage::Alive as u32);
        if domain.life.fetch_update(Ordering::SeqCst, Ordering::SeqCst, alive).is_ok() {
            domain.shutdown_code.store(0, Ordering::SeqCst);
            self.unpause_domain(domain);
        }
    }

    /// Takes a domain apart, a slice at a time: Preempted while there is more to do. What others still map of it keeps
    /// it as a zombie; see [`reap`](Self::reap). Once begun it cannot be stopped, and may be called by anybody again.
    pub fn destroy(&self, domain: &Arc<Domain<P>>) -> Result<(), Stop> {
        let dying = |life: u32| (life & 0xff < Stage::Dying as u32).then_some(life & !0xff | Stage::Dying as u32);
        if domain.life.fetch_update(Ordering::SeqCst, Ordering::SeqCst, dying).is_ok() {
            self.pause_domain(domain);
        }
        if domain.stage() == Stage::Zombie {
            return Ok(());
        }
        refuse_if(domain.vcpus.iter().any(|vcpu| self.is_running(vcpu)), Stop::PREEMPTED)?;
        self.destroy_ports(domain)?;
        self.release_devices(domain);
        for vcpu in &domain.vcpus {
            self.strip(domain, vcpu)?;
        }
        self.relinquish_memory(domain)?;
        self.release_mappings(domain)?;
        self.release_grant_table(domain);
        let zombie = |life: u32| (life & 0xff == Stage::Dying as u32).then_some(life & !0xff | Stage::Zombie as u32);
        if domain.life.fetch_update(Ordering::SeqCst, Ordering::SeqCst, zombie).is_ok() {
            self.discharge(domain);
            self.free_core_page(domain.shared_info);
            self.reap();
            self.send_global_virq(Privilege::STORE, Virq::DOM_EXC);
        }
        Ok(())
    }

    /// Takes from a dying domain's vCPU all that it holds of its memory.
    fn strip(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) -> Result<(), Stop> {
        let mut run = vcpu.run.lock();
        self.release_vcpu_info(domain, vcpu);
        self.release_gdt(&mut run.gdt);
        run.ldt.iter_mut().filter_map(Option::take).for_each(|frame| self.put_page_and_type(frame));
        run.hardware_root = None;
        self.drop_root(domain, &mut run.kernel_root)?;
        self.drop_root(domain, &mut run.user_root)
    }

    /// Forgets the zombies of which nobody maps anything any more.
    pub fn reap(&self) {
        let is_gone = |d: &Arc<Domain<P>>| d.stage() == Stage::Zombie && self.frames_left(d) == 0;
        let table = self.domains.table.upgradable_read();
        if table.iter().any(is_gone) {
            RwLockUpgradableReadGuard::upgrade(table).retain(|d| !is_gone(d));
        }
    }
}
