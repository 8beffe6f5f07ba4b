//! Tests of grant tables: the lessons of the field, the interface's answers, and a model.

mod lessons;
mod model;
mod values;

use abi::grant::{Copy, CopyPtr, GrantEntryV1 as Entry, GrantHandle, GrantOp, GrantStatus, MapGrantRef, UnmapGrantRef};
use abi::hypercall::Hypercall;
use abi::{DomId, GrantRef, Maddr, Mfn};
use core::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::testing::{self, Guest, TestCore};
use crate::{Frame, Platform, Privilege};

/// Page 0 is where a guest keeps the arguments of its hypercalls.
const PAGES: usize = 8;
/// The first page of a guest's address space that nothing is mapped at.
const HOLE: usize = PAGES + 8;

/// A guest with a grant table of one frame.
fn guest(core: &TestCore) -> Guest {
    let guest = testing::guest(core, Privilege::empty(), PAGES);
    core.grow_grant_table(&guest.domain, 1).unwrap();
    guest
}

/// A word of a guest's grant table.
fn entry<'a>(core: &'a TestCore, guest: &Guest, gref: u32) -> &'a core::sync::atomic::AtomicU64 {
    let mfn = guest.domain.grants.table.lock().frames[0].mfn();
    core.platform.word(core.frames.get(mfn).unwrap(), gref as usize)
}

fn grant(core: &TestCore, guest: &Guest, gref: u32, to: DomId, mfn: Mfn, flags: u16) {
    let word = mfn.0 << 32 | u64::from(to.0) << 16 | u64::from(flags | Entry::GTF_PERMIT_ACCESS);
    entry(core, guest, gref).store(word, SeqCst);
}

/// The flags of an entry.
fn flags(core: &TestCore, guest: &Guest, gref: u32) -> u16 {
    entry(core, guest, gref).load(SeqCst) as u16
}

/// An operation on an array of structures, which come back as they are then.
fn ops<T: FromBytes + IntoBytes + Immutable>(core: &TestCore, guest: &Guest, op: GrantOp, them: &mut [T]) -> i64 {
    guest.poke(core, 0, 0, them.as_bytes());
    let args = [u64::from(op.0), guest.va(0).0, them.len() as u64, 0, 0];
    let rax = guest.hypercall(core, Hypercall::GRANT_TABLE_OP.0, args);
    core.platform.copy_from_guest(guest.space(), guest.va(0), them.as_mut_bytes()).unwrap();
    rax
}

/// Maps one grant; the status, the handle and the machine address.
fn map(core: &TestCore, guest: &Guest, op: MapGrantRef) -> (GrantStatus, GrantHandle, Maddr) {
    let mut them = [op];
    assert_eq!(ops(core, guest, GrantOp::MAP_GRANT_REF, &mut them), 0);
    (them[0].status, them[0].handle, them[0].dev_bus_addr)
}

fn map_op(from: &Guest, gref: u32, flags: u32, host_addr: u64) -> MapGrantRef {
    MapGrantRef { host_addr, flags, gref: GrantRef(gref), dom: from.domain.id, ..MapGrantRef::new_zeroed() }
}

fn unmap(core: &TestCore, guest: &Guest, handle: GrantHandle, host_addr: u64, device: Maddr) -> GrantStatus {
    let mut them = [UnmapGrantRef { host_addr, dev_bus_addr: device, handle, ..UnmapGrantRef::new_zeroed() }];
    assert_eq!(ops(core, guest, GrantOp::UNMAP_GRANT_REF, &mut them), 0);
    them[0].status
}

fn end(frame: u64, domid: DomId, offset: u16) -> CopyPtr {
    CopyPtr { frame, domid, offset, _pad: 0 }
}

fn copy(core: &TestCore, guest: &Guest, source: CopyPtr, dest: CopyPtr, len: u16, flags: u16) -> GrantStatus {
    let mut them = [Copy { source, dest, len, flags, status: GrantStatus(99), _pad: 0 }];
    assert_eq!(ops(core, guest, GrantOp::COPY, &mut them), 0);
    them[0].status
}

fn refs(core: &TestCore, frame: Frame) -> (u64, u64) {
    let state = core.frames.info(frame).state();
    (state.refs(), state.type_refs())
}

/// All counts are right, and no TLB remembers what it may not.
#[track_caller]
fn sound(core: &TestCore) {
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    assert_eq!(testing::stale_translations(core), Vec::new());
}
