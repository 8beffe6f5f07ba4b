//! Mapping granted frames, and letting go of them.

use abi::grant::{GrantHandle, GrantStatus, MapGrantRef, gntmap};
use abi::{Maddr, Pte, PteFlags, Vaddr};
use alloc::sync::Arc;

use super::Track;
use super::track::Mapping;
use crate::mm::{MapAt, Session};
use crate::{Core, CpuSet, Domain, Flush, Frame, Guard, Platform, refuse_if};

/// The ways in which a frame can be mapped.
const KINDS: u32 = gntmap::HOST_MAP | gntmap::DEVICE_MAP;

/// A mapping that was taken out of page tables or from devices, in part or in whole, while TLBs may remember it.
#[derive(Clone, Copy)]
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

impl Unmapped {
    /// Did a processor have it mapped?
    pub fn needs_flush(&self) -> bool {
        self.kinds & gntmap::HOST_MAP != 0
    }
}

/// Where a mapping is, or is to be.
fn place(host_addr: u64, flags: u32) -> MapAt {
    if flags & gntmap::CONTAINS_PTE != 0 { MapAt::Entry(Maddr(host_addr)) } else { MapAt::Address(Vaddr(host_addr)) }
}

/// The page-table entry of a mapping.
fn entry(frame: Frame, flags: u32) -> Pte {
    let mut bits = PteFlags::PRESENT.0 | PteFlags::ACCESSED.0 | PteFlags::DIRTY.0;
    if flags & gntmap::READONLY == 0 {
        bits |= PteFlags::RW.0;
    }
    if flags & gntmap::APPLICATION_MAP != 0 {
        bits |= PteFlags::USER.0;
    }
    bits |= u64::from(flags >> gntmap::GUEST_AVAIL_SHIFT) << 9 & PteFlags::AVAIL.0;
    Pte::new(frame.mfn(), PteFlags(bits))
}

impl<P: Platform> Core<P> {
    /// A domain's map track, for a batch.
    pub fn grant_track<'a>(&self, domain: &'a Domain<P>) -> Guard<'a, P, Track<P>> {
        domain.grants.track.lock()
    }

    /// Maps an entry of `granter`'s for the domain of `session`, whose track this is. The machine address is where
    /// devices reach the frame.
    ///
    /// BAD_GNTREF: no kind of mapping is asked for, or no such entry. NO_SPACE: too many mappings. GENERAL_ERROR: the
    /// entry does not grant that, or there is no page-table entry at the place. BAD_PAGE: no frame of the granter's.
    pub fn map_grant(
        &self,
        session: &mut Session<'_, P>,
        track: &mut Track<P>,
        root: Frame,
        mapper: &Domain<P>,
        granter: &Arc<Domain<P>>,
        op: &MapGrantRef,
    ) -> Result<(GrantHandle, Maddr), GrantStatus> {
        let kinds = op.flags & KINDS;
        refuse_if(kinds == 0, GrantStatus::BAD_GNTREF)?;
        let write = op.flags & gntmap::READONLY == 0;
        track.reserve()?;
        refuse_if(granter.is_dying(), GrantStatus::BAD_DOMAIN)?;
        let frame = self.pin_grant(granter, op.gref, mapper.id, write, true)?;
        if let Err(status) = self.enter(session, root, granter, frame, op) {
            self.unpin_grant(granter, op.gref, write);
            return Err(status);
        }
        let handle = track.put(Mapping { granter: granter.clone(), gref: op.gref, frame, flags: op.flags });
        Ok((handle, frame.mfn().maddr()))
    }

    /// Makes the host and device mappings of a pinned frame. The references of the pin are used up, or given back.
    fn enter(
        &self,
        session: &mut Session<'_, P>,
        root: Frame,
        granter: &Domain<P>,
        frame: Frame,
        op: &MapGrantRef,
    ) -> Result<(), GrantStatus> {
        let write = op.flags & gntmap::READONLY == 0;
        let device = op.flags & gntmap::DEVICE_MAP != 0;
        if op.flags & gntmap::HOST_MAP != 0 {
            if device && let Err(status) = self.use_granted(granter, frame.mfn(), write) {
                self.unuse_granted(frame, write);
                return Err(status);
            }
            let mapped = session.grant_map(root, place(op.host_addr, op.flags), entry(frame, op.flags));
            if mapped.is_err() {
                (0..=u8::from(device)).for_each(|_| self.unuse_granted(frame, write));
                return Err(GrantStatus::GENERAL_ERROR);
            }
        }
        if device {
            self.dma_changed(frame);
        }
        Ok(())
    }

    /// Takes a mapping out of the page tables, if `host_addr` is not 0, and from devices, if `device` is not.
    ///
    /// BAD_HANDLE: no such mapping. GENERAL_ERROR: it is not at that address. BAD_DEV_ADDR: nor at that one for devices.
    /// Then nothing has changed.
    pub fn begin_unmap(
        &self,
        session: &mut Session<'_, P>,
        track: &mut Track<P>,
        root: Frame,
        handle: GrantHandle,
        host_addr: u64,
        device: Maddr,
    ) -> Result<Unmapped, GrantStatus> {
        let unmap = |session: &mut Session<'_, P>, m: &Mapping<P>| {
            let write = m.flags & gntmap::READONLY == 0;
            session.grant_unmap(root, place(host_addr, m.flags), m.frame.mfn(), write).map_err(|_| ())
        };
        self.begin(session, track, handle, host_addr, device, unmap)
    }

    /// The same, with the entry that maps `new_addr` put in the place of the mapping's, and cleared itself; 0 puts
    /// nothing there. GENERAL_ERROR also for a mapping that was made by GNTMAP_contains_pte.
    pub fn begin_replace(
        &self,
        session: &mut Session<'_, P>,
        track: &mut Track<P>,
        root: Frame,
        handle: GrantHandle,
        host_addr: u64,
        new_addr: u64,
    ) -> Result<Unmapped, GrantStatus> {
        let replace = |session: &mut Session<'_, P>, m: &Mapping<P>| {
            let write = m.flags & gntmap::READONLY == 0;
            let (at, mfn) = (place(host_addr, m.flags), m.frame.mfn());
            match at {
                _ if new_addr == 0 => session.grant_unmap(root, at, mfn, write),
                MapAt::Address(_) => session.grant_unmap_and_replace(root, at, mfn, write, Vaddr(new_addr)),
                MapAt::Entry(_) => return Err(()),
            }
            .map_err(|_| ())
        };
        self.begin(session, track, handle, host_addr, Maddr(0), replace)
    }

    fn begin(
        &self,
        session: &mut Session<'_, P>,
        track: &mut Track<P>,
        handle: GrantHandle,
        host_addr: u64,
        device: Maddr,
        unmap: impl FnOnce(&mut Session<'_, P>, &Mapping<P>) -> Result<(), ()>,
    ) -> Result<Unmapped, GrantStatus> {
        // Without a kind left it is a mapping that another operation of this batch has unmapped.
        let m = track.get(handle).filter(|m| m.flags & KINDS != 0).ok_or(GrantStatus::BAD_HANDLE)?;
        let host = host_addr != 0 && m.flags & gntmap::HOST_MAP != 0;
        let dma = device.0 != 0 && m.flags & gntmap::DEVICE_MAP != 0;
        refuse_if(dma && device != m.frame.mfn().maddr(), GrantStatus::BAD_DEV_ADDR)?;
        let mut kinds = 0;
        if host {
            unmap(session, m).map_err(|()| GrantStatus::GENERAL_ERROR)?;
            kinds |= gntmap::HOST_MAP;
        }
        if dma {
            self.dma_changed(m.frame);
            kinds |= gntmap::DEVICE_MAP;
        }
        m.flags &= !kinds;
        let (frame, write) = (m.frame, m.flags & gntmap::READONLY == 0);
        Ok(Unmapped { handle, frame, write, kinds, whole: m.flags & KINDS == 0 })
    }

    /// Flushes what the mapper's CPUs may remember of mappings that are gone.
    pub fn flush_unmapped(&self, mapper: &Domain<P>) {
        let cpus: CpuSet = mapper.dirty();
        self.flush(cpus, Flush::All);
    }

    /// Gives back what a mapping held, after the flush.
    pub fn end_unmap(&self, track: &mut Track<P>, gone: Unmapped) {
        for kind in [gntmap::HOST_MAP, gntmap::DEVICE_MAP] {
            if gone.kinds & kind != 0 {
                self.unuse_granted(gone.frame, gone.write);
            }
        }
        if gone.whole
            && let Some(m) = track.take(gone.handle)
        {
            self.unpin_grant(&m.granter, m.gref, gone.write);
        }
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
