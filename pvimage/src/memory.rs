//! The memory of a domain under construction, as the builder sees it.

use abi::{Mfn, Pfn};

use crate::PAGE;

/// 64-bit words in a page.
pub(crate) const WORDS: u64 = PAGE / 8;

/// Memory of the domain that is built: the core writes its own direct map, dom0 maps the frames as foreign ones.
///
/// The builder asks only for frames below the request's `nr_pages`, stays within a page in each call, and writes each
/// element in ascending order, so that an implementation may keep a window of frames mapped.
pub trait GuestMemory {
    /// Why memory could not be reached.
    type Error;

    /// The machine frame behind `pfn`.
    fn mfn(&self, pfn: Pfn) -> Mfn;

    /// Writes `bytes` at `offset` of `pfn`.
    fn write(&mut self, pfn: Pfn, offset: usize, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Writes `len` zeroes at `offset` of `pfn`. Only Ferrule gives domains cleared pages: Xen does not clear what a live
    /// domain gave back.
    fn zero(&mut self, pfn: Pfn, offset: usize, len: usize) -> Result<(), Self::Error>;
}

/// Writes word `index` of those that begin with frame `first`.
pub(crate) fn write_word<M: GuestMemory>(memory: &mut M, first: Pfn, index: u64, word: u64) -> Result<(), M::Error> {
    memory.write(Pfn(first.0 + index / WORDS), (index % WORDS) as usize * 8, &word.to_le_bytes())
}

/// Writes `bytes` from pseudo-physical address `paddr` on, page by page.
pub(crate) fn write_at<M: GuestMemory>(memory: &mut M, mut paddr: u64, mut bytes: &[u8]) -> Result<(), M::Error> {
    while !bytes.is_empty() {
        let offset = (paddr % PAGE) as usize;
        let (now, later) = bytes.split_at(bytes.len().min(PAGE as usize - offset));
        memory.write(Pfn(paddr / PAGE), offset, now)?;
        paddr += now.len() as u64;
        bytes = later;
    }
    Ok(())
}

/// Writes zeroes to the pseudo-physical addresses from `start` to `end`.
pub(crate) fn zero_range<M: GuestMemory>(memory: &mut M, mut start: u64, end: u64) -> Result<(), M::Error> {
    while start < end {
        let len = (PAGE - start % PAGE).min(end - start);
        memory.zero(Pfn(start / PAGE), (start % PAGE) as usize, len as usize)?;
        start += len;
    }
    Ok(())
}
