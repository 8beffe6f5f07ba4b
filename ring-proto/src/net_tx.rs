//! Packets on the transmit ring: writing them (front) and putting them together again (back).
//!
//! A packet is its first slot, whose `size` is the whole packet's, then extra-info slots if the first slot says so,
//! then the further slots that `MORE_DATA` chains, each with its own size. Whatever a frontend sends is framed by
//! the flags alone, so a bad packet is answered with an error, slot by slot, and the next one is found.

use crate::memory::RingMemory;
use crate::net::*;
use crate::ring::{Back, Front, Full, PopError};
use abi::GrantRef;
use heapless::Vec;

/// A piece of a packet within one granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The page.
    pub grant: GrantRef,
    /// First byte in the page; `offset + len` is at most a page.
    pub offset: u16,
    /// Bytes, at least 1.
    pub len: u16,
    /// The frontend's name for the slot.
    pub id: u16,
}

/// A packet whose every piece lies within its page and whose length is the sum of its pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxPacket {
    /// The pieces in order, at least one.
    pub fragments: Vec<Fragment, MAX_SLOTS>,
    /// Bytes of the packet, at least [`ETH_HEADER`].
    pub len: u16,
    /// What the guest says of the transport checksum.
    pub checksum: Checksum,
    /// How to cut it up, if it must be.
    pub gso: Option<Gso>,
}

impl TxPacket {
    /// Answers every slot of the packet with `status`.
    pub fn answer<M: RingMemory>(&self, ring: &mut Back<M, Tx>, status: Status) {
        self.fragments.iter().for_each(|fragment| respond(ring, fragment.id, status));
    }
}

/// Answers one slot that was taken.
fn respond<M: RingMemory>(ring: &mut Back<M, Tx>, id: u16, status: Status) {
    // Each slot taken is answered once, so a slot is free unless the ring was closed meanwhile.
    let _ = ring.push(&TxResponse { id, status });
}

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxError {
    /// Shorter than an Ethernet header.
    TooShort,
    /// More than [`MAX_SLOTS`] slots.
    TooManySlots,
    /// A slot of no bytes.
    EmptySlot,
    /// A slot that leaves its page.
    CrossesPage,
    /// The slots after the first hold as much as the whole packet, or more.
    SizeMismatch,
    /// An extra-info slot of a kind not negotiated, or one kind twice.
    BadExtra,
}

/// A change to the list of multicast addresses that a guest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// Let it through.
    Add(Mac),
    /// No more.
    Remove(Mac),
}

/// What the next slots of a transmit ring were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxItem<'a> {
    /// A packet, to be answered with [`TxPacket::answer`].
    Packet(&'a TxPacket),
    /// A change of the multicast list, to be answered with [`TxReader::answer_multicast`].
    Multicast(Multicast, u16),
    /// A bad packet; it has been answered.
    Refused(TxError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    First,
    Extra { more_data: bool },
    Data,
}

/// Takes packets from a transmit ring, whole or not at all; what is incomplete waits here for the rest.
#[derive(Debug)]
pub struct TxReader {
    expect: Expect,
    packet: TxPacket,
    multicast: Option<Multicast>,
    error: Option<TxError>,
    allow_multicast: bool,
}

impl TxReader {
    /// A reader of a fresh connection. Multicast changes are errors unless that feature was offered.
    pub fn new(allow_multicast: bool) -> Self {
        let packet = TxPacket { fragments: Vec::new(), len: 0, checksum: Checksum::Unknown, gso: None };
        Self { expect: Expect::First, packet, multicast: None, error: None, allow_multicast }
    }

    /// The next item. `Empty` also when the rest of a packet is not there yet.
    pub fn next<M: RingMemory>(&mut self, ring: &mut Back<M, Tx>) -> Result<TxItem<'_>, PopError> {
        loop {
            let slot = ring.pop()?;
            let last = match self.expect {
                Expect::First => self.first(slot.request(), ring),
                Expect::Extra { more_data } => self.extra(slot.extra(), more_data, ring),
                Expect::Data => self.data(slot.request(), ring),
            };
            if last {
                return Ok(self.finish(ring));
            }
        }
    }

    /// Answers a multicast change.
    pub fn answer_multicast<M: RingMemory>(ring: &mut Back<M, Tx>, id: u16, done: bool) {
        respond(ring, id, if done { Status::OKAY } else { Status::ERROR });
    }

    fn refuse(&mut self, error: TxError) {
        self.error.get_or_insert(error);
    }

    /// Each of these returns whether the packet ends here.
    fn first<M: RingMemory>(&mut self, request: TxRequest, ring: &mut Back<M, Tx>) -> bool {
        let TxRequest { flags, size, .. } = request;
        self.packet.fragments.clear();
        self.packet.len = size;
        self.packet.gso = None;
        self.packet.checksum = match () {
            () if flags.has(TxFlags::CSUM_BLANK) => Checksum::Blank,
            () if flags.has(TxFlags::DATA_VALIDATED) => Checksum::Validated,
            () => Checksum::Unknown,
        };
        (self.multicast, self.error) = (None, None);
        self.keep(request, ring);
        let more_data = flags.has(TxFlags::MORE_DATA);
        self.expect = if flags.has(TxFlags::EXTRA_INFO) { Expect::Extra { more_data } } else { Expect::Data };
        !more_data && self.expect == Expect::Data
    }

    fn extra<M: RingMemory>(&mut self, extra: Extra, more_data: bool, ring: &mut Back<M, Tx>) -> bool {
        respond(ring, 0, Status::NULL);
        let address = Mac(extra.body);
        match (extra.kind, Gso::parse(&extra)) {
            (ExtraKind::GSO, Some(gso)) if self.packet.gso.is_none() => self.packet.gso = Some(gso),
            (ExtraKind::MCAST_ADD, _) if self.may_change_multicast() => self.multicast = Some(Multicast::Add(address)),
            (ExtraKind::MCAST_DEL, _) if self.may_change_multicast() => {
                self.multicast = Some(Multicast::Remove(address));
            }
            _ => self.refuse(TxError::BadExtra),
        }
        let another = extra.flags & 1 != 0;
        if !another {
            self.expect = Expect::Data;
        }
        !another && !more_data
    }

    fn may_change_multicast(&self) -> bool {
        self.allow_multicast && self.multicast.is_none()
    }

    fn data<M: RingMemory>(&mut self, request: TxRequest, ring: &mut Back<M, Tx>) -> bool {
        self.keep(request, ring);
        !request.flags.has(TxFlags::MORE_DATA)
    }

    /// Remembers a slot, or answers it at once where there are too many.
    fn keep<M: RingMemory>(&mut self, request: TxRequest, ring: &mut Back<M, Tx>) {
        let TxRequest { gref, offset, id, size, .. } = request;
        if self.packet.fragments.push(Fragment { grant: gref, offset, len: size, id }).is_err() {
            self.refuse(TxError::TooManySlots);
            respond(ring, id, Status::ERROR);
        }
    }

    fn finish<M: RingMemory>(&mut self, ring: &mut Back<M, Tx>) -> TxItem<'_> {
        self.expect = Expect::First;
        if let (Some(change), None, [only]) = (self.multicast, self.error, self.packet.fragments.as_slice()) {
            return TxItem::Multicast(change, only.id);
        }
        if let Err(error) = self.error.map_or(Ok(()), Err).and_then(|()| self.check()) {
            self.packet.answer(ring, Status::ERROR);
            return TxItem::Refused(error);
        }
        TxItem::Packet(&self.packet)
    }

    /// Makes the first fragment's length its own and checks that each lies in its page.
    fn check(&mut self) -> Result<(), TxError> {
        if self.multicast.is_some() {
            return Err(TxError::BadExtra);
        }
        if usize::from(self.packet.len) < ETH_HEADER {
            return Err(TxError::TooShort);
        }
        let rest: usize = self.packet.fragments.iter().skip(1).map(|fragment| usize::from(fragment.len)).sum();
        let first = usize::from(self.packet.len).checked_sub(rest).filter(|first| *first > 0);
        let first = first.and_then(|first| u16::try_from(first).ok()).ok_or(TxError::SizeMismatch)?;
        for (index, fragment) in self.packet.fragments.iter_mut().enumerate() {
            if index == 0 {
                fragment.len = first;
            }
            if fragment.len == 0 {
                return Err(TxError::EmptySlot);
            }
            if usize::from(fragment.offset) + usize::from(fragment.len) > PAGE {
                return Err(TxError::CrossesPage);
            }
        }
        Ok(())
    }
}

/// Pushes a packet of one piece or several, all of its slots or none. The pieces' lengths add up to at most
/// [`MAX_PACKET`]; the caller publishes. Inlined: most callers have a single piece, and then most of it is not there.
#[inline(always)]
pub fn push_packet<M: RingMemory>(
    ring: &mut Front<M, Tx>,
    fragments: &[Fragment],
    checksum: Checksum,
    gso: Option<Gso>,
) -> Result<(), Full> {
    let slots = fragments.len() + usize::from(gso.is_some());
    let total: usize = fragments.iter().map(|fragment| usize::from(fragment.len)).sum();
    let total = u16::try_from(total).map_err(|_| Full)?;
    if slots > ring.room() as usize || ring.poison().is_some() {
        return Err(Full);
    }
    let known = TxFlags::default()
        .with_if(checksum == Checksum::Blank, TxFlags::CSUM_BLANK.with(TxFlags::DATA_VALIDATED))
        .with_if(checksum == Checksum::Validated, TxFlags::DATA_VALIDATED)
        .with_if(gso.is_some(), TxFlags::EXTRA_INFO);
    for (index, fragment) in fragments.iter().enumerate() {
        let first = index == 0;
        let flags = if first { known } else { TxFlags::default() };
        let request = TxRequest {
            gref: fragment.grant,
            offset: fragment.offset,
            flags: flags.with_if(index + 1 < fragments.len(), TxFlags::MORE_DATA),
            id: fragment.id,
            size: if first { total } else { fragment.len },
        };
        ring.push(&request.into())?;
        if let Some(gso) = gso.filter(|_| first) {
            ring.push(&gso.extra().into())?;
        }
    }
    Ok(())
}
