//! One guest's connection: its two rings, what it takes, what it has done.

use crate::bridge::Port;
use crate::counters::Counters;
use crate::platform::{Account, Copy, PAGE, Piece, Place};
use abi::DomId;
use alloc::vec::Vec;
use core::ops::Range;
use ring_proto::memory::RingMemory;
use ring_proto::net::*;
use ring_proto::net_keys::Offloads;
use ring_proto::net_rx::{answer, first_flags};
use ring_proto::net_tx::{Multicast, TxError, TxItem, TxReader};
use ring_proto::ring::{Back, BadSize, Corrupt, PopError};

/// Most multicast addresses that a guest may ask for.
const MAX_MULTICAST: usize = 64;

/// What a guest chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VifConfig {
    /// The guest.
    pub peer: DomId,
    /// The address that the toolstack gave it; nobody else sends from it.
    pub mac: Mac,
    /// What it takes.
    pub offloads: Offloads,
    /// It wants only the multicast addresses that it names.
    pub multicast_control: bool,
}

/// A packet to be delivered: its bytes, and what is known of them.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its bytes.
    pub pieces: &'a [Piece],
    /// How many.
    pub len: usize,
    /// Of the transport checksum.
    pub checksum: Checksum,
    /// How to cut it up.
    pub gso: Option<Gso>,
}

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

/// A connected guest.
#[derive(Debug)]
pub struct Vif<M> {
    config: VifConfig,
    /// Its place in the switch.
    place: u16,
    /// Tells this connection from earlier ones of the same place.
    generation: u32,
    pub(crate) tx: Back<M, Tx>,
    rx: Back<M, Rx>,
    reader: TxReader,
    multicast: Vec<Mac>,
    planned: Vec<Planned>,
    ids: Vec<u16>,
    pub(crate) counters: Counters,
    broken: Option<Corrupt>,
}

impl<M: RingMemory> Vif<M> {
    /// Serves the rings in `tx` and `rx`.
    pub fn new(tx: M, rx: M, config: VifConfig, place: u16, generation: u32) -> Result<Self, BadSize> {
        Ok(Self {
            config,
            place,
            generation,
            tx: Back::attach(tx)?,
            rx: Back::attach(rx)?,
            reader: TxReader::new(true),
            multicast: Vec::new(),
            planned: Vec::new(),
            ids: Vec::new(),
            counters: Counters::default(),
            broken: None,
        })
    }

    /// What the guest chose.
    pub fn config(&self) -> &VifConfig {
        &self.config
    }

    /// Its port of the bridge.
    pub fn port(&self) -> Port {
        Port::Vif(self.place)
    }

    /// Tells this connection from earlier ones of the same place.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What it has done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why it is served no more, if it is not.
    pub fn broken(&self) -> Option<Corrupt> {
        self.broken
    }

    /// Hands the guest's next packet to `take`. False: there is none now.
    pub fn next(&mut self, take: impl FnOnce(&ring_proto::net_tx::TxPacket)) -> bool {
        if self.broken.is_some() {
            return false;
        }
        loop {
            match self.reader.next(&mut self.tx) {
                Ok(TxItem::Packet(packet)) => {
                    take(packet);
                    return true;
                }
                Ok(TxItem::Multicast(change, id)) => {
                    let done = change_multicast(&mut self.multicast, change);
                    TxReader::answer_multicast(&mut self.tx, id, done);
                }
                Ok(TxItem::Refused(error)) => self.refused(error),
                Err(PopError::Corrupt(corrupt)) => return self.fail(corrupt),
                Err(PopError::Empty) => match self.tx.final_check() {
                    Ok(true) => {}
                    Ok(false) => return false,
                    Err(corrupt) => return self.fail(corrupt),
                },
            }
        }
    }

    fn refused(&mut self, _error: TxError) {
        self.counters.tx_errors += 1;
    }

    fn fail(&mut self, corrupt: Corrupt) -> bool {
        self.broken.get_or_insert(corrupt);
        false
    }

    /// Answers the slots of a packet.
    pub fn answer(&mut self, ids: &[u16], status: Status) {
        for id in ids {
            // Each slot taken is answered once, so a slot is free unless the ring was closed meanwhile.
            let _ = self.tx.push(&TxResponse { id: *id, status });
        }
    }

    /// Whether a packet to the group `mac` is wanted.
    pub fn wants(&self, mac: Mac) -> bool {
        mac == Mac::BROADCAST || !self.config.multicast_control || self.multicast.contains(&mac)
    }

    /// Whether the guest takes a packet as it is.
    pub fn takes(&self, len: usize, checksum: Checksum, gso: Option<Gso>, v6: bool) -> bool {
        let Offloads { scatter_gather, gso_tcpv4, gso_tcpv6, checksum_v4, checksum_v6 } = self.config.offloads;
        let whole = match gso.map(|gso| gso.kind) {
            None => true,
            Some(GsoKind::TcpV4) => gso_tcpv4,
            Some(GsoKind::TcpV6) => gso_tcpv6,
        };
        let blank = checksum != Checksum::Blank || if v6 { checksum_v6 } else { checksum_v4 };
        whole && blank && (scatter_gather || len <= PAGE)
    }

    /// Takes pages for a packet and appends the copies that fill them. False: the guest offers too few.
    pub fn plan(&mut self, delivery: &Delivery<'_>, copies: &mut Vec<Copy>) -> bool {
        let pages = delivery.len.div_ceil(PAGE);
        let wanted = pages + usize::from(delivery.gso.is_some());
        let most = if self.config.offloads.scatter_gather { MAX_SLOTS } else { 1 };
        let fits = self.broken.is_none() && pages <= most && delivery.len <= MAX_PACKET;
        if !fits || !self.offered(wanted) {
            self.counters.rx_dropped += 1;
            return false;
        }
        let first = copies.len();
        let first_id = self.ids.len();
        let mut pieces = Pieces { pieces: delivery.pieces, used: 0 };
        for page in 0..pages {
            let Ok(request) = self.rx.pop() else { break };
            self.ids.push(request.id);
            let filled = (delivery.len - page * PAGE).min(PAGE);
            let mut at = 0;
            while let Some(Piece { place, len }) = pieces.next(filled - at) {
                let to = Place::Guest(self.config.peer, request.gref, at as u16);
                copies.push(Copy { from: place, to, len, account: Account::In(self.place), done: false });
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
        true
    }

    /// Whether the guest offers so many pages.
    fn offered(&mut self, wanted: usize) -> bool {
        if self.rx.known() as usize >= wanted {
            return true;
        }
        match self.rx.final_check_after(wanted as u32) {
            Ok(_) => self.rx.known() as usize >= wanted,
            Err(corrupt) => self.fail(corrupt),
        }
    }

    /// Answers what was planned, as its copies went.
    pub fn deliver(&mut self, copies: &[Copy]) {
        let mut planned = core::mem::take(&mut self.planned);
        for packet in planned.drain(..) {
            let done = copies.get(packet.copies.clone()).is_some_and(|copies| copies.iter().all(|copy| copy.done));
            if done {
                self.counters.rx_packets += 1;
                self.counters.rx_bytes += packet.len as u64;
            } else {
                self.counters.rx_dropped += 1;
            }
            self.answer_planned(&packet, done);
        }
        self.planned = planned;
        self.ids.clear();
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
        let (tx, rx) = (self.tx.publish().needed(), self.rx.publish().needed());
        self.counters.notifications += u64::from(tx) + u64::from(rx);
        (tx, rx)
    }
}

/// Changes a guest's list; whether it could.
fn change_multicast(list: &mut Vec<Mac>, change: Multicast) -> bool {
    match change {
        Multicast::Add(mac) if !mac.is_group() => false,
        Multicast::Add(mac) if list.contains(&mac) => true,
        Multicast::Add(mac) if list.len() < MAX_MULTICAST => {
            list.push(mac);
            true
        }
        Multicast::Add(_) => false,
        Multicast::Remove(mac) => {
            list.retain(|other| *other != mac);
            true
        }
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
