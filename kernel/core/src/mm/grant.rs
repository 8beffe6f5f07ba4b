//! L1 entries that map granted frames. Whether they may is the grant table's business; references, too, are the
//! grant table's until an entry is stored, and the entry's from then on.

use abi::{Errno, Maddr, Mfn, Pte, Vaddr};

use super::Session;
use super::entry::{PRESENT, RW};
use crate::{Frame, Platform, guest, refuse_if};

/// Where a granted frame is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapAt {
    /// At an address of the calling vCPU's.
    Address(Vaddr),
    /// In an entry of an L1 table of the domain's (GNTMAP_contains_pte).
    Entry(Maddr),
}

impl<P: Platform> Session<'_, P> {
    fn place(&self, root: Frame, at: MapAt) -> Result<(Frame, usize), Errno> {
        match at {
            MapAt::Address(va) => self.find_l1(root, va),
            MapAt::Entry(maddr) if maddr.0 & 7 == 0 => self
                .table_level(maddr.mfn())
                .filter(|&(_, level)| level == 1)
                .map(|(table, _)| (table, maddr.page_offset() / 8)),
            MapAt::Entry(_) => None,
        }
        .ok_or(Errno::EINVAL)
    }

    /// Stores an entry that maps a granted frame. One general reference, and one of type Writable if `entry` is
    /// writable, pass from the caller to the entry. What was mapped there before is let go of.
    ///
    /// EINVAL where the domain has no such L1 entry; then the references stay the caller's.
    pub fn grant_map(&mut self, root: Frame, at: MapAt, entry: Pte) -> Result<(), Errno> {
        let (table, index) = self.place(root, at)?;
        let old = Pte(guest::load(&self.core.platform, table, index));
        guest::store_entry(&self.core.platform, table, index, super::entry::adjust_l1(entry).0);
        self.put_l1(old);
        Ok(())
    }

    /// Empties the entry that maps `mfn`, writable or not as the grant's mapping was; or replaces it by the one that maps
    /// `from`, which is emptied (GNTTABOP_unmap_and_replace). Its references pass to the caller, who flushes before it
    /// gives them back.
    ///
    /// EINVAL where there is no such entry, or it maps something else, or otherwise (XSA-234).
    pub fn grant_unmap(
        &mut self,
        root: Frame,
        at: MapAt,
        mfn: Mfn,
        writable: bool,
        from: Option<Vaddr>,
    ) -> Result<(), Errno> {
        let platform = &self.core.platform;
        let (table, index) = self.place(root, at)?;
        let old = Pte(guest::load(platform, table, index));
        let wanted = PRESENT | if writable { RW } else { 0 };
        refuse_if(old.mfn() != mfn || old.0 & (PRESENT | RW) != wanted, Errno::EINVAL)?;
        let mut new = 0;
        if let Some(from) = from {
            let moved = self.find_l1(root, from).filter(|&moved| moved != (table, index)).ok_or(Errno::EINVAL)?;
            new = guest::load(platform, moved.0, moved.1);
            guest::store_entry(platform, moved.0, moved.1, 0);
        }
        guest::store_entry(platform, table, index, new);
        Ok(())
    }
}
