//! The switch against ring-proto's peers, on the host.

mod bridge;
mod hostile;
mod offload;
mod queues;
mod switch;

use crate::platform::{Copy, CopyGrants, Nic, NicFrame, Piece, Place};
use crate::pool::UNIT;
use abi::DomId;
use ring_proto::memory::RingMemory;
use ring_proto::net::Mac;
use ring_proto::peers::Pages;
use ring_proto::words::WordMemory;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::vec::Vec;

/// The hypervisor: our memory, and guests' pages by their number.
#[derive(Clone)]
pub struct Machine {
    memory: Arc<WordMemory>,
    guests: Rc<RefCell<Vec<(DomId, Pages)>>>,
    /// What the hypervisor was asked to do.
    pub work: Rc<RefCell<Work>>,
    /// Done between two batches of copies: what a guest does on another CPU meanwhile.
    pub meanwhile: Rc<RefCell<Option<Meanwhile>>>,
}

type Meanwhile = std::boxed::Box<dyn FnMut()>;

/// Work of the hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Hypercalls that copied.
    pub calls: usize,
    /// Bytes copied, where it was possible.
    pub bytes: usize,
    /// Pages that the NIC was given straight from guests.
    pub mapped: usize,
}

impl Machine {
    pub fn new(units: usize) -> Self {
        Self {
            memory: WordMemory::new(units * UNIT),
            guests: Rc::default(),
            work: Rc::default(),
            meanwhile: Rc::default(),
        }
    }

    pub fn guest(&self, dom: u16) -> Pages {
        let pages = Pages::default();
        self.guests.borrow_mut().push((DomId(dom), pages.clone()));
        pages
    }

    fn pages(&self, dom: DomId) -> Pages {
        self.guests.borrow().iter().find(|(id, _)| *id == dom).expect("a guest").1.clone()
    }

    fn read(&self, place: Place, out: &mut [u8]) -> bool {
        match place {
            Place::Guest(dom, grant, offset) => self.pages(dom).copy_from(grant, offset.into(), out).is_ok(),
            Place::Own(at) => {
                assert!(at % 4096 + out.len() <= 4096, "within a page");
                self.memory.read(at, out);
                true
            }
        }
    }

    fn write(&self, place: Place, data: &[u8]) -> bool {
        match place {
            Place::Guest(dom, grant, offset) => self.pages(dom).copy_to(grant, offset.into(), data).is_ok(),
            Place::Own(at) => {
                assert!(at % 4096 + data.len() <= 4096, "within a page");
                self.memory.write(at, data);
                true
            }
        }
    }
}

impl CopyGrants for Machine {
    type Memory = Arc<WordMemory>;
    fn memory(&self) -> &Arc<WordMemory> {
        &self.memory
    }
    fn copy(&mut self, copies: &mut [Copy]) {
        self.work.borrow_mut().calls += 1;
        for copy in copies {
            assert!(copy.len > 0);
            let mut bytes = std::vec![0; copy.len.into()];
            copy.done = self.read(copy.from, &mut bytes) && self.write(copy.to, &bytes);
            if copy.done {
                self.work.borrow_mut().bytes += usize::from(copy.len);
            }
        }
        if let Some(meanwhile) = &mut *self.meanwhile.borrow_mut() {
            meanwhile();
        }
    }
}

/// What a test sees of the NIC.
#[derive(Default)]
pub struct Wire {
    /// Frames sent: their bytes, and whether they came straight from guests' pages.
    pub out: Vec<(Vec<u8>, bool)>,
    /// Frames to be received.
    pub input: VecDeque<Vec<u8>>,
    /// Frames that wait to be confirmed, unless they are at once.
    pub unconfirmed: Vec<u16>,
    pub hold: bool,
    pub kicks: usize,
}

/// A NIC on a test's wire.
pub struct FakeNic {
    pub machine: Machine,
    pub wire: Rc<RefCell<Wire>>,
    done: VecDeque<u16>,
    buffers: VecDeque<usize>,
    size: usize,
}

impl FakeNic {
    pub fn new(machine: &Machine, size: usize) -> Self {
        let (wire, done, buffers) = (Rc::default(), VecDeque::new(), VecDeque::new());
        Self { machine: machine.clone(), wire, done, buffers, size }
    }
}

impl Nic for FakeNic {
    fn room(&self) -> usize {
        self.size - self.wire.borrow().unconfirmed.len() - self.done.len()
    }
    fn send(&mut self, frames: &[NicFrame], pieces: &[Piece]) {
        assert!(frames.len() <= self.room(), "room was promised");
        for frame in frames {
            let mut bytes = Vec::new();
            let mut readable = true;
            let pieces = &pieces[frame.pieces.clone()];
            for piece in pieces {
                let start = bytes.len();
                bytes.resize(start + usize::from(piece.len), 0);
                readable &= self.machine.read(piece.place, &mut bytes[start..]);
            }
            // The header is always ours.
            let guests = pieces.iter().filter(|piece| matches!(piece.place, Place::Guest(..))).count();
            self.machine.work.borrow_mut().mapped += guests;
            let direct = guests > 0 && guests + 1 == pieces.len();
            let mut wire = self.wire.borrow_mut();
            if readable {
                wire.out.push((bytes, direct));
            }
            if wire.hold {
                wire.unconfirmed.push(frame.tag);
            } else {
                self.done.push_back(frame.tag);
            }
        }
    }
    fn sent(&mut self) -> Option<u16> {
        let mut wire = self.wire.borrow_mut();
        if !wire.hold {
            self.done.extend(wire.unconfirmed.drain(..));
        }
        self.done.pop_front()
    }
    fn wanted(&self) -> usize {
        16 - self.buffers.len()
    }
    fn post(&mut self, offset: usize) {
        self.buffers.push_back(offset);
    }
    fn received(&mut self) -> Option<(usize, u16)> {
        let mut wire = self.wire.borrow_mut();
        if self.buffers.is_empty() {
            return None;
        }
        let frame = wire.input.pop_front()?;
        let offset = self.buffers.pop_front()?;
        self.machine.memory.write(offset, &frame);
        Some((offset, frame.len() as u16))
    }
    fn kick(&mut self) {
        self.wire.borrow_mut().kicks += 1;
    }
}

pub fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// An Ethernet frame.
pub fn frame(dst: Mac, src: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &kind.to_be_bytes(), payload].concat()
}

/// A TCP or UDP packet over IP with the pseudo-header's sum where the checksum belongs, as senders leave it.
pub fn ip_packet(dst: Mac, src: Mac, v6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
    let transport = if tcp {
        let mut header = std::vec![0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x80, 0x99, 1, 0, 0, 0, 0, 0];
        header.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        header
    } else {
        let len = (8 + payload.len()) as u16;
        [&[0x12, 0x34, 0, 53][..], &len.to_be_bytes(), &[0, 0]].concat()
    };
    let protocol = if tcp { 6 } else { 17 };
    let len = (transport.len() + payload.len()) as u16;
    let network = if v6 {
        let mut header = std::vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        header[4..6].copy_from_slice(&len.to_be_bytes());
        header.extend((0..32).map(|n| n * 7));
        header
    } else {
        let mut header =
            std::vec![0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, protocol, 0xab, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2];
        header[2..4].copy_from_slice(&(len + 20).to_be_bytes());
        header
    };
    let kind = if v6 { 0x86dd } else { 0x0800 };
    frame(dst, src, kind, &[&network[..], &transport, payload].concat())
}

/// The sum of 16-bit words, the slow way.
fn words(bytes: &[u8]) -> u32 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum();
    (sum & 0xffff) + (sum >> 16)
}

/// Checks every checksum and length of an untagged packet without extension headers; its TCP or UDP payload, and its
/// TCP sequence number and flags.
pub fn verify(packet: &[u8]) -> (Vec<u8>, u32, u8) {
    let v6 = packet[12] == 0x86;
    let ip = &packet[14..];
    let (header, protocol, addresses) = if v6 {
        assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40, ip.len());
        (40, ip[6], &ip[8..40])
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
        let sum = words(&ip[..20]);
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "IP header checksum");
        (20, ip[9], &ip[12..20])
    };
    let transport = &ip[header..];
    let mut sum = words(addresses) + u32::from(protocol) + transport.len() as u32 + words(transport);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    assert_eq!(sum, 0xffff, "transport checksum");
    if protocol == 17 {
        return (transport[8..].to_vec(), 0, 0);
    }
    let start = usize::from(transport[12] >> 4) * 4;
    let number = u32::from_be_bytes(transport[4..8].try_into().unwrap());
    (transport[start..].to_vec(), number, transport[13])
}
