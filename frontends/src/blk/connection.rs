//! A ring to one backend, and the pool of pages granted to it.

use super::Request;
use abi::{DomId, PAGE_SIZE};
use alloc::rc::Rc;
use domain_rt::events::Event;
use domain_rt::grant::{Access, Granted};
use heapless::Vec;
use ring_proto::blk::{Blk, BlkOp, BlkStatus, DIRECT_SEGMENTS, Segment, WireRequest};
use ring_proto::blk_keys::{FrontKeys, QueueKeys};
use ring_proto::memory::RingMemory;
use ring_proto::ring::{Corrupt, Front};

/// Pages of the pool.
pub(super) const PAGES: usize = 96;

pub(super) struct Connection {
    ring: Front<Granted, Blk>,
    pool: Granted,
    event: Rc<Event>,
}

impl Connection {
    /// A fresh ring and pool for the backend in `peer`.
    pub(super) fn new(peer: DomId) -> Option<Self> {
        let ring = Front::new(Granted::new(peer, 1, Access::ReadWrite).ok()?).ok()?;
        let pool = Granted::new(peer, PAGES, Access::ReadWrite).ok()?;
        Some(Self { ring, pool, event: Rc::new(Event::alloc_unbound(peer).ok()?) })
    }

    /// What the backend must know.
    pub(super) fn keys(&self) -> FrontKeys {
        let ring = self.ring.memory().grants().iter().copied().collect();
        let queues = Vec::from_iter([QueueKeys { ring, event: self.event.port() }]);
        // The pool's grants never change, so a backend may leave them mapped.
        FrontKeys { queues, persistent: true }
    }

    pub(super) fn event(&self) -> Rc<Event> {
        self.event.clone()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.ring.poison().is_some()
    }

    pub(super) fn close(&mut self, why: &'static str) {
        self.ring.close(Corrupt::Protocol(why));
    }

    /// Free slots.
    pub(super) fn room(&self) -> u32 {
        if self.is_broken() { 0 } else { self.ring.room() }
    }

    /// Pushes a request, for which there is room: a slot, and at most 11 pages.
    pub(super) fn push(&mut self, id: usize, request: &Request) {
        let mut left = request.bytes;
        let segments: Vec<Segment, DIRECT_SEGMENTS> = request
            .pages
            .iter()
            .map(|page| {
                let len = left.min(PAGE_SIZE);
                left -= len;
                let grant = self.pool.grants().get(*page).copied().unwrap_or_default();
                Segment { grant, offset: 0, len: len as u16 }
            })
            .collect();
        let wire = match request.op {
            BlkOp::FLUSH_DISKCACHE => Some(WireRequest::flush(id as u64)),
            op => WireRequest::transfer_of(op, id as u64, request.sector, &segments),
        };
        if let Some(wire) = wire {
            // The caller has looked at `room`, and there are never more requests open than a ring holds.
            let _ = self.ring.push(&wire);
        }
    }

    /// Shows the backend what was pushed; whether it was sent an event.
    pub(super) fn publish(&mut self) -> bool {
        let needed = self.ring.publish().needed();
        if needed {
            self.event.notify();
        }
        needed
    }

    /// The next answer. If there is none, an event comes when there is.
    pub(super) fn answer(&mut self) -> Option<(usize, BlkStatus)> {
        loop {
            if let Ok(response) = self.ring.pop() {
                return Some((usize::try_from(response.id).unwrap_or(usize::MAX), response.status));
            }
            if !self.ring.final_check().unwrap_or(false) {
                return None;
            }
        }
    }

    /// Puts data into pages.
    pub(super) fn fill(&self, pages: &[usize], data: &[u8]) {
        let chunks = pages.iter().zip(data.chunks(PAGE_SIZE));
        chunks.for_each(|(page, chunk)| self.pool.write(page * PAGE_SIZE, chunk));
    }

    /// Takes data out of pages.
    pub(super) fn copy_out(&self, pages: &[usize], out: &mut [u8]) {
        let chunks = pages.iter().zip(out.chunks_mut(PAGE_SIZE));
        chunks.for_each(|(page, chunk)| self.pool.read(page * PAGE_SIZE, chunk));
    }

    /// Copies pages of an earlier connection's pool.
    pub(super) fn adopt(&self, old: &Self, pages: &[usize]) {
        let mut buffer = [0; PAGE_SIZE];
        for page in pages {
            old.pool.read(page * PAGE_SIZE, &mut buffer);
            self.pool.write(page * PAGE_SIZE, &buffer);
        }
    }
}
