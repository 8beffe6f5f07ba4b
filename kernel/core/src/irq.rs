//! The machine's interrupts, ports and frames, given to domains.
/// An interrupt line of the machine as the core numbers it: a GSI, or a number above all GSIs for MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line(pub u32);
/// A PCI function: segment, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    /// Segment group.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device in bits 7-3, function in bits 2-0.
    pub devfn: u8,
}
/// What of the machine a domain was given.
pub struct Devices;

impl<P: crate::Platform> crate::Core<P> {
    /// A port was bound to an interrupt of a domain's: lets it through. EPERM: the domain was not given it.
    pub fn open_pirq(&self, _domain: &crate::Domain<P>, _pirq: u32, _share: bool) -> Result<(), abi::Errno> {
        Err(abi::Errno::EPERM)
    }

    /// The port was closed: stops the interrupt.
    pub fn close_pirq(&self, _domain: &crate::Domain<P>, _pirq: u32) {}
}
