//! Whole pages, owned.

use crate::memory;
use crate::raw::SharedRange;
use abi::{Maddr, Mfn, PAGE_SIZE};
use core::ptr::NonNull;
use ring_proto::memory::RingMemory;
use ring_proto::sync::AtomicU32;

/// There is no memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Consecutive pages of this domain, given back when dropped. Their content is only reached by copies, as they are
/// meant for peers and devices; their machine frames need not be consecutive.
#[derive(Debug)]
pub struct Pages {
    range: SharedRange,
}

impl Pages {
    /// Takes `count` pages, at least 1, filled with zeros: nothing of a former use is shown to a peer.
    pub fn new(count: usize) -> Result<Self, OutOfMemory> {
        let start = memory::take_pages(count).ok_or(OutOfMemory)?;
        // SAFETY: the pages were free and are now this value's alone.
        unsafe { start.as_ptr().write_bytes(0, count * PAGE_SIZE) };
        // SAFETY: mapped writable for good, and owned by this value until it is dropped.
        Ok(Self { range: unsafe { SharedRange::new(start.as_ptr(), count * PAGE_SIZE) } })
    }

    /// The memory of the pages.
    pub(crate) fn range(&self) -> SharedRange {
        self.range
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.range.len() / PAGE_SIZE
    }

    /// The machine frame of page `index`.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn mfn(&self, index: usize) -> Mfn {
        assert!(index < self.count(), "page {index} of {}", self.count());
        memory::mfn_of(self.range.start().wrapping_add(index * PAGE_SIZE))
    }

    /// The machine address of the byte at `offset`; valid to the end of its page.
    ///
    /// # Panics
    /// If `offset` is outside.
    pub fn maddr(&self, offset: usize) -> Maddr {
        Maddr(self.mfn(offset / PAGE_SIZE).maddr().0 + (offset % PAGE_SIZE) as u64)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(start) = NonNull::new(self.range.start()) {
            // SAFETY: taken in `new`; whoever shared them (`Granted`, a device queue) has ended that before.
            unsafe { memory::give_pages(start, self.count()) };
        }
    }
}

/// A page that the builder placed and that stays for good: the store's or the console's.
#[derive(Clone, Copy, Debug)]
pub struct StaticPage {
    range: SharedRange,
}

impl StaticPage {
    /// The page of a frame that start_info names; `None` if the frame is not this domain's.
    pub fn of(mfn: Mfn) -> Option<Self> {
        let start = memory::address_of(mfn)?;
        // SAFETY: a mapped page of this domain, which its allocator does not hand out: the builder's pages lie before
        // the free memory.
        Some(Self { range: unsafe { SharedRange::new(start.as_ptr(), PAGE_SIZE) } })
    }
}

/// Memory of a process on a host in place of granted pages, for benchmarks: it stays until the process ends, and is the same
/// in every copy of the value.
#[cfg(feature = "host-pages")]
#[derive(Clone, Copy, Debug)]
pub struct HostPages {
    range: SharedRange,
}

#[cfg(feature = "host-pages")]
impl HostPages {
    /// So many pages of zeros.
    pub fn new(count: usize) -> Self {
        #[repr(C, align(4096))]
        #[derive(Clone)]
        struct Page([u8; PAGE_SIZE]);
        let pages = alloc::vec![Page([0; PAGE_SIZE]); count].leak();
        // SAFETY: leaked, so mapped for good, and the one reference to it ends here.
        Self { range: unsafe { SharedRange::new(pages.as_mut_ptr().cast(), count * PAGE_SIZE) } }
    }
}

/// Implements [`RingMemory`] for a type with a `range`.
macro_rules! ring_memory {
    ($type:ty) => {
        impl RingMemory for $type {
            #[inline]
            fn len(&self) -> usize {
                self.range.len()
            }
            #[inline]
            fn word(&self, offset: usize) -> &AtomicU32 {
                self.range.word(offset)
            }
            fn read(&self, offset: usize, out: &mut [u8]) {
                self.range.read(offset, out);
            }
            fn write(&self, offset: usize, data: &[u8]) {
                self.range.write(offset, data);
            }
            #[inline]
            fn read_value<T: ring_proto::memory::Wire>(&self, offset: usize) -> T {
                self.range.read_value(offset)
            }
            #[inline]
            fn write_value<T: ring_proto::memory::Wire>(&self, offset: usize, value: &T) {
                self.range.write_value(offset, value);
            }
            #[inline]
            fn read_each<T: ring_proto::memory::Wire>(&self, offset: usize, stride: usize, out: &mut [T]) {
                self.range.read_each(offset, stride, out);
            }
            #[inline]
            fn write_each<T: ring_proto::memory::Wire>(&self, offset: usize, stride: usize, values: &[T]) {
                self.range.write_each(offset, stride, values);
            }
            #[inline]
            fn claim(&self, offset: usize, len: usize) {
                self.range.claim(offset, len);
            }
        }
    };
}
pub(crate) use ring_memory;

ring_memory!(Pages);
ring_memory!(StaticPage);
#[cfg(feature = "host-pages")]
ring_memory!(HostPages);
