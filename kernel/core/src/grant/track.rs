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

enum Slot<P: Platform> {
    /// The next free handle.
    Free(u32),
    Used(Mapping<P>),
}

/// A domain's mappings, by handle.
pub struct Track<P: Platform> {
    chunks: Vec<Box<[Slot<P>]>>,
    free: u32,
    /// How many there are.
    pub(super) used: usize,
}

impl<P: Platform> Track<P> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NIL, used: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| size_of_val(&**chunk)).sum()
    }

    /// The frames that devices reach by it, and whether they may write them. For audits: it holds their references.
    pub(crate) fn device_maps(&self) -> impl Iterator<Item = (Frame, bool)> {
        let used = |slot: &Slot<P>| match slot {
            Slot::Used(m) if m.flags & gntmap::DEVICE_MAP != 0 => Some((m.frame, m.flags & gntmap::READONLY == 0)),
            _ => None,
        };
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter_map(used)
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot<P>> {
        self.chunks.get_mut(handle as usize / CHUNK)?.get_mut(handle as usize % CHUNK)
    }

    /// Makes sure that there is a free handle. NO_SPACE where there is no memory, or the domain has all it may have.
    #[inline]
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
        chunk.extend((0..CHUNK).map(|at| Slot::Free(next(at))));
        self.chunks.push(chunk.into_boxed_slice());
        self.free = first as u32;
        Ok(())
    }

    /// Notes a mapping under the handle that was reserved; none if none was.
    pub(super) fn put(&mut self, mapping: Mapping<P>) -> GrantHandle {
        let handle = self.free;
        let Some(slot) = self.slot(handle) else { return GrantHandle::INVALID };
        if let Slot::Free(next) = *slot {
            *slot = Slot::Used(mapping);
            self.free = next;
            self.used += 1;
        }
        GrantHandle(handle)
    }

    /// A mapping by its handle.
    pub(super) fn get(&mut self, handle: GrantHandle) -> Option<&mut Mapping<P>> {
        match self.slot(handle.0) {
            Some(Slot::Used(mapping)) => Some(mapping),
            _ => None,
        }
    }

    /// Takes a mapping out; its handle is free.
    pub(super) fn take(&mut self, handle: GrantHandle) -> Option<Mapping<P>> {
        let free = self.free;
        let slot = self.slot(handle.0)?;
        match core::mem::replace(slot, Slot::Free(free)) {
            Slot::Used(mapping) => {
                self.free = handle.0;
                self.used -= 1;
                Some(mapping)
            }
            was => {
                *slot = was;
                None
            }
        }
    }

    /// Takes any mapping out, and the memory of those that are gone before it. For the end of the domain.
    pub(super) fn take_any(&mut self) -> Option<Mapping<P>> {
        self.free = NIL;
        while let Some(chunk) = self.chunks.last_mut() {
            let used = chunk.iter_mut().find(|slot| matches!(slot, Slot::Used(_)));
            match used.map(|slot| core::mem::replace(slot, Slot::Free(NIL))) {
                Some(Slot::Used(mapping)) => {
                    self.used -= 1;
                    return Some(mapping);
                }
                _ => self.chunks.pop(),
            };
        }
        None
    }
}
