//! Shared memory as the rings see it: words and copies, never a reference to data.

use crate::sync::AtomicU32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A value with one byte representation, every pattern of which is valid: what may cross a ring.
pub trait Wire: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Wire for T {}

/// Memory shared with a peer that may change it at any moment.
///
/// Offsets are in bytes from the start; a multi-page ring is one contiguous range. Copies need no ordering of
/// their own (the halves order them by the indices) and may see any mixture of old and new bytes. An
/// implementation must stay inside its range whatever the offset, by panicking: the halves check against
/// [`len`](Self::len) once, when they are made, and never ask for more.
pub trait RingMemory {
    /// Size in bytes.
    fn len(&self) -> usize;

    /// Whether there is no memory at all; never true of a usable ring.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The 32-bit word at `offset`, a multiple of 4.
    fn word(&self, offset: usize) -> &AtomicU32;

    /// Copies `out.len()` bytes at `offset` out.
    fn read(&self, offset: usize, out: &mut [u8]);

    /// Copies `data` in at `offset`.
    fn write(&self, offset: usize, data: &[u8]);

    /// Copies a value out.
    #[inline]
    fn read_value<T: Wire>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes());
        value
    }

    /// Copies a value in.
    #[inline]
    fn write_value<T: Wire>(&self, offset: usize, value: &T) {
        self.write(offset, value.as_bytes());
    }

    /// Copies values out: the first is at `offset`, each other `stride` bytes behind the one before it.
    #[inline]
    fn read_each<T: Wire>(&self, offset: usize, stride: usize, out: &mut [T]) {
        for (index, value) in out.iter_mut().enumerate() {
            *value = self.read_value(offset + index * stride);
        }
    }

    /// Copies values in, as far apart.
    #[inline]
    fn write_each<T: Wire>(&self, offset: usize, stride: usize, values: &[T]) {
        for (index, value) in values.iter().enumerate() {
            self.write_value(offset + index * stride, value);
        }
    }

    /// Says that `len` bytes at `offset` are read and then written soon, so that their cache lines come once and all
    /// together. A hint: it changes nothing.
    #[inline]
    fn claim(&self, offset: usize, len: usize) {
        let _ = (offset, len);
    }
}

impl<M: RingMemory + ?Sized> RingMemory for &M {
    #[inline]
    fn len(&self) -> usize {
        (**self).len()
    }
    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        (**self).word(offset)
    }
    #[inline]
    fn read(&self, offset: usize, out: &mut [u8]) {
        (**self).read(offset, out);
    }
    #[inline]
    fn write(&self, offset: usize, data: &[u8]) {
        (**self).write(offset, data);
    }
    #[inline]
    fn read_value<T: Wire>(&self, offset: usize) -> T {
        (**self).read_value(offset)
    }
    #[inline]
    fn write_value<T: Wire>(&self, offset: usize, value: &T) {
        (**self).write_value(offset, value);
    }
    #[inline]
    fn read_each<T: Wire>(&self, offset: usize, stride: usize, out: &mut [T]) {
        (**self).read_each(offset, stride, out);
    }
    #[inline]
    fn write_each<T: Wire>(&self, offset: usize, stride: usize, values: &[T]) {
        (**self).write_each(offset, stride, values);
    }
    #[inline]
    fn claim(&self, offset: usize, len: usize) {
        (**self).claim(offset, len);
    }
}
