//! Machine frames: what each is, and who owns it.
//!
//! What is known of each is a [`PageInfo`]; how a frame gets from one state to the next is here, with what has to happen
//! in between: flushes, checks, frees.
//!
//! Invariants, which [`crate::mm::audit`] recomputes from the tables themselves:
//!
//! 1. No frame is writable for a guest and a page table (or descriptor table) at once: a writable mapping holds a
//!    reference of type [`PageType::Writable`], and a frame has one type.
//! 2. No entry of a page table names a frame that the table's owner did not own, or was not granted.
//! 3. Both counts equal what the tables, roots, pins and other holders add up to.
//! 4. Before a frame gets another type, no TLB remembers how it was used before. The reference is taken first, the
//!    flush follows, and only then is the frame [`State::VALIDATED`].
//! 5. A frame that is handed out is remembered by no TLB at all.
//!
//! Types L1 to L4 change only while the owner's `Domain::mm` is held; the others by compare-exchange alone.

use core::sync::atomic::Ordering;

use abi::memory::E820Entry;
use abi::{Errno, Mfn};

use crate::{Core, CpuSet, Domain, Flush, Platform, refuse_if};

mod clock;
mod info;
mod list;
mod place;
#[cfg(test)]
mod tests;
use clock::FlushClock;
pub(crate) use info::{Claim, OwnerWord};
pub use info::{Owner, PageInfo, PageType, State};
pub(crate) use list::List;
pub use place::Place;

/// A machine frame that is known to be in the frame table: RAM, so that its contents can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(u32);

impl Frame {
    /// Its number.
    pub fn mfn(self) -> Mfn {
        Mfn(u64::from(self.0))
    }

    /// Its index in the frame table.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The frame table, and the clock by which it remembers TLB flushes.
pub struct FrameTable {
    infos: &'static [PageInfo],
    /// The machine's memory map, as the firmware gave it; empty if it is not known.
    pub(crate) memory_map: &'static [E820Entry],
    /// What frames are stamped by as they go out of use.
    pub(crate) clock: FlushClock,
}

impl FrameTable {
    /// A table over zeroed memory, one entry a frame from frame 0 on; and the machine's memory map, empty if it is not
    /// known, for who may see it.
    pub fn new(infos: &'static [PageInfo], memory_map: &'static [E820Entry]) -> Self {
        Self { infos, memory_map, clock: FlushClock::default() }
    }

    #[cfg(test)]
    pub(crate) fn infos(&self) -> &'static [PageInfo] {
        self.infos
    }

    /// How many frames it covers, RAM or not.
    pub fn count(&self) -> usize {
        self.infos.len()
    }

    /// The frame with this number, if it is RAM.
    #[inline]
    pub fn get(&self, mfn: Mfn) -> Option<Frame> {
        let info = self.infos.get(usize::try_from(mfn.0).ok()?)?;
        (info.owner_word() != Owner::NotRam.word()).then_some(Frame(mfn.0 as u32))
    }

    /// The frame with this number, which is known to be RAM: an entry of a validated table above L1 names it, or it is
    /// held, or on a list.
    #[inline(always)]
    pub(crate) fn known(&self, number: u64) -> Option<Frame> {
        ((number as usize) < self.infos.len()).then_some(Frame(number as u32))
    }

    /// What is known of a frame.
    #[inline(always)]
    pub fn info(&self, frame: Frame) -> &PageInfo {
        // A Frame is made by this table alone, and the table never shrinks.
        &self.infos[frame.index()]
    }

    /// Every frame that is RAM.
    pub fn iter(&self) -> impl Iterator<Item = Frame> + '_ {
        (0..self.infos.len() as u64).filter_map(|mfn| self.get(Mfn(mfn)))
    }

    /// The frame with this number, and what is known of it, if it is `owner`'s.
    #[inline(always)]
    pub(crate) fn owned(&self, mfn: Mfn, owner: OwnerWord) -> Option<(Frame, &PageInfo)> {
        let info = self.infos.get(mfn.0 as usize)?;
        (info.owner_word() == owner).then_some((Frame(mfn.0 as u32), info))
    }

    /// The frames of a block that starts with this one.
    pub(crate) fn block(&self, first: Frame, order: u8) -> impl Iterator<Item = Frame> {
        let end = (first.index() + (1 << order)).min(self.infos.len());
        (first.0..end as u32).map(Frame)
    }

    /// Makes RAM known: first of all as the core's own. Called while the machine starts.
    pub fn add_ram(&self, mfn: Mfn) -> Option<Frame> {
        let info = self.infos.get(usize::try_from(mfn.0).ok()?)?;
        info.set_owner(Owner::Core);
        Some(Frame(mfn.0 as u32))
    }
}

impl<P: Platform> Core<P> {
    /// Flushes the TLBs of `cpus`, and remembers it.
    ///
    /// All of the core's flushes go through here; a full flush that the machine does for other reasons (a CR3 load)
    /// may be noted with [`Cpu::note_flush`](crate::Cpu::note_flush), to spare a later one.
    pub fn flush(&self, cpus: CpuSet, what: Flush) {
        if cpus.is_empty() || what != Flush::All {
            return self.platform.flush(cpus, what);
        }
        let moment = self.frames.clock.flush_begins();
        self.platform.flush(cpus, what);
        self.cpus.iter().filter(|cpu| cpus.has(cpu.id)).for_each(|cpu| cpu.note_flush(moment));
    }

    /// Those of `cpus` that have not flushed since `stamp`.
    pub(crate) fn stale(&self, cpus: CpuSet, stamp: u32) -> CpuSet {
        let moment = self.frames.clock.moment(stamp);
        let stale = self.cpus.iter().filter(|cpu| cpus.has(cpu.id) && cpu.flushed.load(Ordering::SeqCst) <= moment);
        CpuSet(stale.fold(0, |set, cpu| set | CpuSet::of(cpu.id).0))
    }

    /// The CPUs that are online.
    pub(crate) fn online(&self) -> CpuSet {
        CpuSet(self.cpus.iter().fold(0, |set, cpu| set | CpuSet::of(cpu.id).0))
    }

    /// The choke point where frames change hands or type: later work keeps devices (an IOMMU) in step here.
    #[inline(always)]
    pub(crate) fn dma_changed(&self, _frame: Frame) {}

    /// Takes what `claim` says on a frame of `owner`'s. None, and nothing is taken, where there is no such frame, or it is
    /// not that simple ([`State::with`]).
    #[inline(always)]
    pub(crate) fn claim(&self, mfn: Mfn, owner: OwnerWord, claim: Claim) -> Option<Frame> {
        let (frame, info) = self.frames.owned(mfn, owner)?;
        match info.claim(owner, claim) {
            Ok(()) => return Some(frame),
            Err(true) => self.put_claim(mfn, claim),
            Err(false) => {}
        }
        None
    }

    /// Gives back what a claim took, if this is RAM.
    #[cold]
    pub(crate) fn put_claim(&self, mfn: Mfn, claim: Claim) {
        if let Some(frame) = self.frames.get(mfn) {
            self.unclaim(frame, self.frames.info(frame), claim);
        }
    }

    /// Gives back what a claim took, for who has looked the frame up. The last general reference frees it.
    #[inline(always)]
    pub(crate) fn unclaim(&self, frame: Frame, info: &PageInfo, claim: Claim) {
        if info.unclaim(claim, || self.frames.clock.stamp()) {
            self.free_unreferenced(frame);
        }
    }

    /// Takes a general reference on a frame of `owner`'s.
    ///
    /// EINVAL where there is no such frame, or it is not `owner`'s.
    #[inline]
    pub fn get_page(&self, mfn: Mfn, owner: &Domain<P>) -> Result<Frame, Errno> {
        self.claim(mfn, Owner::Domain(owner.id).word(), Claim::PAGE).ok_or(Errno::EINVAL)
    }

    /// Gives a general reference back. The last one frees the frame.
    #[inline]
    pub fn put_page(&self, frame: Frame) {
        self.unclaim(frame, self.frames.info(frame), Claim::PAGE);
    }

    /// Takes a general and a type reference on a frame of `owner`'s: [`PageType::Writable`] or
    /// [`PageType::SegmentDescriptor`]. Page tables have their own ways, since they need the owner's `mm`.
    ///
    /// EINVAL where the frame is not `owner`'s, or in use as something else, or full of bad descriptors.
    #[inline]
    pub fn get_page_and_type(&self, mfn: Mfn, owner: &Domain<P>, kind: PageType) -> Result<Frame, Errno> {
        if kind == PageType::Writable
            && let Some(frame) = self.claim(mfn, Owner::Domain(owner.id).word(), Claim::of(true))
        {
            return Ok(frame);
        }
        self.get_page_and_type_slowly(mfn, owner, kind)
    }

    /// The same, where a flush, a check or an error is due.
    #[cold]
    fn get_page_and_type_slowly(&self, mfn: Mfn, owner: &Domain<P>, kind: PageType) -> Result<Frame, Errno> {
        let frame = self.get_page(mfn, owner)?;
        let typed = self.get_type(frame, kind, owner.dirty());
        if typed.is_err() {
            self.put_page(frame);
        }
        typed.map(|()| frame)
    }

    /// Takes a type reference, Writable or SegmentDescriptor, on a frame that the caller has a general reference on.
    /// `dirty` are the CPUs that may remember the frame's last use: the owner's.
    pub fn get_type(&self, frame: Frame, kind: PageType, dirty: CpuSet) -> Result<(), Errno> {
        refuse_if(kind == PageType::None || kind.level() != 0, Errno::EINVAL)?;
        let info = self.frames.info(frame);
        let before = info.update(|state| state.get_type(kind)).map_err(|_| Errno::EINVAL)?;
        if !info.state().has(State::VALIDATED) {
            // The first holder flushes. A second one that comes before the flush is done does not wait for it, but
            // does the same; the stamp cannot change while either holds a type reference.
            if before.type_refs() != 0 || (before.kind() != PageType::None && before.kind() != kind) {
                self.flush(self.stale(dirty, info.stamp()), Flush::All);
            }
            if kind == PageType::SegmentDescriptor && !crate::mm::descriptors_are_fit(self, frame) {
                self.put_type(frame);
                return Err(Errno::EINVAL);
            }
            let _ = info.update(|state| Some(State(state.0 | State::VALIDATED)));
        }
        if before.type_refs() == 0 {
            self.dma_changed(frame);
        }
        Ok(())
    }

    /// Gives a type reference back. A table's entries have given back theirs before.
    #[inline]
    pub fn put_type(&self, frame: Frame) {
        self.unclaim(frame, self.frames.info(frame), Claim::TYPE);
    }

    /// Gives a type reference (Writable or SegmentDescriptor) and a general one back.
    #[inline]
    pub fn put_page_and_type(&self, frame: Frame) {
        self.unclaim(frame, self.frames.info(frame), Claim::of(true));
    }
}
