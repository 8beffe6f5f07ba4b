//! Packets off the guests' rings, and the copies that bring their headers into our memory.

use super::Switch;
use super::round::{Packet, Round};
use crate::offload::MAX_SEGMENTS;
use crate::platform::{Account, Copy, CopyGrants, Nic, PAGE, Piece, Place};
use crate::pool::UNIT;
use crate::queue::Toward;
use abi::DomId;
use ring_proto::memory::RingMemory;
use ring_proto::net::{ETH_HEADER, MAX_PACKET};
use ring_proto::net_tx::TxPacket;

/// Bytes that a header has in our first page, and packets of one round whose headers fit there.
const AREA: usize = 16;
const PER_ROUND: usize = PAGE / AREA;
/// Packets that a round takes from one vif.
const PER_VIF: usize = 32;
/// What one packet can take: frames of the NIC, and units of our memory.
const MOST_FRAMES: usize = MAX_SEGMENTS;
const MOST_UNITS: usize = MAX_SEGMENTS + MAX_PACKET.div_ceil(UNIT);

const _: () = assert!(ETH_HEADER <= AREA);

impl<G: CopyGrants, N: Nic, M: RingMemory> Switch<G, N, M> {
    /// Takes packets from guests, as long as NIC and memory have room for what each of them may become. Where they have
    /// not, the packets stay on the rings: what the NIC sends makes room, and its interrupt brings us here again.
    ///
    /// Nor is a packet taken whose receiver, if it is the last one's, has no pages for it now: the sender waits as long as
    /// [`PATIENCE`](crate::queue::PATIENCE) allows, rather than lose it.
    pub(super) fn collect(&mut self, now: u64, round: &mut Round) {
        let mut frames = self.nic.as_ref().map_or(usize::MAX, |nic| nic.room().min(self.outgoing.free()));
        let mut units = self.pool.available();
        // Everybody gets the same share of a round, and so does each queue of it.
        let share = PER_VIF.min(PER_ROUND / self.vifs.len().max(1));
        self.turn = self.turn.wrapping_add(1);
        self.held_until = None;
        let turn = self.turn;
        for place in (0..=u16::MAX).take(self.vifs.len()) {
            let Some(vif) = self.vif(place) else { continue };
            let (peer, queues, end) = (vif.config().peer, vif.queues(), round.packets.len() + share);
            for queue in (0..queues).map(|index| (turn + index) % queues) {
                let first = round.packets.len();
                let Some(vif) = self.vif(place).filter(|_| first < end) else { break };
                if !vif.has_next(queue) {
                    continue;
                }
                let (toward, most) = (vif.toward(queue), share.div_ceil(queues).min(end - first));
                let most = toward.map_or(most, |toward| self.room(&toward, most, now));
                let Some(vif) = self.vif(place) else { break };
                for _ in 0..most {
                    if frames < MOST_FRAMES || units < MOST_UNITS {
                        return;
                    }
                    if !vif.next(queue, |packet| round.take(place, queue as u8, peer, packet)) {
                        break;
                    }
                    let Some(packet) = round.packets.last() else { break };
                    let segments = packet.gso.map_or(1, |gso| packet.len.div_ceil(gso.size.into())).min(MOST_FRAMES);
                    frames -= segments;
                    units -= segments + packet.len.div_ceil(UNIT);
                }
                if let Some(toward) = toward
                    && let Some(receiver) = self.vif(toward.place)
                {
                    receiver.promise(&toward, round.packets.len() - first);
                }
            }
        }
    }

    /// How many packets, of `most`, may go where they very likely go. If they are to wait, none.
    fn room(&mut self, toward: &Toward, most: usize, now: u64) -> usize {
        match self.vif(toward.place).map_or(Ok(most), |vif| vif.room(toward, most, now)) {
            Ok(room) => most.min(room),
            Err(until) => {
                self.held_until = Some(self.held_until.map_or(until, |other| other.min(until)));
                0
            }
        }
    }
}

impl Round {
    /// Notes a packet, which is at least a header long.
    fn take(&mut self, place: u16, queue: u8, peer: DomId, packet: &TxPacket) {
        let (ids, pieces, headers) = (self.ids.len(), self.pieces.len(), self.headers.len());
        let own = self.packets.len() * AREA;
        self.pieces.push(Piece { place: Place::Own(own), len: ETH_HEADER as u16 });
        // Bytes of the header that are still to come.
        let mut missing = ETH_HEADER as u16;
        for fragment in &packet.fragments {
            self.ids.push(fragment.id);
            let place_of = Place::Guest(peer, fragment.grant, fragment.offset);
            let of_header = fragment.len.min(missing);
            if of_header > 0 {
                let to = Place::Own(own + ETH_HEADER - usize::from(missing));
                let account = Account::Header(place);
                self.headers.push(Copy { from: place_of, to, len: of_header, account, done: false });
                missing -= of_header;
            }
            if fragment.len > of_header {
                self.pieces.push(Piece { place: place_of.after(of_header), len: fragment.len - of_header });
            }
        }
        self.packets.push(Packet {
            place,
            queue,
            ids: ids..self.ids.len(),
            pieces: pieces..self.pieces.len(),
            header: headers..self.headers.len(),
            len: packet.len.into(),
            checksum: packet.checksum,
            gso: packet.gso,
        });
    }
}
