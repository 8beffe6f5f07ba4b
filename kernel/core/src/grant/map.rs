//! Mapping granted frames, and letting go of them.

use abi::grant::{GrantHandle, GrantStatus, MapGrantRef, gntmap};
use abi::{Maddr, Pte, PteFlags, Vaddr};
use alloc::sync::Arc;

use super::Track;
use super::track::Mapping;
use crate::mm::{MapAt, Session};
use crate::{Core, Domain, Flush, Frame, Guard, Platform, refuse_if};

/// The ways in which a frame can be mapped.
const KINDS: u32 = gntmap::HOST_MAP | gntmap::DEVICE_MAP;

/// A mapping that was taken out of page tables or from devices, in part or in whole, while TLBs may remember it.
#[must_use]
pub struct Unmapped {
    handle: GrantHandle,
    frame: Frame,
    write: bool,
    /// The kinds that are gone.
    kinds: u32,
    /// Nothing is left of it.
    whole: bool,
}

/// Where a mapping is, or is to be.
fn place(host_addr: u64, flags: u32) -> MapAt {
    if flags & gntmap::CONTAINS_PTE != 0 { MapAt::Entry(Maddr(host_addr)) } else { MapAt::Address(Vaddr(host_addr)) }
}

/// The page-table entry of a mapping.
fn entry(frame: Frame, flags: u32) -> Pte {
    let access = crate::flags([
        (flags & gntmap::READONLY == 0, PteFlags::RW.0),
        (flags & gntmap::APPLICATION_MAP != 0, PteFlags::USER.0),
    ]);
    let available = u64::from(flags >> gntmap::GUEST_AVAIL_SHIFT) << 9 & PteFlags::AVAIL.0;
    let always = PteFlags::PRESENT.0 | PteFlags::ACCESSED.0 | PteFlags::DIRTY.0;
    Pte::new(frame.mfn(), PteFlags(always | access | available))
}

/// A batch of mappings, or of their ends: the page tables and the track of the domain that maps, locked.
pub struct Mapper<'a, P: Platform> {
    core: &'a Core<P>,
    domain: &'a Domain<P>,
    /// What its addresses are translated by.
    root: Frame,
    session: Session<'a, P>,
    track: Guard<'a, P, Track<P>>,
}

impl<P: Platform> Core<P> {
    /// Begins a batch for a domain, whose addresses are those below `root`.
    pub fn grant_mapper<'a>(&'a self, domain: &'a Domain<P>, root: Frame) -> Mapper<'a, P> {
        Mapper { core: self, domain, root, session: self.mm(domain), track: domain.grants.track.lock() }
    }

    /// Ends a mapping whose page-table entry is gone with the page table.
    pub(super) fn end_mapping(&self, m: &Mapping<P>) {
        let write = m.flags & gntmap::READONLY == 0;
        if m.flags & gntmap::DEVICE_MAP != 0 {
            self.dma_changed(m.frame);
            self.unuse_granted(m.frame, write);
        }
        self.unpin_grant(&m.granter, m.gref, write);
    }
}

impl<P: Platform> Mapper<'_, P> {
    /// Maps an entry of `granter`'s. The machine address is where devices reach the frame.
    ///
    /// BAD_GNTREF: no kind of mapping is asked for, or no such entry. NO_SPACE: too many mappings. GENERAL_ERROR: the
    /// entry does not grant that, or there is no page-table entry at the place. BAD_PAGE: no frame of the granter's.
    pub fn map(&mut self, granter: &Arc<Domain<P>>, op: &MapGrantRef) -> Result<(GrantHandle, Maddr), GrantStatus> {
        refuse_if(op.flags & KINDS == 0, GrantStatus::BAD_GNTREF)?;
        let write = op.flags & gntmap::READONLY == 0;
        self.track.reserve()?;
        let frame = self.core.pin_grant(granter, op.gref, self.domain.id, write, true)?;
        if let Err(status) = self.enter(granter, frame, op) {
            self.core.unpin_grant(granter, op.gref, write);
            return Err(status);
        }
        let handle = self.track.put(Mapping { granter: granter.clone(), gref: op.gref, frame, flags: op.flags });
        Ok((handle, frame.mfn().maddr()))
    }

    /// Makes the host and device mappings of a pinned frame. The references of the pin are used up, or given back.
    fn enter(&mut self, granter: &Domain<P>, frame: Frame, op: &MapGrantRef) -> Result<(), GrantStatus> {
        let core = self.core;
        let write = op.flags & gntmap::READONLY == 0;
        let device = op.flags & gntmap::DEVICE_MAP != 0;
        if op.flags & gntmap::HOST_MAP != 0 {
            if device {
                core.use_granted(granter, frame.mfn(), write).inspect_err(|_| core.unuse_granted(frame, write))?;
            }
            let mapped = self.session.grant_map(self.root, place(op.host_addr, op.flags), entry(frame, op.flags));
            if mapped.is_err() {
                (0..=u8::from(device)).for_each(|_| core.unuse_granted(frame, write));
                return Err(GrantStatus::GENERAL_ERROR);
            }
        }
        if device {
            core.dma_changed(frame);
        }
        Ok(())
    }

    /// Takes a mapping out of the page tables, if `host_addr` is not 0, and from devices, if `device` is not. The entry
    /// that maps `instead`, if that is not 0, is put in the place of the mapping's, and cleared itself.
    ///
    /// BAD_HANDLE: no such mapping. GENERAL_ERROR: it is not at that address; or something is to take the place of one
    /// that was made by GNTMAP_contains_pte. BAD_DEV_ADDR: nor at that one for devices. Then nothing has changed.
    #[inline(always)]
    pub fn begin_unmap(
        &mut self,
        handle: GrantHandle,
        host_addr: u64,
        device: Maddr,
        instead: u64,
    ) -> Result<Unmapped, GrantStatus> {
        // Without a kind left it is a mapping that another operation of this batch has unmapped.
        let m = self.track.get(handle).filter(|m| m.flags & KINDS != 0).ok_or(GrantStatus::BAD_HANDLE)?;
        let (frame, write) = (m.frame, m.flags & gntmap::READONLY == 0);
        let dma = device.0 != 0 && m.flags & gntmap::DEVICE_MAP != 0;
        refuse_if(dma && device != frame.mfn().maddr(), GrantStatus::BAD_DEV_ADDR)?;
        let mut kinds = 0;
        if host_addr != 0 && m.flags & gntmap::HOST_MAP != 0 {
            let at = place(host_addr, m.flags);
            refuse_if(instead != 0 && matches!(at, MapAt::Entry(_)), GrantStatus::GENERAL_ERROR)?;
            let from = (instead != 0).then_some(Vaddr(instead));
            let gone = self.session.grant_unmap(self.root, at, frame.mfn(), write, from);
            gone.map_err(|_| GrantStatus::GENERAL_ERROR)?;
            kinds |= gntmap::HOST_MAP;
        }
        if dma {
            self.core.dma_changed(frame);
            kinds |= gntmap::DEVICE_MAP;
        }
        m.flags &= !kinds;
        Ok(Unmapped { handle, frame, write, kinds, whole: m.flags & KINDS == 0 })
    }

    /// Flushes what CPUs may remember of mappings that are gone, once, and gives back what they held.
    pub fn end_unmaps(&mut self, gone: &[Unmapped]) {
        if gone.iter().any(|gone| gone.kinds & gntmap::HOST_MAP != 0) {
            self.core.flush(self.domain.dirty(), Flush::All);
        }
        for gone in gone {
            for _ in 0..gone.kinds.count_ones() {
                self.core.unuse_granted(gone.frame, gone.write);
            }
            if gone.whole
                && let Some(m) = self.track.take(gone.handle)
            {
                self.core.unpin_grant(&m.granter, m.gref, gone.write);
            }
        }
    }
}
