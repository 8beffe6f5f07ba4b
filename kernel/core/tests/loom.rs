//! Every order in which the words that two sides share can change, by loom.
//!
//! The files under test are compiled once more here, with loom's atomics in place of the machine's. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p ferrule-core --test loom --release`.
#![cfg(loom)]
#![allow(missing_docs, dead_code, reason = "modules of the crate, seen from outside")]

use core::sync::atomic::Ordering::SeqCst;

use abi::DomId;
use abi::grant::GrantEntryV1;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use loom::thread;

/// What `crate::sync` is in these files.
mod sync {
    pub mod atomic {
        pub use loom::sync::atomic::{AtomicU32, AtomicU64};

        /// loom takes sequentially consistent operations for acquire and release; this is the order among them.
        pub fn order() {
            loom::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        }
    }
}

#[path = "../src/event/raise.rs"]
mod raise;
#[path = "../src/sched/state.rs"]
mod state;
#[path = "../src/grant/status.rs"]
mod status;

use raise::{Notified, Set, Words};
use state::{Resched, State};

/// A vCPU that a CPU runs.
fn running() -> State {
    let state = State::new();
    assert_eq!(state.up(), (true, Resched::Enqueue));
    assert!(state.take());
    state
}

/// Counts how often a vCPU was put on a queue.
fn note(queued: &AtomicUsize, todo: Resched) {
    if todo == Resched::Enqueue {
        queued.fetch_add(1, SeqCst);
    }
}

#[test]
fn no_wake_up_is_lost_between_block_and_event() {
    loom::model(|| {
        let shared = Arc::new((running(), AtomicU64::new(0), AtomicUsize::new(0)));
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (state, upcall, queued) = &*shared;
                upcall.fetch_or(1, SeqCst);
                if state.view().blocked() {
                    note(queued, state.unblock().1);
                }
            })
        };
        let (state, upcall, queued) = &*shared;
        state.block(false);
        if upcall.load(SeqCst) != 0 {
            note(queued, state.unblock().1);
        }
        state.leave();
        note(queued, state.release());
        sender.join().unwrap();
        assert!(state.view().runnable(), "the event came, and the vCPU waits");
        assert_eq!(queued.load(SeqCst), 1, "on a queue, once");
    });
}

#[test]
fn a_vcpu_that_becomes_runnable_is_queued_once() {
    loom::model(|| {
        let state = running();
        assert_eq!(state.pause(), Resched::Vacate);
        state.block(true);
        let shared = Arc::new((state, AtomicUsize::new(0), AtomicUsize::new(0)));
        let threads: Vec<_> = (0..2)
            .map(|which| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (state, queued, polls) = &*shared;
                    if which == 0 {
                        note(queued, state.unpause());
                    } else {
                        let (polled, todo) = state.unblock();
                        polls.fetch_add(usize::from(polled), SeqCst);
                        note(queued, todo);
                    }
                })
            })
            .collect();
        let (state, queued, polls) = &*shared;
        note(queued, state.release());
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(state.view().runnable() && state.view().queued());
        assert_eq!(queued.load(SeqCst), 1);
        assert_eq!(polls.load(SeqCst), 1, "the end of the poll was told once");
    });
}

#[test]
fn a_vcpu_taken_off_a_queue_while_it_is_woken_is_not_lost() {
    loom::model(|| {
        let state = State::new();
        assert_eq!(state.up(), (true, Resched::Enqueue));
        assert_eq!(state.pause(), Resched::Stay);
        let shared = Arc::new((state, AtomicUsize::new(0)));
        let waker = {
            let shared = shared.clone();
            thread::spawn(move || note(&shared.1, shared.0.unpause()))
        };
        // A CPU pops it: either it runs it, or it has let go of it and the waker queues it again.
        let taken = shared.0.take();
        waker.join().unwrap();
        assert_eq!(shared.1.load(SeqCst) + usize::from(taken), 1);
    });
}

/// The words of two ports (bits 0 and 1) and one vCPU.
struct Ports {
    pending: AtomicU64,
    mask: AtomicU64,
    selector: AtomicU64,
    upcall: AtomicU64,
    told: AtomicU32,
}

impl Ports {
    fn new(mask: u64) -> Arc<Self> {
        let word = || AtomicU64::new(0);
        let (pending, selector, upcall) = (word(), word(), word());
        Arc::new(Self { pending, mask: AtomicU64::new(mask), selector, upcall, told: AtomicU32::new(0) })
    }

    fn words(&self, bit: u64) -> Words<'_> {
        Words { pending: &self.pending, mask: &self.mask, bit }
    }

    fn tell(&self) {
        if (Notified { selector: &self.selector, upcall: &self.upcall, bit: 1 }).tell() {
            self.told.fetch_add(1, SeqCst);
        }
    }

    fn send(&self, bit: u64) {
        if self.words(bit).set() == Set::Raised {
            self.tell();
        }
    }

    /// A guest's upcall handler: returns the events that it found.
    fn serve(&self) -> u64 {
        if self.upcall.swap(0, SeqCst) == 0 || self.selector.swap(0, SeqCst) == 0 {
            return 0;
        }
        self.pending.swap(0, SeqCst)
    }
}

#[test]
fn an_event_is_either_served_or_still_announced() {
    loom::model(|| {
        let ports = Ports::new(0);
        let senders: Vec<_> = [1, 2]
            .into_iter()
            .map(|bit| {
                let ports = ports.clone();
                thread::spawn(move || ports.send(bit))
            })
            .collect();
        let served = ports.serve();
        senders.into_iter().for_each(|t| t.join().unwrap());
        let left = ports.pending.load(SeqCst);
        assert_eq!(served | left, 3, "both events came");
        if left != 0 {
            assert_eq!((ports.selector.load(SeqCst), ports.upcall.load(SeqCst)), (1, 1));
        }
        assert!(ports.told.load(SeqCst) >= 1, "somebody looked whether the vCPU has to be woken");
    });
}

#[test]
fn an_event_that_meets_an_unmask_is_announced() {
    loom::model(|| {
        let ports = Ports::new(1);
        let sender = {
            let ports = ports.clone();
            thread::spawn(move || ports.send(1))
        };
        if ports.words(1).unmask() {
            ports.tell();
        }
        sender.join().unwrap();
        assert_eq!(ports.pending.load(SeqCst), 1);
        assert_eq!((ports.selector.load(SeqCst), ports.upcall.load(SeqCst)), (1, 1), "lost between mask and pending");
        assert_eq!(ports.told.load(SeqCst), 1);
    });
}

const PERMIT: u64 = GrantEntryV1::GTF_PERMIT_ACCESS as u64;
const READONLY: u64 = GrantEntryV1::GTF_READONLY as u64;
const IN_USE: u64 = (GrantEntryV1::GTF_READING | GrantEntryV1::GTF_WRITING) as u64;

/// An entry for domain 7.
fn granted(frame: u64) -> u64 {
    frame << 32 | 7 << 16 | PERMIT
}

#[test]
fn a_grant_is_revoked_or_in_use_but_not_both() {
    loom::model(|| {
        let entry = Arc::new(AtomicU64::new(granted(5)));
        let mapper = {
            let entry = entry.clone();
            thread::spawn(move || status::claim(&entry, DomId(7), true, true).map(|mfn| mfn.0))
        };
        // The granter revokes the entry as grant_table.h says, and grants another frame by it.
        let now = entry.load(SeqCst);
        let revoked = now & IN_USE == 0 && entry.compare_exchange(now, 0, SeqCst, SeqCst).is_ok();
        if revoked {
            entry.store(granted(6), SeqCst);
        }
        match mapper.join().unwrap() {
            Ok(5) => assert!(!revoked, "in use, and revoked"),
            Ok(6) => assert!(revoked, "a frame that was not granted"),
            Ok(other) => panic!("frame {other}"),
            Err(_) => assert!(revoked),
        }
    });
}

#[test]
fn the_last_use_of_a_grant_leaves_no_mark() {
    loom::model(|| {
        let entry = Arc::new(AtomicU64::new(granted(5)));
        assert!(status::claim(&entry, DomId(7), true, true).is_ok());
        let mapper = {
            let entry = entry.clone();
            thread::spawn(move || status::release(&entry, true, true))
        };
        // The granter makes it read-only meanwhile.
        let mut now = entry.load(SeqCst);
        while let Err(seen) = entry.compare_exchange(now, now | READONLY, SeqCst, SeqCst) {
            now = seen;
        }
        mapper.join().unwrap();
        assert_eq!(entry.load(SeqCst), granted(5) | READONLY);
    });
}
