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
/// Such allocations for the entries of a frame.
const CHUNKS: usize = ENTRIES_PER_FRAME as usize / CHUNK;
/// How often one entry may be in use at a time.
const MOST: u16 = 0x7fff;

/// A domain's table.
pub(crate) struct Table {
    /// The frames that are shared with the domain.
    pub(crate) frames: Vec<Frame>,
    /// How many there may be.
    pub(super) limit: u32,
    /// What is in use, by entry; allocated where it first is.
    active: Vec<Option<Box<[Active; CHUNK]>>>,
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
        Self { frames: Vec::new(), limit, active: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        let chunks = self.active.iter().flatten().map(|chunk| size_of_val(&**chunk)).sum::<usize>();
        chunks + size_of_val(&*self.active) + size_of_val(&*self.frames)
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

    /// Each entry that is in use: its number, who uses it, the frame, how often for reading and for writing.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (usize, DomId, Mfn, u16, u16)> {
        let chunks = (0..).step_by(CHUNK).zip(&self.active);
        let entries = chunks.flat_map(|(at, chunk)| (at..).zip(chunk.as_deref().into_iter().flatten()));
        entries.filter(|(_, a)| a.is_used()).map(|(gref, a)| (gref, a.who, a.mfn, a.readers, a.writers))
    }

    /// Where the use of entries is noted: a chunk for each [`CHUNK`] of them.
    #[cold]
    fn new_chunk() -> Result<Box<[Active; CHUNK]>, GrantStatus> {
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).map_err(|_| GrantStatus::NO_SPACE)?;
        chunk.resize(CHUNK, Active::NONE);
        chunk.into_boxed_slice().try_into().map_err(|_| GrantStatus::NO_SPACE)
    }
}

impl<P: Platform> Core<P> {
    /// Makes a domain's table at least `frames` large. GENERAL_ERROR if it may not have so many, or there is no
    /// memory.
    pub fn grow_grant_table(&self, domain: &Domain<P>, frames: u32) -> Result<(), GrantStatus> {
        refuse_if(domain.is_dying(), GrantStatus::GENERAL_ERROR)?;
        let table = &mut *domain.grants.table.lock();
        refuse_if(frames > table.limit, GrantStatus::GENERAL_ERROR)?;
        while table.frames.len() < frames as usize {
            let room = table.frames.try_reserve(1).and_then(|()| table.active.try_reserve(CHUNKS));
            room.map_err(|_| GrantStatus::GENERAL_ERROR)?;
            table.frames.push(self.alloc_core_page(domain).map_err(|_| GrantStatus::GENERAL_ERROR)?);
            table.active.resize_with(table.frames.len() * CHUNKS, || None);
        }
        Ok(())
    }

    /// Takes a dying domain's table away. What others still have mapped stays theirs: the frames by their references,
    /// the domain, as a zombie, by the mappings'. Uses of the entries go on, but nobody hears of their end.
    pub fn release_grant_table(&self, domain: &Domain<P>) {
        let table = &mut *domain.grants.table.lock();
        table.limit = 0;
        table.frames.drain(..).for_each(|frame| self.free_core_page(frame));
    }

    /// Takes an entry of `granter`'s table into use for `who`: marks it, and takes the references of one use on the
    /// frame.
    ///
    /// BAD_DOMAIN: the granter is dying. BAD_GNTREF: no such entry. GENERAL_ERROR: it does not grant that, is in use too
    /// often, or the frame cannot be writable. BAD_PAGE: no frame of the granter's. NO_SPACE: no memory to note it.
    pub(super) fn pin_grant(
        &self,
        granter: &Domain<P>,
        gref: GrantRef,
        who: DomId,
        write: bool,
        whole: bool,
    ) -> Result<Frame, GrantStatus> {
        refuse_if(granter.is_dying(), GrantStatus::BAD_DOMAIN)?;
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
            Ok(_) => *active.count(write) += 1,
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
    }
}
