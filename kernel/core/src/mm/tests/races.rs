//! Domains on several CPUs at once, over the same frames. Whatever the order was, the counts are right in the end, and
//! no frame is ever writable and a table at once.

use super::*;
use crate::State;
use std::sync::atomic::{AtomicBool, AtomicUsize};

const ROUNDS: usize = 400;

/// Says that it is over when a thread ends, if only by a failed assertion: the others do not wait for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A vCPU of the owner turns its frames into tables and back; another vCPU's worth of work maps them writable and takes
/// descriptor references; the builder maps them writable from outside.
#[test]
fn frames_change_their_type_while_others_map_them() {
    let core = testing::core(2048, 4);
    let builder = testing::guest(&core, Privilege::BUILDER, 8);
    let owner = testing::guest(&core, Privilege::empty(), 16);
    let tables: Vec<Frame> = (4..8).map(|page| owner.frames[page]).collect();
    (4..8).for_each(|page| protect(&core, &owner, page, READ_ONLY));
    let (over, seen) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 3]);
    let count = |what: usize, happened: bool| {
        seen[what].fetch_add(usize::from(happened), SeqCst);
    };
    // Until each has had its way often, however the host's threads are scheduled.
    let enough = || seen.iter().all(|n| n.load(SeqCst) > ROUNDS);
    let id = u64::from(owner.domain.id.0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _over = Over(&over);
            for round in (0..50_000_000).take_while(|_| !enough()) {
                let frame = tables[round % tables.len()];
                if core.mm(&owner.domain).pin(frame.mfn(), 1).is_ok() {
                    count(0, true);
                    assert!(core.frames.info(frame).state().is_table(1));
                    core.mm(&owner.domain).unpin(frame.mfn()).unwrap();
                }
            }
        });
        scope.spawn(|| {
            for round in (0..).take_while(|_| !over.load(SeqCst)) {
                let pte = Pte::new(tables[round % tables.len()].mfn(), WRITABLE);
                let rc = update_of(&core, &builder, &[request(builder.tables[0], 300, pte)], id);
                count(1, rc == 0);
                assert!(rc == 0 || rc == EBUSY);
                update(&core, &builder, &[request(builder.tables[0], 300, Pte::EMPTY)]);
            }
        });
        scope.spawn(|| {
            for round in (0..).take_while(|_| !over.load(SeqCst)) {
                let mfn = tables[round % tables.len()].mfn();
                let kind = if round.is_multiple_of(3) { PageType::SegmentDescriptor } else { PageType::Writable };
                if let Ok(frame) = core.get_page_and_type(mfn, &owner.domain, kind) {
                    let state = core.frames.info(frame).state();
                    assert!(state.kind() == kind && state.has(State::VALIDATED));
                    count(2, true);
                    core.put_page_and_type(frame);
                }
            }
        });
    });
    sound(&core);
    assert!(enough(), "{seen:?}");
}

/// Frames come and go on all CPUs while another domain maps and unmaps them.
#[test]
fn frames_are_freed_once() {
    let core = testing::core(2048, 4);
    let builder = testing::guest(&core, Privilege::BUILDER, 8);
    let guests: Vec<Guest> = (0..2).map(|_| testing::guest(&core, Privilege::empty(), 8)).collect();
    let free = core.free_frames();
    std::thread::scope(|scope| {
        let (core, guests) = (&core, &guests);
        let threads = [0, 1].map(|at| {
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let page = || core.alloc_domain_page(&guests[at].domain).expect("memory");
                    let frames: Vec<Frame> = (0..8).map(|_| page()).collect();
                    frames.into_iter().for_each(|frame| assert!(core.deallocate(frame)));
                }
            })
        });
        for round in (0u64..).take_while(|_| !threads.iter().all(|thread| thread.is_finished())) {
            let id = u64::from(guests[round as usize % 2].domain.id.0);
            let mfn = abi::Mfn(testing::FIRST_RAM + round % 100);
            update_of(core, &builder, &[request(builder.tables[0], 300, Pte::new(mfn, WRITABLE))], id);
            update(core, &builder, &[request(builder.tables[0], 300, Pte::EMPTY)]);
        }
    });
    assert_eq!(core.free_frames(), free);
    sound(&core);
}
