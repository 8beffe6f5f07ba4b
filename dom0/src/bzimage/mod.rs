//! A Linux kernel as distributions ship it: a bzImage, a boot sector and a compressed ELF behind it.
//!
//! Source: Linux's `Documentation/x86/boot.rst` (the header from offset 0x1f1, `payload_offset` and `payload_length` of
//! protocol 2.08), and `scripts/Makefile.lib`: behind the payload of each kind but gzip, whose own trailer ends with it,
//! stands the length of what it unpacks to, 32 bits, little-endian.

mod codec;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use codec::Codec;
pub use codec::Kind;

/// Most bytes that a payload may unpack to.
pub const MAX_BYTES: usize = 512 << 20;
/// Offsets of the boot header's fields.
const SETUP_SECTORS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first protocol that names the payload.
const WITH_PAYLOAD: u16 = 0x208;
const SECTOR: usize = 512;
/// Bytes that one step unpacks, about.
const STEP: usize = 256 << 10;

/// Why a bzImage cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BzError {
    /// A boot protocol before 2.08: it does not say where the payload is.
    Protocol(u16),
    /// The file ends before its payload does.
    Truncated,
    /// The payload is compressed in a way that is not known here; its first bytes.
    Compression([u8; 4]),
    /// The payload says that it unpacks to more than [`MAX_BYTES`], or to nothing.
    Size(u32),
    /// There is no memory for so many bytes.
    NoMemory(u32),
    /// The payload is broken.
    Corrupt(Kind),
}

impl fmt::Display for BzError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(v) => write!(f, "a bzImage of boot protocol {}.{:02}; 2.08 is needed", v >> 8, v & 0xff),
            Self::Truncated => f.write_str("the bzImage is truncated: the file ends before the kernel in it does"),
            Self::Compression(magic) => {
                write!(
                    f,
                    "the bzImage is compressed in an unknown way (it starts {magic:02x?}); gzip, xz, zstd and lz4 are known"
                )
            }
            Self::Size(bytes) => write!(f, "the bzImage says that it unpacks to {bytes} bytes"),
            Self::NoMemory(bytes) => {
                write!(f, "dom0 has no memory to unpack the bzImage to {} MiB; give it more (dom0_mem=)", bytes >> 20)
            }
            Self::Corrupt(kind) => write!(f, "the bzImage is broken: its {kind} data does not unpack"),
        }
    }
}

impl core::error::Error for BzError {}

/// A bzImage that is being unpacked, a step at a time, so that whoever does it can do other things between.
#[derive(Debug)]
pub struct Unpacking<'a> {
    kind: Kind,
    codec: Codec<'a>,
    out: Vec<u8>,
    done: usize,
}

impl<'a> Unpacking<'a> {
    /// Begins; nothing if the file is no bzImage.
    ///
    /// # Errors
    /// The header cannot be followed, or there is no memory for what is in it.
    pub fn begin(file: &'a [u8]) -> Result<Option<Self>, BzError> {
        let Some(Packed { kind, payload, bytes }) = packed(file)? else { return Ok(None) };
        let size = bytes as usize;
        let mut out = Vec::new();
        out.try_reserve_exact(size).map_err(|_| BzError::NoMemory(bytes))?;
        out.resize(size, 0);
        let codec = Codec::new(kind, payload).ok_or(BzError::Corrupt(kind))?;
        Ok(Some(Self { kind, codec, out, done: 0 }))
    }

    /// Unpacks some more; false when all of it is there.
    ///
    /// # Errors
    /// The payload is broken, or is not as long as it says.
    pub fn step(&mut self) -> Result<bool, BzError> {
        let corrupt = BzError::Corrupt(self.kind);
        let until = self.out.len().min(self.done.saturating_add(STEP));
        let (done, more) = self.codec.step(&mut self.out, self.done, until).ok_or(corrupt)?;
        self.done = done;
        if more { Ok(true) } else { (done == self.out.len()).then_some(false).ok_or(corrupt) }
    }

    /// What was unpacked.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// What a bzImage has in it.
#[derive(Debug)]
pub struct Packed<'a> {
    kind: Kind,
    payload: &'a [u8],
    /// What it unpacks to.
    bytes: u32,
}

/// Looks for what a bzImage has in it; nothing if the file is none.
///
/// # Errors
/// The header cannot be followed.
pub fn packed(file: &[u8]) -> Result<Option<Packed<'_>>, BzError> {
    if u16_at(file, BOOT_FLAG) != Some(0xaa55) || file.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Ok(None);
    }
    let version = u16_at(file, VERSION).ok_or(BzError::Truncated)?;
    if version < WITH_PAYLOAD {
        return Err(BzError::Protocol(version));
    }
    let payload = payload(file).ok_or(BzError::Truncated)?;
    let first = payload.first_chunk().copied().ok_or(BzError::Truncated)?;
    let kind = Kind::of(first).ok_or(BzError::Compression(first))?;
    let bytes = payload.last_chunk().map_or(0, |size| u32::from_le_bytes(*size));
    let sound = (1..=MAX_BYTES).contains(&(bytes as usize));
    if sound { Ok(Some(Packed { kind, payload, bytes })) } else { Err(BzError::Size(bytes)) }
}

fn payload(file: &[u8]) -> Option<&[u8]> {
    let sectors = match *file.get(SETUP_SECTORS)? {
        0 => 4, // as boot.rst has it
        n => usize::from(n),
    };
    let offset = u32_at(file, PAYLOAD_OFFSET)? as usize;
    let start = ((sectors + 1) * SECTOR).checked_add(offset)?;
    file.get(start..start.checked_add(u32_at(file, PAYLOAD_LENGTH)? as usize)?)
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    file.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
