//! `echoback`: the driver domain of the class `echo`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::sched::SchedOp;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::slice;
use domain_rt::activity::Activity;
use domain_rt::backend::{Backend, Connection, Signal};
use domain_rt::driver::{self, Driver, Function};
use domain_rt::events::Event;
use domain_rt::grant::{Access, Mapping};
use domain_rt::runtime::Context;
use domain_rt::store::KeySet;
use domain_rt::xenbus::Half;
use domain_rt::{hypercall, println};
use echo_driver::{CLASS, FrontKeys, Params, Session};
use ring_proto::keys::{Keys, Put};
use ring_proto::path::Class;

domain_rt::entry!(driver::run::<EchoBack>);

/// What concerns all devices.
#[derive(Default)]
struct EchoBack {
    /// Messages answered.
    answered: Cell<u64>,
    activity: Activity,
}

impl Driver for EchoBack {
    const NAME: &'static str = "echoback";
    const CLASS: Class = CLASS;
    type Device = Device;

    /// A driver of hardware opens its functions here, and spawns `driver::serve_interrupt` for each interrupt.
    async fn start(_: Context, _: Vec<Function>) -> Result<Self, String> {
        println!("echoback: up");
        Ok(Self::default())
    }

    fn device(self: &Rc<Self>, keys: &KeySet) -> Result<Device, String> {
        let params = Params::parse(keys.get("params").unwrap_or_default());
        let params = params.map_err(|word| format!("params: {word:?} is neither upper nor poll"))?;
        Ok(Device { driver: self.clone(), params })
    }
}

/// A device before anybody is connected.
struct Device {
    driver: Rc<EchoBack>,
    params: Params,
}

impl Backend for Device {
    type Connection = Served;

    fn offer(&self, _: Put<'_>) {}

    async fn connect(&self, half: &Half) -> Result<Served, String> {
        let keys = half.peer_keys().await.map_err(|error| format!("{error}"))?;
        let front = FrontKeys::parse(&keys).map_err(|error| format!("{error}"))?;
        let (peer, driver) = (half.peer(), self.driver.clone());
        let ring = Mapping::new(peer, slice::from_ref(&front.ring), Access::ReadWrite);
        let ring = ring.map_err(|status| format!("ring-ref: {status:?}"))?;
        let session = Session::new(ring, self.params).map_err(|error| format!("{error:?}"))?;
        let event = Event::bind_interdomain(peer, front.event).map_err(|error| format!("event-channel: {error:?}"))?;
        let served = Served { session: RefCell::new(session), event, broken: Signal::default(), driver };
        // What was sent before anybody listened.
        served.run();
        Ok(served)
    }

    fn describe(&self, _: Put<'_>) {}
}

/// A connected frontend. Dropping it unmaps the ring and closes the event.
struct Served {
    session: RefCell<Session<Mapping>>,
    event: Event,
    broken: Signal,
    driver: Rc<EchoBack>,
}

impl Served {
    /// One ring full; whether there may be more.
    fn run(&self) -> bool {
        let session = &mut *self.session.borrow_mut();
        let before = session.counters().requests;
        let ran = session.run();
        self.driver.answered.set(self.driver.answered.get() + (session.counters().requests - before));
        self.driver.activity.note();
        match ran {
            Ok((notify, more)) => {
                if notify.needed() {
                    self.event.notify();
                }
                more
            }
            Err(corrupt) => {
                println!("echoback: a guest is served no more: {corrupt:?}");
                self.broken.raise();
                false
            }
        }
    }
}

impl Connection for Served {
    async fn wait(&self) {
        self.event.wait().await;
    }

    async fn serve(&self) {
        while self.run() {
            if self.session.borrow().is_idle() {
                // It polls: whoever is to send something may want this CPU.
                let _ = hypercall::sched_op(SchedOp::YIELD, &mut ());
            }
            driver::give_way().await;
        }
    }

    fn broken(&self) -> &Signal {
        &self.broken
    }

    fn activity(&self) -> &Activity {
        &self.driver.activity
    }

    fn stats(&self) -> (String, String) {
        (self.session.borrow().counters().to_string(), format!("requests {}", self.driver.answered.get()))
    }
}
