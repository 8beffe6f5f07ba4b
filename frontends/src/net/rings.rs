//! The two rings of an interface and the pages behind them.

use super::checksum;
use abi::{DomId, PAGE_SIZE, Port};
use alloc::vec;
use alloc::vec::Vec;
use domain_rt::events::Event;
use domain_rt::grant::{Access, GrantError, Granted};
use ring_proto::keys::{BadKey, Keys};
use ring_proto::memory::RingMemory;
use ring_proto::net::{Checksum, Gso, GsoKind, PAGE, Rx, RxRequest, Status, Tx};
use ring_proto::net_keys::{BackKeys, Events, FrontKeys, Offloads, QueueKeys};
use ring_proto::net_rx::{RxPacket, RxReader};
use ring_proto::net_tx::{Fragment, push_packet};
use ring_proto::ring::{Corrupt, Front, Notify, PopError};

/// Pages for packets on their way out.
const TX_PAGES: usize = 64;
/// Pages for packets to come.
const RX_PAGES: usize = 128;
/// Slots of each ring.
const SLOTS: usize = 256;
/// Bytes of TCP payload in each segment of a packet that is larger than a page.
const SEGMENT: u16 = 1448;

/// What an interface moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// System time of the first of them, nanoseconds.
    pub first_sent: Option<u64>,
    /// Events sent to the backend.
    pub notifications: u64,
    /// Packets dropped: bad checksums, errors of the backend.
    pub dropped: u64,
}

/// Why there are no rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetupError {
    Resources,
    Backend(BadKey),
}

impl From<GrantError> for SetupError {
    fn from(_: GrantError) -> Self {
        Self::Resources
    }
}

pub(super) struct Rings {
    tx: Front<Granted, Tx>,
    tx_pages: Granted,
    tx_free: Vec<u16>,
    /// Pages that one packet may take.
    pages_each: usize,
    /// Pages whose packets are in flight, so that a response can only give back what was taken.
    tx_busy: Vec<bool>,
    rx: Front<Granted, Rx>,
    offered: Offered,
    reader: RxReader,
}

/// The pages for packets to come.
struct Offered {
    pages: Granted,
    free: Vec<u16>,
    /// Which page was offered in which slot.
    slots: Vec<Option<u16>>,
}

impl Rings {
    /// Makes rings and pages for the backend in `peer`.
    /// With frames of up to `longest` bytes, either way.
    pub(super) fn new(
        peer: DomId,
        backend: &(impl Keys + ?Sized),
        longest: usize,
    ) -> Result<(Self, Event), SetupError> {
        BackKeys::parse(backend).map_err(SetupError::Backend)?;
        let ring = || Granted::new(peer, 1, Access::ReadWrite);
        let (tx, rx) = (Front::new(ring()?), Front::new(ring()?));
        let (Ok(tx), Ok(rx)) = (tx, rx) else { return Err(SetupError::Resources) };
        let mut rings = Self {
            tx,
            tx_pages: Granted::new(peer, TX_PAGES, Access::ReadOnly)?,
            tx_free: (0..TX_PAGES as u16).collect(),
            pages_each: longest.div_ceil(PAGE_SIZE),
            tx_busy: vec![false; TX_PAGES],
            rx,
            offered: Offered {
                pages: Granted::new(peer, RX_PAGES, Access::ReadWrite)?,
                free: (0..RX_PAGES as u16).collect(),
                slots: vec![None; SLOTS],
            },
            reader: RxReader::default(),
        };
        rings.offered.offer(&mut rings.rx);
        // The backend looks at the ring when it connects; nobody is to be told yet.
        let _ = rings.rx.publish();
        let event = Event::alloc_unbound(peer).map_err(|_| SetupError::Resources)?;
        Ok((rings, event))
    }

    /// What the backend must know.
    pub(super) fn keys(&self, port: Port) -> FrontKeys {
        let first = |granted: &Granted| granted.grants().first().copied().unwrap_or_default();
        let queue = QueueKeys {
            tx_ring: first(self.tx.memory()),
            rx_ring: first(self.rx.memory()),
            events: Events::Shared(port),
        };
        let large = self.pages_each > 1;
        let offloads = Offloads {
            scatter_gather: large,
            gso_tcpv4: large,
            gso_tcpv6: large,
            checksum_v4: true,
            checksum_v6: large,
        };
        let queues = heapless::Vec::from_iter([queue]);
        FrontKeys { queues, offloads, rx_notify: true, multicast_control: false }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.tx.poison().or(self.rx.poison()).is_some()
    }

    /// Takes back the pages of packets that were sent.
    fn reap(&mut self) {
        while let Ok(response) = self.tx.pop() {
            // Of a slot that said how to segment: it had no page.
            if response.status == Status::NULL {
                continue;
            }
            if self.tx_busy.get_mut(usize::from(response.id)).is_some_and(core::mem::take) {
                self.tx_free.push(response.id);
            } else {
                self.tx.close(Corrupt::Protocol("tx response to nothing"));
            }
        }
    }

    /// Whether there are pages and slots for a packet. If not, an event comes when there are more.
    pub(super) fn can_send(&mut self) -> bool {
        loop {
            if self.is_broken() {
                return false;
            }
            if self.has_room() {
                return true;
            }
            self.reap();
            if !self.has_room() && !self.tx.final_check().unwrap_or(false) {
                return false;
            }
        }
    }

    /// Whether there are pages and slots, without looking for answers.
    pub(super) fn has_room(&self) -> bool {
        // What is larger than a page says so in a slot of its own.
        let slots = self.pages_each + usize::from(self.pages_each > 1);
        self.tx.room() as usize >= slots && self.tx_free.len() >= self.pages_each
    }

    /// Pushes a frame, for which [`can_send`](Self::can_send) said there is room.
    pub(super) fn send(&mut self, frame: &[u8], counters: &mut Counters) {
        let sent = if frame.len() <= PAGE_SIZE { self.send_page(frame) } else { self.send_large(frame) };
        if sent {
            counters.sent += 1;
            counters.first_sent.get_or_insert_with(domain_rt::time::now);
            counters.sent_bytes += frame.len() as u64;
        }
    }

    fn send_page(&mut self, frame: &[u8]) -> bool {
        self.fill(frame).is_some_and(|fragment| self.push(&[fragment], Checksum::Unknown, None))
    }

    /// Of several pages: to be segmented by whoever sends it on.
    #[inline(never)]
    fn send_large(&mut self, frame: &[u8]) -> bool {
        let fragments = frame.chunks(PAGE_SIZE).map_while(|part| self.fill(part));
        let fragments: heapless::Vec<Fragment, TX_PAGES> = fragments.collect();
        self.push(&fragments, Checksum::Blank, Some(Gso { kind: GsoKind::TcpV4, size: SEGMENT }))
    }

    /// Takes a page for a part of a frame.
    fn fill(&mut self, part: &[u8]) -> Option<Fragment> {
        let page = self.tx_free.pop()?;
        self.tx_pages.write(usize::from(page) * PAGE_SIZE, part);
        let grant = self.tx_pages.grants().get(usize::from(page)).copied().unwrap_or_default();
        Some(Fragment { grant, offset: 0, len: part.len() as u16, id: page })
    }

    /// Pushes a packet, or gives its pages back.
    #[inline(always)]
    fn push(&mut self, fragments: &[Fragment], checksum: Checksum, gso: Option<Gso>) -> bool {
        let pushed = push_packet(&mut self.tx, fragments, checksum, gso).is_ok();
        for Fragment { id, .. } in fragments {
            match self.tx_busy.get_mut(usize::from(*id)) {
                Some(busy) if pushed => *busy = true,
                _ => self.tx_free.push(*id),
            }
        }
        pushed
    }

    /// Copies the next frame out. False if there is none: then an event comes when there is.
    pub(super) fn receive(&mut self, counters: &mut Counters, frame: &mut Vec<u8>) -> bool {
        loop {
            match self.reader.next(&mut self.rx) {
                Ok(packet) => {
                    let known = packet.checksum;
                    let whole = self.offered.take(packet, &mut self.rx, frame);
                    self.offered.offer(&mut self.rx);
                    if whole && (known != Checksum::Unknown || checksum::holds(frame)) {
                        counters.received += 1;
                        counters.received_bytes += frame.len() as u64;
                        return true;
                    }
                    counters.dropped += 1;
                }
                Err(PopError::Empty) => {
                    if !self.rx.final_check().unwrap_or(false) {
                        return false;
                    }
                }
                Err(PopError::Corrupt(_)) => return false,
            }
        }
    }

    /// Shows the backend what was pushed on either ring.
    pub(super) fn publish(&mut self) -> Notify {
        let tx = self.tx.publish();
        tx.or(self.rx.publish())
    }
}

impl Offered {
    /// Offers every page that is free.
    fn offer(&mut self, ring: &mut Front<Granted, Rx>) {
        while ring.room() > 0
            && let Some(page) = self.free.pop()
        {
            let slot = (ring.sent() & (ring.slots() - 1)) as u16;
            let gref = self.pages.grants().get(usize::from(page)).copied().unwrap_or_default();
            if ring.push(&RxRequest { id: slot, pad: 0, gref }).is_err() {
                self.free.push(page);
                return;
            }
            if let Some(entry) = self.slots.get_mut(usize::from(slot)) {
                *entry = Some(page);
            }
        }
    }

    /// Copies a packet out and frees its pages; false if the backend dropped it. One of which a part is nowhere closes
    /// the ring.
    fn take(&mut self, packet: &RxPacket, ring: &mut Front<Granted, Rx>, frame: &mut Vec<u8>) -> bool {
        frame.resize(packet.len(), 0);
        let mut rest = frame.as_mut_slice();
        let mut whole = !packet.is_empty();
        for part in &packet.parts {
            let (now, later) = rest.split_at_mut(usize::from(part.len));
            if let Some(page) = self.back(part.slot) {
                self.pages.read(usize::from(page) * PAGE + usize::from(part.offset), now);
            } else {
                ring.close(Corrupt::Protocol("rx response in an empty slot"));
                whole = false;
            }
            rest = later;
        }
        for slot in &packet.spare {
            self.back(*slot);
        }
        whole
    }

    /// Takes back the page that was offered in a slot.
    fn back(&mut self, slot: u16) -> Option<u16> {
        let page = self.slots.get_mut(usize::from(slot)).and_then(Option::take)?;
        self.free.push(page);
        Some(page)
    }
}
