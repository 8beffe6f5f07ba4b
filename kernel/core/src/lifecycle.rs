//! A domain's life: creation, shutdown, and the contexts of its vCPUs.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::layout::LEGACY_MAX_VCPUS;
use abi::regs::rflags;
use abi::sched::ShutdownReason;
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Maddr, Mfn, PAGE_SHIFT, VcpuId, Vaddr, Virq};

use crate::domain::{Domain, Privilege, Stage};
use crate::frame::Frame;
use crate::platform::{Halt, Platform};
use crate::sync::Lock;
use crate::trap::{CR0_TS, Callback, DR6_DEFAULT};
use crate::vcpu::{Run, Vcpu};
use crate::{Core, Stop, guest};

/// Bytes of a `vcpu_info`.
const VCPU_INFO: u64 = 64;
/// Bytes that an `Arc` adds.
const ARC: usize = 16;

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
        if new.vcpus == 0 || new.vcpus as usize > LEGACY_MAX_VCPUS || new.id.is_some_and(|id| !id.is_real()) {
            return Err(Errno::EINVAL);
        }
        let shared_info = self.alloc_core_page(None)?;
        self.assemble(new, shared_info).inspect_err(|_| self.free_core_page(shared_info))
    }

    fn assemble(&self, new: &NewDomain, shared_info: Frame) -> Result<Arc<Domain<P>>, Errno> {
        let mut runs = Vec::new();
        runs.try_reserve_exact(new.vcpus as usize).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..new.vcpus {
            runs.push(Run::new()?);
        }
        let mut vcpus = Vec::new();
        vcpus.try_reserve_exact(runs.len()).map_err(|_| Errno::ENOMEM)?;
        let grants = crate::grant::Grants::new(new.grant_frames)?;
        let events = crate::event::Events::new(new.highest_port)?;

        let mut table = self.domains.table.write();
        let id = match new.id {
            Some(id) => id,
            None => self.domains.next_id(&table).ok_or(Errno::ENOMEM)?,
        };
        let Err(at) = table.binary_search_by_key(&id.0, |d| d.id.0) else { return Err(Errno::EEXIST) };
        table.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let each = size_of::<Vcpu<P>>() + size_of::<Lock<P, Run>>() + 2 * ARC;
        crate::headroom(size_of::<Domain<P>>() + ARC + each * runs.len())?;

        self.enroll(runs.len())?;

        // Nothing fails from here on.
        self.share_page(shared_info, id, true);
        let mut memory = crate::memory::Account::new(new.max_pages);
        memory.core_pages = 1;
        let domain = Arc::new_cyclic(|weak: &Weak<Domain<P>>| {
            let base = shared_info.mfn().0 << PAGE_SHIFT;
            vcpus.extend(runs.into_iter().enumerate().map(|(n, run)| {
                Arc::new(Vcpu::new(VcpuId(n as u32), weak.clone(), run, Maddr(base + n as u64 * VCPU_INFO)))
            }));
            Domain {
                id,
                handle: Lock::<P, _>::new(new.handle),
                privilege: new.privilege,
                hypercalls: AtomicU64::new(u64::MAX),
                life: AtomicU32::new(Stage::Alive as u32),
                shutdown_code: AtomicU32::new(0),
                paused: AtomicU32::new(1),
                shared_info,
                vcpus: core::mem::take(&mut vcpus).into_boxed_slice(),
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
            guest::store(&self.platform, shared_info, vcpu * VCPU_INFO as usize / 8, 1 << 8);
        }
        self.pause_domain(&domain);
        self.init_clock(&domain);
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
        self.send_global_virq(Virq::DOM_EXC);
    }

    /// Lets a domain that was shut down (suspended) run again. EINVAL where it was not.
    pub fn resume(&self, domain: &Domain<P>) -> Result<(), Errno> {
        let alive = |life: u32| (life & 0xff == Stage::Shutdown as u32).then_some(Stage::Alive as u32);
        domain.life.fetch_update(Ordering::SeqCst, Ordering::SeqCst, alive).map_err(|_| Errno::EINVAL)?;
        domain.shutdown_code.store(0, Ordering::SeqCst);
        self.unpause_domain(domain);
        Ok(())
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
        if domain.vcpus.iter().any(|vcpu| self.is_running(vcpu)) {
            return Err(Stop::Preempted);
        }
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
            self.send_global_virq(Virq::DOM_EXC);
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
        let any = self.domains.table.read().iter().any(is_gone);
        if any {
            self.domains.table.write().retain(|d| !is_gone(d));
        }
    }

    /// Gives a vCPU that has none its context, as the builder or VCPUOP_initialise says; one that has a context gets
    /// new registers and handlers, but keeps its tables.
    ///
    /// EINVAL: an address that is not canonical, an LDT that is none, a table or a root that the domain may not use.
    /// Preempted: a root is being validated; nothing has changed yet.
    pub fn set_context(&self, domain: &Domain<P>, vcpu: &Arc<Vcpu<P>>, new: &VcpuGuestContext) -> Result<(), Stop> {
        check_context(new)?;
        let mut run = vcpu.run.lock();
        if !run.initialised {
            self.take_tables(domain, &mut run, new)?;
            if vcpu.id.0 == 0 {
                domain.assist.store(new.vm_assist & crate::hypercall::vm_assist::KINDS, Ordering::Relaxed);
            }
        }
        self.take_registers(&mut run, new);
        run.initialised = true;
        drop(run);
        match new.flags & VcpuGuestContext::VGCF_ONLINE != 0 {
            true => self.bring_up(vcpu),
            false => self.take_down(vcpu),
        }
        Ok(())
    }

    /// Takes the references of a context that is being set for the first time. What a preempted or failed attempt took
    /// stays in `run`, and is replaced or kept by the next.
    fn take_tables(&self, domain: &Domain<P>, run: &mut Run, new: &VcpuGuestContext) -> Result<(), Stop> {
        let user = Some(new.ctrlreg[1]).filter(|&cr3| cr3 != 0);
        self.adopt_root(domain, &mut run.kernel_root, Some(new.ctrlreg[3]))?;
        self.adopt_root(domain, &mut run.user_root, user)?;
        let gdt = self.claim_gdt(domain, &new.gdt_frames, new.gdt_ents)?;
        self.release_gdt(&mut run.gdt);
        (run.gdt, run.gdt_entries) = (gdt, new.gdt_ents as u32);
        Ok(())
    }

    fn adopt_root(&self, domain: &Domain<P>, slot: &mut Option<Frame>, cr3: Option<u64>) -> Result<(), Stop> {
        let wanted = cr3.map(|cr3| Mfn(cr3 >> PAGE_SHIFT));
        if slot.map(Frame::mfn) == wanted {
            return Ok(());
        }
        self.drop_root(domain, slot)?;
        if let Some(mfn) = wanted {
            *slot = Some(self.take_root(domain, mfn).map_err(|stop| match stop {
                Stop::Preempted => stop,
                _ => Errno::EINVAL.into(),
            })?);
        }
        Ok(())
    }

    fn take_registers(&self, run: &mut Run, new: &VcpuGuestContext) {
        run.regs = new.user_regs;
        run.regs.cs |= 3;
        run.regs.ss |= 3;
        run.regs.rflags = new.user_regs.rflags & !(rflags::IOPL | rflags::VM) | rflags::IF | rflags::RESERVED1;
        run.regs.entry_vector = 0;
        run.iopl = (new.user_regs.rflags >> 12 & 3) as u8;
        run.kernel_mode = new.flags & VcpuGuestContext::VGCF_IN_KERNEL != 0;
        run.hardware_root = run.root();
        (run.kernel_ss, run.kernel_sp) = (new.kernel_ss | 3, new.kernel_sp.0);
        (run.fs_base, run.gs_base_kernel, run.gs_base_user) = (new.fs_base, new.gs_base_kernel, new.gs_base_user);
        run.traps.clear();
        for (vector, info) in (0..=255u8).zip(new.trap_ctxt) {
            run.traps.set(abi::trap::TrapInfo { vector, cs: info.cs | 3, ..info });
        }
        let callback = |address: Vaddr, flag| Callback { address: address.0, masks: new.flags & flag != 0 };
        run.callbacks.event = callback(new.event_callback_eip, 0);
        run.callbacks.failsafe =
            callback(new.failsafe_callback_eip, VcpuGuestContext::VGCF_FAILSAFE_DISABLES_EVENTS);
        run.callbacks.syscall = callback(new.syscall_callback_eip, VcpuGuestContext::VGCF_SYSCALL_DISABLES_EVENTS);
        run.cr0 = new.ctrlreg[0] & CR0_TS;
        run.cr4 = self.admit_cr4(new.ctrlreg[4]);
        run.debug = [0; 8];
        run.debug[6] = DR6_DEFAULT;
        for (register, value) in (0..8).zip(new.debugreg) {
            // As on hardware that was just reset, a value that is not admitted leaves the register as it is.
            let _ = crate::hypercall::debugreg::admit(run, register, value);
        }
        run.ldt = [None; crate::vcpu::LDT_FRAMES];
        (run.ldt_base, run.ldt_entries) = (new.ldt_base.0, new.ldt_ents as u32);
        if new.flags & VcpuGuestContext::VGCF_I387_VALID != 0 {
            run.fpu.set_legacy(&new.fpu_ctxt);
        }
    }

    /// The context of a vCPU that does not run.
    pub fn context(&self, domain: &Domain<P>, run: &Run, to: &mut VcpuGuestContext) {
        *to = VcpuGuestContext::default();
        to.user_regs = run.regs;
        to.user_regs.rflags = run.regs.rflags & !rflags::IOPL | u64::from(run.iopl) << 12;
        to.flags = [
            (true, VcpuGuestContext::VGCF_I387_VALID),
            (run.kernel_mode, VcpuGuestContext::VGCF_IN_KERNEL),
            (run.callbacks.failsafe.masks, VcpuGuestContext::VGCF_FAILSAFE_DISABLES_EVENTS),
            (run.callbacks.syscall.masks, VcpuGuestContext::VGCF_SYSCALL_DISABLES_EVENTS),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, flag)| flag)
        .sum();
        for (vector, slot) in (0..=255u8).zip(&mut to.trap_ctxt) {
            *slot = run.traps.get(vector);
        }
        run.fpu.get_legacy(&mut to.fpu_ctxt);
        (to.ldt_base, to.ldt_ents) = (Vaddr(run.ldt_base), u64::from(run.ldt_entries));
        for (slot, frame) in to.gdt_frames.iter_mut().zip(run.gdt.iter().flatten()) {
            *slot = frame.mfn();
        }
        to.gdt_ents = u64::from(run.gdt_entries);
        (to.kernel_ss, to.kernel_sp) = (run.kernel_ss, Vaddr(run.kernel_sp));
        let cr3 = |root: Option<Frame>| root.map_or(0, |f| f.mfn().0 << PAGE_SHIFT);
        to.ctrlreg[0] = crate::emulate::CR0 | run.cr0;
        (to.ctrlreg[1], to.ctrlreg[3]) = (cr3(run.user_root), cr3(run.kernel_root));
        to.ctrlreg[4] = run.cr4 | crate::emulate::CR4_SHOWN;
        to.debugreg = run.debug;
        to.event_callback_eip = Vaddr(run.callbacks.event.address);
        to.failsafe_callback_eip = Vaddr(run.callbacks.failsafe.address);
        to.syscall_callback_eip = Vaddr(run.callbacks.syscall.address);
        to.vm_assist = domain.assist.load(Ordering::Relaxed);
        (to.fs_base, to.gs_base_kernel, to.gs_base_user) = (run.fs_base, run.gs_base_kernel, run.gs_base_user);
    }
}

fn check_context(new: &VcpuGuestContext) -> Result<(), Errno> {
    let addresses = [
        Vaddr(new.user_regs.rip),
        Vaddr(new.user_regs.rsp),
        new.kernel_sp,
        new.event_callback_eip,
        new.failsafe_callback_eip,
        new.syscall_callback_eip,
        Vaddr(new.fs_base),
        Vaddr(new.gs_base_kernel),
        Vaddr(new.gs_base_user),
    ];
    let handlers = new.trap_ctxt.iter().map(|info| info.address);
    let ldt = new.ldt_base.page_offset() == 0 && new.ldt_ents <= 8192 && crate::mm::is_guest_address(new.ldt_base);
    let user = new.ctrlreg[1] != 0 || new.flags & VcpuGuestContext::VGCF_IN_KERNEL != 0;
    let fine = ldt && user && addresses.into_iter().chain(handlers).all(Vaddr::is_canonical);
    if fine { Ok(()) } else { Err(Errno::EINVAL) }
}
