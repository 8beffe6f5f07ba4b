//! The words of the FIFO layout, apart from where they are: an event word, and how the core puts an event behind another.
//!
//! The guest takes events off the front of a queue: it clears LINKED and the link of a word in one exchange, and goes on
//! where the link said; a link of 0 is the queue's end. The core adds at the back: it writes the link of the queue's last
//! word, but only while that is LINKED; if it is not, the queue was consumed, and the event is the head of a new one.
//!
//! Whatever the words hold, the core takes a fixed number of steps: what a guest writes there is never followed, only
//! overwritten.

use core::sync::atomic::Ordering::SeqCst;

use abi::event::fifo::{BUSY, LINK_MASK, LINKED};

use crate::sync::atomic::{AtomicU64, order};

/// How often a link is tried to be written while the guest changes the word. From the second time on BUSY asks it to wait.
const ATTEMPTS: usize = 8;

/// A 32-bit word that the guest shares: half of one of 64 bits.
#[derive(Clone, Copy)]
pub struct Half<'a> {
    word: &'a AtomicU64,
    shift: u32,
}

impl<'a> Half<'a> {
    /// The lower half of a word, or the upper one.
    #[inline(always)]
    pub fn new(word: &'a AtomicU64, upper: bool) -> Self {
        Self { word, shift: if upper { 32 } else { 0 } }
    }

    #[inline(always)]
    fn place(self, bits: u32) -> u64 {
        u64::from(bits) << self.shift
    }

    /// Is any of these bits set?
    #[inline(always)]
    pub fn any(self, bits: u32) -> bool {
        self.word.load(SeqCst) & self.place(bits) != 0
    }

    /// Sets a bit, by its mask; was it set?
    #[inline(always)]
    pub fn set(self, bit: u32) -> bool {
        // One locked instruction only where the bit is seen to be one: 1 << n.
        let bit = 1 << (bit.trailing_zeros() + self.shift);
        let was = self.word.fetch_or(bit, SeqCst) & bit != 0;
        order();
        was
    }

    /// Clears bits.
    #[inline(always)]
    pub fn clear(self, bits: u32) -> Self {
        self.word.fetch_and(!self.place(bits), SeqCst);
        order();
        self
    }

    /// Stores a value. The other half, which may change meanwhile, stays as it is; this one is not to.
    #[inline(always)]
    pub fn store(self, value: u32) {
        let old = (self.word.load(SeqCst) >> self.shift) as u32;
        self.word.fetch_xor(self.place(old ^ value), SeqCst);
    }

    /// Links an event to this one, which was the last of its queue. False if this one is on no queue any more, or the guest
    /// does not leave the word alone.
    #[inline(always)]
    fn link(self, to: u32) -> bool {
        let mut word = self.word.load(SeqCst);
        let mut busy = false;
        for _ in 0..ATTEMPTS {
            if word & self.place(LINKED) == 0 {
                break;
            }
            let linked = word & !self.place(BUSY | LINK_MASK) | self.place(to & LINK_MASK);
            if self.word.compare_exchange(word, linked, SeqCst, SeqCst).is_ok() {
                return true;
            }
            busy = true;
            word = self.word.fetch_or(self.place(BUSY), SeqCst);
        }
        if busy {
            self.clear(BUSY);
        }
        false
    }
}

/// Puts a port, whose word is LINKED, behind the one that is `last` on a queue. Where that is on none any more, the port is
/// the `head` of a new one, and the queue's bit among those that are `ready`. True if it was not: the vCPU is to be told.
#[inline(always)]
pub fn append(last: Option<Half<'_>>, port: u32, head: Half<'_>, ready: Half<'_>, queue: u32) -> bool {
    if last.is_some_and(|last| last.link(port)) {
        return false;
    }
    head.store(port);
    !ready.set(queue)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Whatever the last word holds besides LINKED is the guest's doing, and does not become part of the link.
    #[test]
    fn an_event_is_linked_to_whatever_the_last_word_held() {
        for (old, linked) in [(LINKED, true), (LINKED | BUSY | LINK_MASK, true), (LINK_MASK, false)] {
            let [last, head, ready] = [u64::from(old) << 32, 7 << 32, 0].map(AtomicU64::new);
            let told = append(
                Some(Half::new(&last, true)),
                0x1_0005,
                Half::new(&head, false),
                Half::new(&ready, false),
                1 << 3,
            );
            let words = [&last, &head, &ready].map(|word| word.load(SeqCst));
            let link = u64::from(LINKED | 0x1_0005) << 32;
            let wanted = if linked { [link, 7 << 32, 0] } else { [u64::from(old) << 32, 7 << 32 | 0x1_0005, 1 << 3] };
            assert_eq!((words, told), (wanted, !linked), "{old:#x}");
        }
    }
}
