//! The PCI devices of driver domains: access for [`dom0::pciback`], and the xenbus half that each domain's ring needs.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::RefCell;

use abi::physdev::{MapPirq, MapPirqType, PciDeviceAdd, PhysdevOp};
use abi::{DomId, Errno, GrantRef, Port};
use dom0::control::Control;
use dom0::manifest::PciFunction;
use dom0::pciback::{self, ConfigSpace, Device};
use dom0::toolstack::Refusal;
use domain_rt::events::Event;
use domain_rt::grant::{Access, Mapping};
use domain_rt::hypercall;
use domain_rt::pci::{ConfigurationAccess, DeviceFunction, Ports};
use ring_proto::keys::Keys;
use ring_proto::path::{BackDir, Class, FrontDir, decimal};
use ring_proto::pciif::{Back, MAGIC, WireOp};
use ring_proto::xenbus::{BackStep, State as Xenbus, back_step};

use super::State;

/// What is known of PCI functions, and who has which.
#[derive(Debug, Default)]
pub struct Pci {
    /// Measured once, and told to the hypervisor.
    known: BTreeMap<PciFunction, Device>,
    devices: BTreeMap<DomId, Rc<RefCell<Vec<Device>>>>,
}

/// Configuration space as one domain reaches it.
pub(super) struct Functions<'a> {
    pub ports: &'a mut Ports,
    pub domain: DomId,
}

fn place(function: PciFunction) -> DeviceFunction {
    DeviceFunction { bus: function.bus, device: function.device, function: function.function }
}

impl ConfigSpace for Functions<'_> {
    fn read(&mut self, function: PciFunction, register: u8) -> u32 {
        self.ports.read_word(place(function), register)
    }

    fn write(&mut self, function: PciFunction, register: u8, value: u32) {
        self.ports.write_word(place(function), register, value);
    }

    fn map_msix(&mut self, function: PciFunction, entry: u16, bar: u64) -> Result<u16, Errno> {
        let mut map = MapPirq {
            domid: self.domain,
            kind: MapPirqType::MSI_SEG,
            index: -1,
            pirq: -1,
            bus: i32::from(function.segment) << 16 | i32::from(function.bus),
            devfn: function.devfn().into(),
            entry_nr: entry.into(),
            table_base: bar,
            ..MapPirq::default()
        };
        hypercall::physdev_op(PhysdevOp::MAP_PIRQ, &mut map)?;
        u16::try_from(map.pirq).map_err(|_| Errno::EINVAL)
    }
}

impl State {
    /// Measures functions that were not measured yet. It moves their BARs for a moment, so it is done, as far as can be,
    /// before any domain runs.
    pub(super) fn measure(&mut self, functions: &[PciFunction]) -> Result<(), Errno> {
        for function in functions {
            if self.pci.known.contains_key(function) {
                continue;
            }
            let ports = &mut self.tools.control.pci;
            let ports = match ports {
                Some(ports) => ports,
                None => ports.insert(Ports::open()?),
            };
            let mut space = Functions { ports, domain: DomId::DOM0 };
            let device = Device::probe(&mut space, *function).ok_or(Errno::ENODEV)?;
            let PciFunction { segment: seg, bus, .. } = *function;
            let mut add = PciDeviceAdd { seg, bus, devfn: function.devfn(), ..PciDeviceAdd::default() };
            // Without it there are no MSI-X vectors, which the domain then learns.
            let _ = hypercall::physdev_op(PhysdevOp::PCI_DEVICE_ADD, &mut add);
            self.pci.known.insert(*function, device);
        }
        Ok(())
    }

    /// Lets a new driver domain use its functions: their memory, ports and interrupts.
    pub(super) fn give_devices(&mut self, domain: DomId) -> Result<(), Refusal> {
        let functions = self.tools.get(domain).map(|running| running.config.pci.clone()).unwrap_or_default();
        if functions.is_empty() {
            return Ok(());
        }
        self.measure(&functions)?;
        let devices: Vec<Device> =
            functions.iter().filter_map(|function| self.pci.known.get(function)).cloned().collect();
        for resource in devices.iter().flat_map(Device::resources) {
            self.tools.control.permit(domain, resource, true)?;
        }
        self.pci.devices.insert(domain, Rc::new(RefCell::new(devices)));
        Ok(())
    }

    /// A domain that is gone has none.
    pub(super) fn forget_devices(&mut self, domain: DomId) {
        self.pci.devices.remove(&domain);
    }

    /// The state of a PCI frontend has changed: does what the protocol says.
    pub(super) fn pci_step(&mut self, domain: DomId) {
        let link = self.tools.get(domain).and_then(|running| {
            running.devices.iter().find(|link| link.device.class == Class::PCI).map(|link| link.device)
        });
        let Some(device) = link else { return };
        let (own, peer) = (BackDir(device).to_string(), FrontDir(device).to_string());
        loop {
            let state =
                |this: &mut Self, dir: &str| Xenbus::parse(this.tools.store.get(&format!("{dir}/state")).as_deref());
            let (own_state, peer_state) = (state(self, &own), state(self, &peer));
            let step = back_step(own_state, peer_state);
            match step {
                BackStep::Stay => return,
                BackStep::Connect => {
                    if let Err(why) = self.connect_pci(domain, &peer) {
                        self.log("dom0", &format!("domain {}: pci: {why}", domain.0));
                        let _ = self.tools.store.put(&format!("{own}/state"), &Xenbus::Closing.to_string());
                        return;
                    }
                }
                BackStep::Offer | BackStep::Close | BackStep::Shut => {}
            }
            if let Some(next) = step.next() {
                let _ = self.tools.store.put(&format!("{own}/state"), &next.to_string());
            }
        }
    }

    fn connect_pci(&mut self, domain: DomId, peer: &str) -> Result<(), Box<str>> {
        let keys = self.tools.store.read_directory(peer);
        let number = |key| keys.get(key).and_then(decimal::<u32>).ok_or("a key is missing or wrong");
        let (grant, port) = (GrantRef(number("pci-op-ref")?), Port(number("event-channel")?));
        if keys.get("magic").is_some_and(|magic| magic != MAGIC) {
            return Err("another protocol".into());
        }
        let page = Mapping::new(domain, &[grant], Access::ReadWrite).map_err(|status| format!("{status:?}"))?;
        let event = Event::bind_interdomain(domain, port).map_err(|errno| format!("{errno:?}"))?;
        let devices = self.pci.devices.get(&domain).cloned().ok_or("no devices")?;
        let Some(channel) = self.channels.get(&domain).cloned() else { return Err("no domain".into()) };
        let shared = self.shared.upgrade().ok_or("no program")?;
        self.context.spawn(async move {
            let mut back = Back::new(page);
            loop {
                while let Some(mut op) = back.take() {
                    shared.borrow_mut().pci_operate(domain, &devices, &mut op);
                    back.answer(&op);
                    event.notify();
                }
                if !channel.wait_with(&event).await {
                    break;
                }
            }
        });
        Ok(())
    }

    fn pci_operate(&mut self, domain: DomId, devices: &RefCell<Vec<Device>>, op: &mut WireOp) {
        if let Some(ports) = self.tools.control.pci.as_mut() {
            pciback::serve(&mut devices.borrow_mut(), &mut Functions { ports, domain }, op);
        }
    }
}
