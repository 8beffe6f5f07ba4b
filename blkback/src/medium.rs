//! What a session wants of a disk, and what a disk wants of the hypervisor.

use abi::{DomId, GrantRef};
use ring_proto::blk::{Direction, Segment};
use ring_proto::memory::RingMemory;

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes that the disk writes at once, a multiple of 512.
    pub physical_sector: u32,
    /// It takes no writes.
    pub read_only: bool,
    /// It takes discards.
    pub discard: bool,
    /// It maps its guests' pages for a device, and such mappings can stay.
    pub maps: bool,
    /// Most segments of one transfer, at least 11.
    pub max_segments: u16,
}

/// Whose operation it is: handed back when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The session's place on its disk.
    pub session: u16,
    /// Tells this session from earlier ones of the same place.
    pub generation: u32,
    /// The session's own number for the operation.
    pub slot: u16,
}

/// One operation on a disk, in the disk's own sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io<'a> {
    /// Move data between sectors and pages of `peer`; all of them lie on the disk.
    Transfer {
        /// Which way.
        direction: Direction,
        /// First sector.
        sector: u64,
        /// Whose pages they are.
        peer: DomId,
        /// How many of its session's may stay mapped, with write access, until [`Medium::closed`].
        keep: u16,
        /// The pages, at most the geometry's `max_segments`.
        segments: &'a [Segment],
    },
    /// Make completed writes durable.
    Flush,
    /// Forget sectors that lie on the disk.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
}

/// The disk can take no more now; something is in flight, and its completion makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// An operation that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Whose.
    pub token: Token,
    /// Whether it succeeded.
    pub success: bool,
    /// Bytes of its data that were copied: none if the device worked on the guest's own pages.
    pub copied: u64,
    /// Its pages that had to be mapped, and those that were still mapped from before.
    pub mapped: Mapped,
}

impl Done {
    /// A failure that touched nothing.
    pub const fn of(token: Token) -> Self {
        Self { token, success: false, copied: 0, mapped: Mapped { new: 0, kept: 0 } }
    }
}

/// Pages of an operation: how they came to be mapped for the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// For this operation.
    pub new: u32,
    /// Before, and kept.
    pub kept: u32,
}

/// A disk. Operations complete in any order.
pub trait Medium {
    /// What it is.
    fn geometry(&self) -> Geometry;
    /// Takes an operation; nothing needs to happen before [`kick`](Self::kick).
    fn submit(&mut self, token: Token, io: Io<'_>) -> Result<(), Busy>;
    /// Starts all that was submitted, in as few hypercalls and notifications as may be.
    fn kick(&mut self);
    /// An operation that is done.
    fn completed(&mut self) -> Option<Done>;
    /// A session has ended: what stayed mapped for it, is mapped no more.
    fn closed(&mut self, _session: u16) {}
}

/// One copy between a granted page and local memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Whose page it is.
    pub peer: DomId,
    /// The page.
    pub grant: GrantRef,
    /// First byte in the page; `offset + len` is at most a page.
    pub offset: u16,
    /// Bytes.
    pub len: u16,
    /// First byte in the local memory.
    pub local: usize,
    /// Towards the page, or from it.
    pub to_peer: bool,
    /// How it went, once it was tried.
    pub done: bool,
}

/// Copies by the hypervisor between granted pages and memory of ours: no mapping, no flush.
pub trait CopyGrants {
    /// Memory that can be copied to and from.
    type Memory: RingMemory;
    /// Carries out `copies` in one hypercall, if it can, and sets `done` of each.
    fn copy(&mut self, local: &Self::Memory, copies: &mut [Copy]);
}

/// Small reads of granted pages.
pub trait ReadGrants {
    /// Copies the beginnings of `pages` into `out`, a page's bytes each and the rest from the last, with one hypercall;
    /// whether it could. There are as many pages as `out` has room for, [`INDIRECT_PAGES`] at most.
    ///
    /// [`INDIRECT_PAGES`]: ring_proto::blk::INDIRECT_PAGES
    fn read(&mut self, peer: DomId, pages: &[GrantRef], out: &mut [u8]) -> bool;
}
