//! Tests of the page types: the lessons of the field, one by one, and a model.

use std::boxed::Box;
use std::vec::Vec;

use abi::hypercall::Hypercall;
use abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp};
use abi::{DomId, Errno, Mfn, Pte, PteFlags};
use zerocopy::IntoBytes;

use super::audit::{Fault, Finding};
use crate::Privilege;
use crate::frame::{Frame, PageType, State};
use crate::guest as words;
use crate::testing::{self, Guest, READ_ONLY, TestCore, WRITABLE, stale_translations};

/// A core and a guest with `pages` pages.
fn machine(pages: usize) -> (Box<TestCore>, Guest) {
    let core = testing::core(2048, 2);
    let guest = testing::guest(&core, Privilege::empty(), pages);
    (core, guest)
}

/// Nothing is wrong, and no TLB remembers what it may not.
#[track_caller]
fn sound(core: &TestCore) {
    assert_eq!(core.audit(None), Ok(Vec::new()));
    assert_eq!(stale_translations(core), Vec::new());
}

#[test]
fn a_guest_of_the_tests_is_sound() {
    let (core, guest) = machine(16);
    sound(&core);
    assert_eq!(core.frames.info(guest.tables[3]).state().kind(), PageType::L4);
    assert_eq!(core.frames_left(&guest.domain), 16 + 4 + 1);
}
