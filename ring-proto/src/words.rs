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
        let (head, rest) = out.split_at_mut(out.len().min(offset.wrapping_neg() % 4));
        let (whole, tail) = rest.as_chunks_mut();
        let first = (offset + head.len()) / 4;
        self.read_part(offset, head);
        for (word, bytes) in self.words[first..first + whole.len()].iter().zip(&mut *whole) {
            *bytes = word.load(Relaxed).to_ne_bytes();
        }
        self.read_part((first + whole.len()) * 4, tail);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        let (head, rest) = data.split_at(data.len().min(offset.wrapping_neg() % 4));
        let (whole, tail) = rest.as_chunks();
        let first = (offset + head.len()) / 4;
        self.write_part(offset, head);
        for (word, bytes) in self.words[first..first + whole.len()].iter().zip(whole) {
            word.store(u32::from_ne_bytes(*bytes), Relaxed);
        }
        self.write_part((first + whole.len()) * 4, tail);
    }
}

impl WordMemory {
    /// Reads what is less than a word, within one.
    fn read_part(&self, offset: usize, out: &mut [u8]) {
        if !out.is_empty() {
            let bytes = self.words[offset / 4].load(Relaxed).to_ne_bytes();
            out.copy_from_slice(&bytes[offset % 4..offset % 4 + out.len()]);
        }
    }

    /// Writes the same, and the rest of the word as it was.
    fn write_part(&self, offset: usize, data: &[u8]) {
        if !data.is_empty() {
            let word = &self.words[offset / 4];
            let mut bytes = word.load(Relaxed).to_ne_bytes();
            bytes[offset % 4..offset % 4 + data.len()].copy_from_slice(data);
            word.store(u32::from_ne_bytes(bytes), Relaxed);
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
