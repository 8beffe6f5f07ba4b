//! Packets that a destination cannot take as they are: checksums computed, segments cut, in our memory.

use super::Switch;
use super::round::{Round, Staged};
use crate::bridge::Port;
use crate::headers::MAX_HEADERS;
use crate::offload::Head;
use crate::platform::{Copy, CopyGrants, Nic, Piece};
use crate::pool::{Frame, UNIT};
use crate::vif::Delivery;
use alloc::rc::Rc;
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::net::Checksum;

/// A packet that is whole and right: headers of its own, and the rest in a packet of ours.
struct Mended {
    headers: Option<Rc<Frame>>,
    pieces: Vec<Piece>,
    len: usize,
}

impl Mended {
    /// The whole of a frame.
    fn whole(frame: &Frame) -> Self {
        Self { headers: None, pieces: frame.pieces(0, frame.len()).collect(), len: frame.len() }
    }
}

impl<G: CopyGrants, N: Nic, M: RingMemory> Switch<G, N, M> {
    /// Mends what was copied into our memory and sends it on.
    pub(super) fn mend_all(&mut self, round: &mut Round) {
        let mut copies = Vec::new();
        let mut used = Vec::new();
        for staged in core::mem::take(&mut round.staged) {
            let arrived = round.copies.get(staged.copies.clone()).is_some_and(|list| list.iter().all(|copy| copy.done));
            match if arrived { self.mend(&staged) } else { None } {
                Some(mended) => {
                    for packet in mended {
                        self.send_mended(&staged, &packet, &mut copies);
                        used.extend(packet.headers);
                    }
                }
                None => self.vif(staged.source).into_iter().for_each(|vif| vif.counters.tx_errors += 1),
            }
            used.push(staged.frame);
        }
        self.copy(&mut copies);
        self.deliver(&copies);
        used.into_iter().for_each(|frame| self.pool.release(frame));
    }

    /// Makes a packet right for receivers that do nothing themselves; `None`: that cannot be done.
    fn mend(&mut self, staged: &Staged) -> Option<Vec<Mended>> {
        let frame = &staged.frame;
        if staged.gso.is_none() && staged.checksum != Checksum::Blank {
            return Some(alloc::vec![Mended::whole(frame)]);
        }
        let head = Head::read(frame, self.grants.memory())?;
        let Some(gso) = staged.gso else {
            head.complete(frame, self.grants.memory());
            self.vif(staged.source).into_iter().for_each(|vif| vif.counters.checksums += 1);
            return Some(alloc::vec![Mended::whole(frame)]);
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
                    let Mended { pieces, len, .. } = packet;
                    let delivery = Delivery { pieces, len: *len, checksum, gso: None, flow: staged.flow };
                    if let Some(vif) = self.vif(*place) {
                        vif.plan(&delivery, copies);
                    }
                }
                Port::Nic => {
                    let room = self.nic.as_ref().is_some_and(|nic| nic.room() > self.outgoing.waiting());
                    let frames = (packet.headers.clone(), staged.frame.clone());
                    let fits = room && packet.len <= UNIT;
                    if !(fits && self.outgoing.push_own(frames, &packet.pieces)) {
                        self.drop_of(staged.source);
                    }
                }
            }
        }
    }
}
