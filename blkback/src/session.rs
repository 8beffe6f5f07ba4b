//! One vbd of one guest: requests off its ring, checked, ordered, tracked, answered.
//!
//! Requests start in ring order and complete in any order, which the protocol allows of reads and writes. A flush
//! starts once all writes before it are done. A barrier (or a flush that brings data) starts once all writes before
//! it are done, is a flush, the write and a flush again, and nothing else starts before it is done. What cannot start
//! yet is held, and nothing behind it is taken off the ring: the ring is the queue.

use crate::counters::Counters;
use crate::medium::{Busy, Done, Geometry, Io, Medium, ReadGrants, Token};
use abi::DomId;
use alloc::{vec, vec::Vec};
use ring_proto::blk::*;
use ring_proto::memory::RingMemory;
use ring_proto::ring::{Back, BadSize, Corrupt, Notify, PopError};
use zerocopy::IntoBytes;

/// The sectors of a disk that a vbd shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First sector.
    pub start: u64,
    /// How many.
    pub sectors: u64,
}

impl Extent {
    /// Whether two extents share a sector.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ends = (self.start.saturating_add(self.sectors), other.start.saturating_add(other.sectors));
        self.start < ends.1 && other.start < ends.0
    }
}

/// A vbd as its guest may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The guest.
    pub peer: DomId,
    /// The sectors of the disk that it is.
    pub extent: Extent,
    /// What it was offered with.
    pub limits: Limits,
    /// How many of its grants stay mapped, on each queue.
    pub keep: u16,
}

/// What a vbd is offered with at most: the limits of its requests, from the disk's nature and the vbd's mode.
pub fn limits(geometry: &Geometry, extent: &Extent, read_only: bool) -> Limits {
    Limits {
        sectors: extent.sectors,
        read_only: read_only || geometry.read_only,
        flush: true,
        discard: geometry.discard,
        indirect_segments: geometry.max_segments.min(MAX_SEGMENTS as u16),
    }
}

/// What a request still has to do. A barrier goes through all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    FlushBefore,
    Only,
    FlushAfter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Transfer(Direction, Order),
    Flush,
    Discard,
}

/// A request that was taken and is not answered. Its segment list is kept for the next request in the same place.
#[derive(Debug)]
struct Job {
    tag: Tag,
    kind: Kind,
    stage: Stage,
    sector: u64,
    count: u64,
    segments: Vec<Segment>,
}

impl Stage {
    fn next(self) -> Option<Self> {
        match self {
            Self::FlushBefore => Some(Self::Only),
            Self::Only => Some(Self::FlushAfter),
            Self::FlushAfter => None,
        }
    }
}

impl Job {
    fn changes_disk(&self) -> bool {
        matches!(self.kind, Kind::Transfer(Direction::Write, _) | Kind::Discard)
    }

    fn is_barrier(&self) -> bool {
        matches!(self.kind, Kind::Transfer(_, Order::Barrier))
    }

    fn io(&self, config: &Config) -> Io<'_> {
        match (self.stage, self.kind) {
            (Stage::Only, Kind::Transfer(direction, _)) => {
                let Config { peer, keep, .. } = *config;
                Io::Transfer { direction, sector: self.sector, peer, keep, segments: &self.segments }
            }
            (Stage::Only, Kind::Discard) => Io::Discard { sector: self.sector, count: self.count },
            _ => Io::Flush,
        }
    }
}

/// One queue of a vbd's connection.
#[derive(Debug)]
pub struct Session<M> {
    ring: Back<M, Blk>,
    config: Config,
    /// Session and generation of its tokens.
    place: (u16, u32),
    jobs: Vec<Job>,
    free: Vec<u16>,
    /// The next request, taken and not startable yet.
    held: Option<u16>,
    /// Writes and discards in flight.
    changes: usize,
    /// The barrier under way, and whether its next stage is to be submitted.
    barrier: Option<(u16, bool)>,
    /// The segments of the indirect request in hand.
    lists: Vec<WireSegment>,
    counters: Counters,
}

impl<M: RingMemory> Session<M> {
    /// Serves the ring in `memory`. `place` goes into the tokens.
    pub fn new(memory: M, config: Config, place: (u16, u32)) -> Result<Self, BadSize> {
        let ring = Back::attach(memory)?;
        let slots = ring.slots() as u16;
        let empty = |_| Job {
            tag: Tag { id: 0, op: BlkOp::READ },
            kind: Kind::Flush,
            stage: Stage::Only,
            sector: 0,
            count: 0,
            segments: Vec::new(),
        };
        Ok(Self {
            ring,
            config,
            place,
            jobs: (0..slots).map(empty).collect(),
            free: (0..slots).rev().collect(),
            held: None,
            changes: 0,
            barrier: None,
            lists: vec![WireSegment::default(); config.limits.indirect_segments.into()],
            counters: Counters::default(),
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Session and generation of its tokens.
    pub fn place(&self) -> (u16, u32) {
        self.place
    }

    /// What it serves, and whom.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Requests taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    /// Starts what can be started, until the ring is empty or the next request must wait. Whether anything was.
    pub fn take(&mut self, medium: &mut impl Medium, grants: &mut impl ReadGrants) -> Result<bool, Corrupt> {
        if let Some((slot, true)) = self.barrier
            && self.submit(slot, medium).is_err()
        {
            return Ok(false);
        }
        let mut moved = false;
        loop {
            let slot = match self.held.take() {
                Some(slot) => slot,
                None => match self.ring.pop() {
                    Ok(wire) => {
                        moved = true;
                        match self.admit(&wire, grants) {
                            Some(slot) => slot,
                            None => continue,
                        }
                    }
                    Err(PopError::Corrupt(corrupt)) => return Err(corrupt),
                    Err(PopError::Empty) if self.ring.final_check()? => continue,
                    Err(PopError::Empty) => return Ok(moved),
                },
            };
            if self.must_wait(slot) || self.submit(slot, medium).is_err() {
                self.held = Some(slot);
                return Ok(moved);
            }
            moved = true;
        }
    }

    /// Takes a request in, or answers it at once if it is bad.
    fn admit(&mut self, wire: &WireRequest, grants: &mut impl ReadGrants) -> Option<u16> {
        // A ring has as many slots as there are jobs, and a slot taken is a job until it is answered.
        let slot = self.free.pop()?;
        match self.fill(slot, wire, grants) {
            Ok(()) => Some(slot),
            Err(status) => {
                self.free.push(slot);
                self.answer(wire.tag(), status);
                None
            }
        }
    }

    fn fill(&mut self, slot: u16, wire: &WireRequest, grants: &mut impl ReadGrants) -> Result<(), BlkStatus> {
        let request = wire.parse(&self.config.limits)?;
        let job = self.jobs.get_mut(usize::from(slot)).ok_or(BlkStatus::ERROR)?;
        job.tag = wire.tag();
        job.stage = Stage::Only;
        job.segments.clear();
        match request {
            Request::Flush => job.kind = Kind::Flush,
            Request::Discard { sector, count, .. } => {
                job.kind = Kind::Discard;
                (job.sector, job.count) = (self.config.extent.start + sector, count);
            }
            Request::Transfer { direction, sector, source, order } => {
                job.kind = Kind::Transfer(direction, order);
                if order == Order::Barrier {
                    job.stage = Stage::FlushBefore;
                }
                match source {
                    Source::Direct(segments) => job.segments.extend_from_slice(&segments),
                    Source::Indirect { pages, count } => {
                        let bytes = self.lists.get_mut(..usize::from(count)).ok_or(BlkStatus::ERROR)?;
                        if !grants.read(self.config.peer, &pages, bytes.as_mut_bytes()) {
                            return Err(BlkStatus::ERROR);
                        }
                        self.counters.list_bytes += size_of_val(bytes) as u64;
                        for wire in bytes {
                            job.segments.push(Segment::parse(wire).ok_or(BlkStatus::ERROR)?);
                        }
                        check_transfer(direction, sector, &job.segments, &self.config.limits)?;
                    }
                }
                (job.sector, job.count) = (self.config.extent.start + sector, sectors_of(&job.segments));
            }
        }
        Ok(())
    }

    /// Whether a request may not start before others are done.
    fn must_wait(&self, slot: u16) -> bool {
        let Some(job) = self.jobs.get(usize::from(slot)) else { return false };
        let orders = job.kind == Kind::Flush || job.is_barrier();
        self.barrier.is_some() || (orders && self.changes > 0)
    }

    /// Hands the current stage of a job to the disk.
    fn submit(&mut self, slot: u16, medium: &mut impl Medium) -> Result<(), Busy> {
        let Some(job) = self.jobs.get(usize::from(slot)) else { return Ok(()) };
        let (session, generation) = self.place;
        medium.submit(Token { session, generation, slot }, job.io(&self.config))?;
        if job.is_barrier() {
            self.barrier = Some((slot, false));
        } else {
            self.changes += usize::from(job.changes_disk());
        }
        Ok(())
    }

    /// Notes that the disk is done with an operation of this session. The caller calls [`take`](Self::take) again, as
    /// others may have waited for it.
    pub fn complete(&mut self, Done { token: Token { slot, .. }, success, copied, mapped }: Done) {
        self.counters.bytes_copied += copied;
        self.counters.pages_mapped += u64::from(mapped.new);
        self.counters.pages_kept += u64::from(mapped.kept);
        let Some(job) = self.jobs.get_mut(usize::from(slot)) else { return };
        if job.is_barrier() {
            if success && let Some(next) = job.stage.next() {
                job.stage = next;
                self.barrier = Some((slot, true));
                return;
            }
            self.barrier = None;
        } else if job.changes_disk() {
            self.changes -= 1;
        }
        let (tag, kind, bytes) = (job.tag, job.kind, job.count.saturating_mul(u64::from(SECTOR)));
        self.free.push(slot);
        match kind {
            _ if !success => {}
            Kind::Transfer(Direction::Read, _) => self.counters.bytes_read += bytes,
            Kind::Transfer(Direction::Write, _) => self.counters.bytes_written += bytes,
            Kind::Discard => self.counters.discards += 1,
            Kind::Flush => {}
        }
        self.counters.flushes += u64::from(matches!(kind, Kind::Flush | Kind::Transfer(_, Order::Barrier)));
        self.answer(tag, if success { BlkStatus::OKAY } else { BlkStatus::ERROR });
    }

    fn answer(&mut self, tag: Tag, status: BlkStatus) {
        // Each request taken is answered once, so a slot is free unless the ring was closed meanwhile.
        let _ = self.ring.push(&tag.response(status));
        self.counters.requests += 1;
        self.counters.errors += u64::from(status != BlkStatus::OKAY);
    }

    /// Shows the guest all answers since the last call.
    pub fn publish(&mut self) -> Notify {
        let notify = self.ring.publish();
        self.counters.notifications += u64::from(notify.needed());
        notify
    }
}
