//! `mmuext_op` (26): a batch of operations on page tables, roots, TLBs and single frames.
//!
//! - Arguments: the address of an array of requests; how many; the address of a u32 that is raised by the number done,
//!   or 0; the domain whose frames are meant.
//! - Returns: 0 when all are done, else the error of the first that is not. Those before it stay done.
//! - Faults: EINVAL: not a frame of the domain's, or not fit for what is asked; pinned already, or not. EPERM: what
//!   concerns the calling vCPU, asked for another domain; another domain without the builder's privilege. ESRCH.
//!   EACCES: caches, without a device. EOPNOTSUPP: superpages. ENOSYS: an unknown operation. EFAULT.
//! - Notes: preemptible, as `mmu_update` is.
//! - Source: `xen.h`.

use abi::mmu::{MmuextCmd, MmuextOp};
use abi::{DomId, Errno, Mfn, PAGE_SIZE, Vaddr};

use super::mmu_update::{FrameOwner, batch};
use super::update_va_mapping::cpus_of;
use crate::mm::{is_guest_address, may_choose_caching};
use crate::{Args, Caller, CpuSet, Domain, Flush, Frame, HcResult, PageType, Platform, Privilege, Stop, guest};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let frames = FrameOwner::find(c, DomId(a[3] as u16))?;
    let Some(owner) = frames.domain(c) else { return Err(Errno::EPERM.into()) };
    if owner.id != c.domain.id {
        c.need(Privilege::BUILDER)?;
    }
    batch(c, a, owner, size_of::<MmuextOp>(), |c, requests, count, made| {
        let mut tables = false;
        let result = operations(c, owner, requests, count, made, &mut tables);
        (result, tables && c.core.mm(owner).finish().is_err())
    })
}

/// `tables` becomes true with the first operation that may let go of tables.
fn operations<P: Platform>(
    c: &mut Caller<'_, P>,
    owner: &Domain<P>,
    requests: u64,
    count: u32,
    made: &mut u32,
    tables: &mut bool,
) -> HcResult {
    while *made < count {
        if *made > 0 && c.core.platform.preempt() {
            return Err(Stop::PREEMPTED);
        }
        let request: MmuextOp = c.get_at(requests, u64::from(*made))?;
        *tables |= request.cmd.0 <= MmuextCmd::NEW_BASEPTR.0 || request.cmd == MmuextCmd::NEW_USER_BASEPTR;
        operation(c, owner, &request)?;
        *made += 1;
    }
    Ok(0)
}

fn operation<P: Platform>(c: &mut Caller<'_, P>, owner: &Domain<P>, op: &MmuextOp) -> Result<(), Stop> {
    let mfn = Mfn(op.arg1);
    match op.cmd {
        // PIN_L1_TABLE to PIN_L4_TABLE.
        MmuextCmd(level @ 0..=3) => c.core.mm(owner).pin(mfn, level as u8 + 1),
        MmuextCmd::UNPIN_TABLE => c.core.mm(owner).unpin(mfn),
        MmuextCmd::CLEAR_PAGE => Ok(write_frame(c, owner, mfn, |frame| guest::clear(&c.core.platform, frame))?),
        MmuextCmd::COPY_PAGE => Ok(copy_page(c, owner, mfn, Mfn(op.arg2))?),
        MmuextCmd::MARK_SUPER | MmuextCmd::UNMARK_SUPER => Err(Errno::EOPNOTSUPP.into()),
        // What concerns the calling vCPU, and CPUs' TLBs and caches.
        _ if owner.id != c.domain.id => Err(Errno::EPERM.into()),
        MmuextCmd::NEW_BASEPTR => c.core.mm(c.domain).new_baseptr(c.cpu, c.run, mfn),
        MmuextCmd::NEW_USER_BASEPTR => c.core.mm(c.domain).new_user_baseptr(c.run, mfn),
        MmuextCmd::SET_LDT => Ok(c.set_ldt(op.arg1, op.arg2 as u32)?),
        // All of RAM is mapped write-back, and devices of this machine snoop: there is nothing to write back.
        MmuextCmd::FLUSH_CACHE | MmuextCmd::FLUSH_CACHE_GLOBAL if may_choose_caching(c.domain) => Ok(()),
        MmuextCmd::FLUSH_CACHE => Err(Errno::EACCES.into()),
        MmuextCmd::FLUSH_CACHE_GLOBAL => Err(Errno::EINVAL.into()),
        _ => flush(c, op),
    }
}

fn flush<P: Platform>(c: &Caller<'_, P>, op: &MmuextOp) -> Result<(), Stop> {
    let cpus = match op.cmd {
        MmuextCmd::TLB_FLUSH_LOCAL | MmuextCmd::INVLPG_LOCAL => CpuSet::of(c.cpu.id),
        MmuextCmd::TLB_FLUSH_ALL | MmuextCmd::INVLPG_ALL => c.domain.dirty(),
        MmuextCmd::TLB_FLUSH_MULTI | MmuextCmd::INVLPG_MULTI => cpus_of(c, op.arg2).map_err(|_| Errno::EINVAL)?,
        _ => return Err(Errno::ENOSYS.into()),
    };
    let page = Vaddr(op.arg1);
    match op.cmd {
        MmuextCmd::INVLPG_LOCAL | MmuextCmd::INVLPG_ALL | MmuextCmd::INVLPG_MULTI => {
            if is_guest_address(page) {
                c.core.flush(cpus, Flush::Page(page));
            }
        }
        _ => c.core.flush(cpus, Flush::All),
    }
    Ok(())
}

#[inline(never)]
fn write_frame<P: Platform>(
    c: &Caller<'_, P>,
    owner: &Domain<P>,
    mfn: Mfn,
    write: impl FnOnce(Frame),
) -> Result<(), Errno> {
    let frame = c.core.get_page_and_type(mfn, owner, PageType::Writable)?;
    write(frame);
    c.core.put_page_and_type(frame);
    Ok(())
}

#[inline(never)]
fn copy_page<P: Platform>(c: &Caller<'_, P>, owner: &Domain<P>, to: Mfn, from: Mfn) -> Result<(), Errno> {
    let from = c.core.get_page(from, owner)?;
    let done = write_frame(c, owner, to, |to| guest::copy(&c.core.platform, (from, 0), (to, 0), PAGE_SIZE));
    c.core.put_page(from);
    done
}
