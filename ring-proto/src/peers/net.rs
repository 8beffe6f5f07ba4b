//! Network peers: a frontend that remembers what it sent, a backend that hands packets over, and bad slots.

use super::{PAGE, Pages, Rng};
use crate::memory::RingMemory;
use crate::net::*;
use crate::net_rx::{RxReader, answer, first_flags};
use crate::net_tx::{Fragment, TxItem, TxReader, push_packet};
use crate::ring::{Back, Corrupt, Front, Notify, PopError};
use abi::GrantRef;
use alloc::{collections::BTreeMap, collections::VecDeque, vec, vec::Vec};

/// A packet as one side means it and the other must see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The whole frame.
    pub bytes: Vec<u8>,
    /// What is known of its transport checksum.
    pub checksum: Checksum,
    /// How to cut it up.
    pub gso: Option<Gso>,
}

impl Packet {
    /// A frame of `bytes` with a good checksum.
    pub fn plain(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), checksum: Checksum::Unknown, gso: None }
    }

    /// A frame of random shape.
    pub fn random(rng: &mut Rng) -> Self {
        let gso = rng.one_in(4).then(|| Gso { kind: GsoKind::TcpV4, size: 1000 + rng.below(460) as u16 });
        let longest = if gso.is_some() { MAX_PACKET } else { 1514 };
        let mut bytes = vec![0; ETH_HEADER + rng.below((longest - ETH_HEADER) as u64) as usize];
        rng.fill(&mut bytes);
        let checksum = match rng.below(3) {
            _ if gso.is_some() => Checksum::Blank,
            0 => Checksum::Blank,
            1 => Checksum::Validated,
            _ => Checksum::Unknown,
        };
        Self { bytes, checksum, gso }
    }
}

/// A frontend that keeps every rule, on both rings. It panics where the backend is wrong.
pub struct PoliteFront<M> {
    tx: Front<M, Tx>,
    rx: Front<M, Rx>,
    pages: Pages,
    /// Transmit slots in flight by id.
    sending: BTreeMap<u16, GrantRef>,
    next_id: u16,
    /// Receive pages by slot.
    offered: BTreeMap<u16, GrantRef>,
    reader: RxReader,
    rng: Rng,
    /// Packets received and not taken yet.
    pub received: VecDeque<Packet>,
    /// Slots answered with a status other than okay.
    pub errors: u64,
}

impl<M: RingMemory> PoliteFront<M> {
    /// Makes both rings.
    pub fn new(tx: M, rx: M, pages: Pages, seed: u64) -> Self {
        Self {
            tx: Front::new(tx).expect("a ring"),
            rx: Front::new(rx).expect("a ring"),
            pages,
            sending: BTreeMap::new(),
            next_id: 0,
            offered: BTreeMap::new(),
            reader: RxReader::default(),
            rng: Rng(seed),
            received: VecDeque::new(),
            errors: 0,
        }
    }

    /// Sends a packet, cut into slots at random; false if there is no room.
    pub fn send(&mut self, packet: &Packet) -> bool {
        let fragments = self.cut(&packet.bytes);
        let sent = push_packet(&mut self.tx, &fragments, packet.checksum, packet.gso).is_ok();
        for fragment in fragments {
            if sent {
                self.sending.insert(fragment.id, fragment.grant);
            } else {
                self.pages.revoke(fragment.grant);
            }
        }
        sent
    }

    fn cut(&mut self, bytes: &[u8]) -> Vec<Fragment> {
        // As few as a large packet needs, more for a small one.
        let needed = bytes.len().div_ceil(PAGE);
        let count = needed + self.rng.below((MAX_SLOTS - needed + 1).min(3) as u64) as usize;
        let count = count.min(bytes.len());
        bytes
            .chunks(bytes.len().div_ceil(count))
            .map(|chunk| {
                let grant = self.pages.grant(false);
                let offset = self.rng.below((PAGE - chunk.len() + 1) as u64) as usize;
                self.pages.fill(grant, offset, chunk);
                self.next_id = self.next_id.wrapping_add(1);
                Fragment { grant, offset: offset as u16, len: chunk.len() as u16, id: self.next_id }
            })
            .collect()
    }

    /// Takes answers and packets, offers pages, publishes both rings: (transmit, receive).
    pub fn step(&mut self) -> (Notify, Notify) {
        loop {
            match self.tx.pop() {
                Ok(TxResponse { status: Status::NULL, .. }) => {}
                Ok(response) => {
                    let grant = self.sending.remove(&response.id).expect("an answer to a slot in flight");
                    self.pages.revoke(grant);
                    self.errors += u64::from(response.status != Status::OKAY);
                }
                Err(PopError::Empty) if !self.tx.final_check().expect("a sound ring") => break,
                Err(PopError::Empty) => {}
                Err(PopError::Corrupt(corrupt)) => {
                    panic!("the backend broke the transmit ring: {corrupt:?}")
                }
            }
        }
        self.receive();
        while self.rx.room() > 0 {
            let slot = (self.rx.sent() & (self.rx.slots() - 1)) as u16;
            let grant = self.pages.grant(true);
            self.offered.insert(slot, grant);
            self.rx.push(&RxRequest { id: slot, pad: 0, gref: grant }).expect("room was checked");
        }
        (self.tx.publish(), self.rx.publish())
    }

    fn receive(&mut self) {
        loop {
            let packet = match self.reader.next(&mut self.rx) {
                Ok(packet) => packet,
                Err(PopError::Empty) if !self.rx.final_check().expect("a sound ring") => break,
                Err(PopError::Empty) => continue,
                Err(PopError::Corrupt(corrupt)) => {
                    panic!("the backend broke the receive ring: {corrupt:?}")
                }
            };
            let mut bytes = vec![0; packet.len()];
            let mut rest = bytes.as_mut_slice();
            for part in &packet.parts {
                let (now, later) = rest.split_at_mut(part.len.into());
                let grant = self.offered.remove(&part.slot).expect("a page offered");
                self.pages.copy_from(grant, part.offset.into(), now).expect("our own page");
                self.pages.revoke(grant);
                rest = later;
            }
            packet.spare.iter().for_each(|slot| {
                self.pages.revoke(self.offered.remove(slot).expect("a page offered"));
            });
            if !packet.is_empty() {
                self.received.push_back(Packet { bytes, checksum: packet.checksum, gso: packet.gso });
            }
        }
    }

    /// Transmit slots in flight.
    pub fn in_flight(&self) -> usize {
        self.sending.len()
    }
}

/// A backend that collects what the guest sends and delivers what it is given.
pub struct PoliteBack<M> {
    tx: Back<M, Tx>,
    rx: Back<M, Rx>,
    pages: Pages,
    reader: TxReader,
    /// Packets taken from the guest.
    pub taken: VecDeque<Packet>,
    /// Packets refused.
    pub refused: u64,
}

impl<M: RingMemory> PoliteBack<M> {
    /// Serves both rings.
    pub fn new(tx: M, rx: M, pages: Pages) -> Self {
        Self {
            tx: Back::attach(tx).expect("a ring"),
            rx: Back::attach(rx).expect("a ring"),
            pages,
            reader: TxReader::new(true),
            taken: VecDeque::new(),
            refused: 0,
        }
    }

    /// Takes all packets there are.
    pub fn step(&mut self) -> Result<Notify, Corrupt> {
        loop {
            match self.reader.next(&mut self.tx) {
                Ok(TxItem::Packet(packet)) => {
                    let mut bytes = vec![0; packet.len.into()];
                    let mut rest = bytes.as_mut_slice();
                    let mut status = Status::OKAY;
                    for fragment in &packet.fragments {
                        let (now, later) = rest.split_at_mut(fragment.len.into());
                        if self.pages.copy_from(fragment.grant, fragment.offset.into(), now).is_err() {
                            status = Status::ERROR;
                        }
                        rest = later;
                    }
                    if status == Status::OKAY {
                        self.taken.push_back(Packet { bytes, checksum: packet.checksum, gso: packet.gso });
                    }
                    packet.answer(&mut self.tx, status);
                }
                Ok(TxItem::Multicast(_, id)) => TxReader::answer_multicast(&mut self.tx, id, true),
                Ok(TxItem::Refused(_)) => self.refused += 1,
                Err(PopError::Corrupt(corrupt)) => return Err(corrupt),
                Err(PopError::Empty) if self.tx.final_check()? => {}
                Err(PopError::Empty) => return Ok(self.tx.publish()),
            }
        }
    }

    /// Puts a packet into pages that the guest offered; false if it offered too few.
    pub fn deliver(&mut self, packet: &Packet) -> Result<bool, Corrupt> {
        let slots = packet.bytes.len().div_ceil(PAGE) + usize::from(packet.gso.is_some());
        if (self.rx.refresh()? as usize) < slots {
            return Ok(false);
        }
        let chunks = packet.bytes.chunks(PAGE);
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.enumerate() {
            let Ok(request) = self.rx.pop() else {
                return Ok(false);
            };
            let more = index < last;
            let flags = match index {
                0 => first_flags(packet.checksum, packet.gso.is_some(), more),
                _ => RxFlags::default().with_if(more, RxFlags::MORE_DATA),
            };
            self.pages.copy_to(request.gref, 0, chunk).expect("a page to write");
            answer(&mut self.rx, request.id, 0, chunk.len() as u16, flags);
            if let Some(gso) = packet.gso.filter(|_| index == 0) {
                let _ = self.rx.pop();
                self.rx.push(&gso.extra().into()).expect("its own slot");
            }
        }
        Ok(true)
    }

    /// Publishes the receive ring.
    pub fn publish_rx(&mut self) -> Notify {
        self.rx.publish()
    }
}

/// A transmit slot that is nearly right, or not at all.
pub fn hostile_slot(rng: &mut Rng, pages: &[GrantRef]) -> TxSlot {
    if rng.one_in(10) {
        return TxSlot([rng.next() as u32, rng.next() as u32, rng.next() as u32]);
    }
    if rng.one_in(6) {
        let mut body = [0; 6];
        rng.fill(&mut body);
        return Extra { kind: ExtraKind(rng.below(6) as u8), flags: rng.below(2) as u8, body }.into();
    }
    let grant = pages.get(rng.below(pages.len().max(1) as u64) as usize).copied().unwrap_or_default();
    let gref = if rng.one_in(8) { GrantRef(rng.next() as u32) } else { grant };
    let (offset, size) = if rng.one_in(2) { (rng.edgy(), rng.edgy()) } else { (0, 60) };
    let flags = TxFlags(if rng.one_in(2) { rng.below(16) as u16 } else { 0 });
    TxRequest { gref, offset, flags, id: rng.next() as u16, size }.into()
}

/// An answer to a receive request that is nearly right, or not at all.
pub fn hostile_answer(rng: &mut Rng, id: u16) -> RxSlot {
    let id = if rng.one_in(16) { rng.next() as u16 } else { id };
    let flags = RxFlags(if rng.one_in(2) { rng.below(16) as u16 } else { 0 });
    let status = Status(if rng.one_in(2) { rng.edgy() as i16 } else { 60 });
    RxResponse { id, offset: if rng.one_in(4) { rng.edgy() } else { 0 }, flags, status }.into()
}
