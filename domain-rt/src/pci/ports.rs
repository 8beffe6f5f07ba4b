//! Configuration space by the ports CF8 and CFC, for the initial domain.

use super::{ConfigurationAccess, DeviceFunction, PciAccess, PciRoot, msix_table};
use crate::hypercall;
use crate::interrupt::Interrupt;
use abi::Errno;
use abi::physdev::{PciDeviceAdd, PhysdevOp, SetIopl};
use alloc::vec::Vec;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Bits of the MSI-X capability's control register: on, and all vectors masked.
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// The right to use the ports.
#[derive(Debug)]
pub struct Ports(());

impl Ports {
    /// Raises this vCPU's I/O privilege, which the hypervisor allows only a privileged domain. The ports are one pair
    /// for all users: there must be one `Ports` in the machine at a time.
    pub fn open() -> Result<Self, Errno> {
        hypercall::physdev_op(PhysdevOp::SET_IOPL, &mut SetIopl { iopl: 1 })?;
        Ok(Self(()))
    }

    fn select(function: DeviceFunction, register: u8) {
        let DeviceFunction { bus, device, function } = function;
        let address = 1 << 31
            | u32::from(bus) << 16
            | u32::from(device & 31) << 11
            | u32::from(function & 7) << 8
            | u32::from(register & !3);
        // SAFETY: writing the address register has no effect but on the data register, and the vCPU may.
        unsafe { core::arch::asm!("out dx, eax", in("dx") ADDRESS, in("eax") address, options(nomem, nostack)) }
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        let value;
        // SAFETY: reads the register selected; configuration reads have no effect on memory.
        unsafe { core::arch::asm!("in eax, dx", in("dx") DATA, out("eax") value, options(nomem, nostack)) }
        value
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        Self::select(function, register);
        // SAFETY: the domain drives this device; what a configuration write does is the device's part.
        unsafe { core::arch::asm!("out dx, eax", in("dx") DATA, in("eax") data, options(nostack)) }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self(())
    }
}

impl PciAccess for Ports {
    fn enable_msix(&mut self, function: DeviceFunction, count: u16, bar: u64) -> Result<Vec<Interrupt>, Errno> {
        let devfn = function.device << 3 | function.function;
        // The hypervisor must know the device; a second time is an error that says so.
        let mut add = PciDeviceAdd { bus: function.bus, devfn, ..PciDeviceAdd::default() };
        let _ = hypercall::physdev_op(PhysdevOp::PCI_DEVICE_ADD, &mut add);
        // SAFETY: used for reads only.
        let root = PciRoot::new(unsafe { self.unsafe_clone() });
        let table = msix_table(&root, self, function).ok_or(Errno::ENODEV)?;
        // The hypervisor writes the entries and unmasks each as it is bound; the switch for all is ours.
        // It lets this register be written only by itself.
        let control = (self.read_word(function, table.capability) >> 16) as u16 & !MSIX_MASK_ALL | MSIX_ENABLE;
        self.write_upper_half(function, table.capability, control | MSIX_MASK_ALL);
        let interrupts = self.bind_msix(function.bus, devfn, count, bar);
        let control = if interrupts.is_ok() { control } else { control & !MSIX_ENABLE };
        self.write_upper_half(function, table.capability, control);
        interrupts
    }
}

impl Ports {
    fn write_upper_half(&mut self, function: DeviceFunction, register: u8, data: u16) {
        Self::select(function, register);
        // SAFETY: as `write_word`.
        unsafe { core::arch::asm!("out dx, ax", in("dx") DATA + 2, in("ax") data, options(nostack)) }
    }

    fn bind_msix(&self, bus: u8, devfn: u8, count: u16, bar: u64) -> Result<Vec<Interrupt>, Errno> {
        (0..count).map(|entry| Interrupt::msix(bus, devfn, entry, bar)).collect()
    }
}
