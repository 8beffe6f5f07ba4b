//! Wraps the core's 64-bit ELF as a 32-bit one: QEMU's multiboot loader refuses ELF64.
//!
//! The code inside starts in 32-bit mode anyway (multiboot 1, section 3.2). Each PT_LOAD keeps its bytes and is placed
//! at its physical address; the entry becomes a physical address. Sections and symbols are left behind.
//! Field offsets: the System V ABI, "Object Files", ELF header and program header.

use anyhow::{Context, Result, bail, ensure};

const EHDR64: usize = 64;
const PHDR64: usize = 56;
const EHDR32: usize = 52;
const PHDR32: usize = 32;
const PT_LOAD: u32 = 1;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// One PT_LOAD of an ELF64 file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it runs.
    pub vaddr: u64,
    /// Where it is loaded.
    pub paddr: u64,
    /// Bytes in memory, at least those in the file.
    pub mem_size: u64,
    /// Read 4, write 2, execute 1.
    pub flags: u32,
    /// Its bytes in the file.
    pub bytes: Vec<u8>,
}

/// What the tools need to know of an x86-64 ELF file.
pub struct Image {
    /// Where execution begins, as the header says it.
    pub entry: u64,
    /// The loaded segments, those without bytes left out.
    pub segments: Vec<Segment>,
}

impl Image {
    /// Reads an ELF64 file for x86-64.
    pub fn parse(file: &[u8]) -> Result<Image> {
        ensure!(file.get(..6) == Some(&b"\x7fELF\x02\x01"[..]), "not a little-endian 64-bit ELF file");
        ensure!(u16_at(file, 18)? == EM_X86_64, "not an x86-64 ELF file");
        let table = usize::try_from(u64_at(file, 32)?)?;
        let count = usize::from(u16_at(file, 56)?);
        ensure!(usize::from(u16_at(file, 54)?) == PHDR64, "program headers of an unknown size");
        let mut segments = Vec::new();
        for index in 0..count {
            let at = table.checked_add(index * PHDR64).context("program header offset")?;
            let mem_size = u64_at(file, at + 40)?;
            if u32_at(file, at)? != PT_LOAD || mem_size == 0 {
                continue;
            }
            let from = usize::try_from(u64_at(file, at + 8)?)?;
            let len = usize::try_from(u64_at(file, at + 32)?)?;
            let end = from.checked_add(len).context("segment size")?;
            segments.push(Segment {
                flags: u32_at(file, at + 4)?,
                vaddr: u64_at(file, at + 16)?,
                paddr: u64_at(file, at + 24)?,
                mem_size,
                bytes: file.get(from..end).context("a segment lies outside the file")?.to_vec(),
            });
        }
        ensure!(!segments.is_empty(), "nothing to load");
        ensure!(table >= EHDR64 || count == 0, "program headers inside the ELF header");
        Ok(Image { entry: u64_at(file, 24)?, segments })
    }

    /// Bytes the image takes once loaded, from its first to its last, without what is zeroed at the start.
    pub fn loadable(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes.len() as u64).sum()
    }

    /// The entry as a physical address: it may be given as either.
    fn physical_entry(&self) -> Result<u64> {
        let inside = |base: u64, segment: &Segment| self.entry.checked_sub(base).filter(|o| *o < segment.mem_size);
        let found = self.segments.iter().find_map(|segment| {
            let by_paddr = inside(segment.paddr, segment).map(|_| self.entry);
            by_paddr.or_else(|| inside(segment.vaddr, segment).map(|offset| segment.paddr + offset))
        });
        found.with_context(|| format!("the entry {:#x} lies in no segment", self.entry))
    }

    /// The same image as a 32-bit ELF file.
    pub fn wrap(&self) -> Result<Vec<u8>> {
        let mut segments = self.segments.clone();
        segments.sort_by_key(|segment| segment.paddr);
        let mut file = Vec::new();
        file.extend(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend(2u16.to_le_bytes()); // ET_EXEC
        file.extend(EM_386.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(low(self.physical_entry()?)?.to_le_bytes());
        file.extend((EHDR32 as u32).to_le_bytes());
        file.extend([0; 8]); // no sections, no flags
        for field in [EHDR32, PHDR32, segments.len(), 0, 0, 0] {
            file.extend(u16::try_from(field)?.to_le_bytes());
        }
        // The multiboot header must lie in the first 8 KiB of the file: no padding to pages.
        let mut offset = (EHDR32 + segments.len() * PHDR32).next_multiple_of(16);
        for segment in &segments {
            if segment.paddr + segment.mem_size > 1 << 32 {
                bail!("a segment at {:#x} lies above 4 GiB", segment.paddr);
            }
            for field in [PT_LOAD, low(offset as u64)?, low(segment.paddr)?, low(segment.paddr)?] {
                file.extend(field.to_le_bytes());
            }
            for field in [low(segment.bytes.len() as u64)?, low(segment.mem_size)?, segment.flags, 16] {
                file.extend(field.to_le_bytes());
            }
            offset = (offset + segment.bytes.len()).next_multiple_of(16);
        }
        for segment in &segments {
            file.resize(file.len().next_multiple_of(16), 0);
            file.extend(&segment.bytes);
        }
        Ok(file)
    }
}

fn low(value: u64) -> Result<u32> {
    u32::try_from(value).with_context(|| format!("{value:#x} does not fit 32 bits"))
}

fn array<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = at.checked_add(N).and_then(|end| file.get(at..end)).context("the file is cut short")?;
    Ok(bytes.try_into()?)
}

fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    array(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    array(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    array(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf64(entry: u64, segments: &[(u64, u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = vec![0; EHDR64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        file[24..32].copy_from_slice(&entry.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        let mut offset = EHDR64 + segments.len() * PHDR64;
        for (vaddr, paddr, bytes, mem) in segments {
            file.extend(PT_LOAD.to_le_bytes());
            file.extend(5u32.to_le_bytes());
            for field in [offset as u64, *vaddr, *paddr, bytes.len() as u64, *mem, 4096] {
                file.extend(field.to_le_bytes());
            }
            offset += bytes.len();
        }
        for (_, _, bytes, _) in segments {
            file.extend(*bytes);
        }
        file
    }

    const HIGH: u64 = 0xffff_82d0_8020_0000;

    #[test]
    fn the_entry_becomes_physical_and_every_byte_is_kept() {
        let file = elf64(HIGH + 4, &[(HIGH + 0x1000, 0x201000, b"data", 0x100), (HIGH, 0x200000, b"\x01\x02code", 6)]);
        let wrapped = Image::parse(&file).unwrap().wrap().unwrap();
        assert_eq!(wrapped[4], 1);
        assert_eq!(u16_at(&wrapped, 18).unwrap(), EM_386);
        assert_eq!(u32_at(&wrapped, 24).unwrap(), 0x200004);
        let (offset, len) = (u32_at(&wrapped, 56).unwrap() as usize, u32_at(&wrapped, 68).unwrap() as usize);
        assert_eq!(&wrapped[offset..offset + len], b"\x01\x02code");
        let second = EHDR32 + PHDR32;
        let offset = u32_at(&wrapped, second + 4).unwrap() as usize;
        assert_eq!(u32_at(&wrapped, second + 12).unwrap(), 0x201000);
        assert_eq!(&wrapped[offset..offset + 4], b"data");
        assert_eq!(u32_at(&wrapped, second + 20).unwrap(), 0x100);
    }

    #[test]
    fn a_physical_entry_stays() {
        let file = elf64(0x200002, &[(HIGH, 0x200000, b"abcd", 4)]);
        assert_eq!(Image::parse(&file).unwrap().physical_entry().unwrap(), 0x200002);
    }

    #[test]
    fn what_cannot_be_wrapped_is_refused() {
        let outside = elf64(0x1234, &[(HIGH, 0x200000, b"abcd", 4)]);
        assert!(Image::parse(&outside).unwrap().wrap().is_err());
        let above = elf64(HIGH, &[(HIGH, 1 << 32, b"abcd", 4)]);
        assert!(Image::parse(&above).unwrap().wrap().is_err());
        let whole = elf64(HIGH, &[(HIGH, 0x200000, b"abcd", 4)]);
        for len in 0..whole.len() {
            assert!(Image::parse(&whole[..len]).is_err(), "cut at {len}");
        }
        assert!(Image::parse(b"#!/bin/sh").is_err());
    }
}
