//! Memory that somebody else may change: copies in and out, words as atomics, never a reference to bytes.

use ring_proto::memory::Wire;
use ring_proto::sync::AtomicU32;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Longest entry that is copied by registers where that is asked for.
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
        let mut value = T::new_zeroed();
        self.read_each(offset, size_of::<T>(), core::slice::from_mut(&mut value));
        value
    }

    /// Copies an entry of a ring in.
    #[inline]
    #[track_caller]
    pub(crate) fn write_value<T: Wire>(&self, offset: usize, value: &T) {
        self.write_each(offset, size_of::<T>(), core::slice::from_ref(value));
    }

    /// Copies entries of a ring out, the first at `offset` and each `stride` bytes behind the one before.
    #[inline]
    #[track_caller]
    pub(crate) fn read_each<T: Wire>(&self, offset: usize, stride: usize, out: &mut [T]) {
        let source = self.at_each::<T>(offset, stride, out.len());
        // SAFETY: `at_each` found every one of the entries mapped, and aligned if `fits` says so; `out` is this domain's own.
        unsafe {
            match source as usize | stride {
                _ if adjoin::<T>(stride, out.len()) => copy(source, out.as_mut_ptr().cast(), size_of_val(out)),
                align if fits::<T, u64>(align) => take_each::<T, u64>(source, stride, out),
                align if fits::<T, u32>(align) => take_each::<T, u32>(source, stride, out),
                _ => {
                    for (index, value) in out.iter_mut().enumerate() {
                        copy(source.add(index * stride), core::ptr::from_mut(value).cast(), size_of::<T>());
                    }
                }
            }
        }
    }

    /// Copies entries of a ring in, as far apart.
    #[inline]
    #[track_caller]
    pub(crate) fn write_each<T: Wire>(&self, offset: usize, stride: usize, values: &[T]) {
        let target = self.at_each::<T>(offset, stride, values.len());
        // SAFETY: as in `read_each`.
        unsafe {
            match target as usize | stride {
                _ if adjoin::<T>(stride, values.len()) => copy(values.as_ptr().cast(), target, size_of_val(values)),
                align if fits::<T, u64>(align) => put_each::<T, u64>(values, target, stride),
                align if fits::<T, u32>(align) => put_each::<T, u32>(values, target, stride),
                _ => {
                    for (index, value) in values.iter().enumerate() {
                        copy(core::ptr::from_ref(value).cast(), target.add(index * stride), size_of::<T>());
                    }
                }
            }
        }
    }

    /// The first of `count` entries, each of which has `stride` bytes to itself.
    #[inline]
    #[track_caller]
    fn at_each<T>(&self, offset: usize, stride: usize, count: usize) -> *mut u8 {
        assert!(size_of::<T>() <= stride, "entries in one another");
        self.at(offset, count.saturating_mul(stride))
    }

    /// Has the cache lines of `len` bytes fetched to be written. Wherever they are: nothing is read or written.
    #[inline]
    pub(crate) fn claim(&self, offset: usize, len: usize) {
        let start = self.start.wrapping_add(offset);
        let (mut line, end) = (start.wrapping_sub(start as usize % LINE), start.wrapping_add(len));
        while line < end {
            // SAFETY: a prefetch changes no value and faults at no address.
            unsafe { core::arch::asm!("prefetchw [{line}]", line = in(reg) line, options(nostack, preserves_flags)) };
            line = line.wrapping_add(LINE);
        }
    }
}

/// Whether values are one range, which a string instruction copies best: there are no vector registers in domains.
fn adjoin<T>(stride: usize, count: usize) -> bool {
    stride == size_of::<T>() && count > 1
}

/// Whether values that begin at multiples of `align` are best copied by registers of type `W`.
fn fits<T, W>(align: usize) -> bool {
    align.is_multiple_of(align_of::<W>()) && size_of::<T>().is_multiple_of(size_of::<W>()) && size_of::<T>() <= ENTRY
}

/// Copies values out of memory that may change meanwhile, each word once.
///
/// # Safety
/// A value is mapped at `shared`, and at every `stride` bytes from there; `W` fits them, as [`fits`] says.
#[inline]
unsafe fn take_each<T: Wire, W: Copy>(shared: *const u8, stride: usize, out: &mut [T]) {
    for (index, value) in out.iter_mut().enumerate() {
        let own: *mut W = core::ptr::from_mut(value).cast();
        for word in 0..size_of::<T>() / size_of::<W>() {
            // SAFETY: mapped and aligned, says the caller; and inside the value, any pattern of which is valid.
            unsafe { own.add(word).write_unaligned(shared.add(index * stride).cast::<W>().add(word).read_volatile()) }
        }
    }
}

/// Copies values into memory that may change meanwhile, each word once.
///
/// # Safety
/// As for [`take_each`].
#[inline]
unsafe fn put_each<T: Wire, W: Copy>(values: &[T], shared: *mut u8, stride: usize) {
    for (index, value) in values.iter().enumerate() {
        let own: *const W = core::ptr::from_ref(value).cast();
        for word in 0..size_of::<T>() / size_of::<W>() {
            // SAFETY: as in `take_each`.
            unsafe { shared.add(index * stride).cast::<W>().add(word).write_volatile(own.add(word).read_unaligned()) }
        }
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

    /// Entries of `N` bytes, at every alignment and distance: each is where it should be, and nothing beside it changes.
    fn entries_of<const N: usize>() {
        let mut backing = vec![0u64; 128];
        // SAFETY: `backing` outlives the range and is not touched otherwise while it is used.
        let shared = unsafe { SharedRange::new(backing.as_mut_ptr().cast(), 1024) };
        for (offset, stride) in [(0, N), (1, N), (4, N + 4), (8, N + 8), (16, N.next_multiple_of(16)), (64, N + 3)] {
            for count in 0..4 {
                shared.write(0, &[0xee; 1024]);
                let values: Vec<[u8; N]> =
                    (0..count).map(|n| core::array::from_fn(|i| (i * 7 + n * 31 + offset) as u8 | 1)).collect();
                shared.write_each(offset, stride, &values);
                let mut expected = vec![0xee; 1024];
                for (n, value) in values.iter().enumerate() {
                    expected[offset + n * stride..][..N].copy_from_slice(value);
                }
                let mut all = vec![0; 1024];
                shared.read(0, &mut all);
                assert_eq!(all, expected, "{count} of {N} bytes at {offset}, every {stride}");
                let mut out = vec![[0; N]; count];
                shared.read_each(offset, stride, &mut out);
                assert_eq!(out, values, "{count} of {N} bytes at {offset}, every {stride}");
            }
        }
    }

    #[test]
    fn entries_of_every_size_and_distance_are_exact() {
        entries_of::<1>();
        entries_of::<4>();
        entries_of::<8>();
        entries_of::<12>();
        entries_of::<16>();
        entries_of::<64>();
        entries_of::<112>();
        entries_of::<200>();
    }

    #[test]
    #[should_panic(expected = "240 bytes at 801 of shared memory of 1024")]
    fn entries_stay_inside() {
        let mut backing = vec![0u64; 128];
        // SAFETY: as above.
        let shared = unsafe { SharedRange::new(backing.as_mut_ptr().cast(), 1024) };
        shared.write_each(801, 80, &[[1u64; 8]; 3]);
    }

    #[test]
    #[should_panic(expected = "of shared memory of 1024")]
    fn a_distance_beyond_everything_is_outside() {
        let mut backing = vec![0u64; 128];
        // SAFETY: as above.
        let shared = unsafe { SharedRange::new(backing.as_mut_ptr().cast(), 1024) };
        shared.read_each(0, usize::MAX / 2 + 1, &mut [[0u64; 1]; 2]);
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
