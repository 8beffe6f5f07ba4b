//! What is known of one frame, in a few words.
//!
//! A frame's whole state is one word ([`State`]), so that every transition is one compare-exchange:
//!
//! - the **general references** keep the frame from being freed: one while it is allocated to its owner, one a
//!   page-table entry, mapping, root or pin that names it;
//! - the **type references** say what it may be used as meanwhile: each holder of one also holds a general reference;
//! - the **type** is fixed while its count is above zero, and remembered afterwards, since a TLB may remember too.

use core::sync::atomic::Ordering;

use abi::DomId;

use crate::sync::atomic::{AtomicU32, AtomicU64};

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
    pub(crate) const MAPPED: u64 = Self::VALIDATED | (PageType::Writable as u64) << Self::KIND_SHIFT;
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
    /// that the frame stays writable.
    pub const CORE: u64 = 1 << 63;

    /// General references.
    pub const fn refs(self) -> u64 {
        self.0 & Self::COUNT
    }

    /// Type references.
    pub const fn type_refs(self) -> u64 {
        self.0 >> Self::TYPE_SHIFT & Self::COUNT
    }

    /// Its type; meaningful while there are type references, a memory of the last one otherwise.
    pub const fn kind(self) -> PageType {
        PageType::ALL[(self.0 >> Self::KIND_SHIFT & 7) as usize]
    }

    /// Are all of these flags set?
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// Is it a table of this level that can be walked and updated?
    pub const fn is_table(self, level: u8) -> bool {
        self.0 & (Self::KIND | Self::VALIDATED) == (level as u64) << Self::KIND_SHIFT | Self::VALIDATED
            && self.type_refs() != 0
    }

    /// With one more general reference, if it has one and the count has room.
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
    pub(crate) fn unshared(self) -> Option<Self> {
        (self.refs() == 1 && self.has(Self::ALLOCATED) && !self.has(Self::CORE) && self.type_refs() == 0)
            .then_some(Self(0))
    }

    /// With what `claim` takes, of type Writable. None where it is not that simple: a free frame, another type, a count
    /// that is full, or a flush that has to come first.
    #[inline(always)]
    pub(crate) fn with(self, claim: Claim) -> Option<Self> {
        if !claim.typed {
            return self.get();
        }
        if self.0 & (Self::KIND | Self::VALIDATED | Self::FULL) == Self::MAPPED {
            // Mapped writable already, the usual case: whoever did so holds a general reference.
            return Some(Self(self.0 + claim.counts()));
        }
        self.get().filter(|_| self.type_refs() == 0)?;
        let first = self.get_type(PageType::Writable).filter(|first| first.has(Self::VALIDATED))?;
        Some(Self(first.0 + claim.general as u64 * Self::REF))
    }
}

/// References that are taken and given back together.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    general: bool,
    typed: bool,
}

impl Claim {
    /// A general reference.
    pub(crate) const PAGE: Self = Self { general: true, typed: false };
    /// A type reference alone: what is mapped has become writable.
    pub(crate) const TYPE: Self = Self { general: false, typed: true };

    /// A general reference and, if `writable`, one of type Writable: what an L1 entry takes on the frame it names.
    pub(crate) const fn of(writable: bool) -> Self {
        Self { general: true, typed: writable }
    }

    /// What a state's counts change by.
    const fn counts(self) -> u64 {
        self.general as u64 * State::REF + self.typed as u64 * State::TYPE_REF
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
#[derive(Default)]
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

#[cfg(not(loom))]
const _: () = assert!(size_of::<PageInfo>() == 24);

impl PageInfo {
    /// Its state now.
    pub fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Replaces the state if it is still `old`.
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

    /// Takes a flag away. Returns the state before, if it had the flag.
    pub(crate) fn take_flag(&self, flag: u64) -> Option<State> {
        self.update(|state| state.has(flag).then_some(State(state.0 & !flag))).ok()
    }

    /// Sets the state of a frame that nobody can find yet.
    pub(crate) fn reset(&self, state: u64) {
        self.state.store(state, Ordering::Release);
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        Owner::from_word(self.owner_word())
    }

    pub(super) fn owner_word(&self) -> OwnerWord {
        OwnerWord(self.owner.load(Ordering::Acquire))
    }

    pub(crate) fn set_owner(&self, owner: Owner) {
        self.owner.store(owner.word().0, Ordering::Release);
    }

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

    /// Takes what `claim` says on a frame that was seen to be `owner`'s, in a single exchange.
    ///
    /// `Err(false)`: nothing was taken ([`State::with`]). `Err(true)`: it was, but the frame had just changed hands; to
    /// be undone.
    #[inline(always)]
    pub(crate) fn claim(&self, owner: OwnerWord, claim: Claim) -> Result<(), bool> {
        self.update(|state| state.with(claim)).map_err(|_| false)?;
        // The owner may have changed before the reference was there. It cannot now.
        if self.owner_word() == owner { Ok(()) } else { Err(true) }
    }

    /// Gives back what a claim took; the last type reference takes VALIDATED along. True: with it went the last general
    /// reference. `now` reads the flush clock.
    #[inline(always)]
    pub(crate) fn unclaim(&self, claim: Claim, now: impl Fn() -> u32) -> bool {
        let before = self.update(|state| {
            let rest = State(state.0 - claim.counts());
            if !claim.typed || rest.type_refs() != 0 {
                return Some(rest);
            }
            // Stamped while the reference is still held: nobody can give the frame another type before.
            self.set_stamp(now());
            Some(State(rest.0 & !State::VALIDATED))
        });
        before.is_ok_and(|before| State(before.0 - claim.counts()).refs() == 0)
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
