//! A virtio block device as a medium (virtio 1.2, section 5.2).
//!
//! The guest's pages are mapped for the device alone while it works on them, and given to it by machine address: this
//! domain never sees the data. Mapping, handing over and unmapping are done in batches.

use crate::kept::{Kept, Page};
use crate::medium::{Busy, Done, Geometry, Io, Mapped, Medium, Token};
use abi::{DomId, GrantRef};
use alloc::vec::{Drain, Vec};
use alloc::{collections::VecDeque, rc::Rc};
use core::ops::Range;
use ring_proto::blk::{Direction, Segment};

/// Feature bits of the device that this driver knows.
pub mod feature {
    /// The most segments of a request is in the configuration.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The device takes no writes.
    pub const RO: u64 = 1 << 5;
    /// The block size is in the configuration.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Writes may be cached; there is a flush.
    pub const FLUSH: u64 = 1 << 9;
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read or write from this sector on.
    Transfer(Direction, u64),
    /// Flush the device's cache.
    Flush,
}

/// A request that a device is done with: its tag, whether it succeeded, and its pages.
pub type Finished<P> = (u16, bool, Vec<Page<P>>);

/// The device: its queue, and mappings for it. Requests are named by tags below the depth given to
/// [`VirtioDisk::new`], each in use once.
pub trait BlockDevice {
    /// A guest's page that the device may use for as long as this is kept.
    type Page;
    /// Maps pages (whose, which, does the device write to it) with one hypercall and appends an outcome each, in order.
    fn map(&mut self, pages: &[(DomId, GrantRef, bool)], mapped: &mut Vec<Option<Self::Page>>);
    /// Ends mappings with one hypercall; `pages` is empty afterwards.
    fn unmap(&mut self, pages: &mut Vec<Self::Page>);
    /// Queue entries that are free.
    fn room(&self) -> usize;
    /// Queue entries that a request of so many pages takes.
    fn entries(&self, pages: usize) -> usize;
    /// Queues a request; there is room. Each segment lies in the page at its place in `pages`. False: the device is
    /// of no more use, and the pages are unmapped.
    fn push(&mut self, tag: u16, command: Command, segments: &[Segment], pages: Vec<Page<Self::Page>>) -> bool;
    /// Tells the device, if it asked to be told.
    fn kick(&mut self);
    /// A request that the device is done with.
    fn pop(&mut self) -> Option<Finished<Self::Page>>;
}

/// A request that was submitted since the last kick.
#[derive(Debug)]
struct Waiting {
    tag: u16,
    command: Command,
    peer: DomId,
    /// The session for which its pages stay mapped, if they do, and how many at most.
    keeper: Option<(u16, u16)>,
    /// Its pages, in the list of those that wait.
    segments: Range<usize>,
}

/// Lists that are kept so that they are allocated once.
#[derive(Debug)]
struct Lists<P> {
    /// Of all pages that wait, those that are mapped already.
    found: Vec<Option<Rc<P>>>,
    /// The others, and what came of mapping them.
    wanted: Vec<(DomId, GrantRef, bool)>,
    mapped: Vec<Option<P>>,
    /// Pages to be unmapped.
    released: Vec<P>,
    /// Empty lists for the pages of requests.
    spare: Vec<Vec<Page<P>>>,
}

impl<P> Default for Lists<P> {
    fn default() -> Self {
        let (found, wanted, mapped, released, spare) = Default::default();
        Self { found, wanted, mapped, released, spare }
    }
}

/// A virtio disk.
#[derive(Debug)]
pub struct VirtioDisk<D: BlockDevice> {
    device: D,
    geometry: Geometry,
    flush: bool,
    /// Whose request, by tag, and how its pages came to be mapped.
    tokens: Vec<Option<(Token, Mapped)>>,
    free: Vec<u16>,
    waiting: Vec<Waiting>,
    segments: Vec<Segment>,
    lists: Lists<D::Page>,
    /// What stays mapped, by session.
    kept: Vec<Kept<D::Page>>,
    /// Queue entries promised to `waiting`.
    promised: usize,
    done: VecDeque<Done>,
    hypercalls: u64,
}

impl<D: BlockDevice> VirtioDisk<D> {
    /// A disk of `geometry` behind an empty queue, with at most `depth` requests in flight; `flush`: its cache must be
    /// flushed for writes to last.
    pub fn new(device: D, geometry: Geometry, flush: bool, depth: u16) -> Self {
        Self {
            device,
            geometry,
            flush,
            tokens: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            waiting: Vec::new(),
            segments: Vec::new(),
            lists: Lists::default(),
            kept: Vec::new(),
            promised: 0,
            done: VecDeque::new(),
            hypercalls: 0,
        }
    }

    /// Hypercalls made to map and unmap so far.
    pub fn hypercalls(&self) -> u64 {
        self.hypercalls
    }

    /// The device, for its interrupt.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    fn wait(&mut self, token: Token, command: Command, pages: Pages<'_>) -> Result<(), Busy> {
        let Pages { peer, keep, segments } = pages;
        let entries = self.device.entries(segments.len());
        if self.device.room() < self.promised + entries {
            return Err(Busy);
        }
        let tag = self.free.pop().ok_or(Busy)?;
        if let Some(place) = self.tokens.get_mut(usize::from(tag)) {
            *place = Some((token, Mapped::default()));
        }
        self.promised += entries;
        let first = self.segments.len();
        self.segments.extend_from_slice(segments);
        let keeper = (keep > 0).then_some((token.session, keep));
        self.waiting.push(Waiting { tag, command, peer, keeper, segments: first..self.segments.len() });
        Ok(())
    }

    fn finish(&mut self, tag: u16, success: bool) {
        if let Some((token, mapped)) = self.tokens.get_mut(usize::from(tag)).and_then(Option::take) {
            self.free.push(tag);
            // The device worked on the guest's pages.
            self.done.push_back(Done { success, mapped, ..Done::of(token) });
        }
    }

    /// Ends the mappings that have been released.
    fn unmap_released(&mut self) {
        if !self.lists.released.is_empty() {
            self.hypercalls += 1;
            self.device.unmap(&mut self.lists.released);
        }
    }

    /// Takes the pages of a request, which are to stay mapped for `keeper`: as many as could be mapped.
    fn take_pages(
        &mut self,
        tag: u16,
        keeper: Option<(u16, u16)>,
        segments: &[Segment],
        outcomes: &mut Outcomes<'_, D::Page>,
        pages: &mut Vec<Page<D::Page>>,
    ) {
        let mut count = Mapped::default();
        for (segment, found) in segments.iter().zip(outcomes.found.by_ref()) {
            if let Some(page) = found {
                count.kept += 1;
                pages.push(Page::Kept(page));
                continue;
            }
            let Some(page) = outcomes.mapped.next().flatten() else { continue };
            count.new += 1;
            let kept = keeper.and_then(|(session, most)| Some((self.kept.get_mut(usize::from(session))?, most)));
            pages.push(match kept {
                Some((kept, most)) => kept.keep(segment.grant, page, most, &mut self.lists.released),
                None => Page::Own(page),
            });
        }
        if let Some(Some((_, mapped))) = self.tokens.get_mut(usize::from(tag)) {
            *mapped = count;
        }
    }

    /// Notes that a request uses its pages no more.
    fn give_back(&mut self, mut pages: Vec<Page<D::Page>>) {
        self.lists.released.extend(pages.drain(..).filter_map(Page::release));
        self.lists.spare.push(pages);
    }

    /// What stays mapped for a session.
    fn kept(&mut self, session: u16) -> Option<&mut Kept<D::Page>> {
        let index = usize::from(session);
        if self.kept.len() <= index {
            self.kept.resize_with(index + 1, Kept::default);
        }
        self.kept.get_mut(index)
    }

    /// Maps the pages of all that waits, in order, but for those that are mapped already.
    fn map_waiting(&mut self, waiting: &[Waiting], segments: &[Segment]) {
        let mut lists = core::mem::take(&mut self.lists);
        for Waiting { command, peer, keeper, segments: range, .. } in waiting {
            let writable = keeper.is_some() || matches!(command, Command::Transfer(Direction::Read, _));
            let mut kept = keeper.and_then(|(session, _)| self.kept(session));
            for segment in segments.get(range.clone()).unwrap_or_default() {
                let found = kept.as_mut().and_then(|kept| kept.find(segment.grant));
                if found.is_none() {
                    lists.wanted.push((*peer, segment.grant, writable));
                }
                lists.found.push(found);
            }
        }
        if !lists.wanted.is_empty() {
            self.hypercalls += 1;
            self.device.map(&lists.wanted, &mut lists.mapped);
            lists.wanted.clear();
        }
        self.lists = lists;
    }
}

/// The pages that waited, in order: found mapped, or what came of mapping them.
struct Outcomes<'a, P> {
    found: Drain<'a, Option<Rc<P>>>,
    mapped: Drain<'a, Option<P>>,
}

/// The pages of a request.
struct Pages<'a> {
    peer: DomId,
    keep: u16,
    segments: &'a [Segment],
}

impl<D: BlockDevice> Medium for VirtioDisk<D> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, token: Token, io: Io<'_>) -> Result<(), Busy> {
        match io {
            Io::Transfer { direction, sector, peer, keep, segments } => {
                self.wait(token, Command::Transfer(direction, sector), Pages { peer, keep, segments })
            }
            Io::Flush if self.flush && !cfg!(feature = "ignore-flush") => {
                let pages = Pages { peer: DomId::INVALID, keep: 0, segments: &[] };
                self.wait(token, Command::Flush, pages)
            }
            // Without a flush there is no cache that could lose anything; and a discard was not offered.
            Io::Flush | Io::Discard { .. } => {
                self.done.push_back(Done { success: io == Io::Flush, ..Done::of(token) });
                Ok(())
            }
        }
    }

    fn kick(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (mut waiting, segments) = (core::mem::take(&mut self.waiting), core::mem::take(&mut self.segments));
        self.map_waiting(&waiting, &segments);
        let mut mapped = core::mem::take(&mut self.lists.mapped);
        let mut found = core::mem::take(&mut self.lists.found);
        let mut outcomes = Outcomes { found: found.drain(..), mapped: mapped.drain(..) };
        for Waiting { tag, command, keeper, segments: range, .. } in waiting.drain(..) {
            let segments = segments.get(range).unwrap_or_default();
            let mut pages = self.lists.spare.pop().unwrap_or_default();
            self.take_pages(tag, keeper, segments, &mut outcomes, &mut pages);
            if pages.len() != segments.len() {
                self.give_back(pages);
                self.finish(tag, false);
            } else if !self.device.push(tag, command, segments, pages) {
                self.finish(tag, false);
            }
        }
        drop(outcomes);
        (self.waiting, self.segments, self.lists.mapped, self.lists.found) = (waiting, segments, mapped, found);
        self.segments.clear();
        self.promised = 0;
        self.unmap_released();
        self.device.kick();
    }

    fn completed(&mut self) -> Option<Done> {
        if self.done.is_empty() {
            while let Some((tag, success, pages)) = self.device.pop() {
                self.give_back(pages);
                self.finish(tag, success);
            }
            // Before anybody is answered: an answered request's pages are the guest's alone, but for those it lets stay.
            self.unmap_released();
        }
        self.done.pop_front()
    }

    fn closed(&mut self, session: u16) {
        if let Some(kept) = self.kept.get_mut(usize::from(session)) {
            kept.clear(&mut self.lists.released);
            self.unmap_released();
        }
    }
}
