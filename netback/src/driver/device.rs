//! A virtio network device without offloads (virtio 1.2, section 5.1): the library's view of it over domain-rt's queues.

use abi::{DomId, GrantRef};
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use domain_rt::driver::Function;
use domain_rt::grant::{Access, DeviceGrant, DeviceMapper};
use domain_rt::interrupt::Interrupt;
use domain_rt::page::Pages;
use domain_rt::pci::Proxy;
use domain_rt::virtio::{Buffer, DeviceType, Direction, Features, OpenError, Queue, VirtioPci};
use heapless::Vec as Few;
use netback::platform::{Nic, NicFrame, Piece, Place};
use netback::pool::UNIT;
use ring_proto::net::{MAX_SLOTS, Mac};

/// Feature: the device has an address.
const FEATURE_MAC: u64 = 1 << 5;
/// Bytes of the header before each packet.
const HEADER: usize = 12;
/// Where the headers are in their page: zeros for packets sent, and where those of packets received go, which say
/// nothing as nothing was negotiated.
const SENT_HEADER: usize = 0;
const RECEIVED_HEADER: usize = 64;
/// Most buffers of a frame: both headers, and a guest's pages.
const MOST_BUFFERS: usize = MAX_SLOTS + 2;
/// The queues' numbers.
const RX: u16 = 0;
const TX: u16 = 1;

/// What a request is, until the device is done with it.
#[derive(Clone, Copy)]
enum Held {
    /// The buffer at this offset, for reception.
    Receive(usize),
    /// The frame of this tag.
    Send(u16),
}

/// A frame's pages of guests.
type Grants = Few<DeviceGrant, MAX_SLOTS>;

/// The device.
pub struct VirtioNet {
    device: VirtioPci<Proxy>,
    /// Receive, transmit.
    queues: [Queue<Held>; 2],
    memory: Rc<Pages>,
    headers: Pages,
    mapper: DeviceMapper,
    /// The guests' pages of the frames being sent, by tag.
    grants: Vec<Grants>,
    /// Buffers of the frame in hand, and mappings to be ended; kept so that they are allocated once.
    lists: (Vec<Buffer>, Vec<DeviceGrant>),
    /// Frames that are sent, and not yet asked for.
    sent: VecDeque<u16>,
    broken: bool,
}

/// Starts the device; packets lie in `memory`.
pub fn open(function: &Function, memory: Rc<Pages>) -> Result<(VirtioNet, Mac, Vec<Interrupt>), OpenError> {
    let wanted = Features::from_bits_retain(FEATURE_MAC);
    let mut device = VirtioPci::open(function.access.clone(), function.address, DeviceType::Network, wanted)?;
    let queues = [device.queue(256)?, device.queue(256)?];
    let interrupts = device.start()?;
    let mac = device.config::<[u8; 6]>(0).unwrap_or_default();
    let (headers, mapper) = (Pages::new(1)?, DeviceMapper::default());
    let (grants, lists, sent) = (Vec::new(), (Vec::new(), Vec::new()), VecDeque::new());
    let nic = VirtioNet { device, queues, memory, headers, mapper, grants, lists, sent, broken: false };
    Ok((nic, Mac(mac), interrupts))
}

impl VirtioNet {
    /// Takes the device off its interrupt line.
    pub fn acknowledge(&mut self) {
        self.device.acknowledge();
    }

    fn indirect(&self) -> bool {
        self.device.features().contains(Features::INDIRECT_DESC)
    }

    /// The next request that queue `number` is done with, and the bytes received.
    fn take(&mut self, number: u16) -> Option<(Held, u32)> {
        loop {
            let queue = self.queues.get_mut(usize::from(number))?;
            match queue.pop() {
                Ok(Some(used)) => return Some((used.owner, used.written)),
                Ok(None) if queue.final_check() => {}
                Ok(None) => return None,
                Err(_) if self.broken => return None,
                Err(error) => {
                    domain_rt::println!("netback: the NIC is given up: {error:?}");
                    self.broken = true;
                    // Guests get their pages back.
                    for held in self.device.reset(&mut self.queues) {
                        if let Held::Send(tag) = held {
                            self.sent.push_back(tag);
                        }
                    }
                    self.grants.clear();
                }
            }
        }
    }
}

/// Puts the buffers of a frame into `buffers`, its guests' pages mapped as `grants`, in order. Whether it could.
fn fill(
    buffers: &mut Vec<Buffer>,
    (memory, headers): (&Pages, &Pages),
    pieces: &[Piece],
    grants: &[DeviceGrant],
) -> bool {
    let mut grants = grants.iter();
    let header = Buffer::of_pages(headers, SENT_HEADER, HEADER, Direction::ToDevice);
    let piece = |piece: &Piece| match piece.place {
        Place::Own(offset) => Buffer::of_pages(memory, offset, piece.len.into(), Direction::ToDevice),
        Place::Guest(_, _, offset) => {
            Buffer::of_grant(grants.next()?, offset.into(), piece.len.into(), Direction::ToDevice)
        }
    };
    buffers.clear();
    buffers.extend(core::iter::once(header).chain(pieces.iter().map(piece)).map_while(|buffer| buffer));
    buffers.len() == pieces.len() + 1
}

fn pieces_of<'a>(frame: &NicFrame, pieces: &'a [Piece]) -> &'a [Piece] {
    pieces.get(frame.pieces.clone()).unwrap_or_default()
}

/// The guests' pages among the pieces of a frame.
fn guest_pages(pieces: &[Piece]) -> impl Iterator<Item = (DomId, GrantRef)> {
    pieces.iter().filter_map(|piece| match piece.place {
        Place::Guest(peer, grant, _) => Some((peer, grant)),
        Place::Own(_) => None,
    })
}

impl Nic for VirtioNet {
    fn room(&self) -> usize {
        let [_, tx] = &self.queues;
        let room = usize::from(tx.room());
        if self.indirect() { room } else { room / MOST_BUFFERS }
    }

    fn send(&mut self, frames: &[NicFrame], pieces: &[Piece]) {
        let Self { queues: [_, tx], memory, headers, mapper, grants, lists: (buffers, useless), sent, .. } = self;
        let pages = frames.iter().flat_map(|frame| guest_pages(pieces_of(frame, pieces)));
        let mut mapped = mapper.map(pages.map(|(peer, grant)| (peer, grant, Access::ReadOnly)));
        for frame in frames {
            let pieces = pieces_of(frame, pieces);
            let count = guest_pages(pieces).count();
            let tag = usize::from(frame.tag);
            if grants.len() <= tag {
                grants.resize_with(tag + 1, Grants::new);
            }
            let Some(held) = grants.get_mut(tag) else { continue };
            useless.extend(mapped.by_ref().take(count).flatten().filter_map(|grant| held.push(grant).err()));
            let whole = held.len() == count && fill(buffers, (memory, headers), pieces, held);
            if !whole || tx.push(buffers, Held::Send(frame.tag)).is_err() {
                useless.extend(core::iter::from_fn(|| held.pop()));
                sent.push_back(frame.tag);
            }
        }
        drop(mapped);
        mapper.unmap(useless.drain(..));
    }

    fn sent(&mut self) -> Option<u16> {
        if self.sent.is_empty() {
            let mut done = core::mem::take(&mut self.lists.1);
            while let Some((held, _)) = self.take(TX) {
                if let Held::Send(tag) = held {
                    self.sent.push_back(tag);
                    let grants = self.grants.get_mut(usize::from(tag));
                    done.extend(grants.into_iter().flat_map(|grants| core::iter::from_fn(|| grants.pop())));
                }
            }
            // Before anybody is answered: an answered packet's pages are the guest's alone.
            self.mapper.unmap(done.drain(..));
            self.lists.1 = done;
        }
        self.sent.pop_front()
    }

    fn wanted(&self) -> usize {
        let [rx, _] = &self.queues;
        let room = usize::from(rx.room());
        match self.broken {
            true => 0,
            false if self.indirect() => room,
            false => room / 2,
        }
    }

    fn post(&mut self, offset: usize) {
        let header = Buffer::of_pages(&self.headers, RECEIVED_HEADER, HEADER, Direction::FromDevice);
        let data = Buffer::of_pages(&self.memory, offset, UNIT, Direction::FromDevice);
        let [rx, _] = &mut self.queues;
        let pushed = header.zip(data).map(|(header, data)| rx.push(&[header, data], Held::Receive(offset)).is_ok());
        if pushed != Some(true) {
            domain_rt::println!("netback: a receive buffer was refused");
        }
    }

    fn received(&mut self) -> Option<(usize, u16)> {
        loop {
            let (held, written) = self.take(RX)?;
            if let Held::Receive(offset) = held {
                let len = (written as usize).saturating_sub(HEADER).min(UNIT);
                return Some((offset, len as u16));
            }
        }
    }

    fn kick(&mut self) {
        for (number, queue) in [RX, TX].into_iter().zip(&mut self.queues) {
            if queue.publish() {
                self.device.notify(number);
            }
        }
    }
}
