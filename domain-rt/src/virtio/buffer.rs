//! What a descriptor names.

use crate::grant::{DeviceGrant, Granted};
use crate::page::Pages;
use abi::{Maddr, PAGE_SIZE};

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
}

/// A part of one page for a device.
///
/// It must not outlive the page: give the page to the queue with it ([`Queue::push`](super::Queue::push)'s `owner`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub(super) address: Maddr,
    pub(super) len: u32,
    pub(super) direction: Direction,
}

impl Buffer {
    /// `len` bytes at `offset` of own pages; `None` if they are none or leave a page.
    pub fn of_pages(pages: &Pages, offset: usize, len: usize, direction: Direction) -> Option<Self> {
        let inside = within_page(offset % PAGE_SIZE, len)? && offset / PAGE_SIZE < pages.count();
        inside.then(|| Self { address: pages.maddr(offset), len: len as u32, direction })
    }

    /// The same of pages that a peer may use as well.
    pub fn of_granted(pages: &Granted, offset: usize, len: usize, direction: Direction) -> Option<Self> {
        let inside = within_page(offset % PAGE_SIZE, len)? && offset / PAGE_SIZE < pages.grants().len();
        inside.then(|| Self {
            address: Maddr(pages.mfn(offset / PAGE_SIZE).maddr().0 + (offset % PAGE_SIZE) as u64),
            len: len as u32,
            direction,
        })
    }

    /// `len` bytes at `offset` of a peer's page. The page was mapped writable if the direction is
    /// [`Direction::FromDevice`]; that is the caller's to hold.
    pub fn of_grant(grant: &DeviceGrant, offset: usize, len: usize, direction: Direction) -> Option<Self> {
        within_page(offset, len)?.then(|| Self {
            address: Maddr(grant.address().0 + offset as u64),
            len: len as u32,
            direction,
        })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: a buffer has at least a byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Whether the range is not empty and ends within its page.
fn within_page(offset: usize, len: usize) -> Option<bool> {
    Some(len > 0 && offset.checked_add(len)? <= PAGE_SIZE)
}
