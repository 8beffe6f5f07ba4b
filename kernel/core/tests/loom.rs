//! Every order in which the words that two sides share can change, by loom.
//!
//! The files under test are compiled once more here, with loom's atomics in place of the machine's. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p ferrule-core --test loom --release`.
#![cfg(loom)]
#![allow(missing_docs, dead_code, reason = "modules of the crate, seen from outside")]

use core::sync::atomic::Ordering::SeqCst;

use abi::DomId;
use abi::event::fifo::{LINK_MASK, LINKED, MASKED, PENDING};
use abi::grant::GrantEntryV1;
use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use loom::sync::{Arc, Mutex};
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

#[path = "../src/frame/clock.rs"]
mod clock;
#[path = "../src/frame/info.rs"]
mod info;
#[path = "../src/event/link.rs"]
mod link;
#[path = "../src/event/raise.rs"]
mod raise;
#[path = "../src/sched/state.rs"]
mod state;
#[path = "../src/grant/status.rs"]
mod status;

use clock::FlushClock;
use info::{Claim, Owner, PageInfo, PageType, State as Page};
use link::Half;
use raise::{Notified, Set, Words};
use state::{Resched, State};

/// A vCPU that a CPU runs.
fn running() -> State {
    let state = State::new();
    assert_eq!(state.up(), Resched::Enqueue);
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
        assert_eq!(state.up(), Resched::Enqueue);
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
        if (Notified { selector: Some((&self.selector, 1)), upcall: &self.upcall }).tell() {
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

/// Words 0 to 3 of an event array, the control block of a vCPU, and what the core remembers: the last port of queue 0.
struct Fifo {
    words: [AtomicU64; 2],
    ready: AtomicU64,
    head: AtomicU64,
    last: Mutex<u32>,
    told: AtomicU32,
}

impl Fifo {
    fn new() -> Arc<Self> {
        let word = || AtomicU64::new(0);
        Arc::new(Self {
            words: [word(), word()],
            ready: word(),
            head: word(),
            last: Mutex::new(0),
            told: AtomicU32::new(0),
        })
    }

    fn word(&self, port: u32) -> Half<'_> {
        Half::new(&self.words[port as usize / 2], port % 2 == 1)
    }

    fn value(&self, port: u32) -> u32 {
        (self.words[port as usize / 2].load(SeqCst) >> (port % 2 * 32)) as u32
    }

    /// What [`event/fifo.rs`] does with its lock held, for a single queue.
    fn raise(&self, port: u32) {
        let mut last = self.last.lock().unwrap();
        let word = self.word(port);
        word.set(PENDING);
        if word.any(MASKED | LINKED) || word.set(LINKED) {
            return;
        }
        let before = if *last == port { 0 } else { *last };
        *last = port;
        let behind = (before != 0).then(|| self.word(before));
        if link::append(behind, port, Half::new(&self.head, true), Half::new(&self.ready, false), 1) {
            self.told.fetch_add(1, SeqCst);
        }
    }

    /// What a guest does to a word: half of the 64 bits, by compare-exchange. None if `change` wants nothing done.
    fn change(&self, port: u32, change: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let (word, shift) = (&self.words[port as usize / 2], port % 2 * 32);
        let mut seen = word.load(SeqCst);
        loop {
            let old = (seen >> shift) as u32;
            let new = seen & !(u64::from(u32::MAX) << shift) | u64::from(change(old)?) << shift;
            match word.compare_exchange(seen, new, SeqCst, SeqCst) {
                Ok(_) => return Some(old),
                Err(now) => seen = now,
            }
        }
    }

    /// A guest's upcall handler: takes what is on the queue; the ports whose events it found, as bits. It knows how far it
    /// came the time before.
    fn serve(&self, next: &mut u32) -> u32 {
        let mut served = 0;
        while self.ready.swap(0, SeqCst) != 0 || *next != 0 {
            loop {
                let port = if *next == 0 { (self.head.load(SeqCst) >> 32) as u32 } else { *next };
                let word = self.change(port, |word| Some(word & !(LINKED | LINK_MASK))).unwrap();
                *next = word & LINK_MASK;
                sync::atomic::order();
                if self.value(port) & (PENDING | MASKED) == PENDING {
                    served |= 1 << port;
                    self.change(port, |word| Some(word & !PENDING));
                    sync::atomic::order();
                }
                if *next == 0 {
                    break;
                }
            }
        }
        served
    }
}

#[test]
fn an_event_of_a_queue_is_served_or_found_by_the_next_upcall() {
    loom::model(|| {
        let fifo = Fifo::new();
        // One is there, and its upcall under way; another comes.
        fifo.raise(2);
        let sender = {
            let fifo = fifo.clone();
            thread::spawn(move || fifo.raise(3))
        };
        let mut next = 0;
        let served = fifo.serve(&mut next);
        sender.join().unwrap();
        let told = fifo.told.load(SeqCst);
        let later = fifo.serve(&mut next);
        assert_eq!((served | later, served & later), (0b1100, 0), "each once");
        assert!(later == 0 || told == 2, "what was not found is announced");
        assert!([2, 3].iter().all(|port| fifo.value(*port) == 0), "off the queue, not busy");
    });
}

#[test]
fn an_event_sent_again_while_it_is_served_is_not_lost() {
    loom::model(|| {
        let fifo = Fifo::new();
        fifo.raise(2);
        let sender = {
            let fifo = fifo.clone();
            thread::spawn(move || fifo.raise(2))
        };
        let mut next = 0;
        let first = fifo.serve(&mut next);
        sender.join().unwrap();
        assert_eq!(first, 0b100);
        // The second one was merged with the first, or is announced. (An announcement may be of one that was merged.)
        let pending = fifo.value(2) & PENDING != 0;
        assert_eq!(fifo.serve(&mut next) != 0, pending);
        assert_eq!(fifo.value(2), 0);
    });
}

#[test]
fn an_event_of_a_queue_that_meets_an_unmask_is_linked() {
    loom::model(|| {
        let fifo = Fifo::new();
        fifo.word(2).set(MASKED);
        let sender = {
            let fifo = fifo.clone();
            thread::spawn(move || fifo.raise(2))
        };
        // The guest unmasks, and asks the core if something came.
        fifo.change(2, |word| Some(word & !MASKED));
        sync::atomic::order();
        if fifo.word(2).any(PENDING) {
            fifo.raise(2);
        }
        sender.join().unwrap();
        assert_eq!(fifo.value(2), PENDING | LINKED);
        assert_eq!((fifo.ready.load(SeqCst), fifo.head.load(SeqCst) >> 32, fifo.told.load(SeqCst)), (1, 2, 1));
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

const ALICE: Owner = Owner::Domain(DomId(1));
const BOB: Owner = Owner::Domain(DomId(2));

/// A frame of Alice's, to which nothing refers but what is given here besides.
fn frame(refs: u64) -> Arc<PageInfo> {
    let info = PageInfo::default();
    info.set_owner(ALICE);
    info.reset(Page::ALLOCATED | Page::REF + refs);
    Arc::new(info)
}

#[test]
fn a_frame_is_mapped_or_changes_hands_but_not_both() {
    for writable in [false, true] {
        loom::model(move || {
            let info = frame(0);
            let mapper = {
                let info = info.clone();
                thread::spawn(move || info.claim(ALICE.word(), Claim::of(writable)))
            };
            // As `steal` and `give` do it: at the end the state word is what it was at the beginning.
            let stolen = info.update(Page::unshared).is_ok();
            if stolen {
                info.set_owner(Owner::Core);
                info.set_owner(BOB);
                info.reset(Page::ALLOCATED | Page::REF);
            }
            let mapped = mapper.join().unwrap();
            assert_eq!(info.owner(), if stolen { BOB } else { ALICE });
            let taken = mapped != Err(false);
            assert!(mapped.is_ok() != stolen, "{mapped:?}");
            let state = info.state();
            assert_eq!((state.refs(), state.type_refs()), (1 + u64::from(taken), u64::from(taken && writable)));
        });
    }
}

#[test]
fn one_of_those_who_give_a_frame_back_frees_it_and_nobody_gets_it_then() {
    loom::model(|| {
        let info = frame(Page::REF);
        let giver = |info: Arc<PageInfo>| info.unclaim(Claim::PAGE, || 0);
        let first = {
            let info = info.clone();
            thread::spawn(move || giver(info))
        };
        let second = {
            let info = info.clone();
            thread::spawn(move || giver(info))
        };
        let got = info.update(Page::get).is_ok();
        let freed = [first, second].map(|giver| usize::from(giver.join().unwrap())).iter().sum::<usize>();
        assert_eq!((freed, info.state().refs()), if got { (0, 1) } else { (1, 0) });
    });
}

/// A CPU that may remember that a frame was writable, and when it last flushed.
struct Cpu {
    remembers: Mutex<bool>,
    clock: FlushClock,
    flushed: AtomicU64,
}

impl Cpu {
    fn flush(&self) {
        let moment = self.clock.flush_begins();
        *self.remembers.lock().unwrap() = false;
        self.flushed.fetch_max(moment, SeqCst);
    }
}

#[test]
fn a_frame_gets_another_type_only_when_no_tlb_remembers_it_writable() {
    loom::model(|| {
        let info = frame(0);
        info.claim(ALICE.word(), Claim::of(true)).unwrap();
        let cpu = Cpu { remembers: Mutex::new(false), clock: FlushClock::default(), flushed: AtomicU64::new(0) };
        let shared = Arc::new((info, cpu));
        let unmapper = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (info, cpu) = &*shared;
                // A last write by it; then the entry goes.
                *cpu.remembers.lock().unwrap() = true;
                assert!(!info.unclaim(Claim::of(true), || cpu.clock.stamp()));
            })
        };
        let flusher = {
            let shared = shared.clone();
            thread::spawn(move || shared.1.flush())
        };
        let (info, cpu) = &*shared;
        // As `get_type` does it, until it gets it.
        while info.update(|state| state.get_type(PageType::SegmentDescriptor)).is_err() {
            thread::yield_now();
        }
        assert!(!info.state().has(Page::VALIDATED));
        if cpu.flushed.load(SeqCst) <= cpu.clock.moment(info.stamp()) {
            cpu.flush();
        }
        assert!(!*cpu.remembers.lock().unwrap(), "it can still be written");
        unmapper.join().unwrap();
        flusher.join().unwrap();
    });
}

#[test]
fn a_flush_is_later_than_the_stamps_before_it_and_earlier_than_those_behind() {
    loom::model(|| {
        let shared = Arc::new(FlushClock::default());
        // Others flush and stamp meanwhile.
        let others: [fn(&FlushClock); 2] = [|clock| drop(clock.flush_begins()), |clock| drop(clock.stamp())];
        let others = others.map(|other| {
            let shared = shared.clone();
            thread::spawn(move || other(&shared))
        });
        let clock = &*shared;
        let before = clock.stamp();
        let moment = clock.flush_begins();
        let behind = clock.stamp();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(clock.moment(before) < moment && moment <= clock.moment(behind), "{before} {moment} {behind}");
        assert!(clock.flush_begins() > clock.moment(behind));
    });
}
