//! Writes of a guest to its own page tables, trapped and done here: *writable page tables*.
//!
//! A guest's mapping of a page table is read-only. It may write the entries of its L1 tables all the same, by plain
//! instructions: the write faults, the emulator decodes it, and what it would have stored goes through the checks of
//! any other update.

use abi::{Errno, Pte, Vaddr};

use super::update::Store;
use super::{MappedOwner, Session};
use crate::{Caller, Frame, Platform, guest, refuse_if};

/// How a trapped write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trapped {
    /// It is done.
    Done,
    /// Memory no longer held what the instruction was computed from, but this.
    Changed(u64),
}

impl<P: Platform> Session<'_, P> {
    /// The L1 table and the index of its entry that a read-only mapping shows at `va`.
    fn table_behind(&self, root: Frame, va: Vaddr) -> Option<(Frame, usize)> {
        let (table, index) = self.find_l1(root, va)?;
        let mapping = Pte(guest::load(&self.core.platform, table, index));
        if !mapping.present() || mapping.has(abi::PteFlags::RW) {
            return None;
        }
        let (behind, level) = self.table_level(mapping.mfn())?;
        (level == 1).then_some((behind, va.page_offset() / 8))
    }
}

impl<P: Platform> Caller<'_, P> {
    /// Would a write of the caller's at `va` go to one of its L1 tables through a read-only mapping? Asked before an
    /// instruction is decoded at all.
    pub fn is_page_table(&self, va: Vaddr) -> bool {
        self.run.root().is_some_and(|root| self.core.mm(self.domain).table_behind(root, va).is_some())
    }

    /// Does the write of `bytes` (1, 2, 4 or 8) bytes of `new` at `va` that the caller attempted; with `old`, only if
    /// memory still holds that (LOCK CMPXCHG, and whatever was computed from what was read).
    ///
    /// An error means that the guest is to get its page fault: `va` is no entry of an L1 table of its own that it
    /// sees read-only, the write crosses an entry's end, or the entry may not be.
    pub fn emulate_write(&mut self, va: Vaddr, bytes: u8, old: Option<u64>, new: u64) -> Result<Trapped, Errno> {
        let shift = (va.0 & 7) * 8;
        refuse_if(!matches!(bytes, 1 | 2 | 4 | 8) || shift + u64::from(bytes) * 8 > 64, Errno::EINVAL)?;
        let mask = (u64::MAX >> (64 - u64::from(bytes) * 8)) << shift;
        let session = self.core.mm(self.domain);
        let root = self.run.root().ok_or(Errno::EINVAL)?;
        let (table, index) = session.table_behind(root, va).ok_or(Errno::EINVAL)?;
        let owner = MappedOwner::Domain(self.domain);
        loop {
            let held = guest::load(&self.core.platform, table, index);
            if old.is_some_and(|old| (held ^ old << shift) & mask != 0) {
                return Ok(Trapped::Changed((held & mask) >> shift));
            }
            let wanted = Pte(held & !mask | new << shift & mask);
            // Exact to what was just read; the hardware may set accessed and dirty bits in between.
            match session.update_l1(table, index, (Pte(held), wanted), &owner, Store::Exact) {
                Err(Errno::EBUSY) if guest::load(&self.core.platform, table, index) != held => {}
                result => return result.map(|()| Trapped::Done),
            }
        }
    }
}
