//! The order in which the words of a 2-level event are set, apart from where they are.
//!
//! The sender sets the pending bit, then looks at the mask; then sets the selector, then the upcall byte; each step
//! only if the one before changed something. The guest goes the other way: it clears the upcall byte, takes the
//! selector, then the pending bits; and to unmask, clears the mask bit, then looks at the pending bit. Every step is an
//! atomic exchange, so that of sender and guest one always sees the other.

use core::sync::atomic::Ordering::SeqCst;

use crate::sync::atomic::{AtomicU64, order};

/// The words of one event, and its bits in them.
pub struct Words<'a> {
    /// The pending word.
    pub pending: &'a AtomicU64,
    /// The mask word.
    pub mask: &'a AtomicU64,
    /// The port's bit in both.
    pub bit: u64,
}

/// The words of the vCPU that an event notifies.
pub struct Notified<'a> {
    /// The selector, and the bit of the pending word in it; not in the FIFO layout.
    pub selector: Option<(&'a AtomicU64, u64)>,
    /// The word with the upcall bytes.
    pub upcall: &'a AtomicU64,
}

/// What was found when an event was made pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// It was pending before, or there is nowhere to have it pending: nothing else is to be done.
    Already,
    /// It is pending now, and masked: only those who poll may want to know.
    Masked,
    /// It is pending now: the vCPU is to be told.
    Raised,
}

impl Words<'_> {
    /// Makes the event pending.
    pub fn set(&self) -> Set {
        if self.pending.fetch_or(self.bit, SeqCst) & self.bit != 0 {
            return Set::Already;
        }
        order();
        if self.mask.load(SeqCst) & self.bit != 0 { Set::Masked } else { Set::Raised }
    }

    /// Unmasks the event. True if it was masked and is pending: the vCPU is to be told.
    pub fn unmask(&self) -> bool {
        if self.mask.fetch_and(!self.bit, SeqCst) & self.bit == 0 {
            return false;
        }
        order();
        self.pending.load(SeqCst) & self.bit != 0
    }
}

impl Notified<'_> {
    /// Tells the vCPU. True if it did not know of any event before: it may have to be woken or interrupted.
    pub fn tell(&self) -> bool {
        self.selector.is_none_or(|(selector, bit)| selector.fetch_or(bit, SeqCst) & bit == 0)
            && self.upcall.fetch_or(1, SeqCst) & 1 == 0
    }
}
