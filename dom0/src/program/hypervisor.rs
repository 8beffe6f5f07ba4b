//! [`Control`] by hypercalls.

use abi::domctl::{
    AssignDevice, CreateDomain, DomctlOp, GetDomainInfo, IomemPermission, IoportPermission, IrqPermission, MaxMem,
    MaxVcpus,
};
use abi::physdev::{MapPirq, MapPirqType, PhysdevOp, SetupGsi};
use abi::sched::ShutdownReason;
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Mfn, Pfn, Port, VcpuId};
use alloc::vec::Vec;
use dom0::control::{Control, Limits, Resource, Status};
use dom0::manifest::PciFunction;
use dom0::pciback;
use domain_rt::foreign::Foreign;
use domain_rt::pci::Ports;
use domain_rt::{control, hypercall};

use super::pci::Functions;

/// The hypervisor below, and configuration space of its PCI functions once that is open.
#[derive(Debug, Default)]
pub struct Hypervisor {
    pub pci: Option<Ports>,
}

/// Memory is given in extents of 2 MiB where it can be.
const LARGE: u32 = 9;
const LARGE_PAGES: usize = 1 << LARGE;
/// Extents of a call: the list goes through the hypervisor's copying.
const BATCH: usize = 1024;
/// Kibibytes a page.
const PAGE_KIB: u64 = 4;

impl Control for Hypervisor {
    type Mapping = Foreign;

    fn create(&mut self, limits: Limits) -> Result<DomId, Errno> {
        let mut new = CreateDomain {
            handle: handle(),
            max_vcpus: limits.vcpus,
            max_evtchn_port: 1023,
            max_grant_frames: -1,
            max_maptrack_frames: -1,
            grant_opts: 1,
            ..CreateDomain::default()
        };
        let domain = control::domctl(DomctlOp::CREATEDOMAIN, DomId(0), &mut new)?;
        let limited = control::domctl(DomctlOp::MAX_VCPUS, domain, &mut MaxVcpus { max: limits.vcpus })
            .and_then(|_| self.limit(domain, limits.pages));
        if limited.is_err() {
            let _ = self.destroy(domain);
        }
        limited.map(|_| domain)
    }

    fn limit(&mut self, domain: DomId, pages: u64) -> Result<(), Errno> {
        control::domctl(DomctlOp::MAX_MEM, domain, &mut MaxMem { max_memkb: pages * PAGE_KIB }).map(drop)
    }

    fn populate(&mut self, domain: DomId, first: Pfn, frames: &mut [Mfn]) -> Result<(), Errno> {
        let mut at = 0;
        while at < frames.len() {
            let rest = frames.get_mut(at..).unwrap_or_default();
            let pfn = first.0 + at as u64;
            let large = rest.get_mut(..LARGE_PAGES).filter(|_| pfn.is_multiple_of(LARGE_PAGES as u64));
            at += if large.is_some_and(|large| populate_large(domain, pfn, large)) {
                LARGE_PAGES
            } else {
                populate_small(domain, pfn, rest)?
            };
        }
        Ok(())
    }

    fn map(&mut self, domain: DomId, frames: &[Mfn]) -> Result<Foreign, Errno> {
        Foreign::new(domain, frames)
    }

    fn alloc_unbound(&mut self, domain: DomId) -> Result<Port, Errno> {
        control::alloc_unbound(domain)
    }

    fn pin(&mut self, domain: DomId, root: Mfn) -> Result<(), Errno> {
        control::pin_root(domain, root)
    }

    fn set_context(&mut self, domain: DomId, context: &VcpuGuestContext) -> Result<(), Errno> {
        control::set_context(domain, VcpuId(0), context)
    }

    fn permit(&mut self, domain: DomId, resource: Resource, allow: bool) -> Result<(), Errno> {
        let allow_access = u8::from(allow);
        match resource {
            Resource::Memory(first_mfn, nr_mfns) => {
                let mut range = IomemPermission { first_mfn, nr_mfns, allow_access, ..IomemPermission::default() };
                control::domctl(DomctlOp::IOMEM_PERMISSION, domain, &mut range).map(drop)
            }
            Resource::Ports(first_port, nr_ports) => {
                let mut range = IoportPermission { first_port, nr_ports, allow_access, ..IoportPermission::default() };
                control::domctl(DomctlOp::IOPORT_PERMISSION, domain, &mut range).map(drop)
            }
            Resource::Irq(gsi) => permit_line(domain, gsi, allow_access),
        }
    }

    fn assign(&mut self, domain: DomId, function: PciFunction, give: bool) -> Result<(), Errno> {
        let PciFunction { segment, bus, .. } = function;
        let machine_sbdf = u32::from(segment) << 16 | u32::from(bus) << 8 | u32::from(function.devfn());
        let op = if give { DomctlOp::ASSIGN_DEVICE } else { DomctlOp::DEASSIGN_DEVICE };
        match control::domctl(op, domain, &mut AssignDevice { machine_sbdf, ..AssignDevice::default() }) {
            // No IOMMU: nothing to assign, the domain drives the device all the same.
            Err(Errno::ENOSYS | Errno::ENODEV | Errno::EOPNOTSUPP) | Ok(_) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn silence(&mut self, function: PciFunction) {
        if let Some(ports) = &mut self.pci {
            pciback::silence(&mut Functions { ports, domain: DomId::DOM0 }, function);
        }
    }

    fn pause(&mut self, domain: DomId) -> Result<(), Errno> {
        control::command(DomctlOp::PAUSEDOMAIN, domain)
    }

    fn unpause(&mut self, domain: DomId) -> Result<(), Errno> {
        control::command(DomctlOp::UNPAUSEDOMAIN, domain)
    }

    fn destroy(&mut self, domain: DomId) -> Result<(), Errno> {
        control::command(DomctlOp::DESTROYDOMAIN, domain)
    }

    fn status(&mut self, domain: DomId) -> Result<Status, Errno> {
        let info = control::info(domain)?;
        if info.domain != domain {
            return Err(Errno::ESRCH);
        }
        let is = |flag| info.flags & flag != 0;
        let reason = info.flags >> GetDomainInfo::SHUTDOWN_SHIFT & GetDomainInfo::SHUTDOWN_MASK;
        Ok(Status {
            pages: info.tot_pages,
            vcpus: info.nr_online_vcpus,
            cpu_time: info.cpu_time,
            paused: is(GetDomainInfo::DOMINF_PAUSED),
            blocked: is(GetDomainInfo::DOMINF_BLOCKED),
            running: is(GetDomainInfo::DOMINF_RUNNING),
            dying: is(GetDomainInfo::DOMINF_DYING),
            shutdown: is(GetDomainInfo::DOMINF_SHUTDOWN).then_some(ShutdownReason(reason)),
            shared_info: info.shared_info_frame,
        })
    }
}

/// A handle as different as the clock is.
fn handle() -> [u8; 16] {
    let (seconds, nanoseconds) = domain_rt::time::wall_clock();
    (u128::from(seconds) << 64 | u128::from(nanoseconds) << 32 | u128::from(domain_rt::time::now() as u32))
        .to_be_bytes()
}

/// One extent of 2 MiB; false if there is none to be had.
fn populate_large(domain: DomId, pfn: u64, frames: &mut [Mfn]) -> bool {
    let mut extent = [pfn];
    if control::populate(domain, &mut extent, LARGE) != Ok(1) {
        return false;
    }
    frames.iter_mut().zip(extent[0]..).for_each(|(frame, mfn)| *frame = Mfn(mfn));
    true
}

/// Single pages, up to the next boundary of 2 MiB or the end; how many.
fn populate_small(domain: DomId, pfn: u64, frames: &mut [Mfn]) -> Result<usize, Errno> {
    let to_boundary = LARGE_PAGES - pfn as usize % LARGE_PAGES;
    let count = frames.len().min(to_boundary).min(BATCH);
    let mut extents: Vec<u64> = (pfn..).take(count).collect();
    if control::populate(domain, &mut extents, 0)? != count {
        return Err(Errno::ENOMEM);
    }
    frames.iter_mut().zip(extents).for_each(|(frame, mfn)| *frame = Mfn(mfn));
    Ok(count)
}

/// Maps a PCI interrupt line to a domain, level and active low, and lets it bind it.
fn permit_line(domain: DomId, gsi: u32, allow_access: u8) -> Result<(), Errno> {
    let index = i32::try_from(gsi).map_err(|_| Errno::EINVAL)?;
    if allow_access != 0 {
        let mut setup = SetupGsi { gsi: index, triggering: 1, polarity: 1, ..SetupGsi::default() };
        let _ = hypercall::physdev_op(PhysdevOp::SETUP_GSI, &mut setup); // EEXIST when it has been
        let own = MapPirq { domid: DomId::SELF, kind: MapPirqType::GSI, index, pirq: index, ..MapPirq::default() };
        let mut theirs = MapPirq { domid: domain, ..own };
        let _ = hypercall::physdev_op(PhysdevOp::MAP_PIRQ, &mut { own });
        hypercall::physdev_op(PhysdevOp::MAP_PIRQ, &mut theirs)?;
    }
    let mut permission = IrqPermission { pirq: gsi, allow_access, ..IrqPermission::default() };
    control::domctl(DomctlOp::IRQ_PERMISSION, domain, &mut permission).map(drop)
}
