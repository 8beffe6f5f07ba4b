//! The logic of the library, on a real device, grants and events.

mod device;
mod grants;
mod vif;

use abi::PAGE_SIZE;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use device::VirtioNet;
use domain_rt::activity::Activity;
use domain_rt::backend::Signal;
use domain_rt::driver::{Driver, Function, Peers, give_way, serve_interrupt};
use domain_rt::events::Event;
use domain_rt::grant::Mapping;
use domain_rt::interrupt::Interrupt;
use domain_rt::page::Pages;
use domain_rt::println;
use domain_rt::runtime::Context;
use domain_rt::store::KeySet;
use embassy_time::{Instant, Timer};
use grants::Machine;
use netback::switch::{OpenError, Outcome, Switch, VifId};
use netback::vif::VifConfig;
use ring_proto::keys::Keys;
use ring_proto::net::Mac;
use ring_proto::path::Class;
use vif::{OFFERED, Vif};

/// Memory for packets: 4 MiB.
const PACKET_PAGES: usize = (4 << 20) / PAGE_SIZE;
/// Rounds between two looks at everything else.
const ROUNDS: usize = 16;

/// The network driver domain.
pub struct Netback(Rc<SharedSwitch>);

impl Driver for Netback {
    const NAME: &'static str = "netback";
    const CLASS: Class = Class::VIF;
    type Device = Vif;

    /// With the first network device, or with none: a switch of its own.
    async fn start(context: Context, functions: Vec<Function>) -> Result<Self, String> {
        let memory = Rc::new(Pages::new(PACKET_PAGES).map_err(|_| "no memory for packets")?);
        let (nic, interrupts) = functions.iter().find_map(|function| open(function, &memory)).unzip();
        let switch = Switch::new(Machine::new(memory), nic);
        let switch = Rc::new(SharedSwitch {
            switch: RefCell::new(switch),
            peers: Peers::default(),
            activity: Activity::default(),
            context,
            alarmed: Cell::new(false),
        });
        // The NIC gets its first buffers.
        switch.some_rounds();
        for interrupt in interrupts.into_iter().flatten() {
            let switch = switch.clone();
            context.spawn(serve_interrupt(interrupt, async move || switch.interrupted().await));
        }
        Ok(Self(switch))
    }

    fn device(self: &Rc<Self>, keys: &KeySet) -> Result<Vif, String> {
        let mac = keys.get("mac").and_then(Mac::parse).ok_or("mac is missing or no address")?;
        let offered = OFFERED.wanted(keys).map_err(|error| format!("{error}"))?;
        Ok(Vif { switch: self.0.clone(), mac, offered })
    }
}

fn open(function: &Function, memory: &Rc<Pages>) -> Option<(VirtioNet, Vec<Interrupt>)> {
    match device::open(function, memory.clone()) {
        Ok((nic, mac, interrupts)) => {
            println!("netback: virtio-net {mac} at {}, {} interrupts", function.address, interrupts.len());
            Some((nic, interrupts))
        }
        Err(error) => {
            println!("netback: the device at {} is of no use: {error}", function.address);
            None
        }
    }
}

/// The events of a queue.
enum Events {
    /// One for both rings.
    Shared(Event),
    /// One a ring: transmit, receive.
    Split(Event, Event),
}

impl Events {
    /// The ports that the guest's come in by.
    fn ports(&self) -> impl Iterator<Item = &Event> + Clone {
        let (first, second) = match self {
            Self::Shared(event) => (event, None),
            Self::Split(tx, rx) => (tx, Some(rx)),
        };
        core::iter::once(first).chain(second)
    }

    fn notify(&self, tx: bool, rx: bool) {
        match self {
            Self::Shared(event) => event.notify(),
            Self::Split(tx_event, rx_event) => {
                if tx {
                    tx_event.notify();
                }
                if rx {
                    rx_event.notify();
                }
            }
        }
    }
}

/// The switch, and how its guests are told.
struct SharedSwitch {
    switch: RefCell<Switch<Machine, VirtioNet, Mapping>>,
    peers: Peers<VifId, Vec<Events>>,
    activity: Activity,
    context: Context,
    /// A task waits for the time to look at packets that are held.
    alarmed: Cell<bool>,
}

impl SharedSwitch {
    /// Moves all packets there are, and tells whom it concerns.
    async fn run(self: &Rc<Self>) {
        while self.some_rounds() {
            give_way().await;
        }
        let held = self.switch.borrow().held_until();
        if let Some(until) = held.filter(|_| !self.alarmed.replace(true)) {
            let this = self.clone();
            self.context.spawn(async move {
                this.again_at(until).await;
            });
        }
    }

    /// Runs again at a time, and as often as packets are held then.
    async fn again_at(&self, until: u64) {
        let mut next = Some(until);
        while let Some(until) = next {
            Timer::at(Instant::from_nanos(until)).await;
            while self.some_rounds() {
                give_way().await;
            }
            next = self.switch.borrow().held_until();
        }
        self.alarmed.set(false);
    }

    /// Some rounds; whether there may be more to do.
    fn some_rounds(&self) -> bool {
        self.activity.note();
        self.switch.borrow_mut().run(domain_rt::time::now(), ROUNDS, |outcome| match outcome {
            Outcome::Notify { vif, queue, tx, rx } => {
                let notify =
                    |events: &Vec<Events>| events.get(usize::from(queue)).into_iter().for_each(|it| it.notify(tx, rx));
                self.peers.notify(vif, notify);
            }
            Outcome::Corrupt(vif, corrupt) => self.peers.broken(vif, format_args!("{corrupt:?}")),
        })
    }

    /// The NIC has something to say.
    async fn interrupted(self: &Rc<Self>) {
        if let Some(nic) = self.switch.borrow_mut().nic_mut() {
            nic.acknowledge();
        }
        self.run().await;
    }

    fn open(
        &self,
        rings: Vec<(Mapping, Mapping)>,
        config: VifConfig,
        events: Rc<Vec<Events>>,
        broken: Signal,
    ) -> Result<VifId, OpenError> {
        let id = self.switch.borrow_mut().open(rings, config)?;
        self.peers.add(id, events, broken);
        Ok(id)
    }

    fn close(&self, id: VifId) {
        self.switch.borrow_mut().close(id);
        self.peers.remove(id);
    }

    /// What a vif has done, and all of them together.
    fn stats(&self, id: VifId) -> (String, String) {
        let switch = self.switch.borrow();
        (switch.counters(id).map(ToString::to_string).unwrap_or_default(), switch.totals().to_string())
    }
}
