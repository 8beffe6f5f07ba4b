//! PCI devices: configuration space through dom0 ([`Proxy`]) or, in a domain that may, by I/O ports ([`Ports`]).

mod ports;
mod proxy;

pub use ports::Ports;
pub use proxy::{Proxy, ProxyError};
pub use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};

use crate::interrupt::Interrupt;
use abi::Errno;

/// Capability: MSI-X.
const CAP_MSIX: u8 = 0x11;
/// Register with the interrupt line in its low byte.
const INTERRUPT_LINE: u8 = 0x3c;

/// A way to configuration space, and to the interrupts that go with it.
pub trait PciAccess: ConfigurationAccess + Sized {
    /// The first `count` vectors of the function's MSI-X table, turned on. `bar` is the machine address of
    /// the BAR that the table lies in.
    fn enable_msix(
        &mut self,
        function: DeviceFunction,
        count: u16,
        bar: u64,
    ) -> Result<alloc::vec::Vec<Interrupt>, Errno>;
}

/// The function's interrupt line as an interrupt, once it is known that the device uses it.
pub fn line_interrupt(access: &impl ConfigurationAccess, function: DeviceFunction) -> Result<Interrupt, Errno> {
    let line = access.read_word(function, INTERRUPT_LINE) & 0xff;
    if line == 0xff { Err(Errno::ENXIO) } else { Interrupt::line(line) }
}

/// Where a function's MSI-X table is: capability, entries, BAR, offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixTable {
    /// Offset of the capability.
    pub capability: u8,
    /// Entries, 1 to 2048.
    pub entries: u16,
    /// The BAR that holds the table.
    pub bar: u8,
    /// Offset in the BAR, in bytes.
    pub offset: u32,
}

/// Reads the MSI-X capability, if there is one.
pub fn msix_table<C: ConfigurationAccess>(
    root: &PciRoot<C>,
    access: &C,
    function: DeviceFunction,
) -> Option<MsixTable> {
    let found = root.capabilities(function).find(|capability| capability.id == CAP_MSIX)?;
    let location = access.read_word(function, found.offset.checked_add(4)?);
    Some(MsixTable {
        capability: found.offset,
        entries: (found.private_header & 0x7ff) + 1,
        bar: (location & 7) as u8,
        offset: location & !7,
    })
}
