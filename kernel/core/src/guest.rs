//! Guest memory: the one way in and out.
//!
//! Every write of the core into a frame that a guest can see goes through here, and so past [`dirtied`], where later
//! work (live migration, shadow tables) hooks in. Page-table entries are stored by [`store_entry`] and
//! [`exchange_entry`] alone.

use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{PAGE_SIZE, Vaddr};
use zerocopy::{Immutable, IntoBytes};

use crate::{AddressSpace, Core, Fault, Frame, Platform, refuse_if};

/// Words in a frame.
pub const WORDS: usize = PAGE_SIZE / 8;

/// Notes that the core changed a frame.
fn dirtied(_frame: Frame) {}

/// Reads a word of a frame, once.
pub fn load<P: Platform>(platform: &P, frame: Frame, index: usize) -> u64 {
    platform.word(frame, index).load(Ordering::Acquire)
}

/// Stores a word that is no page-table entry.
pub fn store<P: Platform>(platform: &P, frame: Frame, index: usize, value: u64) {
    dirtied(frame);
    platform.word(frame, index).store(value, Ordering::Release);
}

/// A word that guest and core change at once, for the event paths that are written apart from where their words are.
pub(crate) fn shared_word<P: Platform>(platform: &P, frame: Frame, index: usize) -> &crate::sync::atomic::AtomicU64 {
    dirtied(frame);
    platform.word(frame, index)
}

/// Stores a page-table entry. Only `mm` calls it.
pub fn store_entry<P: Platform>(platform: &P, table: Frame, index: usize, entry: u64) {
    dirtied(table);
    platform.word(table, index).store(entry, Ordering::SeqCst);
}

/// Replaces a page-table entry if it is still `old` (the hardware may have set accessed and dirty bits meanwhile).
/// Only `mm` calls it.
pub fn exchange_entry<P: Platform>(platform: &P, table: Frame, index: usize, old: u64, new: u64) -> Result<u64, u64> {
    dirtied(table);
    platform.word(table, index).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
}

/// Fills a frame with zeros.
pub fn clear<P: Platform>(platform: &P, frame: Frame) {
    dirtied(frame);
    platform.clear(frame);
}

/// Copies bytes into a frame.
pub fn write<P: Platform>(platform: &P, frame: Frame, offset: usize, from: &[u8]) {
    dirtied(frame);
    platform.write(frame, offset, from);
}

/// Copies `len` bytes from one frame, at a byte offset, to another.
pub fn copy<P: Platform>(platform: &P, from: (Frame, usize), to: (Frame, usize), len: usize) {
    dirtied(to.0);
    platform.copy(from, to, len);
}

/// Copies a value out to a guest's address.
pub fn put<P: Platform, T: ?Sized + IntoBytes + Immutable>(
    platform: &P,
    space: AddressSpace,
    to: Vaddr,
    value: &T,
) -> Result<(), Fault> {
    platform.copy_to_guest(space, to, value.as_bytes())
}

impl<P: Platform> Core<P> {
    /// Copies in from an address space that no CPU has loaded, by walking it. The platform's own copy comes here.
    #[cold]
    pub fn copy_from_space(&self, space: AddressSpace, from: Vaddr, to: &mut [u8]) -> Result<(), Fault> {
        let len = to.len();
        let read = |frame, offset, piece: Range<usize>| self.platform.read(frame, offset, &mut to[piece]);
        self.pieces(space, from, len, false, read)
    }

    /// Copies out to an address space that no CPU has loaded, by walking it.
    #[cold]
    pub fn copy_to_space(&self, space: AddressSpace, to: Vaddr, from: &[u8]) -> Result<(), Fault> {
        let put = |frame, offset, piece: Range<usize>| write(&self.platform, frame, offset, &from[piece]);
        self.pieces(space, to, from.len(), true, put)
    }

    /// Looks at `len` bytes of an address space page by page: frame, offset in it, and which of the bytes are there.
    fn pieces(
        &self,
        space: AddressSpace,
        at: Vaddr,
        len: usize,
        write: bool,
        mut each: impl FnMut(Frame, usize, Range<usize>),
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            // What a guest's own access would reach.
            let va = Vaddr(at.0.wrapping_add(done as u64));
            refuse_if(!crate::mm::is_guest_address(va), Fault)?;
            let entry = self.translate(space, va, write).ok_or(Fault)?;
            let frame = self.frames.get(entry.mfn()).ok_or(Fault)?;
            let offset = va.page_offset();
            let end = len.min(done + PAGE_SIZE - offset);
            each(frame, offset, done..end);
            done = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Privilege, testing};

    #[test]
    fn the_words_of_a_frame_are_all_of_its_bytes() {
        let core = testing::core(512, 1);
        let frame = core.take_frames(0, u64::MAX).unwrap();
        let bytes: [u8; PAGE_SIZE] = core::array::from_fn(|n| (n / 7) as u8);
        core.platform.write(frame, 0, &bytes);
        let words = (0..WORDS).flat_map(|index| load(&core.platform, frame, index).to_le_bytes());
        assert!(words.eq(bytes));
    }

    #[test]
    fn an_address_space_that_nobody_has_loaded_is_copied_from_and_to_by_pages() {
        let core = testing::core(512, 1);
        let guest = testing::guest(&core, Privilege::empty(), 4);
        let (space, at) = (guest.space(), Vaddr(guest.va(1).0 + 4000));
        let bytes: [u8; 5000] = core::array::from_fn(|n| n as u8);
        assert_eq!(core.copy_to_space(space, at, &bytes), Ok(()));
        let mut back = [0; 5000];
        core.platform.copy_from_guest(space, at, &mut back).unwrap();
        assert!(back == bytes);
        // Nothing else has changed.
        let word = |page: usize, byte: usize| load(&core.platform, guest.frames[page], byte / 8);
        assert_eq!([word(1, 3992), word(1, 4000), word(3, 816)], [0, 0x0706_0504_0302_0100, 0]);
        back.fill(0);
        assert_eq!(core.copy_from_space(space, at, &mut back), Ok(()));
        assert!(back == bytes);
        // Behind the last page are the tables, which may be read only; then nothing.
        let end = Vaddr(guest.va(3).0 + 4090);
        assert_eq!(
            (core.copy_from_space(space, end, &mut back[..16]), core.copy_to_space(space, end, &bytes[..16])),
            (Ok(()), Err(Fault))
        );
        for nowhere in [guest.va(8), Vaddr(0xffff_8300_0000_0000)] {
            assert_eq!(core.copy_from_space(space, nowhere, &mut back[..8]), Err(Fault));
        }
    }
}
