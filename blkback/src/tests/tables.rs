//! Partition tables, and what the toolstack's keys say.

use crate::gpt::{GptError, Header, crc32};
use crate::ram::parse_size;
use crate::session::Extent;
use crate::target::{Mode, Target};
use proptest::prelude::*;
use std::vec::Vec;

const SECTORS: u64 = 10_000;

/// A header and its table with partitions of (first, last, name).
fn table(partitions: &[(u64, u64, &str)]) -> (Vec<u8>, Vec<u8>) {
    let mut entries = std::vec![0; 128 * 128];
    for (entry, (first, last, name)) in entries.chunks_exact_mut(128).zip(partitions) {
        entry[..16].fill(7);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (unit, slot) in name.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
            slot.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let mut header = std::vec![0; 512];
    header[..8].copy_from_slice(b"EFI PART");
    let mut put = |offset: usize, value: u64, len: usize| {
        header[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
    };
    put(8, 0x10000, 4);
    put(12, 92, 4);
    put(24, 1, 8);
    put(32, SECTORS - 1, 8);
    put(40, 34, 8);
    put(48, SECTORS - 34, 8);
    put(72, 2, 8);
    put(80, 128, 4);
    put(84, 128, 4);
    put(88, crc32(entries.iter().copied()).into(), 4);
    seal(&mut header);
    (header, entries)
}

fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32(header[..92].iter().copied());
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn partitions_are_read() {
    assert_eq!(crc32(b"123456789".iter().copied()), 0xcbf4_3926);
    let (header, entries) = table(&[(34, 99, "boot"), (100, 100, "größe"), (200, SECTORS - 34, "")]);
    let header = Header::parse(&header, 1, SECTORS).unwrap();
    assert_eq!((header.table, header.table_bytes()), (2, 16384));
    let found = header.partitions(&entries).unwrap();
    let shapes: Vec<_> = found.iter().map(|p| (p.number, p.extent.start, p.extent.sectors, p.label.as_str())).collect();
    assert_eq!(shapes, [(1, 34, 66, "boot"), (2, 100, 1, "größe"), (3, 200, SECTORS - 233, "")]);
    assert_eq!(Header::places(SECTORS), [1, SECTORS - 1]);
}

#[test]
fn impossible_partitions_condemn_the_table() {
    for bad in [(33, 40), (40, 39), (40, SECTORS - 33), (40, u64::MAX), (90, 95), (95, 200)] {
        let (header, entries) = table(&[(80, 99, "a"), (bad.0, bad.1, "b")]);
        let header = Header::parse(&header, 1, SECTORS).unwrap();
        assert_eq!(header.partitions(&entries), Err(GptError::Malformed), "{bad:?}");
    }
}

#[test]
fn damage_is_noticed() {
    let (header, entries) = table(&[(34, 99, "boot")]);
    for at in 0..92 {
        let mut damaged = header.clone();
        damaged[at] ^= 0x40;
        assert!(Header::parse(&damaged, 1, SECTORS).is_err(), "byte {at}");
    }
    let good = Header::parse(&header, 1, SECTORS).unwrap();
    let mut damaged = entries.clone();
    damaged[56] ^= 1;
    assert_eq!(good.partitions(&damaged), Err(GptError::Checksum));
    assert_eq!(good.partitions(&entries[..512]), Err(GptError::Malformed));
    assert_eq!(Header::parse(&header, 2, SECTORS), Err(GptError::Malformed), "not where it says it is");
    assert_eq!(Header::parse(&header[..100], 1, SECTORS), Ok(good));
    assert_eq!(Header::parse(&header[..50], 1, SECTORS), Err(GptError::Malformed));
    assert_eq!(Header::parse(&[], 1, SECTORS), Err(GptError::NoTable));
}

proptest! {
    /// Any fields under a right CRC: an answer, and partitions only inside the disk.
    #[test]
    fn any_header_is_survived(at in 8usize..88, value: u64, entry_at in 16usize..48, entry_value: u64) {
        let (mut header, mut entries) = table(&[(34, 99, "boot"), (100, 200, "root")]);
        entries[128 + entry_at..128 + entry_at + 8].copy_from_slice(&entry_value.to_le_bytes());
        header[at..at + 4].copy_from_slice(&value.to_le_bytes()[..4]);
        header[88..92].copy_from_slice(&crc32(entries.iter().copied()).to_le_bytes());
        seal(&mut header);
        if let Ok(header) = Header::parse(&header, 1, SECTORS) {
            prop_assert!(header.table_bytes() <= 128 * 1024);
            for partition in header.partitions(&entries).unwrap_or_default() {
                let Extent { start, sectors } = partition.extent;
                prop_assert!(sectors > 0 && start + sectors <= SECTORS);
            }
        }
    }
}

#[test]
fn targets_and_modes() {
    assert_eq!(Target::parse("vda"), Some(Target::Whole("vda")));
    assert_eq!(Target::parse("vda:2"), Some(Target::Number("vda", 2)));
    assert_eq!(Target::parse("vda:root"), Some(Target::Label("vda", "root")));
    assert_eq!(Target::parse("ram:256M"), Some(Target::Ram(256 << 20)));
    for bad in ["", ":", "vda:", ":1", "vda:0", "ram:", "ram:M", "ram:1", "ram:-1M", "ram:0M", "ram:99999999999999G"] {
        assert_eq!(Target::parse(bad), None, "{bad:?}");
    }
    assert_eq!(parse_size("4K"), Some(4096));
    assert_eq!(Mode::parse("r"), Some(Mode { read_only: true, shared: false }));
    assert_eq!(Mode::parse("w!"), Some(Mode { read_only: false, shared: true }));
    assert_eq!((Mode::parse(""), Mode::parse("rw"), Mode::parse("!")), (None, None, None));
}
