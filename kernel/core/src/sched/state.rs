//! The one word that says whether a vCPU may run, and who has it.
//!
//! **Who has it.** At any moment a vCPU is in one of three hands: a CPU runs it (`RUNNING`), a run queue holds it
//! (`QUEUED`), or nobody does (neither bit). Whoever makes a vCPU runnable that is in nobody's hands sets `QUEUED` in
//! the same atomic step, and must then put it on a queue: so it is put there once. A CPU that stops running a vCPU
//! keeps `RUNNING` set until its state is stored; until then nobody else can pick it.
//!
//! **No wake-up is lost.** To block, a vCPU first sets `BLOCKED`, then looks for events. An event first sets its
//! pending bit, then looks at this word. All four steps are sequentially consistent, so one of the two sees the other.

use core::sync::atomic::Ordering::SeqCst;

use crate::sync::atomic::{AtomicU32, order};

/// VCPUOP_up has not been called, or VCPUOP_down has.
const DOWN: u32 = 1;
/// It waits for an event.
const BLOCKED: u32 = 2;
/// It waits in SCHEDOP_poll. Only together with [`BLOCKED`].
const POLLING: u32 = 4;
/// A CPU runs it, or has not stored its state yet.
const RUNNING: u32 = 8;
/// It is on a run queue, or about to be.
const QUEUED: u32 = 16;
/// The CPU that runs it is about to store its state. Only together with [`RUNNING`].
const LEAVING: u32 = 32;
/// One pause; the count is what is above.
const PAUSE: u32 = 1 << 8;

/// What whoever changed the word has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Resched {
    /// Nothing.
    Stay,
    /// It may run and is in nobody's hands: put it on a queue.
    Enqueue,
    /// It runs but may no longer: make its CPU pick another.
    Vacate,
}

/// What a word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View(u32);

impl View {
    /// May it run?
    #[inline(always)]
    pub fn runnable(self) -> bool {
        self.0 & (DOWN | BLOCKED) == 0 && self.0 < PAUSE
    }

    /// Is it down?
    pub fn down(self) -> bool {
        self.0 & DOWN != 0
    }

    /// Does it wait for an event?
    #[inline(always)]
    pub fn blocked(self) -> bool {
        self.0 & BLOCKED != 0
    }

    /// Does it wait in SCHEDOP_poll?
    pub fn polling(self) -> bool {
        self.0 & POLLING != 0
    }

    /// Does a CPU have it?
    #[inline(always)]
    pub fn running(self) -> bool {
        self.0 & RUNNING != 0
    }

    /// Does it run, and is not about to stop?
    pub fn stays(self) -> bool {
        self.0 & (RUNNING | LEAVING) == RUNNING
    }

    /// Is it on a queue?
    pub fn queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    /// How often it is paused.
    pub fn pauses(self) -> u32 {
        self.0 / PAUSE
    }
}

/// The word.
pub struct State(AtomicU32);

impl State {
    /// Down.
    pub fn new() -> Self {
        Self(AtomicU32::new(DOWN))
    }

    /// What it says now.
    #[inline(always)]
    pub fn view(&self) -> View {
        order();
        View(self.0.load(SeqCst))
    }

    /// Changes what may keep it from running. Returns what the word said, and what there is to do.
    fn change(&self, to: impl Fn(u32) -> u32) -> (View, Resched) {
        let mut todo = Resched::Stay;
        let changed = self.0.fetch_update(SeqCst, SeqCst, |old| {
            let new = View(to(old));
            let vacates = new.running() && !new.runnable() && View(old).runnable();
            todo = if vacates { Resched::Vacate } else { Resched::Stay };
            if new.runnable() && new.0 & (RUNNING | QUEUED) == 0 {
                todo = Resched::Enqueue;
                return Some(new.0 | QUEUED);
            }
            Some(new.0)
        });
        (View(changed.unwrap_or_default()), todo)
    }

    /// The running vCPU begins to wait. It has to look for events afterwards, and [`unblock`](Self::unblock) if it
    /// finds one.
    pub fn block(&self, polling: bool) {
        self.0.fetch_or(if polling { BLOCKED | POLLING } else { BLOCKED }, SeqCst);
        order();
    }

    /// What it waited for is here. True if this ended a poll.
    pub fn unblock(&self) -> (bool, Resched) {
        let (old, todo) = self.change(|w| w & !(BLOCKED | POLLING));
        (old.polling(), todo)
    }

    /// One more reason not to run.
    pub fn pause(&self) -> Resched {
        // More pauses than the count can hold would take 2^24 callers at once.
        self.change(|w| w.saturating_add(PAUSE)).1
    }

    /// One reason less.
    pub fn unpause(&self) -> Resched {
        self.change(|w| if w >= PAUSE { w - PAUSE } else { w }).1
    }

    /// Brings it up.
    pub fn up(&self) -> Resched {
        self.change(|w| w & !DOWN).1
    }

    /// Takes it down.
    pub fn down(&self) -> Resched {
        self.change(|w| w | DOWN).1
    }

    /// A CPU has taken it off a queue and would run it. False if it may not run any more: then it is in nobody's
    /// hands.
    pub fn take(&self) -> bool {
        let taken = |word: u32| Some(word & !QUEUED | if View(word).runnable() { RUNNING } else { 0 });
        self.0.fetch_update(SeqCst, SeqCst, taken).is_ok_and(|before| View(before).runnable())
    }

    /// The CPU that runs it will store its state.
    pub fn leave(&self) {
        self.0.fetch_or(LEAVING, SeqCst);
    }

    /// The CPU that ran it has stored its state.
    pub fn release(&self) -> Resched {
        self.change(|w| w & !(RUNNING | LEAVING)).1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_is_enqueued_exactly_when_it_may_run_and_nobody_has_it() {
        let s = State::new();
        assert_eq!(s.pause(), Resched::Stay);
        assert_eq!(s.up(), Resched::Stay);
        assert_eq!(s.up(), Resched::Stay, "it was up");
        assert_eq!(s.unpause(), Resched::Enqueue);
        assert_eq!(s.pause(), Resched::Stay);
        assert_eq!(s.unpause(), Resched::Stay, "still on the queue");
        assert!(s.take());
        assert_eq!(s.pause(), Resched::Vacate);
        assert_eq!(s.unpause(), Resched::Stay, "its CPU still has it");
        assert_eq!(s.release(), Resched::Enqueue);
        s.block(false);
        assert!(!s.take(), "blocked while it was queued");
        assert_eq!(s.release(), Resched::Stay);
        assert_eq!(s.unblock(), (false, Resched::Enqueue));
    }

    #[test]
    fn a_vcpu_is_seen_in_one_pair_of_hands_at_a_time() {
        let s = State::new();
        let hands = || (s.view().queued(), s.view().running(), s.view().stays());
        assert_eq!((s.view().down(), hands()), (true, (false, false, false)));
        let _ = s.up();
        assert_eq!((s.view().down(), hands()), (false, (true, false, false)));
        assert!(s.take());
        assert_eq!(hands(), (false, true, true));
        s.leave();
        assert_eq!(hands(), (false, true, false), "its CPU is about to store its state");
        assert_eq!((s.release(), hands()), (Resched::Enqueue, (true, false, false)));
    }

    #[test]
    fn an_unpause_too_many_changes_nothing() {
        let s = State::new();
        assert_eq!(s.unpause(), Resched::Stay);
        assert_eq!(s.view().pauses(), 0);
        assert_eq!(s.up(), Resched::Enqueue);
    }

    #[test]
    fn ending_a_poll_is_told_to_one_caller_only() {
        let s = State::new();
        assert_eq!(s.up(), Resched::Enqueue);
        assert!(s.take());
        s.block(true);
        assert_eq!(s.unblock(), (true, Resched::Stay));
        assert_eq!(s.unblock(), (false, Resched::Stay));
    }
}
