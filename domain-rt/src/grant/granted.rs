//! Own pages that a peer may use.

use super::{Access, table};
use crate::page::{OutOfMemory, Pages, ring_memory};
use crate::raw::SharedRange;
use abi::{DomId, GrantRef, Mfn};
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::sync::AtomicU32;

/// Why pages cannot be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// The grant table is full and cannot grow.
    TableFull,
    /// There is no memory left.
    OutOfMemory,
    /// The frame's number does not fit an entry of version 1.
    FrameTooHigh,
}

impl From<OutOfMemory> for GrantError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Pages granted to one peer, one grant a page.
///
/// When it is dropped the grants end and the pages are free again. Where the peer still has a page mapped, neither the
/// page nor the grant is used again until it has let go: a page is never reused while somebody else can write it.
#[derive(Debug)]
pub struct Granted {
    range: SharedRange,
    /// Always there; taken in `drop`.
    pages: Option<Pages>,
    grants: Vec<GrantRef>,
}

impl Granted {
    /// Grants `count` fresh, zeroed pages.
    pub fn new(peer: DomId, count: usize, access: Access) -> Result<Self, GrantError> {
        Self::share(Pages::new(count)?, peer, access)
    }

    /// Grants pages with what is in them.
    pub fn share(pages: Pages, peer: DomId, access: Access) -> Result<Self, GrantError> {
        let (range, count) = (pages.range(), pages.count());
        let mut granted = Self { range, pages: Some(pages), grants: Vec::with_capacity(count) };
        for index in 0..count {
            let mfn = granted.mfn(index);
            granted.grants.push(table::allow(peer, mfn, access)?);
        }
        Ok(granted)
    }

    /// The grants, in the order of the pages.
    pub fn grants(&self) -> &[GrantRef] {
        &self.grants
    }

    /// The machine frame of page `index`.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn mfn(&self, index: usize) -> Mfn {
        self.pages.as_ref().expect("there until the drop").mfn(index)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            table::retire(pages, core::mem::take(&mut self.grants));
        }
    }
}

ring_memory!(Granted);
