//! Memory that somebody else may change: copies in and out, words as atomics, never a reference to bytes.

use ring_proto::memory::Wire;
use ring_proto::sync::AtomicU32;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Longest entry that is copied where that is asked for.
const ENTRY: usize = 64;
/// Longest copy that goes word by word; longer ones are one string instruction.
const SHORT: usize = 128;

/// A range of mapped memory shared with a peer or a device.
///
/// The copies are done by volatile accesses or by assembly, so the compiler assumes nothing about what they find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedRange {
    start: *mut u8,
    len: usize,
}

// SAFETY: every access is an atomic or a copy whose result is not trusted, from whatever thread.
unsafe impl Send for SharedRange {}
// SAFETY: as above.
unsafe impl Sync for SharedRange {}

impl SharedRange {
    /// Names a range.
    ///
    /// # Safety
    /// The range is mapped, writable unless it is only read, as long as the value or a copy of it is used, and
    /// nothing in this domain holds a reference to it. `start` is page-aligned.
    pub(crate) const unsafe fn new(start: *mut u8, len: usize) -> Self {
        Self { start, len }
    }

    /// First byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    #[track_caller]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        match offset.checked_add(len) {
            // SAFETY: just checked to be inside the range.
            Some(end) if end <= self.len => unsafe { self.start.add(offset) },
            _ => self.outside(offset, len),
        }
    }

    #[cold]
    #[track_caller]
    fn outside(&self, offset: usize, len: usize) -> ! {
        panic!("{len} bytes at {offset} of shared memory of {}", self.len)
    }

    /// The word at `offset`, a multiple of 4.
    #[track_caller]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "word at {offset}");
        // SAFETY: inside the range, aligned as the range's start is, and only used through atomics.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// Copies out.
    #[track_caller]
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        let source = self.at(offset, out.len());
        // SAFETY: `source` is mapped for `out.len()` bytes, and `out` is this domain's own.
        unsafe { copy(source, out.as_mut_ptr(), out.len()) }
    }

    /// Copies in.
    #[track_caller]
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        let target = self.at(offset, data.len());
        // SAFETY: `target` is mapped for `data.len()` bytes, and `data` is this domain's own.
        unsafe { copy(data.as_ptr(), target, data.len()) }
    }

    /// Copies an entry of a ring out.
    #[inline]
    #[track_caller]
    pub(crate) fn read_value<T: Wire>(&self, offset: usize) -> T {
        let source = self.at(offset, size_of::<T>());
        let mut value = T::new_zeroed();
        // SAFETY: `source` is mapped for as many bytes as the value has, and the value is this domain's own.
        unsafe { copy_value::<T>(source, value.as_mut_bytes().as_mut_ptr()) }
        value
    }

    /// Copies an entry of a ring in.
    #[inline]
    #[track_caller]
    pub(crate) fn write_value<T: Wire>(&self, offset: usize, value: &T) {
        let target = self.at(offset, size_of::<T>());
        // SAFETY: `target` is mapped for as many bytes as the value has, and the value is this domain's own.
        unsafe { copy_value::<T>(value.as_bytes().as_ptr(), target) }
    }

    /// Has the cache lines of `len` bytes fetched to be written.
    #[inline]
    #[track_caller]
    pub(crate) fn claim(&self, offset: usize, len: usize) {
        let start = self.at(offset, len);
        let (mut line, end) = (start.wrapping_sub(start as usize % LINE), start.wrapping_add(len));
        while line < end {
            // SAFETY: a prefetch changes no value and faults at no address.
            unsafe { core::arch::asm!("prefetchw [{line}]", line = in(reg) line, options(nostack, preserves_flags)) };
            line = line.wrapping_add(LINE);
        }
    }
}

/// Copies a value that may change meanwhile, on either side: its size is known where this is compiled.
///
/// # Safety
/// Both ranges are mapped for the size of `T`, `to` writable, and do not overlap.
#[inline]
unsafe fn copy_value<T>(from: *const u8, to: *mut u8) {
    let len = size_of::<T>();
    let misfit = from as usize | to as usize | len;
    if len <= ENTRY && misfit.is_multiple_of(8) {
        for index in 0..len / 8 {
            // SAFETY: inside both ranges and aligned.
            unsafe { to.cast::<u64>().add(index).write_volatile(from.cast::<u64>().add(index).read_volatile()) }
        }
    } else if len <= ENTRY && !len.is_multiple_of(8) && misfit.is_multiple_of(4) {
        for index in 0..len / 4 {
            // SAFETY: inside both ranges and aligned.
            unsafe { to.cast::<u32>().add(index).write_volatile(from.cast::<u32>().add(index).read_volatile()) }
        }
    } else {
        // SAFETY: the caller's.
        unsafe { copy(from, to, len) }
    }
}

/// Copies `len` bytes that may change meanwhile, on either side.
///
/// # Safety
/// Both ranges are mapped for `len` bytes, `to` writable, and do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let misfit = from as usize | to as usize | len;
    if len <= SHORT && misfit.is_multiple_of(8) {
        for index in 0..len / 8 {
            // SAFETY: inside both ranges and aligned.
            unsafe { to.cast::<u64>().add(index).write_volatile(from.cast::<u64>().add(index).read_volatile()) }
        }
    } else if len <= SHORT && misfit.is_multiple_of(4) {
        for index in 0..len / 4 {
            // SAFETY: inside both ranges and aligned.
            unsafe { to.cast::<u32>().add(index).write_volatile(from.cast::<u32>().add(index).read_volatile()) }
        }
    } else if len == 2 && misfit.is_multiple_of(2) {
        // SAFETY: inside both ranges and aligned.
        unsafe { to.cast::<u16>().write_volatile(from.cast::<u16>().read_volatile()) }
    } else {
        // SAFETY: the string instructions touch exactly the two ranges; the direction flag is clear by convention.
        unsafe {
            core::arch::asm!(
                "rep movsq",
                "mov ecx, {tail:e}",
                "rep movsb",
                tail = in(reg) len % 8,
                inout("rcx") len / 8 => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn copies_of_every_size_and_alignment_are_exact() {
        let mut backing = vec![0u64; 64];
        // SAFETY: `backing` outlives the range and is not touched otherwise while it is used.
        let shared = unsafe { SharedRange::new(backing.as_mut_ptr().cast(), 512) };
        for len in [0, 1, 3, 4, 7, 8, 12, 16, 100, 112, 128, 129, 200, 255, 256] {
            for offset in [0, 1, 4, 8, 12, 255] {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset) as u8 | 1).collect();
                shared.write(offset, &data);
                let mut out = vec![0; len];
                shared.read(offset, &mut out);
                assert_eq!(out, data, "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "of shared memory of 64")]
    fn a_copy_stays_inside() {
        let mut backing = [0u64; 8];
        // SAFETY: as above.
        let shared = unsafe { SharedRange::new(backing.as_mut_ptr().cast(), 64) };
        shared.read(60, &mut [0; 5]);
    }
}
