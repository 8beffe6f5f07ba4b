//! What every driver domain is made of: it starts what it was given, then serves a device class of the store.
//!
//! Guests depend on it, so it is watched: the hypervisor ends a driver domain that has not run its tasks for
//! [`WATCHDOG`] seconds, and dom0 starts it again.

use crate::backend::{self, Backend, Signal};
use crate::interrupt::Interrupt;
use crate::pci::{DeviceFunction, Proxy, ProxyError};
use crate::runtime::{self, Context};
use crate::store::{Error, KeySet, Store, StoreError};
use crate::xenbus::Half;
use crate::{hypercall, println};
use abi::sched::{SchedOp, Watchdog};
use abi::start_info::StartInfo;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Display;
use core::future::Future;
use embassy_time::{Duration, Timer};
use ring_proto::path::{BackDir, Class, Device};

/// A PCI function that dom0 gave this domain, and the way to its configuration space.
#[derive(Clone, Debug)]
pub struct Function {
    /// The way.
    pub access: Proxy,
    /// Where it is.
    pub address: DeviceFunction,
}

/// A driver domain: what all of its devices share.
pub trait Driver: Sized + 'static {
    /// Its name, in what it prints.
    const NAME: &'static str;
    /// The devices it serves.
    const CLASS: Class;
    /// One of them.
    type Device: Backend;

    /// Starts the functions that this domain was given, or those of them it can use.
    fn start(context: Context, functions: Vec<Function>) -> impl Future<Output = Result<Self, String>>;

    /// What the toolstack wants a device to be: it has written `keys` into the backend's directory.
    fn device(self: &Rc<Self>, keys: &KeySet) -> Result<Self::Device, String>;
}

/// Seconds after which a driver domain that shows no sign of life is ended.
pub const WATCHDOG: u32 = 30;
/// How often it shows one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Sets the hypervisor's watchdog, again and again; returns if there is none to be had.
async fn stay_alive() {
    let mut watchdog = Watchdog { id: 0, timeout: WATCHDOG };
    let Ok(id @ 1..=2) = hypercall::sched_op(SchedOp::WATCHDOG, &mut watchdog) else { return };
    let mut watchdog = Watchdog { id: id as u32, timeout: WATCHDOG };
    while hypercall::sched_op(SchedOp::WATCHDOG, &mut watchdog).is_ok() {
        Timer::after(SIGN_OF_LIFE).await;
    }
}

/// The main function of a driver domain.
pub fn run<D: Driver>(info: &'static StartInfo) -> ! {
    runtime::start(info, async |context: Context| {
        context.spawn(stay_alive());
        let ended = match context.store {
            Some(store) => serve::<D>(context, store).await,
            None => Err(String::from("no store")),
        };
        println!("{}: {}", D::NAME, ended.err().unwrap_or_default());
    })
}

/// Returns only if there is nothing to serve any more.
async fn serve<D: Driver>(context: Context, store: Store) -> Result<(), String> {
    let functions = match Proxy::connect(store).await {
        Ok((access, found)) => found.into_iter().map(|address| Function { access: access.clone(), address }).collect(),
        Err(ProxyError::Store(Error::Store(StoreError::Enoent))) => Vec::new(),
        Err(error) => {
            println!("{}: no PCI devices: {error:?}", D::NAME);
            Vec::new()
        }
    };
    let driver = Rc::new(D::start(context, functions).await?);
    let device = |device, gone| serve_device(store, driver.clone(), device, gone);
    let ended = backend::serve_devices(context, store, D::CLASS, device).await;
    ended.map_err(|error| format!("the store failed: {error}"))
}

/// Serves a device until it is removed.
async fn serve_device<D: Driver>(store: Store, driver: Rc<D>, device: Device, gone: Signal) {
    let served = async {
        let wanted = store.keys(&format!("{}", BackDir(device)), |_| false).await?;
        match driver.device(&wanted) {
            Ok(backend) => backend::serve_device(store, device, &gone, &backend).await,
            Err(why) => backend::fail(&mut Half::back(store, device).await?, &why).await,
        }
    };
    if let Err(error) = served.await {
        println!("{}: {}: {error}", D::NAME, BackDir(device));
    }
}

/// Lets every other task run that can: what a task does between two bounded pieces of work.
pub async fn give_way() {
    embassy_futures::yield_now().await;
}

/// Does `work` at each of a device's interrupts, for good.
pub async fn serve_interrupt(interrupt: Interrupt, mut work: impl AsyncFnMut()) {
    loop {
        interrupt.wait().await;
        work().await;
        interrupt.end();
    }
}

/// Who is connected, by the name that the driver's logic has for it: its events, and what ends its connection.
#[derive(Debug)]
pub struct Peers<I, E>(RefCell<Vec<(I, Rc<E>, Signal)>>);

impl<I, E> Default for Peers<I, E> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<I: PartialEq + Copy, E> Peers<I, E> {
    /// Adds a peer.
    pub fn add(&self, id: I, events: Rc<E>, broken: Signal) {
        self.0.borrow_mut().push((id, events, broken));
    }

    /// Removes one.
    pub fn remove(&self, id: I) {
        self.0.borrow_mut().retain(|(other, ..)| *other != id);
    }

    /// Notifies a peer by its events.
    pub fn notify(&self, id: I, notify: impl FnOnce(&E)) {
        if let Some((_, events, _)) = self.0.borrow().iter().find(|(other, ..)| *other == id) {
            notify(events);
        }
    }

    /// Ends the connection of a peer that broke its ring.
    pub fn broken(&self, id: I, why: impl Display) {
        println!("a frontend is served no more: {why}");
        if let Some((.., broken)) = self.0.borrow().iter().find(|(other, ..)| *other == id) {
            broken.raise();
        }
    }
}
