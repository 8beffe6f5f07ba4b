//! Pages of a guest that stay mapped for the device from one request to the next ("persistent grants").
//!
//! A guest that keeps using the same grants saves its backend mapping and unmapping them, and pays by copying its data
//! into and out of the pages that it granted. What it says is not believed beyond that: there are at most [`MOST`] such
//! mappings a vbd, shared out among its queues, the longest unused go first, and a page in use goes when its request is done.

use abi::GrantRef;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Deref;

/// Most mappings that are kept for a vbd: 32 requests of 32 pages and their lists, as Linux's frontend has them.
pub const MOST: u16 = 1056;
/// Which part of them goes at once when there is no room.
const AT_ONCE: usize = 16;

/// A page mapped for a request: for it alone, or kept.
#[derive(Debug)]
pub enum Page<P> {
    /// Unmapped when the request is done.
    Own(P),
    /// Stays mapped, as long as it is kept.
    Kept(Rc<P>),
}

impl<P> Page<P> {
    /// The mapping, if nobody uses it any more.
    pub fn release(self) -> Option<P> {
        match self {
            Self::Own(page) => Some(page),
            Self::Kept(page) => Rc::into_inner(page),
        }
    }
}

impl<P> Deref for Page<P> {
    type Target = P;
    fn deref(&self) -> &P {
        match self {
            Self::Own(page) => page,
            Self::Kept(page) => page,
        }
    }
}

/// The mappings kept for one queue.
#[derive(Debug)]
pub struct Kept<P> {
    /// With the time of the last use.
    pages: BTreeMap<GrantRef, (Rc<P>, u64)>,
    time: u64,
    /// All are in use: room is looked for again only then.
    full_until: u64,
}

impl<P> Default for Kept<P> {
    fn default() -> Self {
        Self { pages: BTreeMap::new(), time: 0, full_until: 0 }
    }
}

impl<P> Kept<P> {
    /// The mapping of a grant, if there is one.
    pub fn find(&mut self, grant: GrantRef) -> Option<Rc<P>> {
        self.time += 1;
        let (page, used) = self.pages.get_mut(&grant)?;
        *used = self.time;
        Some(page.clone())
    }

    /// Keeps a new mapping, if there are fewer than `most`; those that go for it are added to `released`.
    pub fn keep(&mut self, grant: GrantRef, page: P, most: u16, released: &mut Vec<P>) -> Page<P> {
        let most = usize::from(most);
        self.time += 1;
        if self.pages.len() >= most && self.time >= self.full_until {
            self.make_room(most.div_ceil(AT_ONCE), released);
        }
        // A grant that is named twice in one batch was mapped twice.
        if self.pages.len() >= most || self.pages.contains_key(&grant) {
            return Page::Own(page);
        }
        let page = Rc::new(page);
        self.pages.insert(grant, (page.clone(), self.time));
        Page::Kept(page)
    }

    /// Lets go of the `count` longest unused that are in no request.
    fn make_room(&mut self, count: usize, released: &mut Vec<P>) {
        let idle = self.pages.iter().filter(|(_, (page, _))| Rc::strong_count(page) == 1);
        let mut idle: Vec<(u64, GrantRef)> = idle.map(|(grant, (_, used))| (*used, *grant)).collect();
        idle.sort_unstable();
        if idle.is_empty() {
            self.full_until = self.time + self.pages.len() as u64;
        }
        for (_, grant) in idle.iter().take(count) {
            released.extend(self.pages.remove(grant).and_then(|(page, _)| Rc::into_inner(page)));
        }
    }

    /// Keeps nothing any more. Pages in use go when their requests are done.
    pub fn clear(&mut self, released: &mut Vec<P>) {
        let pages = core::mem::take(&mut self.pages).into_values();
        released.extend(pages.filter_map(|(page, _)| Rc::into_inner(page)));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}
