//! The context of a vCPU: `vcpu_guest_context` describes it fully.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::regs::rflags;
use abi::vcpu::VcpuGuestContext;
use abi::{Errno, Mfn, PAGE_SHIFT, Vaddr};

use crate::trap::{CR0_TS, Callback, DR6_DEFAULT};
use crate::{Core, Domain, Frame, Platform, Run, Stop, Vcpu, refuse_if};

impl<P: Platform> Core<P> {
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
        // The builder may have cleared the shared page since the domain was made.
        self.update_time_page(domain, vcpu);
        self.update_wall_clock(domain);
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
        run.kernel_root.into_iter().for_each(|root| self.show_m2p(root, true));
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
                Stop::PREEMPTED => stop,
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
        for (vector, info) in (0..=255u8).zip(new.trap_ctxt) {
            run.traps.set(abi::trap::TrapInfo { vector, cs: info.cs | 3, ..info });
        }
        let callback = |address: Vaddr, flag| Callback { address: address.0, masks: new.flags & flag != 0 };
        run.callbacks.event = callback(new.event_callback_eip, 0);
        run.callbacks.failsafe = callback(new.failsafe_callback_eip, VcpuGuestContext::VGCF_FAILSAFE_DISABLES_EVENTS);
        run.callbacks.syscall = callback(new.syscall_callback_eip, VcpuGuestContext::VGCF_SYSCALL_DISABLES_EVENTS);
        run.cr0 = new.ctrlreg[0] & CR0_TS;
        run.cr4 = self.admit_cr4(new.ctrlreg[4]);
        run.debug = [0; 8];
        run.debug[6] = DR6_DEFAULT;
        for (register, value) in (0..8).zip(new.debugreg) {
            // As on hardware that was just reset, a value that is not admitted leaves the register as it is.
            let _ = crate::hypercall::debugreg::admit(run, register, value);
        }
        run.ldt.iter_mut().filter_map(Option::take).for_each(|frame| self.put_page_and_type(frame));
        (run.ldt_base, run.ldt_entries) = (new.ldt_base.0, new.ldt_ents as u32);
        if new.flags & VcpuGuestContext::VGCF_I387_VALID != 0 {
            run.fpu.set_legacy(&new.fpu_ctxt);
        }
    }

    /// The context of a vCPU that does not run, though it may be up. ENODATA: it has none.
    pub fn context(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, to: &mut VcpuGuestContext) -> Result<(), Stop> {
        let run = vcpu.run.lock();
        refuse_if(!run.initialised, Errno::ENODATA)?;
        *to = VcpuGuestContext::default();
        to.user_regs = run.regs;
        to.user_regs.rflags = run.regs.rflags & !rflags::IOPL | u64::from(run.iopl) << 12;
        to.flags = crate::flags([
            (true, VcpuGuestContext::VGCF_I387_VALID),
            (!vcpu.sched.state.view().down(), VcpuGuestContext::VGCF_ONLINE),
            (run.kernel_mode, VcpuGuestContext::VGCF_IN_KERNEL),
            (run.callbacks.failsafe.masks, VcpuGuestContext::VGCF_FAILSAFE_DISABLES_EVENTS),
            (run.callbacks.syscall.masks, VcpuGuestContext::VGCF_SYSCALL_DISABLES_EVENTS),
        ]);
        for (vector, slot) in (0..=255u8).zip(&mut to.trap_ctxt) {
            *slot = run.traps.get(vector);
        }
        to.fpu_ctxt.copy_from_slice(&run.fpu.area[..512]);
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
        Ok(())
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
    refuse_if(!fine, Errno::EINVAL)
}
