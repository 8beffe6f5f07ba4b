//! What page types are, said as plainly as it can be: no counts, no locks, no fast paths, no order of work.
//!
//! The model knows whose each frame is, what is in it, which frames are pinned, roots or descriptor tables, and nothing
//! else. What each frame is used as follows from that ([`Model::uses`]); an operation may be done if what it asks for
//! goes together with all that is in use ([`Trial`]). It shares no code with the core but the names of bits.

use std::vec::Vec;

use abi::{DomId, Errno, Mfn, Pte, PteFlags};

use crate::testing::{FIRST_RAM, TestMachine};
use crate::{PageType, Platform};

/// Bits of an entry that decide how a mapping is cached, or GLOBAL: not for tables.
const CACHE: u64 = PteFlags::PWT.0 | PteFlags::PCD.0 | PteFlags::PAT.0;
const SOFTWARE_62: u64 = 1 << 62;
/// What may change of an entry without a question.
const HARMLESS: u64 = 0xfff << 52 | PteFlags::AVAIL.0 | PteFlags::GLOBAL.0 | PteFlags::USER.0 | 0x60;
/// What the core itself changes of entries: USER, its mark of a kernel's mapping, GLOBAL.
const ADJUSTED: u64 = PteFlags::USER.0 | PteFlags::GLOBAL.0 | 1 << 52;

/// A frame.
#[derive(Clone, Copy, Debug)]
pub struct Page<const E: usize> {
    pub owner: Option<DomId>,
    /// Its owner has not given it back.
    pub allocated: bool,
    /// A page of the core's that it shares with its owner, writable.
    pub core: bool,
    /// Pinned as a table of this level.
    pub pinned: Option<u8>,
    pub words: [u64; E],
    /// All of it can be descriptors (which ones can be is for the tests of `segment.rs`).
    pub fit: bool,
}

impl<const E: usize> Page<E> {
    /// Nobody's.
    pub const FREE: Self = Self { owner: None, allocated: false, core: false, pinned: None, words: [0; E], fit: true };
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct Model<const E: usize> {
    /// By frame number.
    pub pages: Vec<Page<E>>,
    /// Roots that vCPUs walk, and frames of descriptor tables: each time that they are one.
    pub roots: Vec<usize>,
    pub descriptors: Vec<usize>,
    /// Tables that the core says are half done: frame, level, entries.
    pub partial: Vec<(usize, u8, usize)>,
    /// Domains whose end has begun.
    pub dead: Vec<DomId>,
}

/// How a frame is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    pub refs: u64,
    pub typed: u64,
    pub kind: PageType,
}

impl<const E: usize> Model<E> {
    /// Is this entry of a table of this level there for the guest?
    pub fn counts(level: u8, index: usize, pte: Pte) -> bool {
        pte.present() && !(level == 4 && TestMachine::<E>::CORE_SLOTS.contains(&index))
    }

    /// A frame of RAM by number.
    pub fn ram(&self, mfn: Mfn) -> Option<usize> {
        usize::try_from(mfn.0).ok().filter(|at| (FIRST_RAM as usize..self.pages.len()).contains(at))
    }

    /// What each frame is used as, if all goes together.
    pub fn uses(&self) -> Vec<Use> {
        let mut uses = std::vec![Use { refs: 0, typed: 0, kind: PageType::None }; self.pages.len()];
        let mut tables = Vec::new();
        for (at, page) in self.pages.iter().enumerate().filter(|(_, page)| page.allocated) {
            hold(&mut uses, &mut tables, at, if page.core { PageType::Writable } else { PageType::None });
        }
        for (at, level) in self.pages.iter().enumerate().filter_map(|(at, page)| Some((at, page.pinned?))) {
            hold(&mut uses, &mut tables, at, PageType::table(level));
        }
        self.partial.iter().for_each(|&(at, level, _)| hold(&mut uses, &mut tables, at, PageType::table(level)));
        self.roots.iter().for_each(|&at| hold(&mut uses, &mut tables, at, PageType::L4));
        self.descriptors.iter().for_each(|&at| hold(&mut uses, &mut tables, at, PageType::SegmentDescriptor));
        while let Some((table, level)) = tables.pop() {
            let partial = self.partial.iter().find(|&&(at, ..)| at == table);
            let entries = partial.map_or(E, |&(_, _, entries)| entries);
            for (index, word) in self.pages[table].words[..entries].iter().enumerate() {
                let pte = Pte(*word);
                let Some(target) = self.ram(pte.mfn()).filter(|_| Self::counts(level, index, pte)) else { continue };
                match level {
                    1 if pte.has(PteFlags::RW) => hold(&mut uses, &mut tables, target, PageType::Writable),
                    1 => hold(&mut uses, &mut tables, target, PageType::None),
                    _ if target == table => assert!(!pte.has(PteFlags::RW), "a table is writable through itself"),
                    _ => hold(&mut uses, &mut tables, target, PageType::table(level - 1)),
                }
            }
        }
        uses
    }

    /// May be changed so, or is it what the core does to entries by itself?
    pub fn is_adjusted(old: u64, new: u64) -> bool {
        old == new || (Pte(old).present() && (old ^ new) & !ADJUSTED == 0)
    }
}

fn hold(uses: &mut [Use], tables: &mut Vec<(usize, u8)>, at: usize, kind: PageType) {
    let it = &mut uses[at];
    it.refs += 1;
    if kind == PageType::None {
        return;
    }
    assert!(it.typed == 0 || it.kind == kind, "frame {at:#x} is {:?} and {kind:?}", it.kind);
    if it.typed == 0 && kind.level() != 0 {
        tables.push((at, kind.level()));
    }
    (it.typed, it.kind) = (it.typed + 1, kind);
}

/// Whose frames an entry may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Domain(DomId),
    /// What is not RAM.
    Io,
}

/// What would come of it, if something more were asked for than is in use.
pub struct Trial<'a, const E: usize> {
    pub model: &'a Model<E>,
    pub uses: Vec<Use>,
    /// Tables that are half done, but for those that it would complete.
    pub partial: Vec<(usize, u8, usize)>,
}

impl<'a, const E: usize> Trial<'a, E> {
    /// `uses` are the model's.
    pub fn new(model: &'a Model<E>, uses: Vec<Use>) -> Self {
        Self { model, uses, partial: model.partial.clone() }
    }

    /// A frame of `owner`'s that something keeps.
    pub fn own(&self, mfn: Mfn, owner: DomId) -> Option<usize> {
        self.model.ram(mfn).filter(|&at| self.model.pages[at].owner == Some(owner) && self.uses[at].refs > 0)
    }

    /// The frame as a table of this level, with all below it.
    pub fn table(&mut self, mfn: Mfn, level: u8, owner: DomId) -> Result<usize, Errno> {
        let at = self.own(mfn, owner).ok_or(Errno::EINVAL)?;
        let kind = PageType::table(level);
        let half = self.partial.iter().position(|&(partial, ..)| partial == at);
        if self.uses[at].typed > 0 && (half.is_none() || self.uses[at].kind != kind) {
            return if self.uses[at].kind == kind { Ok(at) } else { Err(Errno::EINVAL) };
        }
        // One that is half done is done from there on.
        let done = half.map_or(0, |half| self.partial.swap_remove(half).2);
        (self.uses[at].typed, self.uses[at].kind) = (1, kind);
        for (index, word) in self.model.pages[at].words.iter().enumerate().skip(done) {
            let pte = Pte(*word);
            match level {
                _ if !Model::<E>::counts(level, index, pte) => {}
                1 => self.leaf(pte, Whose::Domain(owner))?,
                _ => self.branch(at, level, pte, owner)?,
            }
        }
        Ok(at)
    }

    /// An entry of a table above L1.
    pub fn branch(&mut self, table: usize, level: u8, pte: Pte, owner: DomId) -> Result<(), Errno> {
        match () {
            () if pte.0 & (CACHE | PteFlags::GLOBAL.0) != 0 => Err(Errno::EINVAL),
            () if pte.mfn().0 == table as u64 => {
                if pte.has(PteFlags::RW) {
                    Err(Errno::EINVAL)
                } else {
                    Ok(())
                }
            }
            () => self.table(pte.mfn(), level - 1, owner).map(|_| ()),
        }
    }

    /// An entry of an L1 of a domain that was given no device.
    pub fn leaf(&mut self, pte: Pte, whose: Whose) -> Result<(), Errno> {
        let odd = pte.0 & CACHE != 0 || pte.0 & Pte::MFN_MASK == Pte::MFN_MASK;
        if pte.0 & SOFTWARE_62 != 0 || odd {
            return Err(Errno::EINVAL);
        }
        let Some(at) = self.model.ram(pte.mfn()) else { return Err(Errno::EPERM) };
        let Whose::Domain(whose) = whose else { return Err(Errno::EBUSY) };
        self.own(pte.mfn(), whose).ok_or(Errno::EBUSY)?;
        if pte.has(PteFlags::RW) { self.written(at).map_err(|_| Errno::EBUSY) } else { Ok(()) }
    }

    /// The frame as one that is written.
    pub fn written(&mut self, at: usize) -> Result<(), Errno> {
        let it = &mut self.uses[at];
        if it.typed > 0 && it.kind != PageType::Writable {
            return Err(Errno::EINVAL);
        }
        (it.typed, it.kind) = (it.typed + 1, PageType::Writable);
        Ok(())
    }

    /// The frame as descriptors.
    pub fn described(&mut self, mfn: Mfn, owner: DomId) -> Result<usize, Errno> {
        let at = self.own(mfn, owner).ok_or(Errno::EINVAL)?;
        let it = &mut self.uses[at];
        if it.typed > 0 && it.kind != PageType::SegmentDescriptor || it.typed == 0 && !self.model.pages[at].fit {
            return Err(Errno::EINVAL);
        }
        (it.typed, it.kind) = (it.typed + 1, PageType::SegmentDescriptor);
        Ok(at)
    }

    /// One request of mmu_update: an entry of a table of `tables`', or a word. `frames` are whose frames it may name.
    /// `Ok`: what is stored there, as far as the guest has a say.
    pub fn update(&mut self, mfn: Mfn, index: usize, new: Pte, tables: DomId, frames: Whose) -> Result<(), Errno> {
        let own = self.model.ram(mfn).filter(|&at| self.model.pages[at].owner == Some(tables));
        let level = own.map_or(0, |at| self.level(at));
        match (own, level) {
            (Some(at), 1) => self.change(at, index, new, frames),
            (Some(at), 2..) => {
                if frames != Whose::Domain(tables) || level == 4 && TestMachine::<E>::CORE_SLOTS.contains(&index) {
                    return Err(Errno::EINVAL);
                }
                let old = Pte(self.model.pages[at].words[index]);
                let harmless = old.present() && (old.0 ^ new.0) & !HARMLESS == 0;
                match new.present() {
                    true if new.0 & (CACHE | PteFlags::GLOBAL.0) != 0 => Err(Errno::EINVAL),
                    true if !harmless => self.branch(at, level, new, tables),
                    _ => Ok(()),
                }
            }
            _ => self.own(mfn, tables).ok_or(Errno::EINVAL).and_then(|at| self.written(at)),
        }
    }

    /// Another entry in an L1.
    pub fn change(&mut self, at: usize, index: usize, new: Pte, frames: Whose) -> Result<(), Errno> {
        let old = Pte(self.model.pages[at].words[index]);
        let harmless = old.present() && new.0 & (SOFTWARE_62 | CACHE) == 0 && (old.0 ^ new.0) & !HARMLESS == 0;
        if !new.present() || harmless { Ok(()) } else { self.leaf(new, frames) }
    }

    /// The L1 entry of an address, by a root.
    pub fn walk(&self, root: usize, indices: [usize; 4]) -> Option<(usize, usize)> {
        let mut table = root;
        for index in &indices[..3] {
            let pte = Pte(self.model.pages[table].words[*index]);
            table = self.model.ram(pte.mfn()).filter(|_| pte.present())?;
        }
        (self.level(table) == 1).then_some((table, indices[3]))
    }

    /// Of which level a table is that can be walked and changed; else 0.
    pub fn level(&self, at: usize) -> u8 {
        let whole = self.uses[at].typed > 0 && self.partial.iter().all(|&(partial, ..)| partial != at);
        if whole { self.uses[at].kind.level() } else { 0 }
    }
}
