//! A place in a frame that may move while others look at it.

use core::sync::atomic::{AtomicU64, Ordering};

use super::Frame;

/// Words in a frame, as a shift.
const WORDS: u32 = 9;

/// A frame, and the number of a 64-bit word in it.
pub struct Place(AtomicU64);

impl Place {
    /// Begins there.
    pub fn new(frame: Frame, word: usize) -> Self {
        let place = Self(AtomicU64::new(0));
        place.set(frame, word);
        place
    }

    /// Where it is. What it gives back was put in by [`set`](Self::set), so that the frame is one.
    #[inline(always)]
    pub fn get(&self) -> (Frame, usize) {
        let at = self.0.load(Ordering::Acquire);
        (Frame((at >> WORDS) as u32), at as usize & ((1 << WORDS) - 1))
    }

    /// Moves it.
    pub fn set(&self, frame: Frame, word: usize) {
        self.0.store(u64::from(frame.0) << WORDS | word as u64 & ((1 << WORDS) - 1), Ordering::Release);
    }
}
