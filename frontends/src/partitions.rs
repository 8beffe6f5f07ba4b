//! A disk's partition table, for the status page: GPT, or none.

use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Bytes to read from the start of a disk: protective MBR, header, 128 entries of 128 bytes.
pub const TABLE: usize = 34 * SECTOR;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub sectors: u64,
    /// Its label.
    pub name: String,
}

/// The partitions that the first [`TABLE`] bytes of a disk list; `None` if there is no GPT.
pub fn parse(table: &[u8]) -> Option<Vec<Partition>> {
    let header = table.get(SECTOR..2 * SECTOR)?;
    if header.get(..8)? != b"EFI PART" {
        return None;
    }
    let word = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let entries = usize::try_from(word(header, 72)?).ok()?.checked_mul(SECTOR)?;
    let (count, size) = (half(header, 80)? as usize, half(header, 84)? as usize);
    if size < 128 {
        return None;
    }
    let entry = |index: usize| {
        let start = entries.checked_add(index.checked_mul(size)?)?;
        table.get(start..start.checked_add(size)?)
    };
    let partition = |entry: &[u8]| {
        let used = entry.get(..16)?.iter().any(|byte| *byte != 0);
        let (first, last) = (word(entry, 32)?, word(entry, 40)?);
        let units = entry.get(56..128)?.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let name = char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|c| c.unwrap_or('?')).collect();
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        used.then_some(Partition { first, sectors, name })
    };
    Some((0..count.min(128)).map_while(entry).filter_map(partition).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; TABLE];
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[584] = 2;
        disk[592] = 128;
        disk[596] = 128;
        let entry = &mut disk[1024 + 128..1024 + 256];
        entry[0] = 1;
        entry[32] = 64;
        entry[40] = 95;
        entry[56..62].copy_from_slice(b"w\0e\0b\0");
        disk
    }

    #[test]
    fn a_partition_is_found_with_its_name() {
        let found = parse(&disk()).unwrap();
        assert_eq!(found, [Partition { first: 64, sectors: 32, name: "web".into() }]);
    }

    #[test]
    fn no_table_no_panic() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; TABLE]), None);
        let mut bad = disk();
        for (at, value) in [(584, [255; 8]), (592, [255; 8]), (1024 + 128 + 40, [0; 8])] {
            bad[at..at + 8].copy_from_slice(&value);
            let _ = parse(&bad);
            assert!(parse(&bad[..700]).is_none_or(|list| list.is_empty()));
        }
    }
}
