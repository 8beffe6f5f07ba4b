//! The logic of the library, on a real device, grants and events.

mod device;
mod grants;
pub mod vif;

use abi::PAGE_SIZE;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use device::VirtioNet;
use domain_rt::backend::Signal;
use domain_rt::events::Event;
use domain_rt::grant::Mapping;
use domain_rt::interrupt::Interrupt;
use domain_rt::page::Pages;
use domain_rt::pci::Proxy;
use domain_rt::println;
use domain_rt::runtime::Context;
use domain_rt::store::Store;
use embassy_futures::yield_now;
use grants::Machine;
use netback::switch::{OpenError, Outcome, Switch, VifId};
use netback::vif::VifConfig;

/// Memory for packets: 4 MiB.
const PACKET_PAGES: usize = (4 << 20) / PAGE_SIZE;
/// Rounds between two looks at everything else.
const ROUNDS: usize = 16;

/// A guest's events.
pub enum Events {
    /// One for both rings.
    Shared(Event),
    /// One a ring: transmit, receive.
    Split(Event, Event),
}

impl Events {
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
pub struct SharedSwitch {
    switch: RefCell<Switch<Machine, VirtioNet, Mapping>>,
    peers: RefCell<Vec<(VifId, Rc<Events>, Signal)>>,
}

impl SharedSwitch {
    /// Moves all packets there are, and tells whom it concerns.
    async fn run(&self) {
        while self.some_rounds() {
            yield_now().await;
        }
    }

    /// Some rounds; whether there may be more to do.
    fn some_rounds(&self) -> bool {
        let peers = self.peers.borrow();
        let find = |id| peers.iter().find(|(other, ..)| *other == id);
        self.switch.borrow_mut().run(domain_rt::time::now(), ROUNDS, |outcome| match outcome {
            Outcome::Notify { vif, tx, rx } => find(vif).into_iter().for_each(|(_, events, _)| events.notify(tx, rx)),
            Outcome::Corrupt(vif, corrupt) => {
                println!("netback: a guest broke its ring: {corrupt:?}");
                find(vif).into_iter().for_each(|(.., broken)| broken.raise());
            }
        })
    }

    fn open(
        &self,
        tx: Mapping,
        rx: Mapping,
        config: VifConfig,
        events: Rc<Events>,
        broken: Signal,
    ) -> Result<VifId, OpenError> {
        let id = self.switch.borrow_mut().open(tx, rx, config)?;
        self.peers.borrow_mut().push((id, events, broken));
        Ok(id)
    }

    fn close(&self, id: VifId) {
        self.switch.borrow_mut().close(id);
        self.peers.borrow_mut().retain(|(other, ..)| *other != id);
    }
}

/// Starts the NIC, if this domain was given one, and the switch. `None`: no memory.
pub async fn switch(context: Context, store: Store) -> Option<Rc<SharedSwitch>> {
    let memory = Rc::new(Pages::new(PACKET_PAGES).ok()?);
    let (nic, interrupts) = match nic(store, &memory).await {
        Some((nic, interrupts)) => (Some(nic), interrupts),
        None => (None, Vec::new()),
    };
    let switch = Switch::new(Machine(memory), nic);
    let switch = Rc::new(SharedSwitch { switch: RefCell::new(switch), peers: RefCell::default() });
    // The NIC gets its first buffers.
    switch.some_rounds();
    for interrupt in interrupts {
        context.spawn(serve_interrupt(switch.clone(), interrupt));
    }
    Some(switch)
}

/// The first network device among this domain's.
async fn nic(store: Store, memory: &Rc<Pages>) -> Option<(VirtioNet, Vec<Interrupt>)> {
    let (access, functions) = match Proxy::connect(store).await {
        Ok(given) => given,
        Err(error) => {
            println!("netback: no PCI devices: {error:?}");
            return None;
        }
    };
    for function in functions {
        match device::open(access.clone(), function, memory.clone()) {
            Ok((nic, mac, interrupts)) => {
                println!("netback: virtio-net {mac} at {function}, {} interrupts", interrupts.len());
                return Some((nic, interrupts));
            }
            Err(error) => println!("netback: the device at {function} is of no use: {error}"),
        }
    }
    None
}

/// Serves an interrupt of the NIC, for good.
async fn serve_interrupt(switch: Rc<SharedSwitch>, interrupt: Interrupt) {
    loop {
        interrupt.wait().await;
        if let Some(nic) = switch.switch.borrow_mut().nic_mut() {
            nic.acknowledge();
        }
        switch.run().await;
        interrupt.end();
    }
}
