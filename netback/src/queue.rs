//! One queue of a vif: its two rings, and the packets that are on their way through it.

use crate::groups::Groups;
use crate::platform::{Account, Copy, PAGE, Piece, Place};
use crate::vif::Delivery;
use abi::DomId;
use alloc::vec::Vec;
use core::ops::Range;
use ring_proto::memory::RingMemory;
use ring_proto::net::*;
use ring_proto::net_rx::{answer, first_flags};
use ring_proto::net_tx::{TxItem, TxPacket, TxReader};
use ring_proto::ring::{Back, BadSize, Corrupt, PopError};

/// Requests taken for a packet, to be answered when its copies are made.
#[derive(Debug)]
struct Planned {
    /// The request of each page, in order, in the vif's `ids`.
    ids: Range<usize>,
    copies: Range<usize>,
    len: usize,
    checksum: Checksum,
    gso: Option<Gso>,
}

/// Nanoseconds that a receive ring may be short of pages before what is sent there is dropped rather than waits. A guest
/// that takes nothing holds those up that send to it, but no longer than this, and once until it takes something again.
pub(crate) const PATIENCE: u64 = 20_000_000;

/// Where a packet went that went to one guest only, and with it, very likely, the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toward {
    /// The vif's place in the switch.
    pub place: u16,
    /// Which of its queues, as [`Delivery::flow`] says.
    pub flow: u32,
    /// Slots that it took.
    pub slots: usize,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue<M> {
    tx: Back<M, Tx>,
    rx: Back<M, Rx>,
    reader: TxReader,
    planned: Vec<Planned>,
    ids: Vec<u16>,
    /// Where the last packet of the transmit ring went.
    pub toward: Option<Toward>,
    /// Slots of the receive ring that packets in hand may take.
    promised: usize,
    /// Since when the receive ring has been short of pages.
    short_since: Option<u64>,
}

impl<M: RingMemory> Queue<M> {
    /// Serves the rings in `tx` and `rx`; changes of the multicast list are errors unless `multicast`.
    pub fn new(tx: M, rx: M, multicast: bool) -> Result<Self, BadSize> {
        let (tx, rx) = (Back::attach(tx)?, Back::attach(rx)?);
        let reader = TxReader::new(multicast);
        let (planned, ids) = (Vec::new(), Vec::new());
        Ok(Self { tx, rx, reader, planned, ids, toward: None, promised: 0, short_since: None })
    }

    /// Hands the guest's next packet to `take`; false: there is none now. Those that are refused are added to `errors`.
    pub fn next(
        &mut self,
        groups: &mut Groups,
        errors: &mut u64,
        take: impl FnOnce(&TxPacket),
    ) -> Result<bool, Corrupt> {
        loop {
            match self.reader.next(&mut self.tx) {
                Ok(TxItem::Packet(packet)) => {
                    take(packet);
                    return Ok(true);
                }
                Ok(TxItem::Multicast(change, id)) => {
                    TxReader::answer_multicast(&mut self.tx, id, groups.change(change));
                }
                Ok(TxItem::Refused(_)) => *errors += 1,
                Err(PopError::Corrupt(corrupt)) => return Err(corrupt),
                Err(PopError::Empty) => {
                    if !self.tx.final_check()? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Answers the slots of a packet.
    pub fn answer(&mut self, ids: &[u16], status: Status) {
        for id in ids {
            // Each slot taken is answered once, so a slot is free unless the ring was closed meanwhile.
            let _ = self.tx.push(&TxResponse { id: *id, status });
        }
    }

    /// Takes pages for a packet and appends the copies that fill them, on the account of the vif at `place`. False: the
    /// guest offers too few.
    pub fn plan(
        &mut self,
        delivery: &Delivery<'_>,
        peer: DomId,
        place: u16,
        copies: &mut Vec<Copy>,
    ) -> Result<bool, Corrupt> {
        let pages = delivery.len.div_ceil(PAGE);
        if !self.offered(pages + usize::from(delivery.gso.is_some()))? {
            return Ok(false);
        }
        let first = copies.len();
        let first_id = self.ids.len();
        let mut pieces = Pieces { pieces: delivery.pieces, used: 0 };
        for page in 0..pages {
            let Ok(request) = self.rx.pop() else { break };
            self.ids.push(request.id);
            let filled = (delivery.len - page * PAGE).min(PAGE);
            let mut at = 0;
            while let Some(Piece { place: from, len }) = pieces.next(filled - at) {
                let to = Place::Guest(peer, request.gref, at as u16);
                copies.push(Copy { from, to, len, account: Account::In(place), done: false });
                at += usize::from(len);
            }
            // The extra info lies in the slot after the first.
            if page == 0 && delivery.gso.is_some() {
                let _ = self.rx.pop();
            }
        }
        let Delivery { len, checksum, gso, .. } = *delivery;
        let ids = first_id..self.ids.len();
        self.planned.push(Planned { ids, copies: first..copies.len(), len, checksum, gso });
        Ok(true)
    }

    /// Whether there may be a packet on the transmit ring; if not, an event is asked for.
    pub fn has_next(&mut self) -> Result<bool, Corrupt> {
        Ok(self.tx.known() > 0 || self.tx.final_check()?)
    }

    /// For how many packets of so many slots the receive ring has room, about, up to `most` and more. `Err`: for none;
    /// until when it is worth waiting. The guest's event says when there is room.
    pub fn room(&mut self, slots: usize, most: usize, now: u64) -> Result<Result<usize, u64>, Corrupt> {
        if (self.rx.known() as usize) < self.promised + slots * most {
            self.rx.refresh()?;
        }
        if self.offered(self.promised + slots)? {
            self.short_since = None;
            return Ok(Ok((self.rx.known() as usize).saturating_sub(self.promised) / slots));
        }
        let until = self.short_since.get_or_insert(now).saturating_add(PATIENCE);
        Ok(if now < until { Err(until) } else { Ok(most) })
    }

    /// Keeps slots for packets that were taken for this queue.
    pub fn promise(&mut self, slots: usize) {
        self.promised += slots;
    }

    /// Whether the guest offers so many pages; if not, an event is asked for.
    fn offered(&mut self, wanted: usize) -> Result<bool, Corrupt> {
        Ok(self.rx.known() as usize >= wanted || self.rx.final_check_after(wanted as u32)?)
    }

    /// Answers what was planned, as its copies went, and says of each packet how long it was and whether it arrived.
    pub fn deliver(&mut self, copies: &[Copy], mut tell: impl FnMut(usize, bool)) {
        let mut planned = core::mem::take(&mut self.planned);
        for packet in &planned {
            let done = copies.get(packet.copies.clone()).is_some_and(|copies| copies.iter().all(|copy| copy.done));
            tell(packet.len, done);
            self.answer_planned(packet, done);
        }
        planned.clear();
        self.planned = planned;
        self.ids.clear();
        self.promised = 0;
    }

    fn answer_planned(&mut self, packet: &Planned, done: bool) {
        let last = packet.ids.len().saturating_sub(1);
        for (index, id) in self.ids.get(packet.ids.clone()).unwrap_or_default().iter().enumerate() {
            let more = index < last;
            let gso = packet.gso.filter(|_| index == 0);
            let flags = match index {
                0 => first_flags(packet.checksum, gso.is_some(), more),
                _ => RxFlags::default().with_if(more, RxFlags::MORE_DATA),
            };
            let len = (packet.len - index * PAGE).min(PAGE) as u16;
            if done {
                answer(&mut self.rx, *id, 0, len, flags);
            } else {
                let response = RxResponse { id: *id, offset: 0, flags, status: Status::ERROR };
                let _ = self.rx.push(&response.into());
            }
            if let Some(gso) = gso {
                let _ = self.rx.push(&gso.extra().into());
            }
        }
    }

    /// Shows the guest all answers on both rings; which of them need an event: (tx, rx).
    pub fn publish(&mut self) -> (bool, bool) {
        (self.tx.publish().needed(), self.rx.publish().needed())
    }
}

/// Takes bytes off a list of pieces.
struct Pieces<'a> {
    pieces: &'a [Piece],
    /// Bytes of the first that are used.
    used: u16,
}

impl Pieces<'_> {
    /// The next run of at most `limit` bytes; `None` at a limit of 0 and at the end.
    fn next(&mut self, limit: usize) -> Option<Piece> {
        let (first, rest) = self.pieces.split_first()?;
        let left = first.len - self.used;
        let len = limit.min(left.into()) as u16;
        let piece = (len > 0).then_some(Piece { place: first.place.after(self.used), len });
        self.used += len;
        if self.used == first.len {
            (self.pieces, self.used) = (rest, 0);
        }
        piece
    }
}
