//! Packets on the receive ring: answering offered pages (back) and putting packets together again (front).
//!
//! A response, or an extra-info slot in place of one, always lies in the slot of the request that it answers. Our
//! frontends therefore use the slot's number as the request's id, and hold backends to it.

use crate::memory::RingMemory;
use crate::net::*;
use crate::ring::{Back, Corrupt, Front, PopError};
use heapless::Vec;

/// Most extra-info slots of one packet.
const MAX_EXTRAS: usize = 4;

/// A piece of a received packet: it lies in the page that was offered in `slot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxPart {
    /// Slot of the ring, below the number of slots.
    pub slot: u16,
    /// First byte in the page; `offset + len` is at most a page.
    pub offset: u16,
    /// Bytes, at least 1.
    pub len: u16,
}

/// A received packet, or what is left of a dropped one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxPacket {
    /// The pieces in order; none if the backend dropped the packet.
    pub parts: Vec<RxPart, MAX_SLOTS>,
    /// Slots whose pages hold nothing and are free again.
    pub spare: Vec<u16, { MAX_SLOTS + MAX_EXTRAS }>,
    /// What the backend says of the transport checksum.
    pub checksum: Checksum,
    /// How it would have been cut up, if it is longer than a frame.
    pub gso: Option<Gso>,
}

impl RxPacket {
    const EMPTY: Self = Self { parts: Vec::new(), spare: Vec::new(), checksum: Checksum::Unknown, gso: None };

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| usize::from(part.len)).sum()
    }

    /// Whether the backend dropped it.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Takes packets from a receive ring, and puts one together at a time.
#[derive(Debug)]
pub struct RxReader {
    packet: RxPacket,
    /// Responses of the packet so far; none: the next begins another.
    responses: usize,
    extras: usize,
    /// An extra-info slot is next; and whether data follows the extras.
    extra: bool,
    more_data: bool,
    failed: bool,
}

impl Default for RxReader {
    fn default() -> Self {
        let packet = RxPacket::EMPTY;
        Self { packet, responses: 0, extras: 0, extra: false, more_data: false, failed: false }
    }
}

impl RxReader {
    /// The next packet; one that is incomplete waits for its rest. A backend that breaks the protocol closes the ring.
    pub fn next<M: RingMemory>(&mut self, ring: &mut Front<M, Rx>) -> Result<&RxPacket, PopError> {
        loop {
            let slot = (ring.taken() & (ring.slots() - 1)) as u16;
            let entry = ring.pop()?;
            let taken =
                if self.extra { self.take_extra(entry.extra(), slot) } else { self.take(entry.response(), slot) };
            if let Err(what) = taken {
                let corrupt = Corrupt::Protocol(what);
                ring.close(corrupt);
                return Err(corrupt.into());
            }
            if !self.extra && !self.more_data {
                return Ok(self.finish());
            }
        }
    }

    fn take(&mut self, response: RxResponse, slot: u16) -> Result<(), &'static str> {
        let RxResponse { id, offset, flags, status } = response;
        if id != slot {
            return Err("rx response in another request's slot");
        }
        self.responses += 1;
        if self.responses == 1 {
            self.begin(flags);
        }
        match u16::try_from(status.0) {
            Err(_) => self.failed = true,
            Ok(len) if usize::from(offset) + usize::from(len) > PAGE => {
                return Err("rx response outside its page");
            }
            Ok(_) => {}
        }
        let len = u16::try_from(status.0).unwrap_or(0);
        let kept = self.responses <= MAX_SLOTS
            && if len == 0 {
                self.packet.spare.push(slot).is_ok()
            } else {
                self.packet.parts.push(RxPart { slot, offset, len }).is_ok()
            };
        self.more_data = flags.has(RxFlags::MORE_DATA);
        if kept { Ok(()) } else { Err("rx packet of too many slots") }
    }

    /// Forgets the packet before, for one whose first slot has these flags.
    fn begin(&mut self, flags: RxFlags) {
        (self.extras, self.failed) = (0, false);
        self.extra = flags.has(RxFlags::EXTRA_INFO);
        self.packet.parts.clear();
        self.packet.spare.clear();
        self.packet.gso = None;
        self.packet.checksum = match () {
            () if flags.has(RxFlags::CSUM_BLANK) => Checksum::Blank,
            () if flags.has(RxFlags::DATA_VALIDATED) => Checksum::Validated,
            () => Checksum::Unknown,
        };
    }

    fn take_extra(&mut self, extra: Extra, slot: u16) -> Result<(), &'static str> {
        self.extras += 1;
        self.extra = extra.flags & 1 != 0;
        if self.extras > MAX_EXTRAS || self.packet.spare.push(slot).is_err() {
            return Err("rx packet of too many extras");
        }
        if extra.kind == ExtraKind::GSO {
            self.packet.gso = Some(Gso::parse(&extra).ok_or("rx segmentation of unknown kind")?);
        }
        Ok(())
    }

    fn finish(&mut self) -> &RxPacket {
        self.responses = 0;
        let packet = &mut self.packet;
        if self.failed {
            // Parts and spares together are no more than the slots taken, at most MAX_SLOTS + MAX_EXTRAS.
            packet.spare.extend(packet.parts.iter().map(|part| part.slot));
            packet.parts.clear();
        }
        packet
    }
}

/// Answers the request `id`, the next unanswered one, with `len` bytes at `offset` of its page.
pub fn answer<M: RingMemory>(ring: &mut Back<M, Rx>, id: u16, offset: u16, len: u16, flags: RxFlags) {
    // A part is at most a page, far below i16's range.
    let response = RxResponse { id, offset, flags, status: Status(len as i16) };
    let _ = ring.push(&response.into());
}

/// The flags of a packet's first response.
pub fn first_flags(checksum: Checksum, gso: bool, more_data: bool) -> RxFlags {
    RxFlags::default()
        .with_if(checksum == Checksum::Blank, RxFlags::CSUM_BLANK.with(RxFlags::DATA_VALIDATED))
        .with_if(checksum == Checksum::Validated, RxFlags::DATA_VALIDATED)
        .with_if(gso, RxFlags::EXTRA_INFO)
        .with_if(more_data, RxFlags::MORE_DATA)
}
