//! PCI configuration space by proxy (`io/pciif.h`): one operation at a time through a shared page.
//!
//! The front writes an operation and sets the active flag; the back copies it out, carries it out, writes the result
//! over it and clears the flag. Each side then sends an event.

use crate::memory::RingMemory;
use crate::sync::Ordering::*;
use core::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The value of the `magic` key on both sides.
pub const MAGIC: &str = "7";
/// Most MSI-X entries of one operation.
pub const MAX_VECTORS: usize = 128;

const FLAGS: usize = 0;
const OP: usize = 4;
/// Bit of the flags word: an operation waits for the back.
const ACTIVE: u32 = 1;

/// What to do. Open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Command(pub u32);

impl Command {
    /// Read configuration space.
    pub const CONF_READ: Self = Self(0);
    /// Write configuration space.
    pub const CONF_WRITE: Self = Self(1);
    /// Turn on MSI with one vector.
    pub const ENABLE_MSI: Self = Self(2);
    /// Turn off MSI.
    pub const DISABLE_MSI: Self = Self(3);
    /// Turn on MSI-X with the entries listed.
    pub const ENABLE_MSIX: Self = Self(4);
    /// Turn off MSI-X.
    pub const DISABLE_MSIX: Self = Self(5);
}

/// How an operation went; the front sees 0 or a negative number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct PciError(pub i32);

impl PciError {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// Not a device of this front's.
    pub const NO_DEVICE: Self = Self(-1);
    /// No register of that width there.
    pub const BAD_OFFSET: Self = Self(-2);
    /// Not allowed.
    pub const DENIED: Self = Self(-3);
    /// Not something this back does.
    pub const NOT_IMPLEMENTED: Self = Self(-4);
    /// It failed.
    pub const FAILED: Self = Self(-5);
}

/// One MSI-X entry (`xen_msix_entry`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MsixEntry {
    /// Answer: the pirq.
    pub vector: u16,
    /// Question: the entry of the device's table.
    pub entry: u16,
}

/// An operation and its result (`xen_pci_op`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WireOp {
    /// What to do.
    pub command: Command,
    /// Answer: how it went.
    pub error: PciError,
    /// PCI segment.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device and function.
    pub devfn: u32,
    /// Register, in bytes.
    pub offset: i32,
    /// Width, in bytes.
    pub size: i32,
    /// Value written or read; number of MSI-X entries; answer of MSI: the pirq.
    pub value: u32,
    /// More by command.
    pub info: u32,
    /// MSI-X entries.
    pub msix: [MsixEntry; MAX_VECTORS],
}

const _: () = {
    assert!(size_of::<WireOp>() == 548 && offset_of!(WireOp, value) == 28 && offset_of!(WireOp, msix) == 36);
};
/// Bytes of the page that are used (`xen_pci_sharedinfo`).
const SHARED_INFO: usize = 572;

/// Where a function sits: segment, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// PCI segment.
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Device, five bits, and function, three.
    pub devfn: u8,
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.devfn >> 3, self.devfn & 7)
    }
}

/// A register of configuration space: aligned, 1, 2 or 4 bytes wide, within 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// First byte.
    pub offset: u16,
    /// Bytes.
    pub width: u8,
}

/// A checked operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read a register.
    Read(Register),
    /// Write a register; no bit beyond its width is set.
    Write(Register, u32),
    /// Turn on MSI.
    EnableMsi,
    /// Turn off MSI.
    DisableMsi,
    /// Turn on MSI-X for the first so many of [`WireOp::msix`]: 1 to 128.
    EnableMsix(u8),
    /// Turn off MSI-X.
    DisableMsix,
}

impl WireOp {
    /// An operation on a device, its other fields zero.
    pub fn new(command: Command, at: Address) -> Self {
        let mut op = Self::new_zeroed();
        op.command = command;
        (op.domain, op.bus, op.devfn) = (at.domain.into(), at.bus.into(), at.devfn.into());
        op
    }

    /// Checks the operation; an error is the answer.
    pub fn parse(&self) -> Result<(Address, Operation), PciError> {
        let address = self.address().ok_or(PciError::NO_DEVICE)?;
        let operation = match self.command {
            Command::CONF_READ => Operation::Read(self.register()?),
            Command::CONF_WRITE => {
                let register = self.register()?;
                let mask = u32::MAX >> (32 - 8 * u32::from(register.width));
                Operation::Write(register, self.value & mask)
            }
            Command::ENABLE_MSI => Operation::EnableMsi,
            Command::DISABLE_MSI => Operation::DisableMsi,
            Command::ENABLE_MSIX if (1..=MAX_VECTORS as u32).contains(&self.value) => {
                Operation::EnableMsix(self.value as u8)
            }
            Command::ENABLE_MSIX => return Err(PciError::FAILED),
            Command::DISABLE_MSIX => Operation::DisableMsix,
            _ => return Err(PciError::NOT_IMPLEMENTED),
        };
        Ok((address, operation))
    }

    fn address(&self) -> Option<Address> {
        let domain = self.domain.try_into().ok()?;
        Some(Address { domain, bus: self.bus.try_into().ok()?, devfn: self.devfn.try_into().ok()? })
    }

    fn register(&self) -> Result<Register, PciError> {
        let offset = u16::try_from(self.offset).ok().filter(|offset| *offset < 4096).ok_or(PciError::BAD_OFFSET)?;
        let width = u8::try_from(self.size).ok().filter(|width| matches!(width, 1 | 2 | 4));
        let width = width.filter(|width| offset.is_multiple_of(u16::from(*width))).ok_or(PciError::BAD_OFFSET)?;
        Ok(Register { offset, width })
    }
}

/// The end that asks.
#[derive(Debug)]
pub struct Front<M>(M);

impl<M: RingMemory> Front<M> {
    /// Takes the asking end of a page that was not shared yet.
    ///
    /// # Panics
    /// If the memory is smaller than the structure: a fault of this program, not of a peer.
    pub fn new(page: M) -> Self {
        assert!(page.len() >= SHARED_INFO, "a page is larger than that");
        page.write(0, &[0; SHARED_INFO]);
        Self(page)
    }

    /// Hands an operation to the back; the caller then sends an event and waits until [`poll`](Self::poll) answers.
    pub fn submit(&mut self, op: &WireOp) {
        self.0.write(OP, op.as_bytes());
        self.0.word(FLAGS).fetch_or(ACTIVE, Release);
    }

    /// The operation with its result, once the back is done. Results are the back's word.
    pub fn poll(&mut self) -> Option<WireOp> {
        (self.0.word(FLAGS).load(Acquire) & ACTIVE == 0).then(|| self.0.read_value(OP))
    }
}

/// The end that answers.
#[derive(Debug)]
pub struct Back<M>(M);

impl<M: RingMemory> Back<M> {
    /// Takes the answering end.
    ///
    /// # Panics
    /// If the memory is smaller than the structure: a fault of this program, not of a peer.
    pub fn new(page: M) -> Self {
        assert!(page.len() >= SHARED_INFO, "a page is larger than that");
        Self(page)
    }

    /// The operation that waits, copied out, if there is one.
    pub fn take(&mut self) -> Option<WireOp> {
        (self.0.word(FLAGS).load(Acquire) & ACTIVE != 0).then(|| self.0.read_value(OP))
    }

    /// Writes the result back; the caller then sends an event.
    pub fn answer(&mut self, op: &WireOp) {
        self.0.write(OP, op.as_bytes());
        self.0.word(FLAGS).fetch_and(!ACTIVE, Release);
    }
}
