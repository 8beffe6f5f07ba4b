//! Machine frames: what each is, and who owns it.
//!
//! A frame's whole state is one word ([`State`]), so that every transition is one compare-exchange:
//!
//! - the **general references** keep the frame from being freed: one while it is allocated to its owner, one a
//!   page-table entry, mapping, root or pin that names it;
//! - the **type references** say what it may be used as meanwhile: each holder of one also holds a general reference;
//! - the **type** is fixed while its count is above zero, and remembered afterwards, since a TLB may remember too.
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

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::memory::E820Entry;
use abi::{DomId, Errno, Mfn};

use crate::{Core, CpuSet, Domain, Flush, Platform, refuse_if};

mod list;
mod place;
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

/// What a frame is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageType {
    /// Nothing in particular; it may be mapped read-only.
    None = 0,
    /// A page table of the lowest level.
    L1 = 1,
    /// A page directory.
    L2 = 2,
    /// A page-directory-pointer table.
    L3 = 3,
    /// A root.
    L4 = 4,
    /// Part of a descriptor table.
    SegmentDescriptor = 5,
    /// Mapped writable, or written by the core on a guest's behalf.
    Writable = 6,
}

impl PageType {
    /// By number; 7 is none.
    const ALL: [Self; 8] =
        [Self::None, Self::L1, Self::L2, Self::L3, Self::L4, Self::SegmentDescriptor, Self::Writable, Self::None];

    /// The page-table type of a level (1 to 4); anything else is no table.
    pub const fn table(level: u8) -> Self {
        if level <= 4 { Self::ALL[level as usize] } else { Self::None }
    }

    /// The level of a page table, or 0.
    pub const fn level(self) -> u8 {
        if self as u8 <= 4 { self as u8 } else { 0 }
    }
}

/// The state of a frame in one word.
///
/// Bits 0-27 count general references, bits 28-55 type references, bits 56-58 are the type, then flags. A general
/// count of zero means that the frame is free, is being freed, or is the core's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u64);

impl State {
    const COUNT: u64 = (1 << 28) - 1;
    /// Where guests can drive a count to; the rest is room for the core's own references.
    const LIMIT: u64 = 1 << 27;
    /// Some count is at its limit.
    const FULL: u64 = Self::LIMIT | Self::LIMIT << Self::TYPE_SHIFT;
    /// Kind and VALIDATED of a frame that is mapped writable already.
    const MAPPED: u64 = Self::VALIDATED | (PageType::Writable as u64) << Self::KIND_SHIFT;
    const TYPE_SHIFT: u32 = 28;
    const KIND_SHIFT: u32 = 56;
    const KIND: u64 = 7 << Self::KIND_SHIFT;
    /// One general reference.
    pub const REF: u64 = 1;
    /// One type reference.
    pub const TYPE_REF: u64 = 1 << Self::TYPE_SHIFT;
    /// The frame is what its type says: a table all of whose entries are referenced, a frame whose flush is done.
    pub const VALIDATED: u64 = 1 << 59;
    /// The owner pinned the type: the flag holds one type and one general reference.
    pub const PINNED: u64 = 1 << 60;
    /// A table whose validation or invalidation was interrupted: its first [`PageInfo::progress`] entries are
    /// referenced. The flag holds the frame's only type reference, and one general reference.
    pub const PARTIAL: u64 = 1 << 61;
    /// The frame is its owner's: the flag holds one general reference.
    pub const ALLOCATED: u64 = 1 << 62;
    /// A page of the core that is shared with its owner. The flag, besides ALLOCATED, holds one type reference, so
    /// that the frame stays writable, or (type None) can never be.
    pub const CORE: u64 = 1 << 63;

    /// General references.
    #[inline(always)]
    pub const fn refs(self) -> u64 {
        self.0 & Self::COUNT
    }

    /// Type references.
    #[inline(always)]
    pub const fn type_refs(self) -> u64 {
        self.0 >> Self::TYPE_SHIFT & Self::COUNT
    }

    /// Its type; meaningful while there are type references, a memory of the last one otherwise.
    #[inline(always)]
    pub const fn kind(self) -> PageType {
        PageType::ALL[(self.0 >> Self::KIND_SHIFT & 7) as usize]
    }

    /// Are all of these flags set?
    #[inline(always)]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// Is it a table of this level that can be walked and updated?
    #[inline(always)]
    pub const fn is_table(self, level: u8) -> bool {
        self.0 & (Self::KIND | Self::VALIDATED) == (level as u64) << Self::KIND_SHIFT | Self::VALIDATED
            && self.type_refs() != 0
    }

    /// With one more general reference, if it has one and the count has room.
    #[inline(always)]
    pub const fn get(self) -> Option<Self> {
        let refs = self.refs();
        if refs == 0 || refs >= Self::LIMIT { None } else { Some(Self(self.0 + Self::REF)) }
    }

    /// With a first or one more reference of type `kind`. It is VALIDATED only if it was, or if nothing has to happen
    /// before; the caller sees to the rest. None where another type is in use, or one half validated, or the count
    /// is full.
    #[inline(always)]
    pub const fn get_type(self, kind: PageType) -> Option<Self> {
        let same = self.0 & Self::KIND == (kind as u64) << Self::KIND_SHIFT;
        match self.type_refs() {
            0 => {
                let simple = matches!(kind, PageType::Writable) && (same || self.0 & Self::KIND == 0);
                let flag = if simple { Self::VALIDATED } else { 0 };
                let rest = self.0 & !(Self::KIND | Self::VALIDATED);
                Some(Self(rest | (kind as u64) << Self::KIND_SHIFT | flag | Self::TYPE_REF))
            }
            count if same && count < Self::LIMIT && !self.has(Self::PARTIAL) => Some(Self(self.0 + Self::TYPE_REF)),
            _ => None,
        }
    }

    /// Nobody's, if nothing but its allocation to a domain refers to it.
    #[inline(always)]
    pub(crate) fn unshared(self) -> Option<Self> {
        (self.refs() == 1 && self.has(Self::ALLOCATED) && !self.has(Self::CORE) && self.type_refs() == 0)
            .then_some(Self(0))
    }

    /// Without one general reference.
    #[inline(always)]
    pub(crate) const fn put(self) -> Self {
        Self(self.0 - Self::REF)
    }

    /// Without one type reference; the last one takes VALIDATED along.
    #[inline(always)]
    pub(crate) const fn put_type(self) -> Self {
        let next = self.0 - Self::TYPE_REF;
        if self.type_refs() == 1 { Self(next & !Self::VALIDATED) } else { Self(next) }
    }
}

/// What an L1 entry, or a change of one, takes on the frame it names.
#[derive(Clone, Copy)]
pub(crate) struct Claim(u64);

impl Claim {
    /// A type reference alone: the entry has become writable.
    pub(crate) const TYPE: Self = Self(State::TYPE_REF);

    /// A general reference, and one of type Writable if the entry is writable.
    #[inline(always)]
    pub(crate) const fn of(writable: bool) -> Self {
        Self(if writable { State::REF + State::TYPE_REF } else { State::REF })
    }
}

/// Who a frame belongs to, as its owner word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: not RAM, or RAM that the core does not manage.
    NotRam,
    /// The allocator: inside a free block, or the head of one of this order.
    Free(Option<u8>),
    /// The core.
    Core,
    /// A domain.
    Domain(DomId),
}

/// An [`Owner`] as a frame keeps it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerWord(u32);

impl Owner {
    const DOMAIN: u32 = 0x10000;
    const HEAD: u32 = 0x20000;

    pub(crate) const fn word(self) -> OwnerWord {
        OwnerWord(match self {
            Self::NotRam => 0,
            Self::Free(None) => 1,
            Self::Free(Some(order)) => Self::HEAD | order as u32,
            Self::Core => 2,
            Self::Domain(id) => Self::DOMAIN | id.0 as u32,
        })
    }

    const fn from_word(OwnerWord(word): OwnerWord) -> Self {
        match word {
            0 => Self::NotRam,
            1 => Self::Free(None),
            2 => Self::Core,
            _ if word & Self::HEAD != 0 => Self::Free(Some(word as u8)),
            _ => Self::Domain(DomId(word as u16)),
        }
    }
}

/// What the core knows of a frame: 24 bytes each, so that the frame table is 0.6 % of memory. All zeros is a frame
/// that is not RAM.
pub struct PageInfo {
    state: AtomicU64,
    owner: AtomicU32,
    /// The flush clock when the frame's type, or the frame, was last let go of; while the frame is a table that is
    /// not validated, how many of its entries are referenced.
    aux: AtomicU32,
    /// Neighbours in the owner's list, or in the allocator's. Changed under the list's lock.
    next: AtomicU32,
    prev: AtomicU32,
}

const _: () = assert!(size_of::<PageInfo>() == 24);

impl PageInfo {
    /// A frame that is not RAM.
    #[cfg(any(test, feature = "testing"))]
    pub const fn not_ram() -> Self {
        Self {
            state: AtomicU64::new(0),
            owner: AtomicU32::new(0),
            aux: AtomicU32::new(0),
            next: AtomicU32::new(0),
            prev: AtomicU32::new(0),
        }
    }

    /// Makes it a frame that is not RAM again.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forget(&self) {
        self.reset(0);
        self.set_owner(Owner::NotRam);
        self.set_stamp(0);
    }

    /// Its state now.
    #[inline(always)]
    pub fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Replaces the state if it is still `old`.
    #[inline(always)]
    pub(crate) fn change(&self, old: State, new: State) -> bool {
        self.state.compare_exchange(old.0, new.0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Replaces the state by what `f` makes of it, unless it makes nothing; returns the state before.
    #[inline(always)]
    pub(crate) fn update(&self, f: impl Fn(State) -> Option<State>) -> Result<State, State> {
        loop {
            let old = self.state();
            let Some(new) = f(old) else { return Err(old) };
            if self.change(old, new) {
                return Ok(old);
            }
        }
    }

    /// Sets the state of a frame that nobody can find yet.
    pub(crate) fn reset(&self, state: u64) {
        self.state.store(state, Ordering::Release);
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        Owner::from_word(self.owner_word())
    }

    #[inline(always)]
    fn owner_word(&self) -> OwnerWord {
        OwnerWord(self.owner.load(Ordering::Acquire))
    }

    pub(crate) fn set_owner(&self, owner: Owner) {
        self.owner.store(owner.word().0, Ordering::Release);
    }

    #[inline(always)]
    pub(crate) fn is_owned_by(&self, id: DomId) -> bool {
        self.owner_word() == Owner::Domain(id).word()
    }

    /// How many entries of a table that is not validated are referenced.
    pub fn progress(&self) -> usize {
        self.aux.load(Ordering::Relaxed) as usize
    }

    pub(crate) fn set_progress(&self, entries: usize) {
        self.aux.store(entries as u32, Ordering::Relaxed);
    }

    pub(crate) fn stamp(&self) -> u32 {
        self.aux.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stamp(&self, stamp: u32) {
        self.aux.store(stamp, Ordering::Relaxed);
    }

    pub(crate) fn links(&self) -> (u32, u32) {
        (self.prev.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed))
    }

    pub(crate) fn set_next(&self, next: u32) {
        self.next.store(next, Ordering::Relaxed);
    }

    pub(crate) fn set_prev(&self, prev: u32) {
        self.prev.store(prev, Ordering::Relaxed);
    }
}

/// The frame table, and the clock by which it remembers TLB flushes.
pub struct FrameTable {
    infos: &'static [PageInfo],
    /// The machine's memory map, as the firmware gave it; empty if it is not known.
    pub(crate) memory_map: &'static [E820Entry],
    /// Ticks with every full flush of a TLB.
    clock: AtomicU64,
}

impl FrameTable {
    /// A table over zeroed memory, one entry a frame from frame 0 on; and the machine's memory map, empty if it is not
    /// known, for who may see it.
    pub fn new(infos: &'static [PageInfo], memory_map: &'static [E820Entry]) -> Self {
        Self { infos, memory_map, clock: AtomicU64::new(1) }
    }

    #[cfg(any(test, feature = "testing"))]
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

    /// The frame that is known to be RAM: an entry of a validated table above L1 names it, or it is held.
    #[inline(always)]
    pub(crate) fn table(&self, mfn: Mfn) -> Option<Frame> {
        ((mfn.0 as usize) < self.infos.len()).then_some(Frame(mfn.0 as u32))
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

    /// What a page-table entry takes on a frame of `owner`'s, in a single exchange.
    ///
    /// `Err(None)` where it is not that simple: somebody else's frame, no RAM, another type, or a flush that has to
    /// come first. `Err(Some(_))`: the references were taken, but the frame had just changed hands; to be undone.
    #[inline(always)]
    pub(crate) fn get_mapped(&self, mfn: Mfn, owner: OwnerWord, claim: Claim) -> Result<Frame, Option<Frame>> {
        let info = self.infos.get(mfn.0 as usize).filter(|info| info.owner_word() == owner).ok_or(None)?;
        loop {
            let old = info.state();
            let new = if claim.0 & State::TYPE_REF == 0 {
                old.get().ok_or(None)?
            } else if old.0 & (State::KIND | State::VALIDATED | State::FULL) == State::MAPPED {
                // Mapped writable already, the usual case: whoever did so holds a general reference.
                State(old.0 + claim.0)
            } else {
                let typed = old.get().and_then(|state| state.get_type(PageType::Writable));
                let typed = typed.filter(|state| state.has(State::VALIDATED)).ok_or(None)?;
                State(typed.0 - State::REF + (claim.0 & State::REF))
            };
            if info.change(old, new) {
                break;
            }
        }
        let frame = Frame(mfn.0 as u32);
        // The owner may have changed before the reference was there. It cannot now.
        if info.owner_word() == owner { Ok(frame) } else { Err(Some(frame)) }
    }

    /// Gives back what [`get_mapped`](Self::get_mapped) took, if the frame is `owner`'s and something else keeps it
    /// from being freed; false if nothing was done.
    #[inline(always)]
    pub(crate) fn put_mapped(&self, mfn: Mfn, owner: OwnerWord, claim: Claim) -> bool {
        let Some(info) = self.infos.get(mfn.0 as usize) else { return false };
        loop {
            let old = info.state();
            if old.refs() <= 1 || info.owner_word() != owner {
                return false;
            }
            let mut new = State(old.0 - claim.0);
            if claim.0 & State::TYPE_REF != 0 && new.type_refs() == 0 {
                info.set_stamp(self.stamp_now());
                new = State(new.0 & !State::VALIDATED);
            }
            if info.change(old, new) {
                return true;
            }
        }
    }

    /// Is this a frame of `owner`'s?
    #[inline(always)]
    pub(crate) fn owns(&self, mfn: Mfn, owner: OwnerWord) -> bool {
        self.infos.get(mfn.0 as usize).is_some_and(|info| info.owner_word() == owner)
    }

    /// The frame at a place in a list.
    pub(crate) fn link(&self, index: u32) -> Option<Frame> {
        ((index as usize) < self.infos.len()).then_some(Frame(index))
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

    /// The flush clock, cut to what a frame remembers.
    #[inline(always)]
    pub(crate) fn stamp_now(&self) -> u32 {
        self.clock.load(Ordering::SeqCst) as u32
    }

    /// The moment a stamp means. A stamp that is so old that the clock's low half came round again reads as a later
    /// moment, which costs a flush and is safe.
    fn moment(&self, stamp: u32) -> u64 {
        let now = self.clock.load(Ordering::SeqCst);
        now - u64::from((now as u32).wrapping_sub(stamp))
    }
}

impl<P: Platform> Core<P> {
    /// Flushes the TLBs of `cpus`, and remembers it.
    ///
    /// All of the core's flushes go through here; a full flush that the machine does for other reasons (a CR3 load)
    /// may be noted with [`note_flush`](Self::note_flush), to spare a later one.
    pub fn flush(&self, cpus: CpuSet, what: Flush) {
        if cpus.is_empty() {
            return;
        }
        if what != Flush::All {
            return self.platform.flush(cpus, what);
        }
        let moment = self.flush_begins();
        self.platform.flush(cpus, what);
        cpus.iter().for_each(|cpu| self.note_flush(cpu, moment));
    }

    /// A moment of the flush clock, taken before a full flush.
    pub fn flush_begins(&self) -> u64 {
        self.frames.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes that `cpu` has flushed its TLB, of everything a guest ever mapped, since `moment`.
    pub fn note_flush(&self, cpu: crate::CpuId, moment: u64) {
        if let Some(cpu) = self.cpus.get(cpu.0 as usize) {
            cpu.flushed.fetch_max(moment, Ordering::SeqCst);
        }
    }

    /// Those of `cpus` that have not flushed since `stamp`.
    pub(crate) fn stale(&self, cpus: CpuSet, stamp: u32) -> CpuSet {
        let moment = self.frames.moment(stamp);
        let mut stale = CpuSet::NONE;
        for cpu in self.cpus.iter().filter(|cpu| cpus.has(cpu.id)) {
            if cpu.flushed.load(Ordering::SeqCst) <= moment {
                stale.0 |= CpuSet::of(cpu.id).0;
            }
        }
        stale
    }

    /// The CPUs that are online.
    pub(crate) fn online(&self) -> CpuSet {
        CpuSet(self.cpus.iter().fold(0, |set, cpu| set | CpuSet::of(cpu.id).0))
    }

    /// The choke point where frames change hands or type: later work keeps devices (an IOMMU) in step here.
    #[inline(always)]
    pub(crate) fn dma_changed(&self, _frame: Frame) {}

    /// Takes a general reference on a frame of `owner`'s.
    ///
    /// EINVAL where there is no such frame, or it is not `owner`'s.
    #[inline]
    pub fn get_page(&self, mfn: Mfn, owner: &Domain<P>) -> Result<Frame, Errno> {
        let frame = self.frames.get(mfn).ok_or(Errno::EINVAL)?;
        let info = self.frames.info(frame);
        info.update(State::get).map_err(|_| Errno::EINVAL)?;
        if info.is_owned_by(owner.id) {
            return Ok(frame);
        }
        self.put_page(frame);
        Err(Errno::EINVAL)
    }

    /// Takes one more general reference on a frame that the caller has one on. False if the count is full.
    #[must_use]
    pub fn get_again(&self, frame: Frame) -> bool {
        self.frames.info(frame).update(State::get).is_ok()
    }

    /// Gives a general reference back. The last one frees the frame.
    #[inline]
    pub fn put_page(&self, frame: Frame) {
        let before = self.frames.info(frame).update(|state| Some(state.put()));
        if before.is_ok_and(|state| state.refs() == 1) {
            self.free_unreferenced(frame);
        }
    }

    /// Takes a general and a type reference on a frame of `owner`'s: [`PageType::Writable`] or
    /// [`PageType::SegmentDescriptor`]. Page tables have their own ways, since they need the owner's `mm`.
    ///
    /// EINVAL where the frame is not `owner`'s, or in use as something else, or full of bad descriptors.
    #[inline]
    pub fn get_page_and_type(&self, mfn: Mfn, owner: &Domain<P>, kind: PageType) -> Result<Frame, Errno> {
        if kind == PageType::Writable {
            match self.frames.get_mapped(mfn, Owner::Domain(owner.id).word(), Claim::of(true)) {
                Ok(frame) => return Ok(frame),
                Err(None) => {}
                Err(Some(frame)) => self.put_page_and_type(frame),
            }
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

    /// Gives a type reference (Writable or SegmentDescriptor) back.
    #[inline]
    pub fn put_type(&self, frame: Frame) {
        let info = self.frames.info(frame);
        let _ = info.update(|state| {
            if state.type_refs() == 1 {
                info.set_stamp(self.frames.stamp_now());
            }
            Some(state.put_type())
        });
    }

    /// Gives a type reference (Writable or SegmentDescriptor) and a general one back.
    #[inline]
    pub fn put_page_and_type(&self, frame: Frame) {
        let info = self.frames.info(frame);
        let before = info.update(|state| {
            if state.type_refs() == 1 {
                // Stamped while the reference is still held: nobody can give the frame another type before.
                info.set_stamp(self.frames.stamp_now());
            }
            Some(state.put_type().put())
        });
        if before.is_ok_and(|state| state.refs() == 1) {
            self.free_unreferenced(frame);
        }
    }
}
