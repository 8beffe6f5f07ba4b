//! Moves packets between all ports, in rounds.
//!
//! A round takes a bounded number of packets from each port, reads their first bytes with one hypercall, decides where
//! each goes, and makes all copies with another. A packet that a destination cannot take as it is - a blank checksum, or
//! one to be segmented - is copied into our memory first and mended there; that is the only case in which a packet to
//! the NIC is copied at all.

use crate::bridge::{Bridge, Port};
use crate::headers::MAX_HEADERS;
use crate::offload::{Head, MAX_SEGMENTS};
use crate::platform::{Copy, CopyGrants, Nic, NicFrame, Piece, Place};
use crate::pool::{Frame, Pool, UNIT};
use crate::vif::{Delivery, Vif, VifConfig};
use abi::DomId;
use alloc::rc::Rc;
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::net::{Checksum, ETH_HEADER, Gso, MAX_PACKET, MAX_SLOTS, Mac, Status};
use ring_proto::net_tx::{Fragment, TxPacket};
use ring_proto::ring::{BadSize, Corrupt};

/// Packets that a round takes from one vif, and from the NIC.
const PER_VIF: usize = 32;
const PER_NIC: usize = 64;
/// Packets of one round whose first bytes fit our first page.
const PER_ROUND: usize = 256;
/// Bytes read of each: the Ethernet header.
const PEEK: usize = 16;
/// What one packet can take: frames of the NIC, and units of our memory.
const MOST_FRAMES: usize = MAX_SEGMENTS;
const MOST_UNITS: usize = MAX_SEGMENTS + MAX_PACKET.div_ceil(UNIT);
/// Frames with the NIC, at most.
const TAGS: u16 = 256;

/// Names a vif.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VifId {
    place: u16,
    generation: u32,
}

/// What a run has to say to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this vif's events: of its transmit ring, of its receive ring.
    Notify {
        /// Whose.
        vif: VifId,
        /// Of the transmit ring.
        tx: bool,
        /// Of the receive ring.
        rx: bool,
    },
    /// This vif's guest broke a ring: close it. It is served no more.
    Corrupt(VifId, Corrupt),
}

/// Why a vif was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A ring is too small.
    Ring(BadSize),
    /// Another vif has that address, or it is nobody's to have.
    BadAddress,
    /// Too many vifs.
    Full,
}

/// A packet from a guest, on its way through a round.
struct Pending {
    place: u16,
    /// The slots to answer.
    ids: heapless::Vec<u16, MAX_SLOTS>,
    pieces: Vec<Piece>,
    len: usize,
    checksum: Checksum,
    gso: Option<Gso>,
}

impl Pending {
    fn new(place: u16, peer: DomId, packet: &TxPacket) -> Self {
        let piece = |fragment: &Fragment| Piece {
            place: Place::Guest(peer, fragment.grant, fragment.offset),
            len: fragment.len,
        };
        Self {
            place,
            ids: packet.fragments.iter().map(|fragment| fragment.id).collect(),
            pieces: packet.fragments.iter().map(piece).collect(),
            len: packet.len.into(),
            checksum: packet.checksum,
            gso: packet.gso,
        }
    }
}

/// What a frame with the NIC holds.
enum InFlight {
    /// A guest's pages: these slots are answered when it is sent.
    Guest(VifId, heapless::Vec<u16, MAX_SLOTS>),
    /// Our memory: headers of its own, and the packet.
    Own(Option<Rc<Frame>>, Rc<Frame>),
}

/// Counts of the whole switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Hypercalls for copies.
    pub copy_calls: u64,
    /// Packets moved, from all ports.
    pub packets: u64,
    /// Packets from the NIC that were for nobody, or that nobody could take.
    pub nic_dropped: u64,
}

struct Slot<M> {
    generation: u32,
    vif: Option<Vif<M>>,
    reported: bool,
}

/// A packet that lies in our memory, mended or to be.
struct Staged {
    frame: Rc<Frame>,
    /// The copies that bring it there, in the round's list.
    copies: core::ops::Range<usize>,
    targets: Vec<Port>,
    checksum: Checksum,
    gso: Option<Gso>,
    source: u16,
}

/// A packet that is whole and right: headers of its own, and the rest in a packet of ours.
struct Mended {
    headers: Option<Rc<Frame>>,
    pieces: Vec<Piece>,
    len: usize,
}

/// What a round has planned so far.
#[derive(Default)]
struct Round {
    copies: Vec<Copy>,
    staged: Vec<Staged>,
    /// Slots to be answered once the copies are made. One that fails, by the receiver's fault as a rule, is the
    /// receiver's loss: the sender has done its part.
    answers: Vec<(u16, heapless::Vec<u16, MAX_SLOTS>)>,
    /// Packets from the NIC, whose memory is free once they are delivered.
    received: Vec<Frame>,
}

/// The switch.
pub struct Switch<G, N, M> {
    grants: G,
    nic: Option<N>,
    vifs: Vec<Slot<M>>,
    generation: u32,
    bridge: Bridge,
    pool: Pool,
    in_flight: Vec<Option<InFlight>>,
    tags: Vec<u16>,
    outgoing: Vec<NicFrame>,
    totals: Totals,
}

impl<G, N, M> core::fmt::Debug for Switch<G, N, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Switch({} places, {:?})", self.vifs.len(), self.totals)
    }
}

impl<G: CopyGrants, N: Nic, M: RingMemory> Switch<G, N, M> {
    /// A switch with its NIC, if it has one, and no vifs.
    pub fn new(grants: G, nic: Option<N>) -> Self {
        let pool = Pool::new(grants.memory().len());
        Self {
            grants,
            nic,
            vifs: Vec::new(),
            generation: 0,
            bridge: Bridge::default(),
            pool,
            in_flight: (0..TAGS).map(|_| None).collect(),
            tags: (0..TAGS).rev().collect(),
            outgoing: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Connects a guest.
    pub fn open(&mut self, tx: M, rx: M, config: VifConfig) -> Result<VifId, OpenError> {
        let vacant = self.vifs.iter().position(|slot| slot.vif.is_none()).unwrap_or(self.vifs.len());
        let place = u16::try_from(vacant).map_err(|_| OpenError::Full)?;
        let port = Port::Vif(place);
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let vif = Vif::new(tx, rx, config, port, generation).map_err(OpenError::Ring)?;
        if config.mac.is_group() || !self.bridge.give(config.mac, port) {
            return Err(OpenError::BadAddress);
        }
        let slot = Slot { generation, vif: Some(vif), reported: false };
        match self.vifs.get_mut(vacant) {
            Some(old) => *old = slot,
            None => self.vifs.push(slot),
        }
        Ok(VifId { place, generation })
    }

    /// Disconnects a guest. What it has with the NIC is sent and answered to nobody.
    pub fn close(&mut self, id: VifId) -> Option<crate::counters::Counters> {
        let slot = self.vifs.get_mut(usize::from(id.place))?;
        let vif = slot.vif.take_if(|vif| vif.generation() == id.generation)?;
        self.bridge.forget(vif.port());
        Some(*vif.counters())
    }

    /// What a vif has done.
    pub fn counters(&self, id: VifId) -> Option<&crate::counters::Counters> {
        let vif = self.vifs.get(usize::from(id.place))?.vif.as_ref()?;
        (vif.generation() == id.generation).then(|| vif.counters())
    }

    /// Counts of the whole switch.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The NIC, for its interrupts.
    pub fn nic_mut(&mut self) -> Option<&mut N> {
        self.nic.as_mut()
    }

    /// Our memory and the hypervisor's copies.
    pub fn grants(&self) -> &G {
        &self.grants
    }

    /// Units of our memory that hold no packet and wait for none.
    pub fn free_units(&self) -> usize {
        self.pool.available()
    }

    fn vif(&mut self, place: u16) -> Option<&mut Vif<M>> {
        self.vifs.get_mut(usize::from(place))?.vif.as_mut()
    }

    /// Moves what there is, at most `rounds` rounds; `now` is the time in nanoseconds. True: there may be more.
    /// Called after any event of a guest or of the NIC.
    pub fn run(&mut self, now: u64, rounds: usize, mut tell: impl FnMut(Outcome)) -> bool {
        let mut more = true;
        for _ in 0..rounds {
            more = self.round(now);
            if !more {
                break;
            }
        }
        for (place, slot) in (0..).zip(&mut self.vifs) {
            let Some(vif) = &mut slot.vif else { continue };
            let id = VifId { place, generation: slot.generation };
            match vif.broken() {
                Some(_) if slot.reported => {}
                Some(corrupt) => {
                    slot.reported = true;
                    tell(Outcome::Corrupt(id, corrupt));
                }
                None => {
                    let (tx, rx) = vif.publish();
                    if tx || rx {
                        tell(Outcome::Notify { vif: id, tx, rx });
                    }
                }
            }
        }
        more
    }

    /// One round. False: there was nothing to move.
    fn round(&mut self, now: u64) -> bool {
        let sent = self.reap();
        self.stock();
        let mut round = Round::default();
        let received = self.receive(now, &mut round);
        let pending = self.collect();
        let moved = received || !pending.is_empty();
        if moved {
            self.peek_and_route(pending, now, &mut round);
            self.copy(&mut round.copies);
            self.settle(round);
        }
        if let Some(nic) = &mut self.nic {
            let outgoing = core::mem::take(&mut self.outgoing);
            if !outgoing.is_empty() {
                nic.send(outgoing);
            }
            nic.kick();
        }
        moved || sent
    }

    fn copy(&mut self, copies: &mut [Copy]) {
        if !copies.is_empty() {
            self.totals.copy_calls += 1;
            self.grants.copy(copies);
        }
    }

    /// Takes back what the NIC has sent. Whether there was any.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some(tag) = self.nic.as_mut().and_then(Nic::sent) {
            any = true;
            match self.in_flight.get_mut(usize::from(tag)).and_then(Option::take) {
                Some(InFlight::Guest(id, ids)) => {
                    self.tags.push(tag);
                    let vif = self.vif(id.place).filter(|vif| vif.generation() == id.generation);
                    vif.into_iter().for_each(|vif| vif.answer(&ids, Status::OKAY));
                }
                Some(InFlight::Own(headers, frame)) => {
                    self.tags.push(tag);
                    headers.into_iter().for_each(|headers| self.release(headers));
                    self.release(frame);
                }
                None => {}
            }
        }
        any
    }

    fn release(&mut self, frame: Rc<Frame>) {
        if let Ok(frame) = Rc::try_unwrap(frame) {
            self.pool.free(frame);
        }
    }

    /// Gives the NIC buffers, as long as half of our memory stays free for other uses.
    fn stock(&mut self) {
        let Some(nic) = &mut self.nic else { return };
        let reserve = self.grants.memory().len() / UNIT / 2;
        while nic.wanted() > 0 && self.pool.available() > reserve {
            let Some(unit) = self.pool.take_unit() else { break };
            nic.post(unit);
        }
    }

    /// Takes packets from the NIC and plans their delivery. Whether there were any.
    fn receive(&mut self, now: u64, round: &mut Round) -> bool {
        for count in 0..PER_NIC {
            let Some((offset, len)) = self.nic.as_mut().and_then(Nic::received) else { return count > 0 };
            self.totals.packets += 1;
            let frame = Pool::received(offset, len.into());
            let mut header = [0; ETH_HEADER];
            let whole = frame.read(self.grants.memory(), 0, &mut header) == ETH_HEADER;
            let (dst, src) = addresses(&header);
            let mut delivered = false;
            if whole && self.bridge.learn(src, Port::Nic, now) {
                let pieces: Vec<Piece> = frame.pieces(0, frame.len()).collect();
                let delivery = Delivery { pieces: &pieces, len: frame.len(), checksum: Checksum::Unknown, gso: None };
                for target in self.targets(dst, Port::Nic, now) {
                    let Port::Vif(place) = target else { continue };
                    delivered |= self.vif(place).is_some_and(|vif| vif.plan(&delivery, &mut round.copies));
                }
            }
            self.totals.nic_dropped += u64::from(!delivered);
            round.received.push(frame);
        }
        true
    }

    /// Where a packet from `source` goes.
    fn targets(&self, dst: Mac, source: Port, now: u64) -> Vec<Port> {
        if !dst.is_group()
            && let Some(port) = self.bridge.find(dst, now)
        {
            let there = match port {
                Port::Nic => self.nic.is_some(),
                Port::Vif(place) => self.vifs.get(usize::from(place)).is_some_and(|slot| slot.vif.is_some()),
            };
            return (there && port != source).then_some(port).into_iter().collect();
        }
        let vifs = self.vifs.iter().filter_map(|slot| slot.vif.as_ref());
        let vifs = vifs.filter(|vif| !dst.is_group() || vif.wants(dst)).map(Vif::port);
        self.nic.iter().map(|_| Port::Nic).chain(vifs).filter(|port| *port != source).collect()
    }

    /// Takes packets from guests, as long as NIC and memory have room for what each of them may become. Where they have
    /// not, the packets stay on the rings: what the NIC sends makes room, and its interrupt brings us here again.
    fn collect(&mut self) -> Vec<Pending> {
        let mut pending = Vec::new();
        let mut frames = self.nic.as_ref().map_or(usize::MAX, |nic| nic.room().min(self.tags.len()));
        let mut units = self.pool.available();
        // Everybody gets the same share of a round.
        let share = PER_VIF.min(PER_ROUND / self.vifs.len().max(1));
        for (place, slot) in (0..).zip(&mut self.vifs) {
            let Some(vif) = &mut slot.vif else { continue };
            for _ in 0..share {
                if frames < MOST_FRAMES || units < MOST_UNITS {
                    return pending;
                }
                let peer = vif.config().peer;
                if !vif.next(|packet| pending.push(Pending::new(place, peer, packet))) {
                    break;
                }
                let Some(packet) = pending.last() else { break };
                let segments = packet.gso.map_or(1, |gso| packet.len.div_ceil(gso.size.into())).min(MOST_FRAMES);
                frames -= segments;
                units -= segments + packet.len.div_ceil(UNIT);
            }
        }
        pending
    }

    /// Reads the first bytes of guests' packets and plans where they go.
    fn peek_and_route(&mut self, pending: Vec<Pending>, now: u64, round: &mut Round) {
        let mut peeks = Vec::with_capacity(pending.len());
        let mut ranges = Vec::with_capacity(pending.len());
        for (index, packet) in pending.iter().enumerate() {
            let first = peeks.len();
            let mut at = 0;
            for piece in &packet.pieces {
                let len = piece.len.min((PEEK - at).min(packet.len) as u16);
                if len > 0 {
                    let to = Place::Own(index * PEEK + at);
                    peeks.push(Copy { from: piece.place, to, len, done: false });
                    at += usize::from(len);
                }
            }
            ranges.push(first..peeks.len());
        }
        self.copy(&mut peeks);
        for (index, (packet, range)) in pending.into_iter().zip(ranges).enumerate() {
            self.totals.packets += 1;
            let mut header = [0; ETH_HEADER];
            self.grants.memory().read(index * PEEK, &mut header);
            let read = peeks.get(range).is_some_and(|peeks| peeks.iter().all(|copy| copy.done));
            let (dst, src) = addresses(&header);
            let (source, len) = (Port::Vif(packet.place), packet.len as u64);
            let genuine = read && self.bridge.learn(src, source, now);
            if let Some(vif) = self.vif(packet.place) {
                vif.counters.bytes_copied += PEEK.min(packet.len) as u64;
                if genuine {
                    vif.counters.tx_packets += 1;
                    vif.counters.tx_bytes += len;
                } else {
                    vif.counters.tx_errors += 1;
                    vif.answer(&packet.ids, Status::ERROR);
                }
            }
            if genuine {
                let targets = self.targets(dst, source, now);
                let v6 = header[12..] != [0x08, 0x00];
                self.route(packet, &targets, v6, round);
            }
        }
    }

    /// Plans the copies of one packet of a guest's.
    fn route(&mut self, packet: Pending, targets: &[Port], v6: bool, round: &mut Round) {
        let Pending { place, ids, pieces, len, checksum, gso } = packet;
        let mut mend = Vec::new();
        let mut to_nic = false;
        for target in targets {
            match target {
                Port::Nic if gso.is_none() && checksum != Checksum::Blank && len <= UNIT => to_nic = true,
                Port::Vif(to) if self.takes(*to, len, checksum, gso, v6) => {
                    let delivery = Delivery { pieces: &pieces, len, checksum, gso };
                    if let Some(vif) = self.vif(*to) {
                        vif.plan(&delivery, &mut round.copies);
                    }
                }
                other => mend.push(*other),
            }
        }
        if !mend.is_empty() {
            self.stage(place, &pieces, len, mend, (checksum, gso), round);
        }
        let room = self.nic.as_ref().is_some_and(|nic| nic.room() > self.outgoing.len());
        let tag = if to_nic && room { self.tags.pop() } else { None };
        if to_nic && tag.is_none() {
            self.vif(place).into_iter().for_each(|vif| vif.counters.tx_dropped += 1);
        }
        match tag {
            // The NIC uses the guest's pages: they are answered when it is done, which is after the copies.
            Some(tag) => {
                let generation = self.vif(place).map_or(0, |vif| vif.generation());
                if let Some(slot) = self.in_flight.get_mut(usize::from(tag)) {
                    *slot = Some(InFlight::Guest(VifId { place, generation }, ids));
                }
                self.outgoing.push(NicFrame { tag, pieces });
            }
            None => round.answers.push((place, ids)),
        }
    }

    fn takes(&mut self, place: u16, len: usize, checksum: Checksum, gso: Option<Gso>, v6: bool) -> bool {
        self.vif(place).is_some_and(|vif| vif.takes(len, checksum, gso, v6))
    }

    /// Plans the copy of a packet into our memory, to be mended there.
    fn stage(
        &mut self,
        source: u16,
        pieces: &[Piece],
        len: usize,
        targets: Vec<Port>,
        (checksum, gso): (Checksum, Option<Gso>),
        round: &mut Round,
    ) {
        let Some(frame) = self.pool.allocate(len) else {
            self.vif(source).into_iter().for_each(|vif| vif.counters.tx_dropped += 1);
            return;
        };
        let first = round.copies.len();
        let mut at = 0;
        for piece in pieces {
            let mut from = piece.place;
            for part in frame.pieces(at, piece.len.into()) {
                round.copies.push(Copy { from, to: part.place, len: part.len, done: false });
                from = from.after(part.len);
            }
            at += usize::from(piece.len);
        }
        let copies = first..round.copies.len();
        round.staged.push(Staged { frame: Rc::new(frame), copies, targets, checksum, gso, source });
    }

    /// The copies are made: answers, deliveries, and the packets that were to be mended.
    fn settle(&mut self, round: Round) {
        for slot in &mut self.vifs {
            slot.vif.iter_mut().for_each(|vif| vif.deliver(&round.copies));
        }
        for (place, ids) in round.answers {
            self.vif(place).into_iter().for_each(|vif| vif.answer(&ids, Status::OKAY));
        }
        round.received.into_iter().for_each(|frame| self.pool.free(frame));
        let mut copies = Vec::new();
        let mut used = Vec::new();
        for staged in round.staged {
            let done = round.copies.get(staged.copies.clone()).is_some_and(|list| list.iter().all(|copy| copy.done));
            let mended = if done { self.mend(&staged) } else { None };
            if let Some(vif) = self.vif(staged.source) {
                vif.counters.bytes_copied += staged.frame.len() as u64;
                vif.counters.tx_errors += u64::from(mended.is_none());
            }
            for packet in mended.into_iter().flatten() {
                self.send_mended(&staged, &packet, &mut copies);
                used.extend(packet.headers);
            }
            used.push(staged.frame);
        }
        self.copy(&mut copies);
        for slot in &mut self.vifs {
            slot.vif.iter_mut().for_each(|vif| vif.deliver(&copies));
        }
        used.into_iter().for_each(|frame| self.release(frame));
    }

    /// Makes a packet right for receivers that do nothing themselves; `None`: that cannot be done.
    fn mend(&mut self, staged: &Staged) -> Option<Vec<Mended>> {
        let frame = &staged.frame;
        let whole =
            |frame: &Frame| Mended { headers: None, pieces: frame.pieces(0, frame.len()).collect(), len: frame.len() };
        if staged.gso.is_none() && staged.checksum != Checksum::Blank {
            return Some(alloc::vec![whole(frame)]);
        }
        let head = Head::read(frame, self.grants.memory())?;
        let Some(gso) = staged.gso else {
            head.complete(frame, self.grants.memory());
            self.vif(staged.source).into_iter().for_each(|vif| vif.counters.checksums += 1);
            return Some(alloc::vec![whole(frame)]);
        };
        let count = head.segments(gso)?;
        let mut segments = Vec::with_capacity(count);
        for index in 0..count {
            let bytes = head.segment(frame, self.grants.memory(), gso, index, count);
            let Some(headers) = self.pool.allocate(bytes.len().min(MAX_HEADERS)) else { break };
            headers.write(self.grants.memory(), 0, &bytes);
            let (start, len) = head.payload(gso, index);
            let pieces = headers.pieces(0, bytes.len()).chain(frame.pieces(start, len)).collect();
            segments.push(Mended { headers: Some(Rc::new(headers)), pieces, len: bytes.len() + len });
        }
        if let Some(vif) = self.vif(staged.source) {
            vif.counters.segments += segments.len() as u64;
            vif.counters.checksums += segments.len() as u64;
        }
        Some(segments)
    }

    /// Hands a mended packet to where it goes.
    fn send_mended(&mut self, staged: &Staged, packet: &Mended, copies: &mut Vec<Copy>) {
        for target in &staged.targets {
            match target {
                Port::Vif(place) => {
                    let checksum = match staged.checksum {
                        Checksum::Blank => Checksum::Validated,
                        other => other,
                    };
                    let delivery = Delivery { pieces: &packet.pieces, len: packet.len, checksum, gso: None };
                    if let Some(vif) = self.vif(*place) {
                        vif.plan(&delivery, copies);
                    }
                }
                Port::Nic => self.send_own(staged, packet),
            }
        }
    }

    fn send_own(&mut self, staged: &Staged, packet: &Mended) {
        let queued = self.outgoing.len();
        let room = self.nic.as_ref().is_some_and(|nic| nic.room() > queued) && packet.len <= UNIT;
        let tag = if room { self.tags.pop() } else { None };
        let Some(tag) = tag else {
            self.vif(staged.source).into_iter().for_each(|vif| vif.counters.tx_dropped += 1);
            return;
        };
        if let Some(slot) = self.in_flight.get_mut(usize::from(tag)) {
            *slot = Some(InFlight::Own(packet.headers.clone(), staged.frame.clone()));
        }
        self.outgoing.push(NicFrame { tag, pieces: packet.pieces.clone() });
    }
}

/// Destination and source of an Ethernet header.
fn addresses(header: &[u8; ETH_HEADER]) -> (Mac, Mac) {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *header;
    (Mac([d0, d1, d2, d3, d4, d5]), Mac([s0, s1, s2, s3, s4, s5]))
}
