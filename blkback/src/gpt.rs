//! The GUID partition table (UEFI specification, chapter 5), read-only.
//!
//! A table is read in two steps, as disks answer later: a [`Header`] from sector 1, or, if that is damaged, from the
//! disk's last sector; then the entries from where the header says. Both carry a CRC. Sectors are of 512 bytes.

use crate::session::Extent;
use alloc::{string::String, vec::Vec};

const SECTOR: usize = 512;
/// Largest table read, in bytes: 1024 entries of the usual size.
const MAX_TABLE: u32 = 128 * 1024;

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GptError {
    /// No signature: not a GPT disk.
    NoTable,
    /// A CRC does not match.
    Checksum,
    /// A field is impossible.
    Malformed,
}

/// What a checked header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// First sector of the entries.
    pub table: u64,
    /// Sectors that partitions may have: first and last.
    usable: (u64, u64),
    entries: u32,
    entry_size: u32,
    table_crc: u32,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its sectors.
    pub extent: Extent,
    /// Its name.
    pub label: String,
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// CRC-32 (IEEE, reflected), bit by bit: tables are small and read once.
pub fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    let step = |crc: u32| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

impl Header {
    /// Where headers are on a disk of `sectors`: the primary, then the backup.
    pub fn places(sectors: u64) -> [u64; 2] {
        [1, sectors.saturating_sub(1)]
    }

    /// Checks the header found in sector `here` of a disk of `sectors`.
    pub fn parse(bytes: &[u8], here: u64, sectors: u64) -> Result<Self, GptError> {
        if bytes.get(..8) != Some(b"EFI PART") {
            return Err(GptError::NoTable);
        }
        Self::fields(bytes, here, sectors).ok_or(GptError::Malformed)?
    }

    /// `None`: a field is impossible.
    fn fields(bytes: &[u8], here: u64, sectors: u64) -> Option<Result<Self, GptError>> {
        let size = usize::try_from(u32_at(bytes, 12)?).ok().filter(|size| (92..=SECTOR).contains(size))?;
        let header = bytes.get(..size)?;
        // The CRC is taken with its own field as zero.
        let zeroed = header.iter().enumerate().map(|(at, byte)| if (16..20).contains(&at) { 0 } else { *byte });
        if crc32(zeroed) != u32_at(bytes, 16)? {
            return Some(Err(GptError::Checksum));
        }
        let (first, last) = (u64_at(bytes, 40)?, u64_at(bytes, 48)?);
        let (table, entries, entry_size) = (u64_at(bytes, 72)?, u32_at(bytes, 80)?, u32_at(bytes, 84)?);
        let bytes_of_table = entries.checked_mul(entry_size).filter(|size| *size <= MAX_TABLE)?;
        let end = table.checked_add(u64::from(bytes_of_table).div_ceil(SECTOR as u64))?;
        let sound = u64_at(bytes, 24)? == here
            && (128..=4096).contains(&entry_size)
            && entry_size.is_power_of_two()
            && table >= 2
            && end <= sectors
            && first <= last
            && last < sectors;
        let table_crc = u32_at(bytes, 88)?;
        sound.then_some(Ok(Self { table, usable: (first, last), entries, entry_size, table_crc }))
    }

    /// Bytes of entries, rounded up to whole sectors: what [`partitions`](Self::partitions) wants.
    pub fn table_bytes(&self) -> usize {
        (self.entries as usize * self.entry_size as usize).next_multiple_of(SECTOR)
    }

    /// The partitions in `table`, the sectors from [`table`](Self::table) on. Two that overlap condemn the table.
    pub fn partitions(&self, table: &[u8]) -> Result<Vec<Partition>, GptError> {
        let bytes = self.entries as usize * self.entry_size as usize;
        let table = table.get(..bytes).ok_or(GptError::Malformed)?;
        if crc32(table.iter().copied()) != self.table_crc {
            return Err(GptError::Checksum);
        }
        let mut found: Vec<Partition> = Vec::new();
        for (number, entry) in (1..).zip(table.chunks_exact(self.entry_size as usize)) {
            // A type of all zeros: an entry not used.
            if entry.iter().take(16).all(|byte| *byte == 0) {
                continue;
            }
            let partition = self.partition(number, entry).ok_or(GptError::Malformed)?;
            if found.iter().any(|other| other.extent.overlaps(&partition.extent)) {
                return Err(GptError::Malformed);
            }
            found.push(partition);
        }
        Ok(found)
    }

    fn partition(&self, number: u32, entry: &[u8]) -> Option<Partition> {
        let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
        if first < self.usable.0 || last > self.usable.1 || first > last {
            return None;
        }
        let name = entry.get(56..128)?.chunks_exact(2);
        let units = name.map_while(|pair| <[u8; 2]>::try_from(pair).ok()).map(u16::from_le_bytes);
        let label = char::decode_utf16(units.take_while(|unit| *unit != 0))
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        Some(Partition { number, extent: Extent { start: first, sectors: last - first + 1 }, label })
    }
}
