//! The block ring (`io/blkif.h`): wire structures, and requests once checked.
//!
//! Sectors on the wire are 512 bytes, whatever the disk's own are, as every frontend without
//! `feature-large-sector-size` takes them.

use crate::ring::RingClass;
use abi::GrantRef;
use core::mem::offset_of;
use heapless::Vec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of a sector on the wire.
pub const SECTOR: u32 = 512;
/// Bytes a page.
pub const PAGE: usize = 4096;
/// Sectors of a page.
pub const SECTORS_PER_PAGE: u8 = (PAGE / SECTOR as usize) as u8;
/// Most segments in a ring slot.
pub const DIRECT_SEGMENTS: usize = 11;
/// Most pages of indirect segments.
pub const INDIRECT_PAGES: usize = 8;
/// Segments in a page of them.
pub const SEGMENTS_PER_PAGE: usize = PAGE / size_of::<WireSegment>();
/// Most segments of an indirect request that any backend here takes.
pub const MAX_SEGMENTS: usize = 256;

/// The block ring.
#[derive(Debug)]
pub enum Blk {}
impl RingClass for Blk {
    type Request = WireRequest;
    type Response = WireResponse;
}

/// What to do. Open: a peer may send any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct BlkOp(pub u8);

impl BlkOp {
    /// Read sectors.
    pub const READ: Self = Self(0);
    /// Write sectors.
    pub const WRITE: Self = Self(1);
    /// Write sectors, after all writes before and before all writes after.
    pub const WRITE_BARRIER: Self = Self(2);
    /// Make what was written durable.
    pub const FLUSH_DISKCACHE: Self = Self(3);
    /// Sectors no longer used.
    pub const DISCARD: Self = Self(5);
    /// A read or write with its segments in pages of their own.
    pub const INDIRECT: Self = Self(6);
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct BlkStatus(pub i16);

impl BlkStatus {
    /// Done.
    pub const OKAY: Self = Self(0);
    /// Failed, or a bad request.
    pub const ERROR: Self = Self(-1);
    /// Not something this backend does.
    pub const EOPNOTSUPP: Self = Self(-2);
}

/// Part of a page to transfer (`blkif_request_segment`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WireSegment {
    /// The page.
    pub gref: GrantRef,
    /// First sector of the page.
    pub first: u8,
    /// Last sector of the page, inclusive.
    pub last: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// A slot: `blkif_request`, read as another structure by its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WireRequest {
    /// What to do.
    pub op: BlkOp,
    /// Segments; in a discard, flags.
    pub nr_segments: u8,
    /// The device; also known from the ring.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
    /// The segments.
    pub segments: [WireSegment; DIRECT_SEGMENTS],
}

/// A slot as a discard (`blkif_request_discard`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WireDiscard {
    /// [`BlkOp::DISCARD`].
    pub op: BlkOp,
    /// Bit 0: leave no copy.
    pub flags: u8,
    /// The device.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
    /// How many.
    pub count: u64,
    /// The rest of the slot.
    pub rest: [u64; 10],
}

/// A slot as an indirect request (`blkif_request_indirect`). On x86-64 the C structure is not packed: `id` is at 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WireIndirect {
    /// [`BlkOp::INDIRECT`].
    pub op: BlkOp,
    /// What to do with the segments: read or write.
    pub indirect_op: BlkOp,
    /// Segments in all.
    pub nr_segments: u16,
    /// Padding.
    pub pad: u32,
    /// Echoed in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
    /// The device.
    pub handle: u16,
    /// Padding.
    pub pad2: u16,
    /// The pages of segments.
    pub grefs: [GrantRef; INDIRECT_PAGES],
    /// The rest of the slot.
    pub rest: [u32; 13],
}

/// `blkif_response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WireResponse {
    /// Of the request.
    pub id: u64,
    /// Of the request.
    pub op: BlkOp,
    /// Zero.
    pub pad: u8,
    /// How it went.
    pub status: BlkStatus,
    /// Zero.
    pub pad2: u32,
}

const _: () = {
    assert!(size_of::<WireRequest>() == 112 && offset_of!(WireRequest, id) == 8);
    assert!(offset_of!(WireRequest, sector) == 16 && offset_of!(WireRequest, segments) == 24);
    assert!(size_of::<WireSegment>() == 8 && offset_of!(WireSegment, last) == 5);
    assert!(size_of::<WireDiscard>() == 112 && offset_of!(WireDiscard, count) == 24);
    assert!(size_of::<WireIndirect>() == 112 && offset_of!(WireIndirect, id) == 8);
    assert!(offset_of!(WireIndirect, handle) == 24 && offset_of!(WireIndirect, grefs) == 28);
    assert!(size_of::<WireResponse>() == 16 && offset_of!(WireResponse, status) == 10);
    assert!(Blk::SLOT == 112 && crate::ring::slots::<Blk>(PAGE) == 32);
};

/// Bits of the `info` key.
pub mod info {
    /// A CD-ROM.
    pub const CDROM: u32 = 1;
    /// Removable.
    pub const REMOVABLE: u32 = 2;
    /// Not to be written.
    pub const READONLY: u32 = 4;
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk into the guest's pages.
    Read,
    /// From the guest's pages to the disk.
    Write,
}

/// Part of one granted page to transfer, within the page and not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub grant: GrantRef,
    /// First byte in the page, a multiple of 512.
    pub offset: u16,
    /// Bytes, a multiple of 512, at least 512.
    pub len: u16,
}

impl Segment {
    /// Checks a segment of a peer's.
    pub fn parse(wire: &WireSegment) -> Option<Self> {
        let WireSegment { gref, first, last, .. } = *wire;
        if first > last || last >= SECTORS_PER_PAGE {
            return None;
        }
        let (first, end) = (u16::from(first), u16::from(last) + 1);
        let sector = SECTOR as u16;
        Some(Self { grant: gref, offset: first * sector, len: (end - first) * sector })
    }

    /// The segment as a peer reads it; the bytes after whole sectors are left out.
    pub fn wire(&self) -> WireSegment {
        let sector = SECTOR as u16;
        let (first, count) = (self.offset / sector, self.len / sector);
        let last = (first + count).saturating_sub(1);
        WireSegment { gref: self.grant, first: first as u8, last: last as u8, pad: [0; 2] }
    }
}

/// What the backend offers on one device: the limits that a request is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the device in sectors of 512 bytes.
    pub sectors: u64,
    /// Writes are errors.
    pub read_only: bool,
    /// Barriers and flushes are taken.
    pub flush: bool,
    /// Discards are taken.
    pub discard: bool,
    /// Most segments of an indirect request, at most [`MAX_SEGMENTS`]; 0: none are taken.
    pub indirect_segments: u16,
}

/// Who asked, to be told how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The frontend's name for the request.
    pub id: u64,
    /// The operation of the slot.
    pub op: BlkOp,
}

impl Tag {
    /// The answer.
    pub fn response(self, status: BlkStatus) -> WireResponse {
        WireResponse { id: self.id, op: self.op, pad: 0, status, pad2: 0 }
    }
}

/// What a request keeps in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing: it may pass others and be passed.
    Free,
    /// A barrier, or a flush with data: after all writes before it, before all writes after it, durable when
    /// answered.
    Barrier,
}

/// Where a transfer's segments are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Checked: they fill exactly the sectors of the request.
    Direct(Vec<Segment, DIRECT_SEGMENTS>),
    /// In pages to be copied first; [`check_transfer`] checks what is in them.
    Indirect {
        /// The pages.
        pages: Vec<GrantRef, INDIRECT_PAGES>,
        /// Segments in all, at least 1.
        count: u16,
    },
}

/// A checked request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Move data.
    Transfer {
        /// Which way.
        direction: Direction,
        /// First sector; with direct segments the end lies on the device.
        sector: u64,
        /// The memory.
        source: Source,
        /// What it keeps in order.
        order: Order,
    },
    /// Finish all writes asked for before and make them durable. An empty barrier is the same.
    Flush,
    /// Forget sectors; the range lies on the device.
    Discard {
        /// First sector.
        sector: u64,
        /// How many, at least 1.
        count: u64,
        /// Leave no copy.
        secure: bool,
    },
}

/// Whether `count` sectors at `sector` lie on a device of `sectors`.
fn on_device(sector: u64, count: u64, limits: &Limits) -> bool {
    sector.checked_add(count).is_some_and(|end| end <= limits.sectors)
}

/// Sectors that segments hold.
pub fn sectors_of(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len) / u64::from(SECTOR)).sum()
}

impl WireRequest {
    /// Whom to answer.
    pub fn tag(&self) -> Tag {
        // `id` lies at the same offset in every form of the slot. An indirect request is answered as what it carries
        // (blkif.h, struct blkif_request_indirect): Linux takes a device with any other answer for broken.
        let WireIndirect { indirect_op, .. } = zerocopy::transmute!(*self);
        Tag { id: self.id, op: if self.op == BlkOp::INDIRECT { indirect_op } else { self.op } }
    }

    /// Checks the slot against what was offered; an error is the status to answer.
    pub fn parse(&self, limits: &Limits) -> Result<Request, BlkStatus> {
        match self.op {
            BlkOp::READ => self.transfer(Direction::Read, Order::Free, limits),
            BlkOp::WRITE => self.transfer(Direction::Write, Order::Free, limits),
            BlkOp::WRITE_BARRIER | BlkOp::FLUSH_DISKCACHE if !limits.flush => Err(BlkStatus::EOPNOTSUPP),
            BlkOp::WRITE_BARRIER | BlkOp::FLUSH_DISKCACHE if self.nr_segments == 0 => Ok(Request::Flush),
            BlkOp::WRITE_BARRIER | BlkOp::FLUSH_DISKCACHE => self.transfer(Direction::Write, Order::Barrier, limits),
            BlkOp::DISCARD if limits.discard => self.discard(limits),
            BlkOp::INDIRECT if limits.indirect_segments > 0 => self.indirect(limits),
            _ => Err(BlkStatus::EOPNOTSUPP),
        }
    }

    fn transfer(&self, direction: Direction, order: Order, limits: &Limits) -> Result<Request, BlkStatus> {
        let wire = self.segments.get(..usize::from(self.nr_segments)).ok_or(BlkStatus::ERROR)?;
        let segments = wire.iter().map(Segment::parse).collect::<Option<Vec<_, _>>>().ok_or(BlkStatus::ERROR)?;
        check_transfer(direction, self.sector, &segments, limits)?;
        Ok(Request::Transfer { direction, sector: self.sector, source: Source::Direct(segments), order })
    }

    fn discard(&self, limits: &Limits) -> Result<Request, BlkStatus> {
        let WireDiscard { flags, sector, count, .. } = zerocopy::transmute!(*self);
        let good = count > 0 && !limits.read_only && on_device(sector, count, limits);
        good.then_some(Request::Discard { sector, count, secure: flags & 1 != 0 }).ok_or(BlkStatus::ERROR)
    }

    fn indirect(&self, limits: &Limits) -> Result<Request, BlkStatus> {
        let WireIndirect { indirect_op, nr_segments: count, sector, grefs, .. } = zerocopy::transmute!(*self);
        let direction = match indirect_op {
            BlkOp::READ => Direction::Read,
            BlkOp::WRITE if !limits.read_only => Direction::Write,
            BlkOp::WRITE => return Err(BlkStatus::ERROR),
            _ => return Err(BlkStatus::EOPNOTSUPP),
        };
        if count == 0 || count > limits.indirect_segments || !on_device(sector, u64::from(count), limits) {
            return Err(BlkStatus::ERROR);
        }
        let used = grefs.get(..usize::from(count).div_ceil(SEGMENTS_PER_PAGE)).ok_or(BlkStatus::ERROR)?;
        let pages = used.iter().copied().collect();
        Ok(Request::Transfer { direction, sector, source: Source::Indirect { pages, count }, order: Order::Free })
    }
}

/// What holds of every transfer, whatever form it came in. Requests with direct segments have passed it; the segments
/// of an indirect one are copied out of their pages and checked one by one by [`Segment::parse`], then by this.
pub fn check_transfer(
    direction: Direction,
    sector: u64,
    segments: &[Segment],
    limits: &Limits,
) -> Result<(), BlkStatus> {
    let refused = direction == Direction::Write && limits.read_only;
    let good = !refused && !segments.is_empty() && on_device(sector, sectors_of(segments), limits);
    if good { Ok(()) } else { Err(BlkStatus::ERROR) }
}

impl WireRequest {
    /// A transfer of at most 11 segments; `None` if there are more.
    pub fn transfer_of(op: BlkOp, id: u64, sector: u64, segments: &[Segment]) -> Option<Self> {
        let mut request = Self::new_zeroed();
        (request.op, request.id, request.sector) = (op, id, sector);
        request.nr_segments = u8::try_from(segments.len()).ok()?;
        let slots = request.segments.get_mut(..segments.len())?;
        slots.iter_mut().zip(segments).for_each(|(slot, segment)| *slot = segment.wire());
        Some(request)
    }

    /// A flush.
    pub fn flush(id: u64) -> Self {
        let mut request = Self::new_zeroed();
        (request.op, request.id) = (BlkOp::FLUSH_DISKCACHE, id);
        request
    }

    /// A discard of `count` sectors.
    pub fn discard_of(id: u64, sector: u64, count: u64) -> Self {
        let mut discard = WireDiscard::new_zeroed();
        (discard.op, discard.id, discard.sector, discard.count) = (BlkOp::DISCARD, id, sector, count);
        zerocopy::transmute!(discard)
    }

    /// A transfer of `count` segments that lie in granted `pages`; `None` if the pages are too many.
    pub fn indirect_of(direction: Direction, id: u64, sector: u64, count: u16, pages: &[GrantRef]) -> Option<Self> {
        let mut indirect = WireIndirect::new_zeroed();
        (indirect.op, indirect.id, indirect.sector, indirect.nr_segments) = (BlkOp::INDIRECT, id, sector, count);
        indirect.indirect_op = if direction == Direction::Read { BlkOp::READ } else { BlkOp::WRITE };
        let grefs = indirect.grefs.get_mut(..pages.len())?;
        grefs.iter_mut().zip(pages).for_each(|(slot, page)| *slot = *page);
        Some(zerocopy::transmute!(indirect))
    }
}
