//! `physdev_op` (33): interrupts, ports and PCI devices, for drivers in domains.
//!
//! - Arguments: the sub-operation; the address of its argument.
//! - Returns: 0; the pirq, level or flags in the argument.
//! - Faults: EFAULT. EINVAL: no such IOPL, pirq, GSI or kind of interrupt. EPERM: what was not given to the caller; PCI
//!   devices and other domains' interrupts without the privilege. ESRCH: no such domain. EEXIST: the pirq stands for
//!   something else, or the device is known. ENOSYS: no such sub-operation, and those that are not there: APIC
//!   registers, vectors, debug ports, a user mode's bitmap of ports, a page of the interrupts that need an EOI.
//! - Notes: every interrupt wants an EOI, as `irq_status_query` says; on one that is not level-triggered it does nothing.
//! - Source: `physdev.h`.

use alloc::sync::Arc;

use crate::{Args, Caller, Domain, HcResult, Platform, Privilege, Stop, refuse_if};
use abi::physdev::{
    Eoi, GetFreePirq, IrqStatusQuery, MapPirq, MapPirqType, PciDevice, PciDeviceAdd, PhysdevOp, SetIopl, SetupGsi,
    UnmapPirq,
};
use abi::{DomId, Errno};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, arg, ..] = *a;
    match PhysdevOp(op as u32) {
        PhysdevOp::SET_IOPL => {
            let set: SetIopl = c.get(arg)?;
            c.run.iopl = u8::try_from(set.iopl).ok().filter(|&level| level <= 3).ok_or(Errno::EINVAL)?;
        }
        // Each interrupt has its own end.
        PhysdevOp::IRQ_UNMASK_NOTIFY => {}
        PhysdevOp::EOI => c.core.end_of_interrupt(c.domain, c.get::<Eoi>(arg)?.irq)?,
        PhysdevOp::IRQ_STATUS_QUERY => {
            let mut query: IrqStatusQuery = c.get(arg)?;
            let shared = if c.core.is_shared(c.domain, query.irq)? { IrqStatusQuery::SHARED } else { 0 };
            query.flags = IrqStatusQuery::NEEDS_EOI | shared;
            c.put(arg, &query)?;
        }
        PhysdevOp::MAP_PIRQ => {
            let mut map: MapPirq = c.get(arg)?;
            map.pirq = map_pirq(c, &map)? as i32;
            c.put(arg, &map)?;
        }
        PhysdevOp::UNMAP_PIRQ => {
            let unmap: UnmapPirq = c.get(arg)?;
            c.core.unmap_pirq(&*owner(c, unmap.domid)?, unmap.pirq as u32)?;
        }
        PhysdevOp::GET_FREE_PIRQ => {
            let mut wanted: GetFreePirq = c.get(arg)?;
            let free = c.domain.devices.lock().free_pirq(wanted.kind != MapPirqType::GSI);
            wanted.pirq = free.ok_or(Errno::ENOSPC)?;
            c.put(arg, &wanted)?;
        }
        op => return pci_op(c, op, arg),
    }
    Ok(0)
}

/// What is said of PCI devices, by who discovers them. Nothing depends on it but that MSI-X tables are protected.
fn pci_op<P: Platform>(c: &mut Caller<'_, P>, op: PhysdevOp, arg: u64) -> HcResult {
    let device = match op {
        PhysdevOp::PCI_DEVICE_ADD => {
            let add: PciDeviceAdd = c.get(arg)?;
            Some(PciDevice { seg: add.seg, bus: add.bus, devfn: add.devfn })
        }
        PhysdevOp::PREPARE_MSIX => Some(c.get(arg)?),
        // The line is as the firmware's tables say.
        PhysdevOp::SETUP_GSI => c.get::<SetupGsi>(arg).map(|_| None)?,
        PhysdevOp::MANAGE_PCI_ADD
        | PhysdevOp::MANAGE_PCI_REMOVE
        | PhysdevOp::MANAGE_PCI_ADD_EXT
        | PhysdevOp::PCI_DEVICE_REMOVE
        | PhysdevOp::PCI_MMCFG_RESERVED
        | PhysdevOp::RELEASE_MSIX
        | PhysdevOp::RESTORE_MSI
        | PhysdevOp::RESTORE_MSI_EXT => c.get::<PciDevice>(arg).map(|_| None)?,
        _ => return Err(Errno::ENOSYS.into()),
    };
    c.need(Privilege::HARDWARE)?;
    device.map_or(Ok(()), |device| c.core.protect_msix(device))?;
    Ok(0)
}

/// The domain whose interrupts are meant: the caller, or with the hardware's privilege another.
fn owner<P: Platform>(c: &Caller<'_, P>, id: DomId) -> Result<Arc<Domain<P>>, Stop> {
    let domain = c.target(id)?;
    if domain.id != c.domain.id {
        c.need(Privilege::HARDWARE)?;
    }
    Ok(domain)
}

fn map_pirq<P: Platform>(c: &Caller<'_, P>, map: &MapPirq) -> Result<u32, Stop> {
    let domain = owner(c, map.domid)?;
    let wanted = u32::try_from(map.pirq).ok();
    match map.kind {
        MapPirqType::GSI => {
            let gsi = u32::try_from(map.index).map_err(|_| Errno::EINVAL)?;
            refuse_if(!c.core.may_have_line(c.domain, gsi), Errno::EPERM)?;
            Ok(c.core.map_gsi(&domain, gsi, wanted)?)
        }
        // A message is programmed into a device, and whose that is only the hardware domain knows: it maps them, for
        // itself and for the domain that it gives a device to.
        MapPirqType::MSI | MapPirqType::MSI_SEG => {
            c.need(Privilege::HARDWARE)?;
            let seg = if map.kind == MapPirqType::MSI_SEG { (map.bus >> 16) as u16 } else { 0 };
            let device = PciDevice { seg, bus: map.bus as u8, devfn: map.devfn as u8 };
            let entry = (map.table_base != 0).then_some(map.entry_nr as u16);
            Ok(c.core.map_message(&domain, device, entry, wanted)?)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}
