//! The flush clock, which tells whether a CPU may still remember a frame as it was when it went out of use.
//!
//! The clock is even until a frame is stamped: with the odd moment that follows, which all frames share until the next
//! full flush of some TLB begins and makes it even again. So it moves only where flushes and stamps take turns, and
//! system calls, which flush as they change page tables, only read it.

use core::sync::atomic::Ordering::SeqCst;

use crate::sync::atomic::AtomicU64;

/// The clock.
#[derive(Default)]
pub struct FlushClock(AtomicU64);

impl FlushClock {
    /// A moment after every stamp until now. Taken before the flush.
    #[inline(always)]
    pub fn flush_begins(&self) -> u64 {
        self.leave(1)
    }

    /// A stamp before the moment of every flush that begins from now on: the clock's low half.
    #[inline(always)]
    pub fn stamp(&self) -> u32 {
        self.leave(0) as u32
    }

    /// The clock, which moves on by one where its lowest bit is `bit`.
    #[inline(always)]
    fn leave(&self, bit: u64) -> u64 {
        let now = self.0.load(SeqCst);
        if now & 1 == bit {
            // Where somebody was faster, it is there already or beyond.
            let _ = self.0.compare_exchange(now, now + 1, SeqCst, SeqCst);
            return now + 1;
        }
        now
    }

    /// The moment a stamp means. A stamp that is so old that the clock's low half came round again reads as a later
    /// moment, which costs a flush and is safe.
    pub fn moment(&self, stamp: u32) -> u64 {
        let now = self.0.load(SeqCst);
        now - u64::from((now as u32).wrapping_sub(stamp))
    }
}
