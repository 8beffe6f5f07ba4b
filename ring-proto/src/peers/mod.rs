//! Peers for tests: polite ones, which check whoever they talk to, and hostile ones, which try to hurt it.
//!
//! All randomness comes from a seed, so a failure is replayed by its number.

pub mod blk;
pub mod hostile;
pub mod net;

use abi::GrantRef;
use alloc::{boxed::Box, collections::BTreeMap, rc::Rc};
use core::cell::RefCell;

/// Reproducible pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "an endless source is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.next() as u8);
    }
    /// A number of at most 16 bits as a hostile peer likes them: small, at a limit, or anything.
    pub fn edgy(&mut self) -> u16 {
        const EDGES: [u16; 14] = [0, 1, 7, 8, 13, 14, 511, 512, 4095, 4096, 0x7fff, 0x8000, 0xfffe, 0xffff];
        let edge = EDGES[self.below(EDGES.len() as u64) as usize];
        if self.one_in(2) { edge } else { self.next() as u16 >> self.below(16) }
    }
}

/// Bytes a page.
pub const PAGE: usize = 4096;

/// A guest's granted pages: what a grant table is to these tests. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pages(Rc<RefCell<BTreeMap<u32, Page>>>);

#[derive(Debug)]
struct Page {
    bytes: Box<[u8; PAGE]>,
    writable: bool,
}

/// No such grant, not writable, or beyond the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantError;

impl Pages {
    /// Grants a zeroed page.
    pub fn grant(&self, writable: bool) -> GrantRef {
        let mut pages = self.0.borrow_mut();
        let reference = pages.keys().next_back().map_or(8, |last| last + 1);
        pages.insert(reference, Page { bytes: Box::new([0; PAGE]), writable });
        GrantRef(reference)
    }
    /// Ends a grant.
    pub fn revoke(&self, grant: GrantRef) {
        self.0.borrow_mut().remove(&grant.0);
    }
    /// How many pages are granted.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }
    /// What a backend does to read a granted page.
    pub fn copy_from(&self, grant: GrantRef, offset: usize, out: &mut [u8]) -> Result<(), GrantError> {
        let pages = self.0.borrow();
        let page = pages.get(&grant.0).ok_or(GrantError)?;
        let bytes = offset.checked_add(out.len()).and_then(|end| page.bytes.get(offset..end)).ok_or(GrantError)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
    /// What a backend does to write a granted page.
    pub fn copy_to(&self, grant: GrantRef, offset: usize, data: &[u8]) -> Result<(), GrantError> {
        let mut pages = self.0.borrow_mut();
        let page = pages.get_mut(&grant.0).filter(|page| page.writable).ok_or(GrantError)?;
        put(page, offset, data)
    }
    /// What the guest itself does to its page, granted read-only or not.
    pub fn fill(&self, grant: GrantRef, offset: usize, data: &[u8]) {
        let mut pages = self.0.borrow_mut();
        let page = pages.get_mut(&grant.0).expect("the guest's own page");
        put(page, offset, data).expect("within the page");
    }
}

fn put(page: &mut Page, offset: usize, data: &[u8]) -> Result<(), GrantError> {
    let end = offset.checked_add(data.len()).ok_or(GrantError)?;
    page.bytes.get_mut(offset..end).ok_or(GrantError)?.copy_from_slice(data);
    Ok(())
}
