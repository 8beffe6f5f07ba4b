//! Hostile peers: they scribble over shared words, and send entries that are nearly right.

use super::Rng;
use crate::memory::RingMemory;
use crate::ring::{Front, Notify, RingClass};
use crate::sync::Ordering::*;

/// Scribbles over shared memory at random, mostly over the words that matter.
#[derive(Debug)]
pub struct Scribbler<M> {
    memory: M,
    /// Offsets of index and flag words.
    words: &'static [usize],
    rng: Rng,
}

/// The index words of a request/response ring.
pub const RING_WORDS: &[usize] = &[0, 4, 8, 12];
/// The index words of a console page.
pub const CONSOLE_WORDS: &[usize] = &[3072, 3076, 3080, 3084];
/// The index and state words of a store page.
pub const STORE_WORDS: &[usize] = &[2048, 2052, 2056, 2060, 2064, 2068, 2072];
/// The flags and the first operation words of a PCI page.
pub const PCI_WORDS: &[usize] = &[0, 4, 8, 12, 16, 20, 24, 28, 32];

impl<M: RingMemory> Scribbler<M> {
    /// One that scribbles over `memory`.
    pub fn new(memory: M, words: &'static [usize], seed: u64) -> Self {
        Self { memory, words, rng: Rng(seed) }
    }

    /// One scribble.
    pub fn step(&mut self) {
        let rng = &mut self.rng;
        if rng.one_in(4) {
            let offset = rng.below(self.memory.len() as u64 - 8) as usize;
            let mut bytes = [0; 8];
            rng.fill(&mut bytes);
            return self.memory.write(offset, &bytes);
        }
        let word = self.memory.word(self.words[rng.below(self.words.len() as u64) as usize]);
        let old = word.load(Relaxed);
        let new = match rng.below(6) {
            0 => rng.next() as u32,
            1 => old.wrapping_add(rng.below(70) as u32),
            2 => old.wrapping_sub(rng.below(70) as u32),
            3 => old ^ 1 << rng.below(32),
            4 => 0,
            _ => old.wrapping_add(1),
        };
        word.store(new, Release);
    }
}

/// A frontend that keeps the ring's rules and breaks the device's: it sends what its generator makes, takes whatever
/// comes back, and once in a while scribbles, if it is told to.
#[derive(Debug)]
pub struct HostileFront<M, C> {
    ring: Front<M, C>,
    scribbler: Option<Scribbler<M>>,
    rng: Rng,
}

impl<M: RingMemory + Clone, C: RingClass> HostileFront<M, C> {
    /// Makes a ring in `memory`.
    pub fn new(memory: M, seed: u64, scribbles: bool) -> Self {
        let ring = Front::new(memory.clone()).expect("a ring");
        let scribbler = scribbles.then(|| Scribbler::new(memory, RING_WORDS, !seed));
        Self { ring, scribbler, rng: Rng(seed) }
    }

    /// Sends a few entries of `make`'s.
    pub fn step(&mut self, mut make: impl FnMut(&mut Rng) -> C::Request) -> Notify {
        while self.ring.pop().is_ok() {}
        for _ in 0..self.rng.below(24) {
            if self.ring.push(&make(&mut self.rng)).is_err() {
                break;
            }
        }
        let notify = self.ring.publish();
        if let Some(scribbler) = self.scribbler.as_mut().filter(|_| self.rng.one_in(50)) {
            scribbler.step();
        }
        notify
    }

    /// Whether its own half is still whole.
    pub fn alive(&self) -> bool {
        self.ring.poison().is_none()
    }
}
