//! Long work that is interrupted at every step (XSA-290, XSA-299, XSA-310): the counts are right at each, and the end is
//! the same.

use super::*;
use crate::dispatch::{self};
use crate::{State, Stop};

/// Makes a hypercall whose result is `expected`, with `between` called at every interruption; returns how many there
/// were.
#[track_caller]
fn sliced(core: &TestCore, guest: &Guest, number: u32, mut args: [u64; 5], expected: i64, between: impl Fn()) -> u32 {
    let mut slices = 0;
    loop {
        match guest.run(core, |c| dispatch::call(c, number, &mut args)) {
            Err(Stop::PREEMPTED) => {
                slices += 1;
                sound(core);
                between();
                assert!(slices < 100_000, "no progress");
            }
            Ok(value) | Err(Stop(value)) => {
                assert_eq!(value, expected);
                return slices;
            }
        }
    }
}

#[track_caller]
fn sliced_op(core: &TestCore, guest: &Guest, op: MmuextOp, expected: i64, between: impl Fn()) -> u32 {
    guest.poke(core, 0, 0, op.as_bytes());
    sliced(core, guest, Hypercall::MMUEXT_OP.0, [guest.va(0).0, 1, 0, SELF, 0], expected, between)
}

fn pin_op(level: u32, frame: Frame) -> MmuextOp {
    MmuextOp::new(MmuextCmd(level - 1), frame.mfn().0, 0)
}

fn unpin_op(frame: Frame) -> MmuextOp {
    MmuextOp::new(MmuextCmd::UNPIN_TABLE, frame.mfn().0, 0)
}

/// Runs `f` once for each step at which it can be interrupted, up to three times in a row, and once more without. (What
/// is let go of is finished by the same call, unless that is interrupted as well.)
fn at_every_step(f: impl Fn(&TestCore, &Guest) -> u32) {
    for times in [1, 2, 3] {
        for step in 0.. {
            let (core, guest) = machine(16);
            core.platform.interrupt_during(step, times);
            let slices = f(&core, &guest);
            if core.platform.interrupted().is_empty() {
                assert!(step > 0 && slices == 0, "nothing was interrupted");
                break;
            }
            assert!(step < 5_000);
        }
    }
}

#[test]
fn lesson_10_pin_and_unpin_interrupted_at_every_step() {
    at_every_step(|core, guest| {
        let tables = tree(core, guest, 4, 8);
        let root = tables[3];
        let polls = core.platform.polls();
        let mut slices = sliced_op(core, guest, pin_op(4, root), 0, || {});
        sound(core);
        assert!(core.frames.info(root).state().has(State::PINNED | State::VALIDATED));
        assert_eq!(core.frames.info(guest.frames[8]).state().type_refs(), 513);
        slices += sliced_op(core, guest, unpin_op(root), 0, || {});
        sound(core);
        assert!(tables.iter().all(|table| core.frames.info(*table).state().type_refs() == 0));
        assert_eq!(core.frames.info(guest.frames[8]).state().type_refs(), 1);
        assert!(core.platform.polls() - polls >= 14, "an L1 is looked at in slices");
        slices
    });
}

/// Each directory has an entry still to be given back when the long table below the other one is interrupted.
#[test]
fn lesson_10_a_chain_of_tables_that_wait_for_the_lowest() {
    at_every_step(|core, guest| {
        let tables = tree(core, guest, 4, 8);
        for (level, other) in [(1, 9), (2, 10), (3, 11)] {
            protect(core, guest, other, READ_ONLY);
            protect(core, guest, 4 + level, WRITABLE);
            let entries = [guest.frames[other], tables[level - 1]].map(|table| Pte::new(table.mfn(), WRITABLE));
            fill(core, tables[level], &[(0, entries[0]), (1, entries[1])]);
            protect(core, guest, 4 + level, READ_ONLY);
        }
        let mut slices = sliced_op(core, guest, pin_op(4, tables[3]), 0, || {});
        slices += sliced_op(core, guest, unpin_op(tables[3]), 0, || {});
        sound(core);
        for frame in &guest.frames[4..12] {
            assert_eq!(core.frames.info(*frame).state().type_refs(), u64::from(*frame == guest.frames[8]));
        }
        slices
    });
}

#[test]
fn lesson_10_a_failing_pin_interrupted_at_every_step() {
    at_every_step(|core, guest| {
        let tables = tree(core, guest, 4, 8);
        // The last entry of the L1 names a frame that is not the guest's, after 511 good ones; and the L2 has two
        // good children before.
        protect(core, guest, 4, WRITABLE);
        protect(core, guest, 5, WRITABLE);
        protect(core, guest, 9, READ_ONLY);
        fill(core, tables[0], &[(511, Pte::new(abi::Mfn(2000), WRITABLE))]);
        fill(
            core,
            tables[1],
            &[(0, Pte::new(guest.frames[9].mfn(), WRITABLE)), (7, Pte::new(tables[0].mfn(), WRITABLE))],
        );
        protect(core, guest, 4, READ_ONLY);
        protect(core, guest, 5, READ_ONLY);
        sound(core);
        let slices = sliced_op(core, guest, pin_op(4, tables[3]), EBUSY, || {});
        sound(core);
        for frame in tables.iter().chain(&guest.frames[9..10]) {
            let state = core.frames.info(*frame).state();
            assert_eq!((state.type_refs(), state.refs()), (0, 2), "{frame:?}");
        }
        slices
    });
}

#[test]
fn lesson_10_a_pin_that_is_given_up_half_way() {
    for step in 0..40 {
        let (core, guest) = machine(16);
        let tables = tree(&core, &guest, 4, 8);
        core.platform.interrupt_after(step);
        let mut args = [guest.va(0).0, 1, 0, SELF, 0];
        guest.poke(&core, 0, 0, pin_op(4, tables[3]).as_bytes());
        if guest.run(&core, |c| dispatch::call(c, Hypercall::MMUEXT_OP.0, &mut args)).is_ok() {
            break;
        }
        sound(&core);
        // Another call begins instead, on the same tables: one level lower, or one that undoes it.
        for level in 1..4 {
            let rc = pin(&core, &guest, level, tables[level as usize - 1]);
            assert_eq!(rc, 0, "step {step}");
            sound(&core);
        }
        assert_eq!(unpin(&core, &guest, tables[3]), EINVAL);
        (0..3).for_each(|level| assert_eq!(unpin(&core, &guest, tables[level]), 0));
        sound(&core);
        // What is half validated cannot be written, and goes with the domain.
        let half = tables.iter().any(|table| core.frames.info(*table).state().has(State::PARTIAL));
        let rc = guest.map(&core, 7, Pte::new(tables[3].mfn(), WRITABLE));
        assert_eq!(rc.is_err(), half, "step {step}");
        destroy(&core, &guest);
        assert_eq!(core.frames_left(&guest.domain), 1, "shared_info alone");
        assert_eq!(core.audit(&[]), Ok(Vec::new()));
    }
}

/// A single update that comes in place of what was interrupted: first that is finished, then it is begun. (It was not so
/// once: two tables were abandoned at a level, or one was validated and let go of in turns.)
#[test]
fn lesson_10_a_single_update_after_one_that_was_given_up() {
    let (core, guest) = machine(16);
    let tables = tree(&core, &guest, 4, 8);
    protect(&core, &guest, 9, READ_ONLY);
    protect(&core, &guest, 5, WRITABLE);
    fill(&core, tables[1], &[(1, Pte::new(guest.frames[9].mfn(), WRITABLE))]);
    protect(&core, &guest, 5, READ_ONLY);
    assert_eq!(pin(&core, &guest, 2, tables[1]), 0);
    core.platform.interrupt_every(1);
    let mut args = [guest.va(0).0, 1, 0, SELF, 0];
    guest.poke(&core, 0, 0, request(tables[1], 0, Pte::EMPTY).as_bytes());
    let given_up = guest.run(&core, |c| dispatch::call(c, Hypercall::MMU_UPDATE.0, &mut args));
    assert_eq!(given_up, Err(Stop::PREEMPTED), "512 entries are let go of in slices");
    assert!(core.frames.info(tables[0]).state().has(State::PARTIAL));
    // The table that is let go of is named again, and so is another one.
    for (index, table) in [(2, tables[0]), (1, guest.frames[9])] {
        let new = if index == 2 { Pte::new(table.mfn(), WRITABLE) } else { Pte::EMPTY };
        let args = [guest.va(0).0, 1, 0, SELF, 0];
        guest.poke(&core, 0, 0, request(tables[1], index, new).as_bytes());
        assert!(sliced(&core, &guest, Hypercall::MMU_UPDATE.0, args, 0, || {}) < 100);
    }
    core.platform.interrupt_every(0);
    assert_eq!(unpin(&core, &guest, tables[1]), 0);
    sound(&core);
    assert!([tables[0], guest.frames[9]].iter().all(|table| core.frames.info(*table).state().type_refs() == 0));
}

/// Takes a domain's memory apart as its destruction does.
fn destroy(core: &TestCore, guest: &Guest) {
    guest.domain.life.store(crate::domain::Stage::Dying as u32, SeqCst);
    guest.vcpu.run.lock().hardware_root = None;
    while core.drop_root(&guest.domain, &mut guest.vcpu.run.lock().kernel_root).is_err() {
        assert_eq!(core.audit(&[]), Ok(Vec::new()));
    }
    while core.relinquish_memory(&guest.domain).is_err() {
        assert_eq!(core.audit(&[]), Ok(Vec::new()));
    }
}

#[test]
fn lesson_11_destruction_is_interrupted_at_every_step() {
    for every in [1, 2, 3, 7] {
        let (core, guest) = machine(16);
        let tables = tree(&core, &guest, 4, 8);
        assert_eq!(pin(&core, &guest, 4, tables[3]), 0);
        core.platform.interrupt_every(every);
        destroy(&core, &guest);
        assert_eq!(core.frames_left(&guest.domain), 1);
        assert_eq!(core.audit(&[]), Ok(Vec::new()));
        let before = core.free_frames();
        core.free_core_page(guest.domain.shared_info);
        assert_eq!(core.free_frames(), before + 1);
    }
}

/// One slice does so much and no more.
#[test]
fn lesson_11_a_slice_is_bounded() {
    let (core, guest) = machine(16);
    let tables = tree(&core, &guest, 4, 8);
    core.platform.interrupt_every(1);
    // 512 entries in slices of 64, and one a level above.
    let pinned = sliced_op(&core, &guest, pin_op(4, tables[3]), 0, || {});
    assert!((7..16).contains(&pinned), "{pinned}");
    let unpinned = sliced_op(&core, &guest, unpin_op(tables[3]), 0, || {});
    assert!((4..16).contains(&unpinned), "{unpinned}");
    sound(&core);
}

#[test]
fn lesson_10_changes_of_directories_interrupted_at_every_step() {
    at_every_step(|core, guest| {
        let new = tree(core, guest, 4, 8);
        let index = guest.va(0).table_index(4) + 1;
        let root = guest.tables[3];
        let mut slices = 0;
        for pte in [Pte::new(new[2].mfn(), WRITABLE), Pte::EMPTY] {
            // The change and one after it, so that what the first lets go of is finished in between.
            let requests = [request(root, index, pte), request(guest.tables[0], 100, Pte::EMPTY)];
            guest.poke(core, 0, 0, requests.as_bytes());
            guest.poke(core, 0, 256, &0u32.to_le_bytes());
            let args = [guest.va(0).0, 2, guest.va(0).0 + 256, SELF, 0];
            slices += sliced(core, guest, Hypercall::MMU_UPDATE.0, args, 0, || {});
            assert_eq!(entry(core, guest.frames[0], 32).0 as u32, 2, "requests done");
            sound(core);
        }
        assert!(new.iter().all(|table| core.frames.info(*table).state().type_refs() == 0));
        slices
    });
}

#[test]
fn lesson_10_changes_of_root_interrupted_at_every_step() {
    at_every_step(|core, guest| {
        let new = tree(core, guest, 4, 8);
        // The new root has the guest's own pages too.
        protect(core, guest, 7, WRITABLE);
        let slot = guest.va(0).table_index(4);
        fill(core, new[3], &[(slot, entry(core, guest.tables[3], slot))]);
        protect(core, guest, 7, READ_ONLY);
        let base = |frame: Frame| MmuextOp::new(MmuextCmd::NEW_BASEPTR, frame.mfn().0, 0);
        let user = |mfn| MmuextOp::new(MmuextCmd::NEW_USER_BASEPTR, mfn, 0);
        let mut slices = sliced_op(core, guest, base(new[3]), 0, || {});
        slices += sliced_op(core, guest, user(new[3].mfn().0), 0, || {});
        assert_eq!(guest.space().root, new[3]);
        slices += sliced_op(core, guest, base(guest.tables[3]), 0, || {});
        assert_eq!(core.frames.info(new[3]).state().type_refs(), 1, "user mode's");
        slices += sliced_op(core, guest, user(0), 0, || {});
        sound(core);
        assert!(new.iter().all(|table| core.frames.info(*table).state().type_refs() == 0));
        slices
    });
}
