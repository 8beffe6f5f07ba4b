//! Changes of single entries.

use core::sync::atomic::Ordering::SeqCst;

use abi::{Errno, Mfn, Pte, Vaddr};

use super::entry::{self, AD, CACHE, PRESENT, RW};
use super::{Session, io};
use crate::frame::Claim;
use crate::{Domain, Frame, Owner, PageType, Platform, Stop, guest, refuse_if};

/// How an entry is replaced, with respect to the accessed and dirty bits that the hardware may set meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// They are as the new entry says.
    Plain,
    /// Those that are set stay set.
    KeepAd,
    /// If any changed, nothing is stored: EBUSY.
    Exact,
}

/// Whose frames the new L1 entries may name.
pub enum MappedOwner<'a, P: Platform> {
    /// A domain's: the table's own, or, for a builder, another.
    Domain(&'a Domain<P>),
    /// What is not RAM (DOMID_IO), on the authority of this domain, the caller.
    Io(&'a Domain<P>),
}

impl<P: Platform> Session<'_, P> {
    /// What a present L1 entry takes; returns the entry as it is to be stored.
    ///
    /// EINVAL: a bit that may not be set. EBUSY: the frame is not the domain's, or in use as something that is not to
    /// be written. EPERM: neither RAM nor given to the domain.
    #[inline(always)]
    fn get_l1(&self, pte: Pte, owner: &MappedOwner<'_, P>) -> Result<Pte, Errno> {
        if let MappedOwner::Domain(owner) = owner
            && pte.0 & (CACHE | entry::L1_FORBIDDEN) == 0
            && self.core.claim(pte.mfn(), Owner::Domain(owner.id).word(), Claim::of(pte.0 & RW != 0)).is_some()
        {
            return Ok(entry::adjust_l1(pte));
        }
        self.get_l1_slowly(pte, owner)
    }

    /// What an entry takes that maps a frame of the domain's own, if it is one and may stay as it is: the usual case of
    /// a whole table.
    #[inline(always)]
    pub(super) fn get_plain_l1(&self, pte: Pte) -> bool {
        entry::is_plain_l1(pte) && self.core.claim(pte.mfn(), self.owner, Claim::of(pte.0 & RW != 0)).is_some()
    }

    #[cold]
    pub(super) fn get_l1_slowly(&self, pte: Pte, owner: &MappedOwner<'_, P>) -> Result<Pte, Errno> {
        refuse_if(pte.0 & entry::L1_FORBIDDEN != 0, Errno::EINVAL)?;
        if self.core.frames.get(pte.mfn()).is_none() {
            return self.get_io(pte, owner);
        }
        refuse_if(pte.0 & CACHE != 0 && !io::has_devices(self.domain), Errno::EINVAL)?;
        // Those that may choose are told yes, and RAM stays write-back, as all other mappings of it are.
        let pte = Pte(pte.0 & !CACHE);
        let MappedOwner::Domain(owner) = owner else { return Err(Errno::EBUSY) };
        let got = match pte.0 & RW {
            0 => self.core.get_page(pte.mfn(), owner),
            _ => self.core.get_page_and_type(pte.mfn(), owner, PageType::Writable),
        };
        got.map(|_| entry::adjust_l1(pte)).map_err(|_| Errno::EBUSY)
    }

    /// Gives back what a present or absent L1 entry took.
    #[inline(always)]
    pub(super) fn put_l1(&self, pte: Pte) {
        if pte.0 & PRESENT != 0 {
            match self.core.frames.owned(pte.mfn(), self.owner) {
                Some((frame, info)) => self.core.unclaim(frame, info, Claim::of(pte.0 & RW != 0)),
                None => self.put_foreign(pte),
            }
        }
    }

    /// The same, for another's frame, or no RAM. The CPUs that run this domain may remember a writable mapping: the owner's
    /// next change of the frame's type has to flush them too.
    #[cold]
    fn put_foreign(&self, pte: Pte) {
        let writable = pte.0 & RW != 0;
        if writable
            && let Some(frame) = self.core.frames.get(pte.mfn())
            && let Owner::Domain(id) = self.core.frames.info(frame).owner()
            && let Some(owner) = self.core.domains.get(id)
        {
            owner.dirty_cpus.fetch_or(self.domain.dirty().0, SeqCst);
        }
        self.core.put_claim(pte.mfn(), Claim::of(writable));
    }

    /// Stores an L1 entry of a table of this domain's in the place of `old`, which the caller has read; see
    /// [`get_l1`](Self::get_l1) for the errors, and [`Store`].
    ///
    /// The caller flushes what it has to: a frame that could be written through the old entry cannot get another type
    /// before a flush.
    #[inline(always)]
    pub(crate) fn update_l1(
        &self,
        table: Frame,
        index: usize,
        (old, new): (Pte, Pte),
        owner: &MappedOwner<'_, P>,
        how: Store,
    ) -> Result<(), Errno> {
        if !new.present() {
            self.store(table, index, old, new, how)?;
            self.put_l1(old);
            return Ok(());
        }
        if old.present() && new.0 & entry::L1_FORBIDDEN == 0 {
            if entry::is_harmless_change(old, new) {
                return self.store(table, index, old, entry::adjust_l1(new), how);
            }
            if entry::is_rw_change(old, new)
                && matches!(owner, MappedOwner::Domain(owner) if owner.id == self.domain.id)
                && let Some(done) = self.change_rw(table, index, old, new, how)
            {
                return done;
            }
        }
        let stored = self.get_l1(new, owner)?;
        let done = self.store(table, index, old, stored, how);
        self.put_l1(if done.is_ok() { old } else { stored });
        done
    }

    /// The same frame of this domain's, writable now or no longer: its type reference alone is taken or given back,
    /// as the old entry's general one keeps it. None where it is not that simple.
    #[inline(always)]
    fn change_rw(&self, table: Frame, index: usize, old: Pte, new: Pte, how: Store) -> Option<Result<(), Errno>> {
        let (frame, info) = self.core.frames.owned(old.mfn(), self.owner)?;
        if new.0 & RW != 0 {
            info.claim(self.owner, Claim::TYPE).ok()?;
        }
        let done = self.store(table, index, old, entry::adjust_l1(new), how);
        if (old.0 & RW != 0) == done.is_ok() {
            self.core.unclaim(frame, info, Claim::TYPE);
        }
        Some(done)
    }

    /// Stores an entry of a table above L1.
    ///
    /// EINVAL: a bit that may not be set, one of the core's slots, or not a frame that can be a table of the level
    /// below. What the old entry named may be left to [`finish`](Self::finish). The caller has seen to it that nothing
    /// is unfinished now, and does not ask for [`Store::Exact`].
    #[inline(never)]
    pub(crate) fn update_table(
        &mut self,
        table: Frame,
        level: u8,
        index: usize,
        new: Pte,
        how: Store,
    ) -> Result<(), Stop> {
        refuse_if(level == 4 && P::CORE_SLOTS.contains(&index), Errno::EINVAL)?;
        let old = Pte(guest::load(&self.core.platform, table, index));
        let mut stored = new;
        if new.present() {
            if old.present() && new.0 & entry::TABLE_FORBIDDEN == 0 && entry::is_harmless_change(old, new) {
                return Ok(self.store(table, index, old, entry::adjust_table(new), how)?);
            }
            stored = self.get_entry(table, level, new)?;
        }
        self.store(table, index, old, stored, how)?;
        self.put_entry(table, level, old);
        Ok(())
    }

    /// The one place where a live entry is stored. Nobody but the hardware changes it meanwhile, and that only in its
    /// accessed and dirty bits.
    #[inline(always)]
    fn store(&self, table: Frame, index: usize, old: Pte, new: Pte, how: Store) -> Result<(), Errno> {
        let platform = &self.core.platform;
        match how {
            Store::Plain => guest::store_entry(platform, table, index, new.0),
            Store::KeepAd => {
                let mut seen = old.0;
                while let Err(now) = guest::exchange_entry(platform, table, index, seen, new.0 | seen & AD) {
                    seen = now;
                }
            }
            Store::Exact => {
                guest::exchange_entry(platform, table, index, old.0, new.0).map_err(|_| Errno::EBUSY)?;
            }
        }
        Ok(())
    }

    /// The validated L1 table and the index that map a guest address, if there is such a table.
    #[inline]
    pub(crate) fn find_l1(&self, root: Frame, va: Vaddr) -> Option<(Frame, usize)> {
        if !entry::is_guest_address(va) {
            return None;
        }
        let mut table = root;
        for level in [4, 3, 2] {
            let pte = Pte(guest::load(&self.core.platform, table, va.table_index(level)));
            if !pte.present() {
                return None;
            }
            table = self.core.frames.known(pte.mfn().0)?;
        }
        // A recursive entry on the way leads to a table of a higher level.
        self.core.frames.info(table).state().is_table(1).then_some((table, va.table_index(1)))
    }

    /// The level of a validated table of this domain's, or 0.
    #[inline]
    pub(crate) fn table_level(&self, mfn: Mfn) -> Option<(Frame, u8)> {
        let frame = self.core.frames.get(mfn)?;
        let info = self.core.frames.info(frame);
        let state = info.state();
        let level = state.kind().level();
        (level != 0 && state.is_table(level) && info.is_owned_by(self.domain.id)).then_some((frame, level))
    }
}
