//! The frames a domain has, and may have.

use alloc::vec::Vec;

use abi::memory::E820Entry;
use abi::{Errno, PAGE_SIZE};

use crate::frame::{FrameTable, List};
use crate::trap::TrapTable;
use crate::vcpu::FpuState;
use crate::{Core, Domain, Frame, Lock, Owner, Platform, Run, State, Vcpu, guest, refuse_if};

/// The most pages of the core that one domain may be charged with, beyond its own memory: grant frames, status pages,
/// event words.
pub const MAX_CORE_PAGES: u32 = 1024;

/// A domain's frames, and how many it may have.
#[derive(Debug)]
pub struct Account {
    frames: List,
    /// Those that destruction has been over, and that others still refer to.
    kept: List,
    /// How many frames it has.
    pub pages: u64,
    /// How many it may have.
    pub max_pages: u64,
    /// How many pages of the core it is charged with.
    pub core_pages: u32,
    /// The memory map that its builder set; empty if none was.
    pub(crate) memory_map: Vec<E820Entry>,
}

impl Account {
    /// None yet, and room for `max_pages`.
    pub fn new(max_pages: u64) -> Self {
        Self { frames: List::EMPTY, kept: List::EMPTY, pages: 0, max_pages, core_pages: 0, memory_map: Vec::new() }
    }

    /// The frames, in the order in which they were got.
    pub fn iter<'a>(&'a self, table: &'a FrameTable) -> impl Iterator<Item = Frame> + 'a {
        self.frames.iter(table)
    }

    /// Those that destruction has been over, too.
    pub(crate) fn all<'a>(&'a self, table: &'a FrameTable) -> impl Iterator<Item = Frame> + 'a {
        self.frames.iter(table).chain(self.kept.iter(table))
    }

    /// The first frame that destruction has not been over yet, which it is now.
    pub(crate) fn next_to_relinquish(&mut self, table: &FrameTable) -> Option<Frame> {
        let frame = self.frames.pop(table)?;
        self.kept.push(table, frame);
        Some(frame)
    }

    /// Takes a frame off whichever list it is on: of the other it is at neither end.
    fn unlink(&mut self, table: &FrameTable, frame: Frame) {
        let list = if self.kept.has_end(frame) { &mut self.kept } else { &mut self.frames };
        list.unlink(table, frame);
    }
}

impl<P: Platform> Core<P> {
    /// Gives `domain` a free frame, cleared. It has no references but the one of its allocation.
    ///
    /// ENOMEM where there is none, or the domain has all it may have; EINVAL when the domain is dying.
    #[cfg(test)]
    pub fn alloc_domain_page(&self, domain: &Domain<P>) -> Result<Frame, Errno> {
        self.alloc_domain_pages(domain, 0, u64::MAX, None)
    }

    /// Gives `domain` a block of `1 << order` free frames below frame `limit`, cleared, the first of them as its
    /// `pfn` if it has one; returns the first.
    pub fn alloc_domain_pages(
        &self,
        domain: &Domain<P>,
        order: u8,
        limit: u64,
        pfn: Option<u64>,
    ) -> Result<Frame, Errno> {
        let count = 1u64 << order;
        {
            let mut account = domain.memory.lock();
            refuse_if(domain.is_dying(), Errno::EINVAL)?;
            // Charged first, so that two that come at once cannot both have the last page.
            refuse_if(account.max_pages.saturating_sub(account.pages) < count, Errno::ENOMEM)?;
            account.pages += count;
        }
        let first = self.take_cleared(order, limit).inspect_err(|_| domain.memory.lock().pages -= count)?;
        if let Some(pfn) = pfn {
            self.set_pfns(first, order, pfn);
        }
        self.give(domain, first, order)?;
        Ok(first)
    }

    /// Takes a block of `1 << order` free frames below frame `limit`, cleared; see [`take_frames`](Self::take_frames).
    /// ENOMEM where there is none.
    pub(crate) fn take_cleared(&self, order: u8, limit: u64) -> Result<Frame, Errno> {
        let first = self.take_frames(order, limit).ok_or(Errno::ENOMEM)?;
        self.frames.block(first, order).for_each(|frame| guest::clear(&self.platform, frame));
        Ok(first)
    }

    /// Says which pseudo-physical frames a block is. Asked while it is nobody's yet: once a domain has it, it may
    /// give it back at any time, and it may be another's.
    pub(crate) fn set_pfns(&self, first: Frame, order: u8, pfn: u64) {
        for (frame, offset) in self.frames.block(first, order).zip(0u64..) {
            self.platform.set_m2p(frame.mfn(), pfn.wrapping_add(offset));
        }
    }

    /// Puts a block of nobody's frames, already charged, on a domain's list. EINVAL: a domain that began to die
    /// meanwhile does not get it, since its memory has been taken apart already; the frames are free.
    pub(crate) fn give(&self, domain: &Domain<P>, first: Frame, order: u8) -> Result<(), Errno> {
        let mut account = domain.memory.lock();
        if domain.is_dying() {
            account.pages -= 1 << order;
            drop(account);
            self.frames.block(first, order).for_each(|frame| self.free_frame(frame));
            return Err(Errno::EINVAL);
        }
        for frame in self.frames.block(first, order) {
            let info = self.frames.info(frame);
            account.frames.push(&self.frames, frame);
            info.set_owner(Owner::Domain(domain.id));
            info.reset(State::ALLOCATED | State::REF);
            self.dma_changed(frame);
        }
        Ok(())
    }

    /// Bytes of the core's that a domain takes beyond its own pages: pages it is charged with, and what it has of the
    /// heap.
    pub fn footprint(&self, domain: &Domain<P>) -> usize {
        let vcpu = size_of::<Vcpu<P>>() + size_of::<Lock<P, Run>>() + size_of::<TrapTable>() + size_of::<FpuState>();
        let fixed = size_of::<Domain<P>>() + domain.vcpus.len() * vcpu + domain.grants.bytes() + domain.events.bytes();
        let account = domain.memory.lock();
        fixed + account.core_pages as usize * PAGE_SIZE + size_of_val(&*account.memory_map)
    }

    /// Takes back the reference of a frame's allocation: it is freed with the last other reference. False if somebody
    /// did so before.
    pub(crate) fn deallocate(&self, frame: Frame) -> bool {
        let info = self.frames.info(frame);
        let done = !info.state().has(State::CORE) && info.take_flag(State::ALLOCATED).is_some();
        if done {
            self.put_page(frame);
        }
        done
    }

    /// Takes a frame off its owner's list, contents and all: it is nobody's afterwards, but still charged, until it is
    /// given back or another is given for it. EINVAL if anything but its allocation refers to it.
    ///
    /// Its type is forgotten with it (XSA-214). Nothing maps it, but TLBs may remember that something did; it is
    /// stamped when it is freed.
    pub(crate) fn steal(&self, domain: &Domain<P>, frame: Frame) -> Result<(), Errno> {
        let info = self.frames.info(frame);
        refuse_if(!info.is_owned_by(domain.id), Errno::EINVAL)?;
        info.update(State::unshared).map_err(|_| Errno::EINVAL)?;
        let mut account = domain.memory.lock();
        account.unlink(&self.frames, frame);
        info.set_owner(Owner::Core);
        Ok(())
    }

    /// Frees the first of a dying domain's frames, `most` of them, as far as nothing but their allocation refers to
    /// them. Returns how many.
    pub(crate) fn free_unshared(&self, domain: &Domain<P>, most: usize) -> usize {
        let mut account = domain.memory.lock();
        let mut blocks = self.free.lock();
        for done in 0..most {
            let Some(frame) = account.frames.first(&self.frames) else { return done };
            if self.frames.info(frame).update(State::unshared).is_err() {
                return done;
            }
            account.frames.pop(&self.frames);
            account.pages -= 1;
            self.free_into(&mut blocks, frame);
        }
        most
    }

    /// Frees a frame whose last reference is gone.
    #[cold]
    pub(crate) fn free_unreferenced(&self, frame: Frame) {
        let info = self.frames.info(frame);
        if let Owner::Domain(id) = info.owner()
            && let Some(domain) = self.domains.get(id)
        {
            let mut account = domain.memory.lock();
            if info.state().has(State::CORE) {
                account.core_pages -= 1;
            } else {
                account.unlink(&self.frames, frame);
                account.pages -= 1;
            }
            // The owner word changes under the list's lock; the allocator sets its own.
            info.set_owner(Owner::Core);
        }
        self.free_frame(frame);
    }

    /// A cleared page of the core's that is charged to a domain, which can map it writable (grant frames, event words).
    ///
    /// ENOMEM where there is none, or the domain's allowance of [`MAX_CORE_PAGES`] is used up.
    pub fn alloc_core_page(&self, domain: &Domain<P>) -> Result<Frame, Errno> {
        {
            let mut account = domain.memory.lock();
            refuse_if(account.core_pages >= MAX_CORE_PAGES, Errno::ENOMEM)?;
            account.core_pages += 1;
        }
        let frame = self.take_cleared(0, u64::MAX).inspect_err(|_| domain.memory.lock().core_pages -= 1)?;
        self.share_page(frame, domain.id);
        Ok(frame)
    }

    /// Shares a page of the core's with the domain it is charged to.
    pub fn share_page(&self, frame: Frame, id: abi::DomId) {
        let info = self.frames.info(frame);
        info.set_owner(Owner::Domain(id));
        info.reset(State::CORE | State::ALLOCATED | State::MAPPED | State::TYPE_REF | State::REF);
        self.dma_changed(frame);
    }

    /// Gives up a page of the core: it is freed when its domain no longer maps it either.
    pub fn free_core_page(&self, frame: Frame) {
        if self.frames.info(frame).take_flag(State::ALLOCATED).is_some() {
            self.put_page_and_type(frame);
        }
    }
}
