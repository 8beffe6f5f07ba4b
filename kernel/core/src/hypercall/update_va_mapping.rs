//! `update_va_mapping` (14) and `update_va_mapping_otherdomain` (22): the L1 entry of an address.
//!
//! - Arguments: the address; the new entry; what to flush (nothing, the TLB or the address) and where (here, on all
//!   CPUs that the domain runs on, or on those of its vCPUs that a bitmap at this address names). The other call has a
//!   fourth: the domain whose frame the entry names.
//! - Returns: 0.
//! - Faults: EINVAL: no L1 table maps the address, or a bit may not be set. EBUSY, EPERM, ESRCH: as for `mmu_update`.
//!   EFAULT: the bitmap cannot be read; the entry is stored all the same.
//! - Notes: nothing is flushed after an error.
//! - Source: `xen.h`.

use abi::mmu::uvmf;
use abi::{DomId, Errno, Pte, Vaddr};

use super::mmu_update::FrameOwner;
use crate::mm::{self, MappedOwner, Store};
use crate::{Args, Caller, CpuSet, Flush, HcResult, Platform, Privilege, guest};

/// update_va_mapping.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    update(c, a, &MappedOwner::Domain(c.domain))
}

/// update_va_mapping_otherdomain.
pub fn other_domain<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let owner = FrameOwner::find(c, DomId(a[3] as u16))?;
    if matches!(owner, FrameOwner::Other(_)) {
        c.need(Privilege::BUILDER)?;
    }
    let mapped = owner.mapped(c);
    update(c, a, &mapped)
}

fn update<P: Platform>(c: &Caller<'_, P>, a: &Args, owner: &MappedOwner<'_, P>) -> HcResult {
    let [va, entry, flags, ..] = *a;
    {
        let session = c.core.mm(c.domain);
        let root = c.run.kernel_root.ok_or(Errno::EINVAL)?;
        let (table, index) = session.find_l1(root, Vaddr(va)).ok_or(Errno::EINVAL)?;
        let old = Pte(guest::load(&c.core.platform, table, index));
        session.update_l1(table, index, (old, Pte(entry)), owner, Store::Plain)?;
    }
    let what = match flags & uvmf::FLUSHTYPE_MASK {
        uvmf::TLB_FLUSH => Flush::All,
        uvmf::INVLPG => Flush::Page(Vaddr(va)),
        _ => return Ok(0),
    };
    let cpus = match flags & !uvmf::FLUSHTYPE_MASK {
        uvmf::LOCAL => CpuSet::of(c.cpu.id),
        uvmf::ALL => c.domain.dirty(),
        bitmap => cpus_of(c, bitmap)?,
    };
    debug_assert!(mm::is_guest_address(Vaddr(va)));
    c.core.flush(cpus, what);
    Ok(0)
}

/// The CPUs that may remember translations of those of the caller's vCPUs that a bitmap names. EFAULT.
pub(super) fn cpus_of<P: Platform>(c: &Caller<'_, P>, bitmap: u64) -> Result<CpuSet, crate::Stop> {
    let mut cpus = CpuSet::NONE;
    for (byte, vcpus) in (0u64..).zip(c.domain.vcpus.chunks(8)) {
        let bits: u8 = c.get_at(bitmap, byte)?;
        for (_, vcpu) in vcpus.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0) {
            // Where one that does not run has been is not known exactly.
            let on = if c.core.is_running(vcpu) { CpuSet::of(vcpu.sched.cpu()) } else { c.domain.dirty() };
            cpus.0 |= on.0;
        }
    }
    Ok(cpus)
}
