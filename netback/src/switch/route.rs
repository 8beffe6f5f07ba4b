//! Where packets go.

use super::round::{Packet, Round, Staged};
use super::{Switch, VifId};
use crate::bridge::Port;
use crate::platform::{Account, Copy, CopyGrants, Nic, PAGE, Place};
use crate::pool::UNIT;
use crate::queue::Toward;
use crate::vif::{Delivery, Vif};
use alloc::rc::Rc;
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::net::{Checksum, ETH_HEADER, Mac, Status};

/// An Ethernet header, and what matters of it here.
pub(super) struct Header {
    pub bytes: [u8; ETH_HEADER],
    pub to: Mac,
    pub from: Mac,
    /// Not IPv4: what concerns IPv6 concerns everything else too.
    pub v6: bool,
}

impl Header {
    /// Reads it at an offset of our memory.
    pub fn read(memory: &impl RingMemory, at: usize) -> Self {
        let mut bytes = [0; ETH_HEADER];
        memory.read(at, &mut bytes);
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, kind @ ..] = bytes;
        Self { bytes, to: Mac([d0, d1, d2, d3, d4, d5]), from: Mac([s0, s1, s2, s3, s4, s5]), v6: kind != [0x08, 0x00] }
    }
}

impl<G: CopyGrants, N: Nic, M: RingMemory> Switch<G, N, M> {
    /// Where a packet from `source` goes.
    pub(super) fn targets(&self, to: Mac, source: Port, now: u64, targets: &mut Vec<Port>) {
        targets.clear();
        if !to.is_group()
            && let Some(port) = self.bridge.find(to, now)
        {
            let there = match port {
                Port::Nic => self.nic.is_some(),
                Port::Vif(place) => self.vifs.get(usize::from(place)).is_some_and(|slot| slot.vif.is_some()),
            };
            targets.extend((there && port != source).then_some(port));
            return;
        }
        let vifs = self.vifs.iter().filter_map(|slot| slot.vif.as_ref());
        let vifs = vifs.filter(|vif| !to.is_group() || vif.wants(to)).map(Vif::port);
        targets.extend(self.nic.iter().map(|_| Port::Nic).chain(vifs).filter(|port| *port != source));
    }

    /// Plans where all packets go whose headers have been read.
    pub(super) fn route_all(&mut self, now: u64, round: &mut Round) {
        let packets = core::mem::take(&mut round.packets);
        for packet in &packets {
            self.totals.packets += 1;
            let headers = round.headers.get(packet.header.clone()).unwrap_or_default();
            let Some(Place::Own(at)) = round.pieces.get(packet.pieces.start).map(|piece| piece.place) else { break };
            let source = Port::Vif(packet.place);
            let header = Header::read(self.grants.memory(), at);
            let genuine = headers.iter().all(|copy| copy.done) && self.bridge.learn(header.from, source, now);
            let Some(vif) = self.vif(packet.place) else { continue };
            if genuine {
                vif.counters.tx_packets += 1;
                vif.counters.tx_bytes += packet.len as u64;
                let mut targets = core::mem::take(&mut round.targets);
                self.targets(header.to, source, now, &mut targets);
                self.route(packet, &header, &targets, round);
                round.targets = targets;
            } else {
                vif.counters.tx_errors += 1;
                vif.answer(packet.queue, round.ids.get(packet.ids.clone()).unwrap_or_default(), Status::ERROR);
            }
        }
        round.packets = packets;
    }

    /// Plans the copies of one packet of a guest's.
    fn route(&mut self, packet: &Packet, header: &Header, targets: &[Port], round: &mut Round) {
        let Packet { queue, len, checksum, gso, .. } = *packet;
        let flow = packet.flow();
        let pieces = round.pieces.get(packet.pieces.clone()).unwrap_or_default();
        let mut mend = Vec::new();
        let mut to_nic = false;
        for target in targets {
            match target {
                Port::Nic if gso.is_none() && checksum != Checksum::Blank && len <= UNIT => to_nic = true,
                Port::Vif(to) => match self.vif(*to) {
                    Some(vif) if vif.takes(len, checksum, gso, header.v6) => {
                        vif.plan(&Delivery { pieces, len, checksum, gso, flow }, &mut round.copies);
                    }
                    _ => mend.push(*target),
                },
                Port::Nic => mend.push(*target),
            }
        }
        let alone = match targets {
            [Port::Vif(place)] => {
                let slots = len.div_ceil(PAGE) + usize::from(gso.is_some());
                Some(Toward { place: *place, flow, slots })
            }
            _ => None,
        };
        // The NIC uses the guest's pages: they are answered when it is done, which is after the copies.
        let generation = self.vif(packet.place).map_or(0, |vif| {
            vif.went(queue, alone);
            vif.generation()
        });
        let ids = round.ids.get(packet.ids.clone()).unwrap_or_default();
        let room = self.nic.as_ref().is_some_and(|nic| nic.room() > self.outgoing.waiting());
        let with_nic = to_nic && {
            let sender = VifId { place: packet.place, generation };
            room && self.outgoing.push_guests((sender, queue), ids, &header.bytes, pieces, self.grants.memory())
        };
        if to_nic && !with_nic {
            self.drop_of(packet.place);
        }
        if !mend.is_empty() {
            self.stage(packet, header, mend, round);
        }
        if !with_nic {
            round.answers.push((packet.place, queue, packet.ids.clone()));
        }
    }

    /// Counts a packet of a guest's that there was no room for.
    pub(super) fn drop_of(&mut self, place: u16) {
        self.vif(place).into_iter().for_each(|vif| vif.counters.tx_dropped += 1);
    }

    /// Plans the copy of a packet into our memory, to be mended there.
    fn stage(&mut self, packet: &Packet, header: &Header, targets: Vec<Port>, round: &mut Round) {
        let Packet { place: source, len, checksum, gso, .. } = *packet;
        let Some(frame) = self.pool.allocate(len) else { return self.drop_of(source) };
        frame.write(self.grants.memory(), 0, &header.bytes);
        let first = round.copies.len();
        let mut at = ETH_HEADER;
        // Behind the header.
        for piece in round.pieces.get(packet.pieces.clone()).unwrap_or_default().iter().skip(1) {
            let mut from = piece.place;
            for part in frame.pieces(at, piece.len.into()) {
                let account = Account::Out(source);
                round.copies.push(Copy { from, to: part.place, len: part.len, account, done: false });
                from = from.after(part.len);
            }
            at += usize::from(piece.len);
        }
        let copies = first..round.copies.len();
        let flow = packet.flow();
        round.staged.push(Staged { frame: Rc::new(frame), copies, targets, checksum, gso, source, flow });
    }
}
