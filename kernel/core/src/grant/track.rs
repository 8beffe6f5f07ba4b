//! What a domain maps of others: the map track.

use abi::GrantRef;
use abi::grant::{GrantHandle, GrantStatus, gntmap};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::{Domain, Frame, Platform, refuse_if};

/// Handles in one allocation.
const CHUNK: usize = 128;
/// Mappings that one domain may have.
const MOST: usize = 1 << 15;
/// No handle.
const NIL: u32 = u32::MAX;

/// A mapping.
pub(super) struct Mapping<P: Platform> {
    /// Whose frame it is: held, so that a zombie stays as long as it is mapped.
    pub(super) granter: Arc<Domain<P>>,
    /// By which entry.
    pub(super) gref: GrantRef,
    /// Which frame.
    pub(super) frame: Frame,
    /// `GNTMAP_*`: the kinds that it still has, and how it was made.
    pub(super) flags: u32,
}

struct Slot<P: Platform> {
    mapping: Option<Mapping<P>>,
    /// The next free handle, where this is one.
    next: u32,
}

/// A domain's mappings, by handle.
pub struct Track<P: Platform> {
    chunks: Vec<Box<[Slot<P>]>>,
    free: u32,
}

impl<P: Platform> Track<P> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NIL }
    }

    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| size_of_val(&**chunk)).sum()
    }

    /// All mappings.
    pub(super) fn mappings(&self) -> impl Iterator<Item = &Mapping<P>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter_map(|slot| slot.mapping.as_ref())
    }

    /// The frames that devices reach by it, and whether they may write them. For audits: it holds their references.
    pub(crate) fn device_maps(&self) -> impl Iterator<Item = (Frame, bool)> {
        let devices = self.mappings().filter(|m| m.flags & gntmap::DEVICE_MAP != 0);
        devices.map(|m| (m.frame, m.flags & gntmap::READONLY == 0))
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot<P>> {
        self.chunks.get_mut(handle as usize / CHUNK)?.get_mut(handle as usize % CHUNK)
    }

    /// Makes sure that there is a free handle. NO_SPACE where there is no memory, or the domain has all it may have.
    pub(super) fn reserve(&mut self) -> Result<(), GrantStatus> {
        if self.free != NIL {
            return Ok(());
        }
        let first = self.chunks.len() * CHUNK;
        refuse_if(first >= MOST, GrantStatus::NO_SPACE)?;
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).map_err(|_| GrantStatus::NO_SPACE)?;
        self.chunks.try_reserve(1).map_err(|_| GrantStatus::NO_SPACE)?;
        let next = |at: usize| if at + 1 == CHUNK { NIL } else { (first + at + 1) as u32 };
        chunk.extend((0..CHUNK).map(|at| Slot { mapping: None, next: next(at) }));
        self.chunks.push(chunk.into_boxed_slice());
        self.free = first as u32;
        Ok(())
    }

    /// Notes a mapping under the handle that was reserved; none if none was.
    pub(super) fn put(&mut self, mapping: Mapping<P>) -> GrantHandle {
        let handle = self.free;
        let Some(slot) = self.slot(handle) else { return GrantHandle::INVALID };
        slot.mapping = Some(mapping);
        self.free = slot.next;
        GrantHandle(handle)
    }

    /// A mapping by its handle.
    pub(super) fn get(&mut self, handle: GrantHandle) -> Option<&mut Mapping<P>> {
        self.slot(handle.0)?.mapping.as_mut()
    }

    /// Takes a mapping out; its handle is free.
    pub(super) fn take(&mut self, handle: GrantHandle) -> Option<Mapping<P>> {
        let free = self.free;
        let slot = self.slot(handle.0)?;
        let mapping = slot.mapping.take()?;
        slot.next = free;
        self.free = handle.0;
        Some(mapping)
    }

    /// Takes any mapping out, and the memory of those that are gone before it. For the end of the domain.
    pub(super) fn take_any(&mut self) -> Option<Mapping<P>> {
        self.free = NIL;
        while let Some(chunk) = self.chunks.last_mut() {
            let mapping = chunk.iter_mut().find_map(|slot| slot.mapping.take());
            if mapping.is_some() {
                return mapping;
            }
            self.chunks.pop();
        }
        None
    }
}
