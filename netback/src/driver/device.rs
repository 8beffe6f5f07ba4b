//! A virtio network device without offloads (virtio 1.2, section 5.1): the library's view of it over domain-rt's queues.

use abi::{DomId, GrantRef};
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use domain_rt::grant::{Access, DeviceGrant, map_device, unmap_device};
use domain_rt::interrupt::Interrupt;
use domain_rt::page::{OutOfMemory, Pages};
use domain_rt::pci::{DeviceFunction, Proxy};
use domain_rt::virtio::{Buffer, DeviceType, Direction, Features, OpenError, Queue, VirtioPci};
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
/// The queues' numbers.
const RX: u16 = 0;
const TX: u16 = 1;

/// What a request keeps until the device is done with it.
enum Held {
    /// A buffer for reception.
    Receive(usize),
    /// A frame being sent, and the guests' pages of it.
    Send(u16, Vec<DeviceGrant>),
}

/// The device.
pub struct VirtioNet {
    device: VirtioPci<Proxy>,
    /// Receive, transmit.
    queues: [Queue<Held>; 2],
    memory: Rc<Pages>,
    headers: Pages,
    /// Frames that are sent, and not yet asked for.
    sent: VecDeque<u16>,
    broken: bool,
}

/// Why a device is of no use.
#[derive(Debug)]
pub enum DeviceError {
    /// It is something else.
    NotNetwork,
    /// It cannot be opened.
    Open(OpenError),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNetwork => f.write_str("not a network device"),
            Self::Open(error) => write!(f, "{error:?}"),
        }
    }
}

impl From<OpenError> for DeviceError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<OutOfMemory> for DeviceError {
    fn from(error: OutOfMemory) -> Self {
        Self::Open(error.into())
    }
}

/// Starts the device; packets lie in `memory`.
pub fn open(
    access: Proxy,
    function: DeviceFunction,
    memory: Rc<Pages>,
) -> Result<(VirtioNet, Mac, Vec<Interrupt>), DeviceError> {
    let mut device = VirtioPci::open(access, function, Features::from_bits_retain(FEATURE_MAC))?;
    if device.device_type() != DeviceType::Network {
        return Err(DeviceError::NotNetwork);
    }
    let queues = [device.queue(256)?, device.queue(256)?];
    let interrupts = device.start()?;
    let mac = device.config::<[u8; 6]>(0).unwrap_or_default();
    let headers = Pages::new(1)?;
    let nic = VirtioNet { device, queues, memory, headers, sent: VecDeque::new(), broken: false };
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
                        if let Held::Send(tag, _) = held {
                            self.sent.push_back(tag);
                        }
                    }
                }
            }
        }
    }

    /// The buffers of a frame, its guests' pages mapped as `grants`, in order.
    fn buffers(&self, frame: &NicFrame, grants: &[DeviceGrant]) -> Option<Vec<Buffer>> {
        let mut grants = grants.iter();
        let header = Buffer::of_pages(&self.headers, SENT_HEADER, HEADER, Direction::ToDevice);
        let piece = |piece: &Piece| match piece.place {
            Place::Own(offset) => Buffer::of_pages(&self.memory, offset, piece.len.into(), Direction::ToDevice),
            Place::Guest(_, _, offset) => {
                Buffer::of_grant(grants.next()?, offset.into(), piece.len.into(), Direction::ToDevice)
            }
        };
        core::iter::once(header).chain(frame.pieces.iter().map(piece)).collect()
    }
}

/// The guests' pages of a frame.
fn guest_pages(frame: &NicFrame) -> impl Iterator<Item = (DomId, GrantRef)> {
    frame.pieces.iter().filter_map(|piece| match piece.place {
        Place::Guest(peer, grant, _) => Some((peer, grant)),
        Place::Own(_) => None,
    })
}

impl Nic for VirtioNet {
    fn room(&self) -> usize {
        let [_, tx] = &self.queues;
        let room = usize::from(tx.room());
        if self.indirect() { room } else { room / (MAX_SLOTS + 2) }
    }

    fn send(&mut self, frames: Vec<NicFrame>) {
        let pages = frames.iter().flat_map(guest_pages);
        let mut mapped = map_device(pages.map(|(peer, grant)| (peer, grant, Access::ReadOnly))).into_iter();
        let mut useless = Vec::new();
        for frame in frames {
            let count = guest_pages(&frame).count();
            let grants: Vec<DeviceGrant> = mapped.by_ref().take(count).flatten().collect();
            let buffers = if grants.len() == count { self.buffers(&frame, &grants) } else { None };
            let refused = match (buffers, &mut self.queues) {
                (Some(buffers), [_, tx]) => {
                    tx.push(&buffers, Held::Send(frame.tag, grants)).err().map(|(_, held)| held)
                }
                (None, _) => Some(Held::Send(frame.tag, grants)),
            };
            if let Some(Held::Send(tag, grants)) = refused {
                useless.extend(grants);
                self.sent.push_back(tag);
            }
        }
        unmap_device(useless.into_iter());
    }

    fn sent(&mut self) -> Option<u16> {
        if self.sent.is_empty() {
            let mut done = Vec::new();
            while let Some((held, _)) = self.take(TX) {
                if let Held::Send(tag, grants) = held {
                    self.sent.push_back(tag);
                    done.extend(grants);
                }
            }
            // Before anybody is answered: an answered packet's pages are the guest's alone.
            unmap_device(done.into_iter());
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
        let buffers: Vec<Buffer> = header.into_iter().chain(data).collect();
        let [rx, _] = &mut self.queues;
        if rx.push(&buffers, Held::Receive(offset)).is_err() {
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
