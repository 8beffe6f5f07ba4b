//! Ring memory on the heap, for tests, loom and benchmarks of logic: every access is a relaxed atomic word.

use crate::memory::RingMemory;
use crate::sync::{AtomicU32, Ordering::Relaxed};
use alloc::{boxed::Box, sync::Arc};

/// Heap memory that two halves share through an [`Arc`].
///
/// One side writes any given word at a time (each byte stream has one producer), so a partial word may be
/// merged by a load and a store.
#[derive(Debug)]
pub struct WordMemory {
    words: Box<[AtomicU32]>,
}

impl WordMemory {
    /// Zeroed memory of `bytes` bytes, a multiple of 4.
    pub fn new(bytes: usize) -> Arc<Self> {
        assert!(bytes.is_multiple_of(4), "ring memory is whole words");
        Arc::new(Self { words: (0..bytes / 4).map(|_| AtomicU32::new(0)).collect() })
    }
}

impl RingMemory for WordMemory {
    fn len(&self) -> usize {
        self.words.len() * 4
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "word offset");
        &self.words[offset / 4]
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let within = at % 4;
            let take = rest.len().min(4 - within);
            let bytes = self.words[at / 4].load(Relaxed).to_ne_bytes();
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(&bytes[within..within + take]);
            rest = later;
            at += take;
        }
    }

    fn write(&self, offset: usize, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = at % 4;
            let (now, later) = rest.split_at(rest.len().min(4 - within));
            let word = &self.words[at / 4];
            let mut bytes = [0; 4];
            if now.len() < 4 {
                bytes = word.load(Relaxed).to_ne_bytes();
            }
            bytes[within..within + now.len()].copy_from_slice(now);
            word.store(u32::from_ne_bytes(bytes), Relaxed);
            rest = later;
            at += now.len();
        }
    }
}

impl<M: RingMemory + ?Sized> RingMemory for Arc<M> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn word(&self, offset: usize) -> &AtomicU32 {
        (**self).word(offset)
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        (**self).read(offset, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        (**self).write(offset, data);
    }
}
