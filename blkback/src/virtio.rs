//! A virtio block device as a medium (virtio 1.2, section 5.2).
//!
//! The guest's pages are mapped for the device alone while it works on them, and given to it by machine address: this
//! domain never sees the data. Mapping, handing over and unmapping are done in batches.

use crate::medium::{Busy, Done, Geometry, Io, Medium, Token};
use abi::{DomId, GrantRef};
use alloc::{collections::VecDeque, vec::Vec};
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
    fn push(&mut self, tag: u16, command: Command, segments: &[Segment], pages: Vec<Self::Page>) -> bool;
    /// Tells the device, if it asked to be told.
    fn kick(&mut self);
    /// A request that the device is done with: its tag, whether it succeeded, and its pages.
    fn pop(&mut self) -> Option<(u16, bool, Vec<Self::Page>)>;
}

/// A request that was submitted since the last kick.
#[derive(Debug)]
struct Waiting {
    tag: u16,
    command: Command,
    peer: DomId,
    /// Its pages, in the list of those that wait.
    segments: Range<usize>,
}

/// Lists that are kept so that they are allocated once.
#[derive(Debug)]
struct Lists<P> {
    /// Pages to be mapped, and what came of it.
    wanted: Vec<(DomId, GrantRef, bool)>,
    mapped: Vec<Option<P>>,
    /// Pages to be unmapped.
    released: Vec<P>,
    /// Empty lists for the pages of requests.
    spare: Vec<Vec<P>>,
}

/// A virtio disk.
#[derive(Debug)]
pub struct VirtioDisk<D: BlockDevice> {
    device: D,
    geometry: Geometry,
    flush: bool,
    /// Whose request, by tag.
    tokens: Vec<Option<Token>>,
    free: Vec<u16>,
    waiting: Vec<Waiting>,
    segments: Vec<Segment>,
    lists: Lists<D::Page>,
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
            lists: Lists { wanted: Vec::new(), mapped: Vec::new(), released: Vec::new(), spare: Vec::new() },
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

    fn wait(&mut self, token: Token, command: Command, peer: DomId, segments: &[Segment]) -> Result<(), Busy> {
        let entries = self.device.entries(segments.len());
        if self.device.room() < self.promised + entries {
            return Err(Busy);
        }
        let tag = self.free.pop().ok_or(Busy)?;
        if let Some(place) = self.tokens.get_mut(usize::from(tag)) {
            *place = Some(token);
        }
        self.promised += entries;
        let first = self.segments.len();
        self.segments.extend_from_slice(segments);
        self.waiting.push(Waiting { tag, command, peer, segments: first..self.segments.len() });
        Ok(())
    }

    fn finish(&mut self, tag: u16, success: bool) {
        if let Some(token) = self.tokens.get_mut(usize::from(tag)).and_then(Option::take) {
            self.free.push(tag);
            // The device worked on the guest's pages.
            self.done.push_back(Done { token, success, copied: 0 });
        }
    }

    /// Ends the mappings that have been released.
    fn unmap_released(&mut self) {
        if !self.lists.released.is_empty() {
            self.hypercalls += 1;
            self.device.unmap(&mut self.lists.released);
        }
    }

    /// Maps the pages of all that waits, in order.
    fn map_waiting(&mut self) {
        let Lists { wanted, mapped, .. } = &mut self.lists;
        for Waiting { command, peer, segments, .. } in &self.waiting {
            let writable = matches!(command, Command::Transfer(Direction::Read, _));
            let segments = self.segments.get(segments.clone()).unwrap_or_default();
            wanted.extend(segments.iter().map(|segment| (*peer, segment.grant, writable)));
        }
        if !wanted.is_empty() {
            self.hypercalls += 1;
            self.device.map(wanted, mapped);
            wanted.clear();
        }
    }
}

impl<D: BlockDevice> Medium for VirtioDisk<D> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, token: Token, io: Io<'_>) -> Result<(), Busy> {
        match io {
            Io::Transfer { direction, sector, peer, segments } => {
                self.wait(token, Command::Transfer(direction, sector), peer, segments)
            }
            Io::Flush if self.flush => self.wait(token, Command::Flush, DomId::INVALID, &[]),
            // Without a flush there is no cache that could lose anything; and a discard was not offered.
            Io::Flush | Io::Discard { .. } => {
                self.done.push_back(Done { token, success: io == Io::Flush, copied: 0 });
                Ok(())
            }
        }
    }

    fn kick(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        self.map_waiting();
        let (mut waiting, segments) = (core::mem::take(&mut self.waiting), core::mem::take(&mut self.segments));
        let mut mapped = core::mem::take(&mut self.lists.mapped);
        let mut outcomes = mapped.drain(..);
        for Waiting { tag, command, segments: range, .. } in waiting.drain(..) {
            let segments = segments.get(range).unwrap_or_default();
            let mut pages = self.lists.spare.pop().unwrap_or_default();
            pages.extend(outcomes.by_ref().take(segments.len()).flatten());
            if pages.len() != segments.len() {
                self.lists.released.append(&mut pages);
                self.lists.spare.push(pages);
                self.finish(tag, false);
            } else if !self.device.push(tag, command, segments, pages) {
                self.finish(tag, false);
            }
        }
        drop(outcomes);
        (self.waiting, self.segments, self.lists.mapped) = (waiting, segments, mapped);
        self.segments.clear();
        self.promised = 0;
        self.unmap_released();
        self.device.kick();
    }

    fn completed(&mut self) -> Option<Done> {
        if self.done.is_empty() {
            while let Some((tag, success, mut pages)) = self.device.pop() {
                self.lists.released.append(&mut pages);
                self.lists.spare.push(pages);
                self.finish(tag, success);
            }
            // Before anybody is answered: an answered request's pages are the guest's alone.
            self.unmap_released();
        }
        self.done.pop_front()
    }
}
