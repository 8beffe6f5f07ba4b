//! A virtio device behind PCI: features, queues, interrupts.

use super::hal::{Device, map_device_memory};
use super::{DeviceType, Queue};
use crate::interrupt::Interrupt;
use crate::page::OutOfMemory;
use crate::pci::{self, Command, DeviceFunction, PciAccess, PciRoot};
use abi::{Errno, Maddr};
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
use virtio_drivers::transport::pci::{
    PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG, VirtioPciError,
};
use virtio_drivers::transport::{DeviceStatus, Transport};

bitflags::bitflags! {
    /// Features that the queues and the transport know; a driver adds its device's by number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Descriptors in tables of their own.
        const INDIRECT_DESC = 1 << 28;
        /// Notifications by index.
        const EVENT_IDX = 1 << 29;
        /// The modern interface.
        const VERSION_1 = 1 << 32;
        /// Addresses are those of the bus. Machine addresses are.
        const ACCESS_PLATFORM = 1 << 33;
        /// Barriers that hold for real hardware; x86 orders stores as they are needed.
        const ORDER_PLATFORM = 1 << 36;
        const _ = !0;
    }
}

impl Features {
    /// What is always accepted.
    pub const COMMON: Self = Self::INDIRECT_DESC
        .union(Self::EVENT_IDX)
        .union(Self::VERSION_1)
        .union(Self::ACCESS_PLATFORM)
        .union(Self::ORDER_PLATFORM);
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The transport's reason.
    Transport(VirtioPciError),
    /// It is a device of another type.
    WrongType(DeviceType),
    /// What its configuration says cannot be.
    Configuration,
    /// It does not keep what is written to it.
    NoAnswer,
    /// The device does not speak virtio 1, or not with these features.
    Features,
    /// The device has fewer queues.
    NoQueue,
    /// No memory.
    OutOfMemory,
    /// No interrupt.
    Interrupt(Errno),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => write!(f, "{error:?}"),
            Self::WrongType(kind) => write!(f, "it is a {kind:?} device"),
            Self::Configuration => f.write_str("its configuration makes no sense"),
            Self::NoAnswer => f.write_str("it does not answer"),
            Self::Features => f.write_str("it does not speak virtio 1"),
            Self::NoQueue => f.write_str("it has too few queues"),
            Self::OutOfMemory => f.write_str("no memory"),
            Self::Interrupt(error) => write!(f, "no interrupt: {error:?}"),
        }
    }
}

impl From<VirtioPciError> for OpenError {
    fn from(error: VirtioPciError) -> Self {
        Self::Transport(error)
    }
}
impl From<OutOfMemory> for OpenError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Registers of `virtio_pci_common_cfg` that the transport does not program.
const MSIX_CONFIG: usize = 16;
const QUEUE_SELECT: usize = 22;
const QUEUE_MSIX_VECTOR: usize = 26;
const QUEUE_NOTIFY_OFF: usize = 30;
const COMMON_CFG: usize = 56;
/// No vector.
const NO_VECTOR: u16 = 0xffff;
/// PCI capability: vendor-specific.
const CAP_VENDOR: u8 = 9;

/// 16-bit registers of a device.
#[derive(Debug)]
struct Registers {
    start: NonNull<u8>,
    len: usize,
}

impl Registers {
    fn at(&self, offset: usize) -> *mut u16 {
        assert!(offset.is_multiple_of(2) && offset + 2 <= self.len, "register {offset:#x}");
        // SAFETY: inside the mapping.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    fn read(&self, offset: usize) -> u16 {
        // SAFETY: device memory, mapped for good; these registers may be read at any time.
        unsafe { self.at(offset).read_volatile() }
    }

    fn write(&self, offset: usize, value: u16) {
        // SAFETY: device memory, mapped for good; the registers written choose vectors and queues, no addresses.
        unsafe { self.at(offset).write_volatile(value) }
    }
}

/// The virtio structure of type `kind`: machine address, length, and the register after the capability's common part.
fn structure<A: PciAccess>(
    root: &mut PciRoot<A>,
    access: &A,
    function: DeviceFunction,
    kind: u8,
) -> Option<(Maddr, usize, u32)> {
    let found = root
        .capabilities(function)
        .find(|capability| capability.id == CAP_VENDOR && (capability.private_header >> 8) as u8 == kind)?;
    let word = |index: u8| found.offset.checked_add(4 * index).map(|at| access.read_word(function, at));
    let (bar, offset, len, extra) = (word(1)? as u8, word(2)?, word(3)?, word(4)?);
    let (base, size) = root.bar_info(function, bar).ok()??.memory_address_size()?;
    let end = u64::from(offset) + u64::from(len);
    (base != 0 && end <= size).then_some((Maddr(base + u64::from(offset)), len as usize, extra))
}

/// A device, reset and with its features negotiated; made ready with [`start`](Self::start).
#[derive(Debug)]
pub struct VirtioPci<A> {
    access: A,
    function: DeviceFunction,
    transport: PciTransport,
    common: Registers,
    notify: Registers,
    notify_multiplier: usize,
    features: Features,
    /// Where each queue made is notified.
    bells: Vec<usize>,
    /// One a queue and a last one for the configuration with MSI-X; else the line.
    vectors: usize,
}

impl<A: PciAccess> VirtioPci<A> {
    /// Resets the device, which must be of type `kind`, and agrees on `wanted` of its features besides the common ones.
    ///
    /// A driver that was here before may have left it running on memory that is somebody else's by now: it may use the
    /// bus again only once it has said that it is reset.
    pub fn open(access: A, function: DeviceFunction, kind: DeviceType, wanted: Features) -> Result<Self, OpenError> {
        // SAFETY: the copy and the original are used one after the other, never at once.
        let mut root = PciRoot::new(unsafe { access.unsafe_clone() });
        let (_, command) = root.get_status_command(function);
        let decoding = (command | Command::MEMORY_SPACE).difference(Command::BUS_MASTER);
        root.set_command(function, decoding);
        let mut transport = PciTransport::new::<Device, A>(&mut root, function)?;
        if transport.device_type() != kind {
            return Err(OpenError::WrongType(transport.device_type()));
        }
        let mut registers = |kind: u8, least: usize| {
            let (address, len, extra) = structure(&mut root, &access, function, kind)?;
            let start = map_device_memory(address, len)?;
            (len >= least).then_some((Registers { start, len }, extra as usize))
        };
        let (common, _) =
            registers(VIRTIO_PCI_CAP_COMMON_CFG, COMMON_CFG).ok_or(VirtioPciError::MissingCommonConfig)?;
        let (notify, notify_multiplier) =
            registers(VIRTIO_PCI_CAP_NOTIFY_CFG, 2).ok_or(VirtioPciError::MissingNotifyConfig)?;
        reset(&mut transport);
        root.set_command(function, decoding | Command::BUS_MASTER);
        if !answers(&mut transport) {
            return Err(OpenError::NoAnswer);
        }
        let features = transport.begin_init(wanted | Features::COMMON);
        let agreed = transport.get_status().contains(DeviceStatus::FEATURES_OK);
        if !agreed || !features.contains(Features::VERSION_1) {
            return Err(OpenError::Features);
        }
        let (bells, vectors) = (Vec::new(), 0);
        Ok(Self { access, function, transport, common, notify, notify_multiplier, features, bells, vectors })
    }

    /// What was agreed on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Makes the next queue, of at most `limit` entries. Queues are numbered as they are made.
    pub fn queue<T>(&mut self, limit: u16) -> Result<Queue<T>, OpenError> {
        let number = self.bells.len() as u16;
        let most = self.transport.max_queue_size(number);
        if most == 0 {
            return Err(OpenError::NoQueue);
        }
        let size = limit.min(most.try_into().unwrap_or(u16::MAX));
        let indirect = self.features.contains(Features::INDIRECT_DESC);
        let queue = Queue::new(size, indirect, self.features.contains(Features::EVENT_IDX))?;
        let (size, [descriptors, avail, used]) = queue.areas();
        self.transport.queue_set(number, size.into(), descriptors.0, avail.0, used.0);
        self.common.write(QUEUE_SELECT, number);
        let bell = usize::from(self.common.read(QUEUE_NOTIFY_OFF)).saturating_mul(self.notify_multiplier);
        if bell.saturating_add(2) > self.notify.len {
            return Err(OpenError::NoQueue);
        }
        self.bells.push(bell);
        Ok(queue)
    }

    /// Turns the device on: an interrupt a queue, in their order, if it has MSI-X and this domain may use it; else one
    /// for all, the line, which each service of it must [acknowledge](Self::acknowledge).
    pub fn start(&mut self) -> Result<Vec<Interrupt>, OpenError> {
        let interrupts = match self.enable_msix() {
            Some(interrupts) => interrupts,
            None => {
                let line = pci::line_interrupt(&self.access, self.function).map_err(OpenError::Interrupt)?;
                alloc::vec![line]
            }
        };
        self.transport.finish_init();
        Ok(interrupts)
    }

    fn enable_msix(&mut self) -> Option<Vec<Interrupt>> {
        // SAFETY: used for reads and for sizing a BAR, while nothing else uses the function.
        let mut root = PciRoot::new(unsafe { self.access.unsafe_clone() });
        let table = pci::msix_table(&root, &self.access, self.function)?;
        let queues = self.bells.len();
        if usize::from(table.entries) < queues {
            return None;
        }
        let (base, _) = root.bar_info(self.function, table.bar).ok()??.memory_address_size()?;
        let interrupts = self.access.enable_msix(self.function, queues as u16, base).ok()?;
        self.common.write(MSIX_CONFIG, NO_VECTOR);
        for queue in 0..queues as u16 {
            self.common.write(QUEUE_SELECT, queue);
            self.common.write(QUEUE_MSIX_VECTOR, queue);
            if self.common.read(QUEUE_MSIX_VECTOR) != queue {
                return None;
            }
        }
        self.vectors = queues;
        Some(interrupts)
    }

    /// Whether each queue has an interrupt of its own.
    pub fn has_msix(&self) -> bool {
        self.vectors > 0
    }

    /// Tells the device of what was published on queue `number`.
    pub fn notify(&self, number: u16) {
        if let Some(bell) = self.bells.get(usize::from(number)) {
            self.notify.write(*bell, number);
        }
    }

    /// Takes the device off its interrupt line; not needed with MSI-X.
    pub fn acknowledge(&mut self) {
        if !self.has_msix() {
            let _ = self.transport.ack_interrupt();
        }
    }

    /// A field of the device's own configuration; `None` if it has no such field.
    pub fn config<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self, offset: usize) -> Option<T> {
        self.transport.read_consistent(|| self.transport.read_config_space(offset)).ok()
    }

    /// Resets the device: it uses no memory any more. The queue's requests come back unfinished.
    pub fn reset<T>(&mut self, queues: &mut [Queue<T>]) -> Vec<T> {
        reset(&mut self.transport);
        queues.iter_mut().flat_map(Queue::abandon).collect()
    }
}

/// Resets a device and waits until it is: it uses no memory any more.
fn reset(transport: &mut PciTransport) {
    transport.set_status(DeviceStatus::empty());
    while !transport.get_status().is_empty() {
        core::hint::spin_loop();
    }
}

/// Tries of [`answers`].
const TRIES: usize = 10_000;

/// Whether the device takes what is written to its registers. Where its decoding was just changed by dom0 on another
/// CPU, QEMU 7.2 may lead the first accesses astray.
fn answers(transport: &mut PciTransport) -> bool {
    (0..TRIES).any(|_| {
        transport.set_status(DeviceStatus::ACKNOWLEDGE);
        transport.get_status() == DeviceStatus::ACKNOWLEDGE
    })
}
