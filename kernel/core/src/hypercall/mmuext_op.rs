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

use abi::mmu::{MMU_UPDATE_PREEMPTED, MmuextCmd, MmuextOp};
use abi::{DomId, Errno, Mfn, PAGE_SIZE, Vaddr};

use super::mmu_update::{FrameOwner, code};
use super::update_va_mapping::cpus_of;
use crate::dispatch::{Args, Caller, HcResult};
use crate::domain::{Domain, Privilege};
use crate::frame::{Frame, PageType};
use crate::mm::{is_guest_address, may_choose_caching};
use crate::platform::{Flush, Platform};
use crate::{CpuSet, Stop, guest};

const PREEMPTED: u64 = MMU_UPDATE_PREEMPTED as u64;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [requests, count, done_at, who, _] = a.0;
    let frames = FrameOwner::find(c, DomId(who as u16))?;
    let Some(owner) = frames.domain(c) else { return Err(Errno::EPERM.into()) };
    if requests == 0 && count == PREEMPTED {
        c.core.mm(owner).finish()?;
        return Ok(i64::from(done_at as i32));
    }
    let count = count as u32;
    let resumed = count & MMU_UPDATE_PREEMPTED != 0;
    let count = count & !MMU_UPDATE_PREEMPTED;
    if owner.id != c.domain.id {
        c.need(Privilege::BUILDER)?;
    }

    let mut made = 0;
    let mut result = run(c, owner, requests, count, &mut made);
    if result == Err(Stop::Preempted) {
        let at = requests.wrapping_add(u64::from(made) * size_of::<MmuextOp>() as u64);
        a.0 = [at, u64::from(count - made) | PREEMPTED, done_at, who, 0];
    } else if c.core.mm(owner).finish().is_err() {
        a.0 = [0, PREEMPTED, code(result) as u64, who, 0];
        result = Err(Stop::Preempted);
    }
    if done_at != 0 {
        let done: u32 = if resumed { c.get(done_at).unwrap_or(0) } else { 0 };
        // That it cannot be written changes nothing about what was done.
        let _ = c.put(done_at, &done.wrapping_add(made));
    }
    result
}

fn run<P: Platform>(c: &mut Caller<'_, P>, owner: &Domain<P>, requests: u64, count: u32, made: &mut u32) -> HcResult {
    while *made < count {
        if *made > 0 && c.core.platform.preempt() {
            return Err(Stop::Preempted);
        }
        let request: MmuextOp = c.get_at(requests, u64::from(*made))?;
        match frame_operation(c, owner, &request) {
            Some(result) => result?,
            None if owner.id == c.domain.id => vcpu_operation(c, &request)?,
            None => return Err(Errno::EPERM.into()),
        }
        *made += 1;
    }
    Ok(0)
}

/// What concerns a domain's frames, and may be done to another's; None for all else.
fn frame_operation<P: Platform>(c: &Caller<'_, P>, owner: &Domain<P>, op: &MmuextOp) -> Option<Result<(), Stop>> {
    let mfn = Mfn(op.arg1);
    Some(match op.cmd {
        MmuextCmd::PIN_L1_TABLE => c.core.mm(owner).pin(mfn, 1),
        MmuextCmd::PIN_L2_TABLE => c.core.mm(owner).pin(mfn, 2),
        MmuextCmd::PIN_L3_TABLE => c.core.mm(owner).pin(mfn, 3),
        MmuextCmd::PIN_L4_TABLE => c.core.mm(owner).pin(mfn, 4),
        MmuextCmd::UNPIN_TABLE => c.core.mm(owner).unpin(mfn),
        MmuextCmd::CLEAR_PAGE => {
            write_frame(c, owner, mfn, |frame| guest::clear(&c.core.platform, frame)).map_err(Stop::from)
        }
        MmuextCmd::COPY_PAGE => copy_page(c, owner, mfn, Mfn(op.arg2)).map_err(Stop::from),
        MmuextCmd::MARK_SUPER | MmuextCmd::UNMARK_SUPER => Err(Errno::EOPNOTSUPP.into()),
        _ => return None,
    })
}

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

fn copy_page<P: Platform>(c: &Caller<'_, P>, owner: &Domain<P>, to: Mfn, from: Mfn) -> Result<(), Errno> {
    let from = c.core.get_page(from, owner)?;
    let done = write_frame(c, owner, to, |to| guest::copy(&c.core.platform, (from, 0), (to, 0), PAGE_SIZE));
    c.core.put_page(from);
    done
}

/// What concerns the calling vCPU, and CPUs' TLBs and caches.
fn vcpu_operation<P: Platform>(c: &mut Caller<'_, P>, op: &MmuextOp) -> Result<(), Stop> {
    let here = CpuSet::of(c.cpu.id);
    let page = Flush::Page(Vaddr(op.arg1));
    let (cpus, what) = match op.cmd {
        MmuextCmd::NEW_BASEPTR => return c.core.mm(c.domain).new_baseptr(c.run, Mfn(op.arg1)),
        MmuextCmd::NEW_USER_BASEPTR => return c.core.mm(c.domain).new_user_baseptr(c.run, Mfn(op.arg1)),
        MmuextCmd::SET_LDT => return Ok(c.set_ldt(op.arg1, op.arg2 as u32)?),
        MmuextCmd::FLUSH_CACHE | MmuextCmd::FLUSH_CACHE_GLOBAL => {
            if !may_choose_caching(c.domain) {
                let refused = if op.cmd == MmuextCmd::FLUSH_CACHE { Errno::EACCES } else { Errno::EINVAL };
                return Err(refused.into());
            }
            // All of RAM is mapped write-back, and devices of this machine snoop: there is nothing to write back.
            return Ok(());
        }
        MmuextCmd::TLB_FLUSH_LOCAL => (here, Flush::All),
        MmuextCmd::INVLPG_LOCAL => (here, page),
        MmuextCmd::TLB_FLUSH_ALL => (c.domain.dirty(), Flush::All),
        MmuextCmd::INVLPG_ALL => (c.domain.dirty(), page),
        MmuextCmd::TLB_FLUSH_MULTI => (cpus_of(c, op.arg2).map_err(|_| Errno::EINVAL)?, Flush::All),
        MmuextCmd::INVLPG_MULTI => (cpus_of(c, op.arg2).map_err(|_| Errno::EINVAL)?, page),
        _ => return Err(Errno::ENOSYS.into()),
    };
    if what == Flush::All || is_guest_address(Vaddr(op.arg1)) {
        c.core.flush(cpus, what);
    }
    Ok(())
}
