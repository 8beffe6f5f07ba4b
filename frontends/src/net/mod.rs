//! netfront: a virtual network interface as an [`embassy_net_driver::Driver`].
//!
//! [`connect`] gives the device, for a TCP/IP stack, and a task that meets the backend, and meets it again if it dies.
//! Packets lie one a page in pages that stay granted for as long as the connection; they are copied out before
//! anything looks at them, so that a backend that goes on writing changes nothing. Everything that one poll of the
//! stack sends is published at once.

mod checksum;
mod rings;

use abi::DomId;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::{pending, poll_fn};
use core::task::{Context, Poll, Waker};
use domain_rt::events::Event;
use domain_rt::frontend::{self, Frontend};
use domain_rt::store::{Error, KeySet, Store};
use embassy_futures::select::{Either, select};
use embassy_net_driver::{Capabilities, Checksum, Driver, HardwareAddress, LinkState};
use ring_proto::keys::Put;
use ring_proto::net::Mac;
use ring_proto::path::Class;
pub use rings::Counters;
use rings::Rings;

/// Longest frame, without the checksum that the medium adds: an MTU of 1500.
pub const FRAME: usize = 1514;
/// Longest frame of all: TCP data to be segmented by whoever sends it on.
pub const LARGE: usize = 65_535;

/// What the device and the task share.
#[derive(Default)]
struct Shared {
    /// Bytes of the longest frame.
    longest: usize,
    rings: Option<Rings>,
    event: Option<Rc<Event>>,
    counters: Counters,
    /// The packet that the stack takes, and the one that it makes: kept, so that none is allocated for each.
    received: Vec<u8>,
    sent: Vec<u8>,
    /// The link is up from the first connection on. A backend that dies loses packets, as networks do; a stack that saw
    /// the link go down would drop its address and its connections.
    up: bool,
    /// Something was pushed that is not published yet.
    dirty: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
    link: Option<Waker>,
    task: Option<Waker>,
}

impl Shared {
    fn wake_stack(&mut self) {
        let wakers = [self.receiver.take(), self.sender.take(), self.link.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn mark_dirty(&mut self) {
        self.dirty = true;
        self.task.take().into_iter().for_each(Waker::wake);
    }

    fn set_rings(&mut self, rings: Option<(Rings, Event)>) {
        (self.rings, self.event) = rings.map(|(rings, event)| (rings, Rc::new(event))).unzip();
        self.wake_stack();
    }
}

/// The interface, for a stack.
pub struct Device {
    shared: Rc<RefCell<Shared>>,
    mac: Mac,
}

/// Reads what the interface is; the device and the task that must run for it to work.
pub async fn connect(store: Store, handle: u32) -> Result<(Device, Task), Error> {
    connect_with(store, handle, FRAME).await
}

/// The same, with frames of up to `longest` bytes either way, at most [`LARGE`].
pub async fn connect_with(store: Store, handle: u32, longest: usize) -> Result<(Device, Task), Error> {
    let mac = Mac::parse(&store.read(&format!("device/vif/{handle}/mac")).await?).ok_or(Error::BadReply)?;
    let shared = Rc::new(RefCell::new(Shared { longest: longest.min(LARGE), ..Shared::default() }));
    Ok((Device { shared: shared.clone(), mac }, Task { store, handle, shared }))
}

/// Figures of an interface that outlive its device's move into a stack.
#[derive(Clone)]
pub struct Stats(Rc<RefCell<Shared>>);

impl Stats {
    /// What was moved so far.
    pub fn counters(&self) -> Counters {
        self.0.borrow().counters
    }
}

impl core::fmt::Debug for Stats {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.counters().fmt(f)
    }
}

impl Device {
    /// The address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The figures.
    pub fn stats(&self) -> Stats {
        Stats(self.shared.clone())
    }
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Device({})", self.mac)
    }
}

/// A packet, copied out of its pages.
pub struct Received {
    packet: Vec<u8>,
    shared: Rc<RefCell<Shared>>,
}

impl core::fmt::Debug for Received {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Received({} bytes)", self.packet.len())
    }
}

/// The right to send one packet: there is a page for it.
pub struct Sending(Rc<RefCell<Shared>>);

impl core::fmt::Debug for Sending {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sending")
    }
}

impl embassy_net_driver::RxToken for Received {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, f: F) -> R {
        let result = f(&mut self.packet);
        self.shared.borrow_mut().received = self.packet;
        result
    }
}

impl embassy_net_driver::TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        assert!(len <= self.0.borrow().longest, "the stack keeps to the MTU");
        let mut frame = core::mem::take(&mut self.0.borrow_mut().sent);
        // What the stack leaves as it is does not show another packet.
        frame.clear();
        frame.resize(len, 0);
        let result = f(&mut frame);
        let mut shared = self.0.borrow_mut();
        let Shared { rings, counters, .. } = &mut *shared;
        // A connection that is not there loses the packet, as a cable does.
        if let Some(rings) = rings.as_mut().filter(|rings| rings.has_room()) {
            rings.send(&frame, counters);
            shared.mark_dirty();
        }
        shared.sent = frame;
        result
    }
}

impl Driver for Device {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, context: &mut Context<'_>) -> Option<(Received, Sending)> {
        let mut shared = self.shared.borrow_mut();
        let Shared { rings, counters, received, .. } = &mut *shared;
        let dropped = counters.dropped;
        // An answer needs a page too.
        if rings.as_mut().is_some_and(|rings| rings.can_send() && rings.receive(counters, received)) {
            let packet = core::mem::take(received);
            shared.mark_dirty();
            return Some((Received { packet, shared: self.shared.clone() }, Sending(self.shared.clone())));
        }
        shared.receiver = Some(context.waker().clone());
        // The pages of those that were dropped are to be offered all the same.
        if shared.counters.dropped != dropped {
            shared.mark_dirty();
        }
        None
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Option<Sending> {
        let mut shared = self.shared.borrow_mut();
        // Without a backend, packets go nowhere, as on a cable pulled out; the stack does not wait for that.
        if shared.rings.as_mut().is_none_or(Rings::can_send) {
            return Some(Sending(self.shared.clone()));
        }
        shared.sender = Some(context.waker().clone());
        None
    }

    fn link_state(&mut self, context: &mut Context<'_>) -> LinkState {
        let mut shared = self.shared.borrow_mut();
        shared.link = Some(context.waker().clone());
        if shared.up { LinkState::Up } else { LinkState::Down }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = self.shared.borrow().longest;
        // What comes in was checked by `checksum`, or need not be.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.mac.0)
    }
}

/// Keeps the interface connected.
pub struct Task {
    store: Store,
    handle: u32,
    shared: Rc<RefCell<Shared>>,
}

impl core::fmt::Debug for Task {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Task(vif {})", self.handle)
    }
}

impl Task {
    /// Runs until the device is taken away or the store fails.
    pub async fn run(self) -> Result<(), Error> {
        let end = frontend::run(self.store, self.handle, &self).await;
        let mut shared = self.shared.borrow_mut();
        shared.up = false;
        shared.set_rings(None);
        end
    }

    /// Shows the backend what the stack pushed.
    fn publish(&self, event: &Event) {
        let Shared { rings, counters, .. } = &mut *self.shared.borrow_mut();
        if let Some(rings) = rings
            && rings.publish().needed()
        {
            counters.notifications += 1;
            event.notify();
        }
    }
}

impl Frontend for Task {
    const CLASS: Class = Class::VIF;

    fn setup(&self, peer: DomId, backend: &KeySet) -> Option<impl FnOnce(Put<'_>)> {
        let longest = self.shared.borrow().longest;
        let (rings, event) = Rings::new(peer, backend, longest).ok()?;
        let keys = rings.keys(event.port());
        self.shared.borrow_mut().set_rings(Some((rings, event)));
        Some(move |put: Put<'_>| keys.publish(put))
    }

    fn connected(&self) {
        let mut shared = self.shared.borrow_mut();
        if shared.rings.is_some() && !shared.up {
            shared.up = true;
            shared.wake_stack();
        }
    }

    fn lost(&self) {
        self.shared.borrow_mut().set_rings(None);
    }

    /// Publishes what the stack pushed, and wakes it for events.
    async fn work(&self) {
        let Some(event) = self.shared.borrow().event.clone() else { return pending().await };
        while !self.shared.borrow().rings.as_ref().is_none_or(Rings::is_broken) {
            let dirty = poll_fn(|context| {
                let mut shared = self.shared.borrow_mut();
                if core::mem::take(&mut shared.dirty) {
                    return Poll::Ready(());
                }
                shared.task = Some(context.waker().clone());
                Poll::Pending
            });
            match select(dirty, event.wait()).await {
                Either::First(()) => self.publish(&event),
                Either::Second(()) => self.shared.borrow_mut().wake_stack(),
            }
        }
    }
}

/// The interfaces that the toolstack gave this domain, by number.
pub async fn interfaces(store: Store) -> Result<Vec<u32>, Error> {
    crate::devices(store, Class::VIF).await
}
