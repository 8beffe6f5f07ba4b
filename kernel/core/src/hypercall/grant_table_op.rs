//! `grant_table_op(op, args, count)`, hypercall 20: grant tables, version 1.
//!
//! - Arguments: the operation (low half of the register), the address of an array of its structures, see
//!   [`abi::grant`], and how many there are.
//! - Returns: 0 when all were gone through; what became of each is in its `status`.
//! - Faults: EINVAL: a negative count, and another than 1 where one structure is asked for; a version that does not
//!   exist. EFAULT: the array cannot be copied in or out. ENOSYS: version 2, and operations that are not there
//!   (transfer, dump_table, get_status_frames, cache_flush). ESRCH, EPERM: get_version of a domain that does not
//!   exist or is not the caller's business. Statuses: see the functions in [`crate::grant`].
//! - Notes: structures are copied in once, a batch at a time, and a batch of unmaps ends with one TLB flush.
//!   Preemptible between batches.
//! - Source: `grant_table.h`.

use abi::grant::{
    Copy, GetVersion, GrantOp, GrantStatus, MapGrantRef, QuerySize, SetVersion, SetupTable, UnmapAndReplace,
    UnmapGrantRef,
};
use abi::{DomId, Errno, Maddr};
use alloc::sync::Arc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::grant::{Copier, Mapper, Unmapped};
use crate::{Args, Caller, Domain, HcResult, Platform, Stop, refuse_if};

/// Structures in a batch: what is copied in at once, and done between two looks at whether to make room.
const BATCH: usize = 16;

/// See the head of this file.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let op = GrantOp(a[0] as u32);
    refuse_if((a[2] as i32) < 0, Errno::EINVAL)?;
    match op {
        GrantOp::MAP_GRANT_REF => batches(c, a, map)?,
        GrantOp::UNMAP_GRANT_REF => batches(c, a, unmap)?,
        GrantOp::UNMAP_AND_REPLACE => batches(c, a, unmap_and_replace)?,
        GrantOp::COPY => batches(c, a, copy)?,
        GrantOp::SETUP_TABLE => one(c, a, |c, it: &mut SetupTable| it.status = status_of(&setup_table(c, it)))?,
        GrantOp::QUERY_SIZE => one(c, a, |c, it: &mut QuerySize| it.status = status_of(&query_size(c, it)))?,
        GrantOp::SET_VERSION => set_version(c, a[1])?,
        GrantOp::GET_VERSION => get_version(c, a[1])?,
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// Copies in a batch, has it done, copies it out, until all is done or something else has to be.
fn batches<P: Platform, T: FromBytes + IntoBytes + Immutable>(
    c: &mut Caller<'_, P>,
    a: &mut Args,
    done: impl Fn(&mut Caller<'_, P>, &mut [T]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let (mut at, mut left) = (a[1], u64::from(a[2] as u32));
    if left == 1 {
        let mut op: T = c.get(at)?;
        done(c, core::slice::from_mut(&mut op))?;
        return c.put(at, &op);
    }
    let mut batch: [T; BATCH] = FromZeros::new_zeroed();
    while left != 0 {
        let len = left.min(BATCH as u64) as usize;
        let mut fetch = |len: usize| c.get_to(at, &mut batch[..len]);
        // Where the array ends in the middle of a batch, what is in front of that is done.
        let len = fetch(len).map(|()| len).or_else(|_| fetch(1).map(|()| 1))?;
        let ops = &mut batch[..len];
        done(c, ops)?;
        c.put(at, ops)?;
        at = at.wrapping_add((len * size_of::<T>()) as u64);
        left -= len as u64;
        (a[1], a[2]) = (at, left);
        if left != 0 && c.core.platform.preempt() {
            return Err(Stop::PREEMPTED);
        }
    }
    Ok(())
}

/// Copies in the one structure, has it done, copies it out.
fn one<P: Platform, T: FromBytes + IntoBytes + Immutable>(
    c: &mut Caller<'_, P>,
    a: &mut Args,
    done: impl Fn(&mut Caller<'_, P>, &mut T),
) -> Result<(), Stop> {
    refuse_if(a[2] as u32 != 1, Errno::EINVAL)?;
    let mut it: T = c.get(a[1])?;
    done(c, &mut it);
    c.put(a[1], &it)
}

/// What a structure is told of how it went.
fn status_of<T>(result: &Result<T, GrantStatus>) -> GrantStatus {
    result.as_ref().err().copied().unwrap_or(GrantStatus::OKAY)
}

/// The domain that a table is asked of.
fn target<P: Platform>(c: &Caller<'_, P>, id: DomId) -> Result<Arc<Domain<P>>, GrantStatus> {
    c.target(id).map_err(|stop| match stop.errno() {
        Some(Errno::EPERM) => GrantStatus::PERMISSION_DENIED,
        _ => GrantStatus::BAD_DOMAIN,
    })
}

fn map<P: Platform>(c: &mut Caller<'_, P>, ops: &mut [MapGrantRef]) -> Result<(), Stop> {
    let mut mapper = c.core.grant_mapper(c.domain, c.run.root().ok_or(Errno::EFAULT)?);
    let mut granter: Option<Arc<Domain<P>>> = None;
    for op in ops {
        if granter.as_ref().is_none_or(|d| d.id != op.dom) {
            granter = c.core.domains.get(op.dom);
        }
        let mapped = granter.as_ref().ok_or(GrantStatus::BAD_DOMAIN).and_then(|granter| mapper.map(granter, op));
        op.status = status_of(&mapped);
        if let Ok(made) = mapped {
            (op.handle, op.dev_bus_addr) = made;
        }
    }
    Ok(())
}

fn unmap<P: Platform>(c: &mut Caller<'_, P>, ops: &mut [UnmapGrantRef]) -> Result<(), Stop> {
    unmaps(c, ops, |mapper, op| (mapper.begin_unmap(op.handle, op.host_addr, op.dev_bus_addr, 0), &mut op.status))
}

fn unmap_and_replace<P: Platform>(c: &mut Caller<'_, P>, ops: &mut [UnmapAndReplace]) -> Result<(), Stop> {
    unmaps(c, ops, |mapper, op| (mapper.begin_unmap(op.handle, op.host_addr, Maddr(0), op.new_addr), &mut op.status))
}

/// Takes a batch of mappings away, flushes once, and gives back what they held. `begin` says also where its result goes.
fn unmaps<'a, P: Platform, T>(
    c: &mut Caller<'_, P>,
    ops: &'a mut [T],
    begin: impl Fn(&mut Mapper<'_, P>, &'a mut T) -> (Result<Unmapped, GrantStatus>, &'a mut GrantStatus),
) -> Result<(), Stop> {
    let mut mapper = c.core.grant_mapper(c.domain, c.run.root().ok_or(Errno::EFAULT)?);
    let mut gone = heapless::Vec::<Unmapped, BATCH>::new();
    for op in ops {
        let (begun, status) = begin(&mut mapper, op);
        *status = status_of(&begun);
        let _ = begun.map(|begun| gone.push(begun));
    }
    mapper.end_unmaps(&gone);
    Ok(())
}

fn copy<P: Platform>(c: &mut Caller<'_, P>, ops: &mut [Copy]) -> Result<(), Stop> {
    let mut copier = Copier::new(c.core, c.domain);
    for op in ops {
        op.status = status_of(&copier.copy(op));
    }
    Ok(())
}

fn setup_table<P: Platform>(c: &mut Caller<'_, P>, it: &mut SetupTable) -> Result<(), GrantStatus> {
    let domain = target(c, it.dom)?;
    c.core.grow_grant_table(&domain, it.nr_frames)?;
    for index in 0..it.nr_frames {
        let frame = domain.grants.table.lock().frames.get(index as usize).copied();
        let mfn = frame.ok_or(GrantStatus::GENERAL_ERROR)?.mfn();
        c.put_at(it.frame_list.0, u64::from(index), &mfn).map_err(|_| GrantStatus::BAD_VIRT_ADDR)?;
    }
    Ok(())
}

fn query_size<P: Platform>(c: &mut Caller<'_, P>, it: &mut QuerySize) -> Result<(), GrantStatus> {
    let domain = target(c, it.dom)?;
    // A table has one frame at least, by the time that anybody looks.
    c.core.grow_grant_table(&domain, 1)?;
    (it.nr_frames, it.max_nr_frames) = domain.grants.size();
    Ok(())
}

/// The only version there is, in a structure whose first word is the version.
fn set_version<P: Platform>(c: &mut Caller<'_, P>, arg: u64) -> Result<(), Stop> {
    let SetVersion { version } = c.get(arg)?;
    c.put(arg, &SetVersion { version: 1 })?;
    match version {
        1 => Ok(()),
        2 => Err(Errno::ENOSYS.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn get_version<P: Platform>(c: &mut Caller<'_, P>, arg: u64) -> Result<(), Stop> {
    let mut it: GetVersion = c.get(arg)?;
    c.target(it.dom)?;
    it.version = 1;
    c.put(arg, &it)
}
