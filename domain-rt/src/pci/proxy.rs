//! Configuration space through dom0, by `io/pciif.h`: the front end.
//!
//! Reads and writes are synchronous, as virtio-drivers wants them: the domain sleeps until dom0 has answered. They
//! happen at start-up only.

use super::{ConfigurationAccess, DeviceFunction, PciAccess};
use crate::events::Event;
use crate::grant::{Access, Granted};
use crate::interrupt::Interrupt;
use crate::store::{Error, Store};
use crate::time;
use crate::xenbus::Half;
use abi::{DomId, Errno};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use ring_proto::keys::Keys;
use ring_proto::pciif::{Address, Command, Front, MAGIC, MAX_VECTORS, PciError, WireOp};
use ring_proto::xenbus::{FrontStep, State, front_step};

/// How long dom0 may take for an operation: twenty seconds. It may be building a large domain; the watchdog bites after
/// thirty.
const PATIENCE: u64 = 20_000_000_000;
/// What a read of a device that is not there gives.
const NOTHING: u32 = u32::MAX;

/// Why there is no access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The store's answer.
    Store(Error),
    /// No page or port.
    NoResources,
    /// dom0 closed the device.
    Closed,
}

impl From<Error> for ProxyError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

struct Inner {
    front: Front<Granted>,
    event: Event,
}

/// The access. Clones use the same page, one operation at a time.
#[derive(Clone)]
pub struct Proxy(Rc<RefCell<Inner>>);

impl core::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Proxy")
    }
}

impl Proxy {
    /// Connects `device/pci/0`; the access and the functions that this domain was given.
    pub async fn connect(store: Store) -> Result<(Self, Vec<DeviceFunction>), ProxyError> {
        let mut half = Half::front(store, "device/pci/0").await?;
        let (page, event, grant) = resources(half.peer()).ok_or(ProxyError::NoResources)?;
        let mut inner = Some(Inner { front: Front::new(page), event });
        loop {
            let peer = half.peer_state().await?;
            match front_step(half.state(), peer) {
                FrontStep::Setup => {
                    let port = inner.as_ref().map_or(0, |inner| inner.event.port().0);
                    half.publish(State::Initialised, |put| {
                        put("pci-op-ref", &grant);
                        put("event-channel", &port);
                        put("magic", &MAGIC);
                    })
                    .await?;
                }
                FrontStep::Finish => {
                    let functions = functions(&half.peer_keys().await?);
                    half.set_state(State::Connected).await?;
                    let inner = inner.take().ok_or(ProxyError::Closed)?;
                    return Ok((Self(Rc::new(RefCell::new(inner))), functions));
                }
                FrontStep::Restart => half.set_state(State::Initialising).await?,
                FrontStep::Close => {
                    half.set_state(State::Closed).await?;
                    return Err(ProxyError::Closed);
                }
                FrontStep::Stay => {}
            }
        }
    }

    /// Does one operation; the result, or an error if dom0 does not answer in time.
    fn operate(&self, op: &WireOp) -> Result<WireOp, PciError> {
        let mut inner = self.0.borrow_mut();
        inner.front.submit(op);
        inner.event.notify();
        let deadline = time::now() + PATIENCE;
        loop {
            match inner.front.poll() {
                Some(done) if done.error == PciError::SUCCESS => return Ok(done),
                Some(done) => return Err(done.error),
                None if time::now() >= deadline => return Err(PciError::FAILED),
                None => inner.event.wait_blocking(deadline),
            }
        }
    }
}

fn resources(peer: DomId) -> Option<(Granted, Event, u32)> {
    let page = Granted::new(peer, 1, Access::ReadWrite).ok()?;
    let event = Event::alloc_unbound(peer).ok()?;
    let grant = page.grants().first()?.0;
    Some((page, event, grant))
}

/// The functions that the backend lists as `vdev-N`, or as `dev-N` where it shows them at their real place.
fn functions(keys: &impl Keys) -> Vec<DeviceFunction> {
    let listed = |number: usize| {
        let name = keys.get(&format!("vdev-{number}")).or_else(|| keys.get(&format!("dev-{number}")))?;
        parse_function(name)
    };
    (0..MAX_VECTORS).map_while(listed).collect()
}

/// Reads `0000:BB:DD.F`, hexadecimal.
fn parse_function(text: &str) -> Option<DeviceFunction> {
    let mut parts = text.trim().split([':', '.']).map(|part| u16::from_str_radix(part, 16).ok());
    let (segment, bus) = (parts.next()??, parts.next()??);
    let (device, function) = (parts.next()??, parts.next()??);
    let valid = segment == 0 && device < 32 && function < 8 && parts.next().is_none();
    valid.then_some(DeviceFunction { bus: bus.try_into().ok()?, device: device as u8, function: function as u8 })
}

fn address(function: DeviceFunction) -> Address {
    Address { domain: 0, bus: function.bus, devfn: (function.device & 31) << 3 | function.function & 7 }
}

impl ConfigurationAccess for Proxy {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let mut op = WireOp::new(Command::CONF_READ, address(function));
        (op.offset, op.size) = (i32::from(register & !3), 4);
        self.operate(&op).map_or(NOTHING, |done| done.value)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        let mut op = WireOp::new(Command::CONF_WRITE, address(function));
        (op.offset, op.size, op.value) = (i32::from(register & !3), 4, data);
        // A refused write is not seen; what is read afterwards tells.
        let _ = self.operate(&op);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

impl PciAccess for Proxy {
    fn enable_msix(&mut self, function: DeviceFunction, count: u16, _bar: u64) -> Result<Vec<Interrupt>, Errno> {
        let mut op = WireOp::new(Command::ENABLE_MSIX, address(function));
        let entries = op.msix.get_mut(..usize::from(count)).ok_or(Errno::EINVAL)?;
        (0..).zip(entries).for_each(|(number, entry)| entry.entry = number);
        op.value = count.into();
        let done = self.operate(&op).map_err(|_| Errno::EIO)?;
        let answered = done.msix.get(..usize::from(count)).ok_or(Errno::EINVAL)?;
        answered.iter().map(|entry| Interrupt::bind(entry.vector.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_read_as_the_store_has_them() {
        let function = DeviceFunction { bus: 0, device: 3, function: 1 };
        assert_eq!(parse_function("0000:00:03.1"), Some(function));
        assert_eq!(parse_function("0000:00:03.01"), Some(function));
        for nonsense in ["", "0000:00:03", "0001:00:03.1", "0000:00:20.0", "0000:00:03.8", "0000:100:03.0", "x"] {
            assert_eq!(parse_function(nonsense), None, "{nonsense:?}");
        }
        let keys = [("vdev-0", "0000:00:03.1"), ("dev-1", "0000:00:04.0"), ("dev-3", "0000:00:05.0")];
        assert_eq!(functions(&keys[..].to_set()).len(), 2);
    }

    trait ToSet {
        fn to_set(&self) -> crate::store::KeySet;
    }
    impl ToSet for [(&str, &str)] {
        fn to_set(&self) -> crate::store::KeySet {
            crate::store::KeySet(self.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
        }
    }
}
