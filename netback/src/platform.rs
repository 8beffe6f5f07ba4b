//! What the switch wants of the hypervisor and of the NIC.

use abi::{DomId, GrantRef};
use core::ops::Range;
use ring_proto::memory::RingMemory;

/// Bytes a page.
pub const PAGE: usize = 4096;

/// Where bytes are: in a guest's page, or in our memory. They do not leave the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a page of a guest, from this byte on.
    Guest(DomId, GrantRef, u16),
    /// In our memory, from this byte on.
    Own(usize),
}

impl Place {
    /// `bytes` further on; the caller stays inside the page.
    #[must_use]
    pub fn after(self, bytes: u16) -> Self {
        match self {
            Self::Guest(peer, grant, offset) => Self::Guest(peer, grant, offset.saturating_add(bytes)),
            Self::Own(offset) => Self::Own(offset + usize::from(bytes)),
        }
    }
}

/// A run of bytes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where.
    pub place: Place,
    /// How many, at least 1.
    pub len: u16,
}

/// For which vif, by its place, a copy is made, and on which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The header of a packet that its guest sends.
    Header(u16),
    /// The payload of a packet that its guest sends, into our memory.
    Out(u16),
    /// A packet into its guest's pages.
    In(u16),
}

/// A copy to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// From.
    pub from: Place,
    /// To.
    pub to: Place,
    /// Bytes.
    pub len: u16,
    /// For whom.
    pub account: Account,
    /// How it went, once it was tried.
    pub done: bool,
}

/// Copies by the hypervisor, and our memory.
pub trait CopyGrants {
    /// Memory that can be copied to and from, and that the NIC can use.
    type Memory: RingMemory;
    /// Our memory.
    fn memory(&self) -> &Self::Memory;
    /// Carries out `copies` in one hypercall, if it can, and sets `done` of each.
    fn copy(&mut self, copies: &mut [Copy]);
}

/// A frame for the NIC, whole and with its checksums right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicFrame {
    /// Names the frame until it is sent.
    pub tag: u16,
    /// Its bytes, in the list it comes with. Guests' pages stay unanswered, our memory stays reserved, until then.
    pub pieces: Range<usize>,
}

/// The NIC. It segments nothing and checksums nothing.
pub trait Nic {
    /// Frames that can be handed over now.
    fn room(&self) -> usize;
    /// Hands frames over, mapping guests' pages for the device with one hypercall. There is room.
    fn send(&mut self, frames: &[NicFrame], pieces: &[Piece]);
    /// A frame that is sent, or was refused.
    fn sent(&mut self) -> Option<u16>;
    /// Buffers that it could take for reception.
    fn wanted(&self) -> usize;
    /// Gives it a buffer of [`UNIT`](crate::pool::UNIT) bytes at this offset of our memory.
    fn post(&mut self, offset: usize);
    /// A frame received: the offset of its buffer, and its length.
    fn received(&mut self) -> Option<(usize, u16)>;
    /// Tells the device of frames and buffers, if it asked to be told.
    fn kick(&mut self);
}
