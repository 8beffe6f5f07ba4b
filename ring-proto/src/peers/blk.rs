//! Block peers: a frontend that knows what every sector must hold, a RAM-disk backend, and bad requests.

use super::{PAGE, Pages, Rng};
use crate::blk::*;
use crate::memory::RingMemory;
use crate::ring::{Back, Corrupt, Front, Notify, PopError};
use abi::GrantRef;
use alloc::{collections::BTreeMap, vec, vec::Vec};
use zerocopy::IntoBytes;

const SECTOR_BYTES: usize = SECTOR as usize;

struct InFlight {
    queue: usize,
    op: BlkOp,
    direction: Option<Direction>,
    sectors: core::ops::Range<u64>,
    segments: Vec<Segment>,
    /// Written data, or what a read must return.
    data: Vec<u8>,
    pages: Vec<GrantRef>,
}

/// A frontend that keeps every rule and checks every answer against its own copy of the disk. It panics where the
/// backend is wrong.
pub struct PoliteFront<M> {
    queues: Vec<Front<M, Blk>>,
    pages: Pages,
    /// Grants that stay, and are free now, by queue; `None`: each ends with its request.
    spare: Option<Vec<Vec<GrantRef>>>,
    disk: Vec<u8>,
    limits: Limits,
    in_flight: BTreeMap<u64, InFlight>,
    next_id: u64,
    rng: Rng,
    /// Requests answered so far.
    pub answered: u64,
}

impl<M: RingMemory> PoliteFront<M> {
    /// A frontend of a disk that holds `disk` now and was offered with `limits`.
    pub fn new(memory: M, pages: Pages, disk: Vec<u8>, limits: Limits, seed: u64) -> Self {
        Self::with_queues([memory], pages, disk, limits, seed)
    }

    /// One with a queue in each memory.
    pub fn with_queues(
        memories: impl IntoIterator<Item = M>,
        pages: Pages,
        disk: Vec<u8>,
        limits: Limits,
        seed: u64,
    ) -> Self {
        let queues = memories.into_iter().map(|memory| Front::new(memory).expect("a ring")).collect();
        let (in_flight, rng) = (BTreeMap::new(), Rng(seed));
        Self { queues, pages, spare: None, disk, limits, in_flight, next_id: 0, rng, answered: 0 }
    }

    /// From now on it uses the same grants again and again.
    #[must_use]
    pub fn persistent(self) -> Self {
        Self { spare: Some(vec![Vec::new(); self.queues.len()]), ..self }
    }

    /// What the disk must hold when nothing is in flight.
    pub fn disk(&self) -> &[u8] {
        &self.disk
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Checks what was answered and asks for more, if `ask`.
    pub fn step(&mut self, ask: bool) -> Notify {
        for queue in 0..self.queues.len() {
            loop {
                match self.queues[queue].pop() {
                    Ok(response) => self.check(queue, response),
                    Err(PopError::Empty) if !self.queues[queue].final_check().expect("a sound ring") => break,
                    Err(PopError::Empty) => {}
                    Err(PopError::Corrupt(corrupt)) => {
                        panic!("the backend broke the ring: {corrupt:?}")
                    }
                }
            }
        }
        for queue in 0..self.queues.len() {
            while ask && self.queues[queue].room() > 0 && !self.rng.one_in(8) {
                self.ask(queue);
            }
        }
        let notified = self.queues.iter_mut().map(Front::publish);
        notified.fold(Notify::Hold, |all, one| if one.needed() { one } else { all })
    }

    /// A grant for a request.
    fn grant(&mut self, queue: usize, writable: bool) -> GrantRef {
        match &mut self.spare {
            Some(spare) => spare[queue].pop().unwrap_or_else(|| self.pages.grant(true)),
            None => self.pages.grant(writable),
        }
    }

    /// A request is over.
    fn end(&mut self, queue: usize, grant: GrantRef) {
        match &mut self.spare {
            Some(spare) => spare[queue].push(grant),
            None => self.pages.revoke(grant),
        }
    }

    fn check(&mut self, queue: usize, response: WireResponse) {
        let request = self.in_flight.remove(&response.id).expect("an answer to a request");
        assert_eq!(request.queue, queue, "answered where it was asked");
        assert_eq!((response.op, response.status), (request.op, BlkStatus::OKAY), "answer to {}", response.id);
        if request.direction == Some(Direction::Read) {
            let mut expected = request.data.as_slice();
            for segment in &request.segments {
                let (now, later) = expected.split_at(segment.len.into());
                let mut got = vec![0; segment.len.into()];
                self.pages.copy_from(segment.grant, segment.offset.into(), &mut got).expect("our own page");
                assert!(got == now, "read of sectors {:?} returned other data", request.sectors);
                expected = later;
            }
        }
        request.pages.into_iter().for_each(|page| self.end(queue, page));
        self.answered += 1;
    }

    fn ask(&mut self, queue: usize) {
        let id = self.next_id;
        let (request, in_flight) = match self.rng.below(8) {
            0 if self.limits.flush => (WireRequest::flush(id), InFlight::control(queue, BlkOp::FLUSH_DISKCACHE, 0..0)),
            1 if self.limits.discard && !self.limits.read_only => {
                let sectors = self.range(64);
                if self.overlaps(&sectors) {
                    return;
                }
                self.disk[bytes_of(&sectors)].fill(0);
                let wire = WireRequest::discard_of(id, sectors.start, sectors.end - sectors.start);
                (wire, InFlight::control(queue, BlkOp::DISCARD, sectors))
            }
            2..=4 if !self.limits.read_only => match self.transfer(queue, id, Direction::Write) {
                Some(pair) => pair,
                None => return,
            },
            _ => match self.transfer(queue, id, Direction::Read) {
                Some(pair) => pair,
                None => return,
            },
        };
        self.next_id += 1;
        self.in_flight.insert(id, in_flight);
        self.queues[queue].push(&request).expect("room was checked");
    }

    /// Up to `most` sectors somewhere on the disk.
    fn range(&mut self, most: u64) -> core::ops::Range<u64> {
        let count = 1 + self.rng.below(most.min(self.limits.sectors));
        let start = self.rng.below(self.limits.sectors - count + 1);
        start..start + count
    }

    fn overlaps(&self, sectors: &core::ops::Range<u64>) -> bool {
        self.in_flight.values().any(|other| sectors.start < other.sectors.end && other.sectors.start < sectors.end)
    }

    fn transfer(&mut self, queue: usize, id: u64, direction: Direction) -> Option<(WireRequest, InFlight)> {
        let indirect = self.limits.indirect_segments > 0 && self.rng.one_in(3);
        let most = if indirect { self.limits.indirect_segments.into() } else { DIRECT_SEGMENTS as u64 };
        let mut left = 1 + self.rng.below(most * 4);
        let (mut segments, mut pages) = (Vec::new(), Vec::new());
        while left > 0 && (segments.len() as u64) < most {
            let count = (1 + self.rng.below(8)).min(left);
            let offset = self.rng.below(8 - count + 1);
            let grant = self.grant(queue, direction == Direction::Read);
            pages.push(grant);
            let (offset, len) = ((offset * 512) as u16, (count * 512) as u16);
            segments.push(Segment { grant, offset, len });
            left -= count;
        }
        let count = sectors_of(&segments);
        let start = self.rng.below((self.limits.sectors + 1).saturating_sub(count).max(1));
        let sectors = start..start + count;
        if count > self.limits.sectors || self.overlaps(&sectors) {
            pages.into_iter().for_each(|page| self.end(queue, page));
            return None;
        }
        let data = self.prepare(direction, &sectors, &segments);
        let op = if direction == Direction::Read { BlkOp::READ } else { BlkOp::WRITE };
        let (op, wire) = if indirect {
            (op, self.indirect(queue, id, direction, start, &segments, &mut pages))
        } else {
            let op = if direction == Direction::Write && self.limits.flush && self.rng.one_in(5) {
                BlkOp::WRITE_BARRIER
            } else {
                op
            };
            (op, WireRequest::transfer_of(op, id, start, &segments).expect("few segments"))
        };
        Some((wire, InFlight { queue, op, direction: Some(direction), sectors, segments, data, pages }))
    }

    /// The data to write, put into the pages and the model; or the data that a read must find.
    fn prepare(&mut self, direction: Direction, sectors: &core::ops::Range<u64>, segments: &[Segment]) -> Vec<u8> {
        if direction == Direction::Read {
            return self.disk[bytes_of(sectors)].to_vec();
        }
        let mut data = vec![0; bytes_of(sectors).len()];
        self.rng.fill(&mut data);
        let mut rest = data.as_slice();
        for segment in segments {
            let (now, later) = rest.split_at(segment.len.into());
            self.pages.fill(segment.grant, segment.offset.into(), now);
            rest = later;
        }
        self.disk[bytes_of(sectors)].copy_from_slice(&data);
        data
    }

    fn indirect(
        &mut self,
        queue: usize,
        id: u64,
        direction: Direction,
        start: u64,
        segments: &[Segment],
        pages: &mut Vec<GrantRef>,
    ) -> WireRequest {
        let lists: Vec<GrantRef> = segments
            .chunks(SEGMENTS_PER_PAGE)
            .map(|chunk| {
                let wire: Vec<WireSegment> = chunk.iter().map(Segment::wire).collect();
                let page = self.grant(queue, false);
                self.pages.fill(page, 0, wire.as_bytes());
                page
            })
            .collect();
        pages.extend(&lists);
        WireRequest::indirect_of(direction, id, start, segments.len() as u16, &lists).expect("few pages")
    }
}

impl InFlight {
    fn control(queue: usize, op: BlkOp, sectors: core::ops::Range<u64>) -> Self {
        Self { queue, op, direction: None, sectors, segments: Vec::new(), data: Vec::new(), pages: Vec::new() }
    }
}

fn bytes_of(sectors: &core::ops::Range<u64>) -> core::ops::Range<usize> {
    sectors.start as usize * SECTOR_BYTES..sectors.end as usize * SECTOR_BYTES
}

/// A backend on a RAM disk that does everything at once and in order.
pub struct PoliteBack<M> {
    ring: Back<M, Blk>,
    pages: Pages,
    /// The disk.
    pub disk: Vec<u8>,
    limits: Limits,
}

impl<M: RingMemory> PoliteBack<M> {
    /// Serves `disk` within `limits`.
    pub fn new(memory: M, pages: Pages, disk: Vec<u8>, limits: Limits) -> Self {
        Self { ring: Back::attach(memory).expect("a ring"), pages, disk, limits }
    }

    /// Does all that was asked.
    pub fn step(&mut self) -> Result<Notify, Corrupt> {
        loop {
            match self.ring.pop() {
                Ok(wire) => {
                    let status = self.serve(&wire).err().unwrap_or(BlkStatus::OKAY);
                    self.ring.push(&wire.tag().response(status)).expect("one answer a request");
                }
                Err(PopError::Corrupt(corrupt)) => return Err(corrupt),
                Err(PopError::Empty) if self.ring.final_check()? => {}
                Err(PopError::Empty) => return Ok(self.ring.publish()),
            }
        }
    }

    fn serve(&mut self, wire: &WireRequest) -> Result<(), BlkStatus> {
        match wire.parse(&self.limits)? {
            Request::Flush => Ok(()),
            Request::Discard { sector, count, .. } => {
                self.disk[bytes_of(&(sector..sector + count))].fill(0);
                Ok(())
            }
            Request::Transfer { direction, sector, source: Source::Direct(segments), .. } => {
                self.transfer(direction, sector, &segments)
            }
            Request::Transfer { direction, sector, source: Source::Indirect { pages, count }, .. } => {
                let mut lists = vec![WireSegment::default(); pages.len() * SEGMENTS_PER_PAGE];
                for (page, list) in pages.iter().zip(lists.chunks_mut(SEGMENTS_PER_PAGE)) {
                    self.pages.copy_from(*page, 0, list.as_mut_bytes()).map_err(|_| BlkStatus::ERROR)?;
                }
                let wire = lists.iter().take(count.into());
                let segments = wire.map(Segment::parse).collect::<Option<Vec<_>>>();
                let segments = segments.ok_or(BlkStatus::ERROR)?;
                check_transfer(direction, sector, &segments, &self.limits)?;
                self.transfer(direction, sector, &segments)
            }
        }
    }

    fn transfer(&mut self, direction: Direction, sector: u64, segments: &[Segment]) -> Result<(), BlkStatus> {
        let mut at = sector as usize * SECTOR_BYTES;
        for segment in segments {
            assert!(usize::from(segment.offset) + usize::from(segment.len) <= PAGE, "checked segments");
            let bytes = &mut self.disk[at..at + usize::from(segment.len)];
            let copied = match direction {
                Direction::Read => self.pages.copy_to(segment.grant, segment.offset.into(), bytes),
                Direction::Write => self.pages.copy_from(segment.grant, segment.offset.into(), bytes),
            };
            copied.map_err(|_| BlkStatus::ERROR)?;
            at += usize::from(segment.len);
        }
        Ok(())
    }
}

/// A request that is nearly right, or not at all.
pub fn hostile_request(rng: &mut Rng, pages: &[GrantRef], sectors: u64) -> WireRequest {
    let mut request = WireRequest::flush(rng.next());
    request.op = BlkOp(rng.below(8) as u8);
    if rng.one_in(16) {
        rng.fill(request.as_mut_bytes());
        return request;
    }
    request.sector = match rng.below(4) {
        0 => sectors - rng.below(20).min(sectors),
        1 => u64::MAX - rng.below(300),
        _ => rng.below(sectors),
    };
    let grant = |rng: &mut Rng| match rng.below(8) {
        0 => GrantRef(rng.next() as u32),
        _ => pages.get(rng.below(pages.len().max(1) as u64) as usize).copied().unwrap_or_default(),
    };
    if request.op == BlkOp::INDIRECT {
        let mut indirect: WireIndirect = zerocopy::transmute!(request);
        indirect.indirect_op = BlkOp(rng.below(3) as u8);
        indirect.nr_segments = rng.edgy();
        indirect.grefs = core::array::from_fn(|_| grant(rng));
        return zerocopy::transmute!(indirect);
    }
    if request.op == BlkOp::DISCARD {
        let mut discard: WireDiscard = zerocopy::transmute!(request);
        discard.count = if rng.one_in(3) { rng.next() } else { rng.below(40) };
        return zerocopy::transmute!(discard);
    }
    request.nr_segments = if rng.one_in(4) { rng.next() as u8 } else { rng.below(13) as u8 };
    for segment in &mut request.segments {
        let (first, last) = (rng.below(9) as u8, rng.below(9) as u8);
        let ordered = if rng.one_in(6) { (first, last) } else { (first.min(last), first.max(last).min(7)) };
        *segment = WireSegment { gref: grant(rng), first: ordered.0, last: ordered.1, pad: [0xaa; 2] };
    }
    request
}
