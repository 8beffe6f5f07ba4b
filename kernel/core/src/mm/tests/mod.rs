//! Tests of the page types: the lessons of the field one by one, interruption at every step, and a model.

mod devices;
mod hostile;
mod interrupted;
mod lessons;
mod memory;
mod model;
mod operations;
mod races;
mod values;

use std::boxed::Box;
use std::vec::Vec;

use abi::hypercall::Hypercall;
use abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp};
use abi::{DomId, Errno, PAGE_SIZE, Pte, PteFlags};
use core::sync::atomic::Ordering::SeqCst;
use zerocopy::IntoBytes;

use crate::testing::{self, Guest, READ_ONLY, TestCore, WRITABLE, stale_translations};
use crate::{Frame, PageType, Platform, Privilege};

const SELF: u64 = DomId::SELF.0 as u64;
const EINVAL: i64 = Errno::EINVAL.code();
const EBUSY: i64 = Errno::EBUSY.code();
const EPERM: i64 = Errno::EPERM.code();
const EFAULT: i64 = Errno::EFAULT.code();

/// A core and a guest with `pages` pages. Page 0 is where it keeps the arguments of its hypercalls.
fn machine(pages: usize) -> (Box<TestCore>, Guest) {
    let core = testing::core(2048, 2);
    let guest = testing::guest(&core, Privilege::empty(), pages);
    (core, guest)
}

/// Nothing is wrong, and no TLB remembers what it may not.
#[track_caller]
fn sound(core: &TestCore) {
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    assert_eq!(stale_translations(core), Vec::new());
}

/// What a guest writes into a page that it has mapped writable.
#[track_caller]
fn fill(core: &TestCore, frame: Frame, entries: &[(usize, Pte)]) {
    let kind = core.frames.info(frame).state();
    assert!(kind.type_refs() == 0 || kind.kind() == PageType::Writable, "a guest could not write this");
    for &(index, pte) in entries {
        core.platform.word(frame, index).store(pte.0, SeqCst);
    }
}

fn entry(core: &TestCore, table: Frame, index: usize) -> Pte {
    Pte(core.platform.word(table, index).load(SeqCst))
}

fn at(table: Frame, index: usize) -> u64 {
    table.mfn().maddr().0 + index as u64 * 8
}

fn request(table: Frame, index: usize, pte: Pte) -> MmuUpdate {
    MmuUpdate { ptr: at(table, index), val: pte.0 }
}

/// `mmu_update` on the caller's own tables and frames.
fn update(core: &TestCore, guest: &Guest, requests: &[MmuUpdate]) -> i64 {
    update_of(core, guest, requests, SELF)
}

fn update_of(core: &TestCore, guest: &Guest, requests: &[MmuUpdate], who: u64) -> i64 {
    guest.poke(core, 0, 0, requests.as_bytes());
    guest.hypercall(core, Hypercall::MMU_UPDATE.0, [guest.va(0).0, requests.len() as u64, 0, who, 0])
}

/// `mmuext_op` on the caller's own frames.
fn extended(core: &TestCore, guest: &Guest, cmd: MmuextCmd, arg1: u64, arg2: u64) -> i64 {
    guest.poke(core, 0, 0, MmuextOp::new(cmd, arg1, arg2).as_bytes());
    guest.hypercall(core, Hypercall::MMUEXT_OP.0, [guest.va(0).0, 1, 0, SELF, 0])
}

fn pin(core: &TestCore, guest: &Guest, level: u32, frame: Frame) -> i64 {
    extended(core, guest, MmuextCmd(level - 1), frame.mfn().0, 0)
}

fn unpin(core: &TestCore, guest: &Guest, frame: Frame) -> i64 {
    extended(core, guest, MmuextCmd::UNPIN_TABLE, frame.mfn().0, 0)
}

/// Maps page `index` of the guest read-only, writable, or not at all.
#[track_caller]
fn protect(core: &TestCore, guest: &Guest, index: usize, flags: PteFlags) {
    assert_eq!(guest.map(core, index, Pte::new(guest.frames[index].mfn(), flags)), Ok(()));
}

/// Makes the guest's CPU remember all of its pages.
fn touch_all(core: &TestCore, guest: &Guest) {
    let cpu = core.platform.this_cpu();
    for page in 0..guest.frames.len() {
        core.platform.touch(cpu, guest.space(), guest.va(page));
    }
}

/// Pages `first` to `first + 3` of the guest become an L1, L2, L3 and L4 that map page `data` at address 0 writable,
/// in an L1 of 512 such entries.
fn tree(core: &TestCore, guest: &Guest, first: usize, data: usize) -> [Frame; 4] {
    let tables = [0, 1, 2, 3].map(|level| guest.frames[first + level]);
    let leaf = Pte::new(guest.frames[data].mfn(), WRITABLE);
    let leaves: Vec<_> = (0..512).map(|index| (index, leaf)).collect();
    fill(core, tables[0], &leaves);
    for level in 1..4 {
        fill(core, tables[level], &[(0, Pte::new(tables[level - 1].mfn(), WRITABLE))]);
    }
    (first..first + 4).for_each(|page| protect(core, guest, page, READ_ONLY));
    tables
}

const _: () = assert!(PAGE_SIZE == 4096);
