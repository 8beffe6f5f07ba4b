//! One guest's connection: its queues, what it takes, what it has done.

use crate::bridge::Port;
use crate::counters::Counters;
use crate::groups::Groups;
use crate::platform::{Copy, PAGE, Piece};
use crate::queue::{Queue, Toward};
use abi::DomId;
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::net::*;
use ring_proto::net_keys::Offloads;
use ring_proto::net_tx::TxPacket;
use ring_proto::ring::{BadSize, Corrupt};

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
    /// The same for packets that are to arrive in order: they take the same queue.
    pub flow: u32,
}

/// A connected guest.
#[derive(Debug)]
pub struct Vif<M> {
    config: VifConfig,
    /// Its place in the switch.
    place: u16,
    /// Tells this connection from earlier ones of the same place.
    generation: u32,
    queues: Vec<Queue<M>>,
    groups: Groups,
    pub(crate) counters: Counters,
    broken: Option<Corrupt>,
}

impl<M: RingMemory> Vif<M> {
    /// Serves queues of a transmit and a receive ring each.
    pub fn new(
        rings: impl IntoIterator<Item = (M, M)>,
        config: VifConfig,
        place: u16,
        generation: u32,
    ) -> Result<Self, BadSize> {
        let queue = |(tx, rx)| Queue::new(tx, rx, config.multicast_control);
        Ok(Self {
            config,
            place,
            generation,
            queues: rings.into_iter().map(queue).collect::<Result<_, _>>()?,
            groups: Groups::new(config.multicast_control),
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

    /// How many queues it has.
    pub fn queues(&self) -> usize {
        self.queues.len()
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

    /// Whether a queue may have a packet to send.
    pub(crate) fn has_next(&mut self, queue: usize) -> bool {
        let Some(queue) = self.queues.get_mut(queue).filter(|_| self.broken.is_none()) else { return false };
        queue.has_next().unwrap_or_else(|corrupt| self.fail(corrupt))
    }

    /// Hands the guest's next packet on a queue to `take`. False: there is none now.
    pub fn next(&mut self, queue: usize, take: impl FnOnce(&TxPacket)) -> bool {
        let Some(queue) = self.queues.get_mut(queue).filter(|_| self.broken.is_none()) else { return false };
        let next = queue.next(&mut self.groups, &mut self.counters.tx_errors, take);
        next.unwrap_or_else(|corrupt| self.fail(corrupt))
    }

    /// Where the last packet of a queue went, if to one guest only.
    pub(crate) fn toward(&self, queue: usize) -> Option<Toward> {
        self.queues.get(queue)?.toward
    }

    /// Notes where a packet of a queue went.
    pub(crate) fn went(&mut self, queue: u8, toward: Option<Toward>) {
        self.queues.get_mut(usize::from(queue)).into_iter().for_each(|queue| queue.toward = toward);
    }

    /// How many more packets like that there is room for ([`Queue::room`]). `Err`: until when they should wait.
    pub(crate) fn room(&mut self, toward: &Toward, most: usize, now: u64) -> Result<usize, u64> {
        let Some(queue) = self.receiving(toward.flow) else { return Ok(most) };
        queue.room(toward.slots, most, now).unwrap_or_else(|corrupt| {
            self.fail(corrupt);
            Ok(most)
        })
    }

    /// Keeps slots for so many packets like that.
    pub(crate) fn promise(&mut self, toward: &Toward, packets: usize) {
        self.receiving(toward.flow).into_iter().for_each(|queue| queue.promise(toward.slots * packets));
    }

    /// The queue that packets of a flow are received on.
    fn receiving(&mut self, flow: u32) -> Option<&mut Queue<M>> {
        let index = flow as usize % self.queues.len().max(1);
        self.queues.get_mut(index).filter(|_| self.broken.is_none())
    }

    fn fail(&mut self, corrupt: Corrupt) -> bool {
        self.broken.get_or_insert(corrupt);
        false
    }

    /// Answers the slots of a packet of a queue.
    pub fn answer(&mut self, queue: u8, ids: &[u16], status: Status) {
        if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
            queue.answer(ids, status);
        }
    }

    /// Whether a packet to the group `mac` is wanted.
    pub fn wants(&self, mac: Mac) -> bool {
        self.groups.has(mac)
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
        let most = if self.config.offloads.scatter_gather { MAX_SLOTS } else { 1 };
        let fits = delivery.len.div_ceil(PAGE) <= most && delivery.len <= MAX_PACKET;
        let (peer, place) = (self.config.peer, self.place);
        let planned = match self.receiving(delivery.flow).filter(|_| fits) {
            Some(queue) => queue.plan(delivery, peer, place, copies),
            None => Ok(false),
        };
        let planned = planned.unwrap_or_else(|corrupt| self.fail(corrupt));
        self.counters.rx_dropped += u64::from(!planned);
        planned
    }

    /// Answers what was planned, as its copies went.
    pub fn deliver(&mut self, copies: &[Copy]) {
        let counters = &mut self.counters;
        for queue in &mut self.queues {
            queue.deliver(copies, |len, done| {
                counters.rx_packets += u64::from(done);
                counters.rx_bytes += if done { len as u64 } else { 0 };
                counters.rx_dropped += u64::from(!done);
            });
        }
    }

    /// Shows the guest all answers; tells which queues' rings need an event: (queue, tx, rx).
    pub fn publish(&mut self, mut tell: impl FnMut(u8, bool, bool)) {
        for (index, queue) in (0..).zip(&mut self.queues) {
            let (tx, rx) = queue.publish();
            self.counters.notifications += u64::from(tx) + u64::from(rx);
            if tx || rx {
                tell(index, tx, rx);
            }
        }
    }
}
