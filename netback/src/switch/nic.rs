//! Frames with the NIC and from it.

use super::round::Round;
use super::route::Header;
use super::{Switch, VifId};
use crate::bridge::Port;
use crate::headers::{Headers, MAX_HEADERS};
use crate::platform::{CopyGrants, Nic, NicFrame, PAGE, Piece, Place};
use crate::pool::{Frame, Pool, UNIT};
use crate::vif::Delivery;
use alloc::rc::Rc;
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::net::{Checksum, ETH_HEADER, MAX_SLOTS, Status};

/// Packets that a round takes from the NIC.
const PER_NIC: usize = 64;
/// Frames with the NIC, at most: each has a place for its header in our second page.
const TAGS: u16 = 256;
const AREA: usize = PAGE / TAGS as usize;

const _: () = assert!(ETH_HEADER <= AREA);

/// What a frame with the NIC holds.
enum InFlight {
    /// A guest's pages: these slots of a queue of its are answered when it is sent.
    Guest(VifId, u8, heapless::Vec<u16, MAX_SLOTS>),
    /// Our memory: headers of its own, and the packet.
    Own(Option<Rc<Frame>>, Rc<Frame>),
}

/// Frames on their way to the NIC.
pub(super) struct Outgoing {
    in_flight: Vec<Option<InFlight>>,
    tags: Vec<u16>,
    /// To be handed over at the end of the round, and their bytes.
    frames: Vec<NicFrame>,
    pieces: Vec<Piece>,
}

impl Default for Outgoing {
    fn default() -> Self {
        let in_flight = (0..TAGS).map(|_| None).collect();
        Self { in_flight, tags: (0..TAGS).rev().collect(), frames: Vec::new(), pieces: Vec::new() }
    }
}

impl Outgoing {
    /// Frames that may be added.
    pub fn free(&self) -> usize {
        self.tags.len()
    }

    /// Frames that are to be handed over.
    pub fn waiting(&self) -> usize {
        self.frames.len()
    }

    /// Adds a frame of `header`, which was checked, and of the guest's pages behind it. False: no room.
    pub fn push_guests(
        &mut self,
        (sender, queue): (VifId, u8),
        ids: &[u16],
        header: &[u8; ETH_HEADER],
        pieces: &[Piece],
        memory: &impl RingMemory,
    ) -> bool {
        let Ok(ids) = heapless::Vec::from_slice(ids) else { return false };
        let Some(tag) = self.tags.pop() else { return false };
        let own = PAGE + usize::from(tag) * AREA;
        memory.write(own, header);
        let first = Piece { place: Place::Own(own), len: ETH_HEADER as u16 };
        self.push(
            tag,
            InFlight::Guest(sender, queue, ids),
            core::iter::once(first).chain(pieces.iter().skip(1).copied()),
        );
        true
    }

    /// Adds a frame that lies in our memory, in these frames. False: no room.
    pub fn push_own(&mut self, frames: (Option<Rc<Frame>>, Rc<Frame>), pieces: &[Piece]) -> bool {
        let Some(tag) = self.tags.pop() else { return false };
        self.push(tag, InFlight::Own(frames.0, frames.1), pieces.iter().copied());
        true
    }

    fn push(&mut self, tag: u16, in_flight: InFlight, pieces: impl Iterator<Item = Piece>) {
        if let Some(slot) = self.in_flight.get_mut(usize::from(tag)) {
            *slot = Some(in_flight);
        }
        let first = self.pieces.len();
        self.pieces.extend(pieces);
        self.frames.push(NicFrame { tag, pieces: first..self.pieces.len() });
    }

    /// What the frame of a tag held, which is free again.
    fn take(&mut self, tag: u16) -> Option<InFlight> {
        let held = self.in_flight.get_mut(usize::from(tag)).and_then(Option::take)?;
        self.tags.push(tag);
        Some(held)
    }
}

impl<G: CopyGrants, N: Nic, M: RingMemory> Switch<G, N, M> {
    /// Takes back what the NIC has sent. Whether there was any.
    pub(super) fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some(tag) = self.nic.as_mut().and_then(Nic::sent) {
            any = true;
            match self.outgoing.take(tag) {
                Some(InFlight::Guest(id, queue, ids)) => {
                    let vif = self.vif(id.place).filter(|vif| vif.generation() == id.generation);
                    vif.into_iter().for_each(|vif| vif.answer(queue, &ids, Status::OKAY));
                }
                Some(InFlight::Own(headers, frame)) => {
                    headers.into_iter().chain([frame]).for_each(|frame| self.pool.release(frame));
                }
                None => {}
            }
        }
        any
    }

    /// Gives the NIC buffers, as long as half of our memory stays free for other uses.
    pub(super) fn stock(&mut self) {
        let Some(nic) = &mut self.nic else { return };
        let reserve = self.grants.memory().len() / UNIT / 2;
        while nic.wanted() > 0 && self.pool.available() > reserve {
            let Some(unit) = self.pool.take_unit() else { break };
            nic.post(unit);
        }
    }

    /// Takes packets from the NIC and plans their delivery. Whether there were any.
    pub(super) fn receive(&mut self, now: u64, round: &mut Round) -> bool {
        for count in 0..PER_NIC {
            let Some((offset, len)) = self.nic.as_mut().and_then(Nic::received) else { return count > 0 };
            self.totals.packets += 1;
            let frame = Pool::received(offset, len.into());
            let delivered = frame.len() >= ETH_HEADER && self.deliver_received(&frame, now, round);
            self.totals.nic_dropped += u64::from(!delivered);
            round.received.push(frame);
        }
        true
    }

    /// Plans the delivery of one packet from the NIC. Whether anybody gets it.
    fn deliver_received(&mut self, frame: &Frame, now: u64, round: &mut Round) -> bool {
        let Some(piece) = frame.pieces(0, frame.len()).next() else { return false };
        let Place::Own(at) = piece.place else { return false };
        let header = Header::read(self.grants.memory(), at);
        if !self.bridge.learn(header.from, Port::Nic, now) {
            return false;
        }
        let mut delivered = false;
        let mut targets = core::mem::take(&mut round.targets);
        self.targets(header.to, Port::Nic, now, &mut targets);
        let delivery = Delivery {
            pieces: core::slice::from_ref(&piece),
            len: frame.len(),
            checksum: Checksum::Unknown,
            gso: None,
            flow: 0,
        };
        for target in &targets {
            let Port::Vif(place) = target else { continue };
            let queues = self.vif(*place).map_or(0, |vif| vif.queues());
            let flow = if queues > 1 { flow(frame, self.grants.memory()) } else { 0 };
            let delivery = Delivery { flow, ..delivery };
            delivered |= self.vif(*place).is_some_and(|vif| vif.plan(&delivery, &mut round.copies));
        }
        round.targets = targets;
        delivered
    }

    /// Hands over what the round has for the NIC, and tells it.
    pub(super) fn hand_over(&mut self) {
        let Some(nic) = &mut self.nic else { return };
        let Outgoing { frames, pieces, .. } = &mut self.outgoing;
        if !frames.is_empty() {
            nic.send(frames, pieces);
            frames.clear();
            pieces.clear();
        }
        nic.kick();
    }
}

/// The same number for all packets of a connection.
fn flow(frame: &Frame, memory: &impl RingMemory) -> u32 {
    let mut bytes = [0; MAX_HEADERS];
    let count = frame.read(memory, 0, &mut bytes);
    let bytes = bytes.get(..count).unwrap_or_default();
    Headers::parse(bytes, frame.len()).map_or(0, |headers| headers.flow(bytes))
}
