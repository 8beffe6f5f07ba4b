//! What a domain grants.

use abi::grant::{ENTRIES_PER_FRAME, GrantStatus};
use abi::{DomId, GrantRef, Mfn};
use alloc::boxed::Box;
use alloc::vec::Vec;

use super::status;
use crate::sync::atomic::AtomicU64;
use crate::{Core, Domain, Frame, PageType, Platform, guest, refuse_if};

/// Entries whose use is kept track of in one allocation.
const CHUNK: usize = 128;
/// How often one entry may be in use at a time.
const MOST: u16 = 0x7fff;

/// A domain's table.
pub(crate) struct Table {
    /// The frames that are shared with the domain.
    pub(crate) frames: Vec<Frame>,
    /// How many there may be.
    pub(super) limit: u32,
    /// What is in use, by entry; allocated where it first is.
    active: Vec<Option<Box<[Active]>>>,
    /// How many entries are in use.
    pub(super) pinned: usize,
}

/// The use of one entry. As long as there is any, frame and mapper stay what they were at first, whatever the granter
/// writes into the entry.
#[derive(Clone, Copy)]
struct Active {
    mfn: Mfn,
    who: DomId,
    readers: u16,
    writers: u16,
}

impl Active {
    const NONE: Self = Self { mfn: Mfn(0), who: DomId(0), readers: 0, writers: 0 };

    fn is_used(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }

    fn count(&mut self, write: bool) -> &mut u16 {
        if write { &mut self.writers } else { &mut self.readers }
    }
}

impl Table {
    pub(super) fn new(limit: u32) -> Self {
        Self { frames: Vec::new(), limit, active: Vec::new(), pinned: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        let chunks = self.active.iter().flatten().map(|chunk| size_of_val(&**chunk)).sum::<usize>();
        chunks + size_of_val(&*self.active) + size_of_val(&*self.frames)
    }

    pub(super) fn grow<P: Platform>(
        &mut self,
        core: &Core<P>,
        domain: &Domain<P>,
        frames: u32,
    ) -> Result<(), GrantStatus> {
        refuse_if(frames > self.limit, GrantStatus::GENERAL_ERROR)?;
        let chunks = frames as usize * (ENTRIES_PER_FRAME as usize / CHUNK);
        let missing = |have: usize, want: usize| want.saturating_sub(have);
        self.frames
            .try_reserve(missing(self.frames.len(), frames as usize))
            .and_then(|()| self.active.try_reserve(missing(self.active.len(), chunks)))
            .map_err(|_| GrantStatus::GENERAL_ERROR)?;
        while self.frames.len() < frames as usize {
            self.frames.push(core.alloc_core_page(Some(domain)).map_err(|_| GrantStatus::GENERAL_ERROR)?);
            self.active.resize_with(self.frames.len() * (ENTRIES_PER_FRAME as usize / CHUNK), || None);
        }
        Ok(())
    }

    /// Gives the frames back. Uses of the entries go on, but nobody hears of their end.
    pub(super) fn close<P: Platform>(&mut self, core: &Core<P>) {
        self.limit = 0;
        self.frames.drain(..).for_each(|frame| core.free_core_page(frame));
    }

    /// The word of an entry.
    #[inline]
    fn entry<'a, P: Platform>(&self, core: &'a Core<P>, gref: GrantRef) -> Option<&'a AtomicU64> {
        let frame = self.frames.get((gref.0 / ENTRIES_PER_FRAME) as usize)?;
        Some(guest::shared_word(&core.platform, *frame, (gref.0 % ENTRIES_PER_FRAME) as usize))
    }

    /// The use of an entry, if it was ever used.
    #[inline]
    fn active(&mut self, gref: GrantRef) -> Option<&mut Active> {
        self.active.get_mut(gref.0 as usize / CHUNK)?.as_mut()?.get_mut(gref.0 as usize % CHUNK)
    }

    /// Looks at each entry that is in use: its number, who uses it, the frame, how often for reading and for writing.
    pub(crate) fn each_in_use(&self, mut look: impl FnMut(usize, u16, u64, u16, u16)) {
        let entries = (0..).step_by(CHUNK).zip(&self.active).flat_map(|(at, chunk)| (at..).zip(chunk.iter().flatten()));
        entries.filter(|(_, a)| a.is_used()).for_each(|(gref, a)| look(gref, a.who.0, a.mfn.0, a.readers, a.writers));
    }

    /// Where the use of entries is noted: a chunk for each [`CHUNK`] of them.
    #[cold]
    fn new_chunk() -> Result<Box<[Active]>, GrantStatus> {
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).map_err(|_| GrantStatus::NO_SPACE)?;
        chunk.resize(CHUNK, Active::NONE);
        Ok(chunk.into_boxed_slice())
    }
}

impl<P: Platform> Core<P> {
    /// Takes an entry of `granter`'s table into use for `who`: marks it, and takes the references of one use on the
    /// frame.
    ///
    /// BAD_GNTREF: no such entry. GENERAL_ERROR: it does not grant that, is in use too often, or the frame cannot be
    /// writable. BAD_PAGE: no frame of the granter's. NO_SPACE: no memory to note it.
    pub(super) fn pin_grant(
        &self,
        granter: &Domain<P>,
        gref: GrantRef,
        who: DomId,
        write: bool,
        whole: bool,
    ) -> Result<Frame, GrantStatus> {
        let table = &mut *granter.grants.table.lock();
        let entry = table.entry(self, gref).ok_or(GrantStatus::BAD_GNTREF)?;
        let chunk = table.active.get_mut(gref.0 as usize / CHUNK).ok_or(GrantStatus::BAD_GNTREF)?;
        let chunk = match chunk {
            Some(chunk) => chunk,
            None => chunk.insert(Table::new_chunk()?),
        };
        let active = chunk.get_mut(gref.0 as usize % CHUNK).ok_or(GrantStatus::BAD_GNTREF)?;
        let first = !active.is_used();
        refuse_if(!first && (active.who != who || *active.count(write) >= MOST), GrantStatus::GENERAL_ERROR)?;
        let first_write = write && active.writers == 0;
        if first || first_write {
            let mfn = status::claim(entry, who, write, whole)?;
            if first {
                (active.mfn, active.who) = (mfn, who);
            }
        }
        let frame = self.use_granted(granter, active.mfn, write);
        match frame {
            Ok(_) => {
                *active.count(write) += 1;
                table.pinned += usize::from(first);
            }
            Err(_) => status::release(entry, first_write, first),
        }
        frame
    }

    /// Takes the references of one use on a granted frame.
    #[inline]
    pub(super) fn use_granted(&self, granter: &Domain<P>, mfn: Mfn, write: bool) -> Result<Frame, GrantStatus> {
        if !write {
            return self.get_page(mfn, granter).map_err(|_| GrantStatus::BAD_PAGE);
        }
        self.get_page_and_type(mfn, granter, PageType::Writable).map_err(|_| {
            let exists = self.get_page(mfn, granter).map(|frame| self.put_page(frame));
            if exists.is_ok() { GrantStatus::GENERAL_ERROR } else { GrantStatus::BAD_PAGE }
        })
    }

    /// Gives the references of one use back.
    #[inline]
    pub(super) fn unuse_granted(&self, frame: Frame, write: bool) {
        if write { self.put_page_and_type(frame) } else { self.put_page(frame) }
    }

    /// Ends one use of an entry, after its references were given back.
    pub(super) fn unpin_grant(&self, granter: &Domain<P>, gref: GrantRef, write: bool) {
        let mut table = granter.grants.table.lock();
        let entry = table.entry(self, gref);
        let Some(active) = table.active(gref) else { return };
        let count = active.count(write);
        *count = count.saturating_sub(1);
        let last_write = write && active.writers == 0;
        let last = !active.is_used();
        // A table that was closed has no entry to mark.
        if (last_write || last)
            && let Some(entry) = entry
        {
            status::release(entry, last_write, last);
        }
        table.pinned -= usize::from(last);
    }
}
