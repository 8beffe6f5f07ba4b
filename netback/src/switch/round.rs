//! What a round has in hand.

use crate::bridge::Port;
use crate::platform::{Copy, Piece};
use crate::pool::Frame;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;
use ring_proto::net::{Checksum, Gso};

/// A packet from a guest.
#[derive(Debug)]
pub(super) struct Packet {
    /// Whose.
    pub place: u16,
    /// On which of its queues.
    pub queue: u8,
    /// The slots to answer, in the round's `ids`.
    pub ids: Range<usize>,
    /// Its bytes, in the round's `pieces`: the header in our memory, then the guest's pages.
    pub pieces: Range<usize>,
    /// The copies that bring its header there, in the round's `headers`.
    pub header: Range<usize>,
    pub len: usize,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
}

impl Packet {
    /// Packets of one flow leave their guest on one queue, so what came in by one goes out by one.
    pub fn flow(&self) -> u32 {
        u32::from(self.place) + u32::from(self.queue)
    }
}

/// A packet that is to lie in our memory, to be mended there.
#[derive(Debug)]
pub(super) struct Staged {
    pub frame: Rc<Frame>,
    /// The copies that bring it there, in the round's `copies`.
    pub copies: Range<usize>,
    pub targets: Vec<Port>,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
    pub source: u16,
    pub flow: u32,
}

/// All that one round collects and plans. Cleared and used again, so that its lists are allocated once.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub packets: Vec<Packet>,
    pub ids: Vec<u16>,
    pub pieces: Vec<Piece>,
    pub headers: Vec<Copy>,
    pub copies: Vec<Copy>,
    pub staged: Vec<Staged>,
    /// Slots to be answered once the copies are made. One that fails, by the receiver's fault as a rule, is the
    /// receiver's loss: the sender has done its part.
    pub answers: Vec<(u16, u8, Range<usize>)>,
    /// Packets from the NIC, whose memory is free once they are delivered.
    pub received: Vec<Frame>,
    /// Where the packet in hand goes.
    pub targets: Vec<Port>,
}

impl Round {
    /// Empties every list.
    pub fn clear(&mut self) {
        let Self { packets, ids, pieces, headers, copies, staged, answers, received, targets } = self;
        packets.clear();
        ids.clear();
        pieces.clear();
        headers.clear();
        copies.clear();
        staged.clear();
        answers.clear();
        received.clear();
        targets.clear();
    }
}
