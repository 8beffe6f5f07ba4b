//! `domctl` (36): control of domains, for their builder.
//!
//! - Arguments: the address of a `xen_domctl`: command, interface version, domain, the command's own part.
//! - Returns: 0; what the command answers in its part.
//! - Faults: EFAULT. EACCES: another interface version. ESRCH: no such domain or vCPU. EPERM: without the builder's
//!   privilege, or giving away what one does not have. EINVAL: see each command. EEXIST: the domain is there already.
//!   ENOSYS: no such command.
//! - Notes: destruction and the setting of a context are preemptible. The subset that a toolstack for 64-bit PV guests
//!   needs.
//! - Source: `domctl.h`.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::domctl::{
    ArchDomainConfig, CreateDomain, CtlBitmap, DOMCTL_INTERFACE_VERSION, Domctl, DomctlOp, GetDomainInfo, GetVcpuInfo,
    HypercallInit, IomemPermission, IoportPermission, IrqPermission, MaxMem, MaxVcpus, SetDomainHandle, SetTimeOffset,
    VcpuAffinity, VcpuContext,
};
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Mfn, VcpuId};
use core::sync::atomic::Ordering;
use zerocopy::{FromZeros, IntoBytes};

use crate::irq::FIRST_MESSAGE;
use crate::lifecycle::NewDomain;
use crate::{
    Args, Caller, Core, CpuSet, Domain, HcResult, PageType, Platform, Privilege, Stage, Stop, Vcpu, guest, refuse_if,
};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [at, ..] = *a;
    let mut op: Domctl = c.get(at)?;
    refuse_if(op.interface_version != DOMCTL_INTERFACE_VERSION, Errno::EACCES)?;
    if op.cmd == DomctlOp::CREATEDOMAIN {
        c.need(Privilege::BUILDER)?;
        op.domain = create(c, op.domain, op.payload.get())?;
        return c.answer(at, &op);
    }
    c.core.reap();
    let domain = match (c.core.domains.get(op.domain), op.cmd) {
        (Some(domain), _) => domain,
        (None, DomctlOp::GETDOMAININFO) if op.domain.is_real() => {
            c.core.domains.from(op.domain.0).next().ok_or(Errno::ESRCH)?
        }
        (None, DomctlOp::GETDOMAININFO) => return Err(Errno::EINVAL.into()),
        (None, _) => return Err(Errno::ESRCH.into()),
    };
    c.need(Privilege::BUILDER)?;
    if perform(c, &domain, &mut op)? { c.answer(at, &op) } else { Ok(0) }
}

/// Does what is asked of a domain. True: there is an answer to copy out.
fn perform<P: Platform>(c: &Caller<'_, P>, domain: &Arc<Domain<P>>, op: &mut Domctl) -> Result<bool, Stop> {
    let core = c.core;
    let own = Arc::ptr_eq(domain, c.domain);
    match op.cmd {
        DomctlOp::DESTROYDOMAIN | DomctlOp::PAUSEDOMAIN | DomctlOp::RESUMEDOMAIN if own => {
            return Err(Errno::EINVAL.into());
        }
        DomctlOp::DESTROYDOMAIN => core.destroy(domain)?,
        DomctlOp::PAUSEDOMAIN => core.pause_from_outside(domain)?,
        DomctlOp::UNPAUSEDOMAIN => core.unpause_from_outside(domain)?,
        DomctlOp::RESUMEDOMAIN => core.resume(domain),
        DomctlOp::GETDOMAININFO => {
            op.domain = domain.id;
            op.payload.set(&info(core, domain));
            return Ok(true);
        }
        DomctlOp::MAX_MEM => {
            let most: MaxMem = op.payload.get();
            domain.memory.lock().max_pages = most.max_memkb >> (abi::PAGE_SHIFT - 10);
        }
        DomctlOp::MAX_VCPUS if !own && op.payload.get::<MaxVcpus>().max as usize == domain.vcpus.len() => {}
        DomctlOp::MAX_VCPUS => return Err(Errno::EINVAL.into()),
        DomctlOp::SETDOMAINHANDLE => *domain.handle.lock() = op.payload.get::<SetDomainHandle>().handle,
        DomctlOp::SETTIMEOFFSET => core.set_time_offset(domain, op.payload.get::<SetTimeOffset>().time_offset_seconds),
        DomctlOp::HYPERCALL_INIT => hypercall_page(core, domain, op.payload.get::<HypercallInit>().gmfn)?,
        DomctlOp::IOPORT_PERMISSION | DomctlOp::IOMEM_PERMISSION | DomctlOp::IRQ_PERMISSION => permit(c, domain, op)?,
        _ => return vcpu_op(c, domain, op),
    }
    Ok(false)
}

fn create<P: Platform>(c: &Caller<'_, P>, wanted: DomId, config: CreateDomain) -> Result<DomId, Stop> {
    let ArchDomainConfig { emulation_flags, misc_flags } = config.arch;
    let plain = config.flags & !CreateDomain::CDF_XS_DOMAIN == 0 && emulation_flags == 0 && config.vmtrace_size == 0;
    let known = misc_flags & !ArchDomainConfig::MSR_RELAXED == 0 && config.iommu_opts == 0;
    refuse_if(!plain || !known || config.grant_opts != 1, Errno::EINVAL)?;
    let store = config.flags & CreateDomain::CDF_XS_DOMAIN != 0;
    c.core.reap();
    let new = NewDomain {
        id: Some(wanted).filter(|id| id.0 != 0 && id.is_real()),
        handle: config.handle,
        privilege: if store { Privilege::STORE } else { Privilege::empty() },
        grant_frames: u32::try_from(config.max_grant_frames).unwrap_or(0),
        highest_port: config.max_evtchn_port,
        ..NewDomain::ordinary(config.max_vcpus)
    };
    Ok(c.core.create_domain(&new)?.id)
}

/// What is to be known of a domain; sysctl lists it too.
pub fn info<P: Platform>(core: &Core<P>, domain: &Domain<P>) -> GetDomainInfo {
    let views = || domain.vcpus.iter().map(|v| v.sched.state.view());
    let up = views().filter(|v| !v.down()).count() as u32;
    let stage = domain.stage();
    let flags = crate::flags([
        (stage >= Stage::Dying, GetDomainInfo::DOMINF_DYING),
        (stage == Stage::Shutdown, GetDomainInfo::DOMINF_SHUTDOWN),
        (domain.paused.load(Ordering::SeqCst) > 0, GetDomainInfo::DOMINF_PAUSED),
        (views().all(|v| v.down() || v.blocked()), GetDomainInfo::DOMINF_BLOCKED),
        (views().any(|v| v.running()), GetDomainInfo::DOMINF_RUNNING),
        (domain.privilege.contains(Privilege::STORE), GetDomainInfo::DOMINF_XS_DOMAIN),
    ]);
    let reason = domain.life.load(Ordering::SeqCst) >> 8 & GetDomainInfo::SHUTDOWN_MASK;
    let (tot_pages, max_pages) = {
        let account = domain.memory.lock();
        (account.pages, account.max_pages)
    };
    GetDomainInfo {
        domain: domain.id,
        flags: flags | reason << GetDomainInfo::SHUTDOWN_SHIFT,
        tot_pages,
        max_pages,
        shared_info_frame: domain.shared_info.mfn(),
        cpu_time: core.virtual_time(domain),
        nr_online_vcpus: up,
        max_vcpu_id: domain.vcpus.len().saturating_sub(1) as u32,
        handle: *domain.handle.lock(),
        ..Default::default()
    }
}

/// Fills a page of the domain's with the stubs that make hypercalls.
pub(crate) fn hypercall_page<P: Platform>(core: &Core<P>, domain: &Domain<P>, page: Mfn) -> Result<(), Errno> {
    use pvimage::hypercall_page::{STUB_SIZE, STUBS, stub};
    refuse_if(domain.is_dying(), Errno::EACCES)?;
    let frame = core.get_page_and_type(page, domain, PageType::Writable).map_err(|_| Errno::EINVAL)?;
    for number in 0..STUBS {
        guest::write(&core.platform, frame, number as usize * STUB_SIZE, &stub(number));
    }
    core.put_page_and_type(frame);
    Ok(())
}

/// Gives a domain ports, frames or an interrupt of the machine, or takes them back. The caller has them itself.
fn permit<P: Platform>(c: &Caller<'_, P>, domain: &Domain<P>, op: &Domctl) -> Result<(), Stop> {
    c.need(Privilege::HARDWARE)?;
    let devices = &mut *domain.devices.lock();
    let (set, first, count, most, allow) = match op.cmd {
        DomctlOp::IOPORT_PERMISSION => {
            let p: IoportPermission = op.payload.get();
            (&mut devices.ports, p.first_port.into(), p.nr_ports.into(), 1 << 16, p.allow_access)
        }
        DomctlOp::IOMEM_PERMISSION => {
            let p: IomemPermission = op.payload.get();
            (&mut devices.frames, p.first_mfn.0, p.nr_mfns, u64::MAX, p.allow_access)
        }
        _ => {
            let p: IrqPermission = op.payload.get();
            (&mut devices.lines, p.pirq.into(), 1, FIRST_MESSAGE.into(), p.allow_access)
        }
    };
    let end = first.checked_add(count).filter(|&end| count > 0 && end <= most).ok_or(Errno::EINVAL)?;
    Ok(set.set(first..end, allow != 0)?)
}

/// What concerns one vCPU, whose number is first in the command's part.
fn vcpu_op<P: Platform>(c: &Caller<'_, P>, domain: &Arc<Domain<P>>, op: &mut Domctl) -> Result<bool, Stop> {
    let find = |id: VcpuId| domain.vcpu(id).ok_or(Errno::EINVAL);
    match op.cmd {
        DomctlOp::GETVCPUINFO => {
            let mut about: GetVcpuInfo = op.payload.get();
            let vcpu = find(about.vcpu)?;
            let view = vcpu.sched.state.view();
            about.online = u8::from(!view.down());
            about.blocked = u8::from(view.blocked());
            about.running = u8::from(view.running());
            about.cpu_time = c.core.run_times(vcpu, c.core.platform.now()).time[0];
            about.cpu = vcpu.sched.cpu().0;
            op.payload.set(&about);
            return Ok(true);
        }
        DomctlOp::GETVCPUCONTEXT | DomctlOp::SETVCPUCONTEXT => {
            let which: VcpuContext = op.payload.get();
            // One's own vCPUs cannot be held still: this one is among them.
            let vcpu = find(which.vcpu).ok().filter(|_| !Arc::ptr_eq(domain, c.domain)).ok_or(Errno::EINVAL)?;
            context(c, domain, vcpu, which, op.cmd == DomctlOp::SETVCPUCONTEXT)?;
        }
        DomctlOp::GETVCPUAFFINITY | DomctlOp::SETVCPUAFFINITY => {
            let which: VcpuAffinity = op.payload.get();
            affinity(c, find(which.vcpu)?, which, op.cmd == DomctlOp::SETVCPUAFFINITY)?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(false)
}

fn context<P: Platform>(
    c: &Caller<'_, P>,
    domain: &Arc<Domain<P>>,
    vcpu: &Arc<Vcpu<P>>,
    which: VcpuContext,
    set: bool,
) -> Result<(), Stop> {
    // 5 KiB: not for the stack.
    let mut context: Box<VcpuGuestContext> = VcpuGuestContext::new_box_zeroed().map_err(|_| Errno::ENOMEM)?;
    if set {
        c.get_to(which.ctxt.0, &mut *context)?;
    }
    // Held still by its pause; its lock is given up by the CPU that still runs it as soon as that sees the pause.
    c.core.pause(vcpu);
    let done = match set {
        true => c.core.set_context(domain, vcpu, &context),
        false => c.core.context(domain, vcpu, &mut context),
    };
    c.core.unpause(vcpu);
    done?;
    if !set {
        c.core.platform.copy_to_guest(c.space()?, which.ctxt, context.as_bytes())?;
    }
    Ok(())
}

/// Gets or sets where a vCPU may run. Where it would rather run is taken, and means nothing.
fn affinity<P: Platform>(c: &Caller<'_, P>, vcpu: &Arc<Vcpu<P>>, which: VcpuAffinity, set: bool) -> Result<(), Stop> {
    let bytes = |map: &CtlBitmap| (map.nr_bits.div_ceil(8) as usize).min(8);
    if which.flags & VcpuAffinity::HARD == 0 {
        return if which.flags & VcpuAffinity::SOFT != 0 { Ok(()) } else { Err(Errno::EINVAL.into()) };
    }
    let mut map = if set { [0; 8] } else { vcpu.sched.affinity().0.to_le_bytes() };
    let part = map.get_mut(..bytes(&which.hard)).unwrap_or_default();
    if !set {
        return Ok(c.core.platform.copy_to_guest(c.space()?, which.hard.bitmap, part)?);
    }
    c.get_to(which.hard.bitmap.0, part)?;
    Ok(c.core.set_affinity(vcpu, CpuSet(u64::from_le_bytes(map)))?)
}
