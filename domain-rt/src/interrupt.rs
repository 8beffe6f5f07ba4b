//! Physical interrupts as events.

use crate::events::Event;
use crate::hypercall;
use abi::physdev::{Eoi, IrqStatusQuery, MapPirq, MapPirqType, PhysdevOp, SetupGsi, UnmapPirq};
use abi::{DomId, Errno};

/// An interrupt of a device.
#[derive(Debug)]
pub struct Interrupt {
    event: Event,
    pirq: u32,
    /// The hypervisor holds the line masked until it is told.
    ends: bool,
    /// After the event, so that it is closed first.
    unmap: Option<Unmap>,
}

/// A mapping made here, taken back when dropped.
#[derive(Debug)]
struct Unmap(u32);

impl Drop for Unmap {
    fn drop(&mut self) {
        unmap(self.0);
    }
}

impl Interrupt {
    /// A PCI line interrupt: level, active low. Where this domain may, it sets the line up; else somebody has.
    pub fn line(gsi: u32) -> Result<Self, Errno> {
        let index = i32::try_from(gsi).map_err(|_| Errno::EINVAL)?;
        let mut setup = SetupGsi { gsi: index, triggering: 1, polarity: 1, ..SetupGsi::default() };
        let _ = hypercall::physdev_op(PhysdevOp::SETUP_GSI, &mut setup);
        match Self::mapped(MapPirq { kind: MapPirqType::GSI, index, pirq: index, ..MapPirq::default() }) {
            // Not this domain's to map: the toolstack has, under the line's own number.
            Err(Errno::EPERM) => Self::bind(gsi),
            result => result,
        }
    }

    /// A vector of a function's MSI-X table, which lies in the BAR at machine address `bar`; for a domain that drives
    /// PCI itself.
    pub fn msix(bus: u8, devfn: u8, entry: u16, bar: u64) -> Result<Self, Errno> {
        Self::mapped(MapPirq {
            kind: MapPirqType::MSI_SEG,
            index: -1,
            pirq: -1,
            bus: bus.into(),
            devfn: devfn.into(),
            entry_nr: entry.into(),
            table_base: bar,
            ..MapPirq::default()
        })
    }

    fn mapped(mut map: MapPirq) -> Result<Self, Errno> {
        map.domid = DomId::SELF;
        hypercall::physdev_op(PhysdevOp::MAP_PIRQ, &mut map)?;
        let pirq = u32::try_from(map.pirq).map_err(|_| Errno::EINVAL)?;
        let mut interrupt = Self::bind(pirq).inspect_err(|_| unmap(pirq))?;
        interrupt.unmap = Some(Unmap(pirq));
        Ok(interrupt)
    }

    /// An interrupt that the toolstack mapped to this domain.
    pub fn bind(pirq: u32) -> Result<Self, Errno> {
        let event = Event::bind_pirq(pirq, true)?;
        let mut query = IrqStatusQuery { irq: pirq, flags: 0 };
        hypercall::physdev_op(PhysdevOp::IRQ_STATUS_QUERY, &mut query)?;
        let ends = query.flags & IrqStatusQuery::NEEDS_EOI != 0;
        let interrupt = Self { event, pirq, ends, unmap: None };
        interrupt.end();
        Ok(interrupt)
    }

    /// Waits for the interrupt. When the device has been served, [`end`](Self::end) it.
    pub async fn wait(&self) {
        self.event.wait().await;
    }

    /// Lets the line raise the next interrupt.
    pub fn end(&self) {
        if self.ends {
            let _ = hypercall::physdev_op(PhysdevOp::EOI, &mut Eoi { irq: self.pirq });
        }
    }

    /// The domain's number of the interrupt.
    pub fn pirq(&self) -> u32 {
        self.pirq
    }
}

fn unmap(pirq: u32) {
    if let Ok(pirq) = i32::try_from(pirq) {
        let mut args = UnmapPirq { domid: DomId::SELF, pirq, ..UnmapPirq::default() };
        let _ = hypercall::physdev_op(PhysdevOp::UNMAP_PIRQ, &mut args);
    }
}
