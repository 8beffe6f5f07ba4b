//! Moves packets between all ports, in rounds.
//!
//! A round takes a bounded number of packets from each port, reads the Ethernet headers of guests' packets with one
//! hypercall, decides where each packet goes, and makes all copies with another. What was read is what is sent: a
//! packet's header goes out from our memory and only the rest from the guest's pages, so a guest that changes its header
//! meanwhile changes nothing. A packet that a destination cannot take as it is - a blank checksum, or one to be
//! segmented - is copied into our memory first and mended there; that is the only case in which the payload of a packet
//! to the NIC is copied at all.
//!
//! - [`collect`]: packets off the guests' rings; [`route`]: where they go; [`mend`]: those that need work first.
//! - [`nic`]: frames with the NIC and from it.
//! - [`round`]: what one round has in hand, kept from round to round so that a packet allocates nothing.

mod collect;
mod mend;
mod nic;
mod round;
mod route;

use crate::bridge::{Bridge, Port};
use crate::counters::{Counters, Totals};
use crate::platform::{Account, Copy, CopyGrants, Nic};
use crate::pool::Pool;
use crate::vif::{Vif, VifConfig};
use alloc::vec::Vec;
use nic::Outgoing;
use ring_proto::memory::RingMemory;
use ring_proto::net::Status;
use ring_proto::ring::{BadSize, Corrupt};
use round::Round;

/// Names a vif.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VifId {
    place: u16,
    generation: u32,
}

/// What a run has to say to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send the events of one of this vif's queues: of its transmit ring, of its receive ring.
    Notify {
        /// Whose.
        vif: VifId,
        /// Which queue's.
        queue: u8,
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

struct Slot<M> {
    generation: u32,
    vif: Option<Vif<M>>,
    reported: bool,
}

/// The switch.
pub struct Switch<G, N, M> {
    grants: G,
    nic: Option<N>,
    vifs: Vec<Slot<M>>,
    generation: u32,
    bridge: Bridge,
    pool: Pool,
    outgoing: Outgoing,
    round: Round,
    totals: Totals,
    /// The queue of each vif that a round begins with, counted on.
    turn: usize,
    /// When to look again at packets that wait for their receivers.
    held_until: Option<u64>,
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
            outgoing: Outgoing::default(),
            round: Round::default(),
            totals: Totals::default(),
            turn: 0,
            held_until: None,
        }
    }

    /// Connects a guest by the rings of its queues, transmit and receive.
    pub fn open(&mut self, rings: impl IntoIterator<Item = (M, M)>, config: VifConfig) -> Result<VifId, OpenError> {
        let vacant = self.vifs.iter().position(|slot| slot.vif.is_none()).unwrap_or(self.vifs.len());
        let place = u16::try_from(vacant).map_err(|_| OpenError::Full)?;
        let port = Port::Vif(place);
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let vif = Vif::new(rings, config, place, generation).map_err(OpenError::Ring)?;
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
    pub fn close(&mut self, id: VifId) -> Option<Counters> {
        let slot = self.vifs.get_mut(usize::from(id.place))?;
        let vif = slot.vif.take_if(|vif| vif.generation() == id.generation)?;
        self.bridge.forget(Port::Vif(id.place));
        Some(*vif.counters())
    }

    /// What a vif has done.
    pub fn counters(&self, id: VifId) -> Option<&Counters> {
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

    /// When to run again even if nothing happens: packets wait for their receivers until then, in nanoseconds.
    pub fn held_until(&self) -> Option<u64> {
        self.held_until
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
                None => vif.publish(|queue, tx, rx| tell(Outcome::Notify { vif: id, queue, tx, rx })),
            }
        }
        more
    }

    /// One round. False: there was nothing to move.
    fn round(&mut self, now: u64) -> bool {
        let sent = self.reap();
        self.stock();
        let mut round = core::mem::take(&mut self.round);
        let received = self.receive(now, &mut round);
        self.collect(now, &mut round);
        let moved = received || !round.packets.is_empty();
        if moved {
            self.copy(&mut round.headers);
            self.route_all(now, &mut round);
            self.copy(&mut round.copies);
            self.settle(&mut round);
            round.clear();
        }
        self.round = round;
        self.hand_over();
        moved || sent
    }

    /// The copies are made: answers, deliveries, and the packets that were to be mended.
    fn settle(&mut self, round: &mut Round) {
        self.deliver(&round.copies);
        for (place, queue, ids) in round.answers.drain(..) {
            if let Some(vif) = self.vifs.get_mut(usize::from(place)).and_then(|slot| slot.vif.as_mut()) {
                vif.answer(queue, round.ids.get(ids).unwrap_or_default(), Status::OKAY);
            }
        }
        round.received.drain(..).for_each(|frame| self.pool.free(frame));
        if !round.staged.is_empty() {
            self.mend_all(round);
        }
    }

    fn deliver(&mut self, copies: &[Copy]) {
        for slot in &mut self.vifs {
            slot.vif.iter_mut().for_each(|vif| vif.deliver(copies));
        }
    }

    /// Makes copies with one hypercall, and counts what was copied for whom: here and nowhere else.
    fn copy(&mut self, copies: &mut [Copy]) {
        if copies.is_empty() {
            return;
        }
        self.totals.copy_calls += 1;
        self.grants.copy(copies);
        for run in copies.chunk_by(|one, next| one.account == next.account) {
            let Some(Copy { account, .. }) = run.first() else { continue };
            let (Account::Header(place) | Account::Out(place) | Account::In(place)) = *account;
            let Some(vif) = self.vif(place) else { continue };
            let counter = match account {
                Account::Header(_) => &mut vif.counters.header_bytes,
                Account::Out(_) => &mut vif.counters.tx_copied,
                Account::In(_) => &mut vif.counters.rx_copied,
            };
            *counter += run.iter().filter(|copy| copy.done).map(|copy| u64::from(copy.len)).sum::<u64>();
        }
    }
}
