//! A virtio block device as a medium (virtio 1.2, section 5.2).
//!
//! The guest's pages are mapped for the device alone while it works on them, and given to it by machine address: this
//! domain never sees the data. Mapping, handing over and unmapping are done in batches.

use crate::medium::{Busy, Geometry, Io, Medium, Token};
use abi::{DomId, GrantRef};
use alloc::{collections::VecDeque, vec::Vec};
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
    /// Maps pages (whose, which, does the device write to it) with one hypercall: an outcome each, in order.
    fn map(&mut self, pages: &[(DomId, GrantRef, bool)]) -> Vec<Option<Self::Page>>;
    /// Ends mappings with one hypercall.
    fn unmap(&mut self, pages: Vec<Self::Page>);
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
    segments: Vec<Segment>,
}

/// A virtio disk.
#[derive(Debug)]
pub struct VirtioDisk<D> {
    device: D,
    geometry: Geometry,
    flush: bool,
    /// Whose request, by tag.
    tokens: Vec<Option<Token>>,
    free: Vec<u16>,
    waiting: Vec<Waiting>,
    /// Queue entries promised to `waiting`.
    promised: usize,
    done: VecDeque<(Token, bool)>,
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
        self.waiting.push(Waiting { tag, command, peer, segments: segments.to_vec() });
        Ok(())
    }

    fn finish(&mut self, tag: u16, success: bool) {
        if let Some(token) = self.tokens.get_mut(usize::from(tag)).and_then(Option::take) {
            self.free.push(tag);
            self.done.push_back((token, success));
        }
    }

    fn unmap(&mut self, pages: Vec<D::Page>) {
        if !pages.is_empty() {
            self.hypercalls += 1;
            self.device.unmap(pages);
        }
    }

    /// Maps the pages of all that waits, in order.
    fn map_waiting(&mut self) -> Vec<Option<D::Page>> {
        let mut wanted = Vec::new();
        for waiting in &self.waiting {
            let writable = matches!(waiting.command, Command::Transfer(Direction::Read, _));
            wanted.extend(waiting.segments.iter().map(|segment| (waiting.peer, segment.grant, writable)));
        }
        if wanted.is_empty() {
            return Vec::new();
        }
        self.hypercalls += 1;
        self.device.map(&wanted)
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
                self.done.push_back((token, io == Io::Flush));
                Ok(())
            }
        }
    }

    fn kick(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut mapped = self.map_waiting().into_iter();
        let mut useless = Vec::new();
        for waiting in core::mem::take(&mut self.waiting) {
            let outcomes: Vec<_> = mapped.by_ref().take(waiting.segments.len()).collect();
            let whole = outcomes.len() == waiting.segments.len() && outcomes.iter().all(Option::is_some);
            let pages: Vec<_> = outcomes.into_iter().flatten().collect();
            if !whole {
                useless.extend(pages);
                self.finish(waiting.tag, false);
            } else if !self.device.push(waiting.tag, waiting.command, &waiting.segments, pages) {
                self.finish(waiting.tag, false);
            }
        }
        self.promised = 0;
        self.unmap(useless);
        self.device.kick();
    }

    fn completed(&mut self) -> Option<(Token, bool)> {
        if self.done.is_empty() {
            let mut pages = Vec::new();
            while let Some((tag, success, mut released)) = self.device.pop() {
                pages.append(&mut released);
                self.finish(tag, success);
            }
            // Before anybody is answered: an answered request's pages are the guest's alone.
            self.unmap(pages);
        }
        self.done.pop_front()
    }
}
