//! Images made to order and memory on the heap, for the tests of this crate and of those who build with it.

use alloc::vec::Vec;
use core::convert::Infallible;

use abi::{Mfn, PAGE_SIZE, Pfn, Pte, PteFlags, Vaddr};

use crate::GuestMemory;

/// Makes a PV64 ELF image.
#[derive(Clone, Debug)]
pub struct ImageMaker {
    /// `e_entry`.
    pub entry: u64,
    /// `p_paddr`, bytes and memory size of each loadable segment.
    pub segments: Vec<(u64, Vec<u8>, u64)>,
    /// Number and contents of each Xen note.
    pub notes: Vec<(u32, Vec<u8>)>,
}

impl ImageMaker {
    /// A small kernel at `virt_base`: a page of code, a page of data and a page of bss, and the notes it must have.
    pub fn small(virt_base: u64) -> Self {
        let code = (0..PAGE_SIZE).map(|at| at as u8 ^ 0x5a).collect();
        let segments = Vec::from([(0x1000, code, 0x1000), (0x2000, b"data".to_vec(), 0x2000)]);
        Self { entry: 0, segments, notes: Vec::new() }
            .note(1, virt_base + 0x1000)
            .note(3, virt_base)
            .text(5, "xen-3.0")
            .text(10, "!writable_page_tables|pae_pgdir_above_4gb")
    }

    /// Adds or replaces a numeric note.
    pub fn note(self, kind: u32, value: u64) -> Self {
        self.raw(kind, value.to_le_bytes().to_vec())
    }

    /// Adds or replaces a string note.
    pub fn text(self, kind: u32, value: &str) -> Self {
        self.raw(kind, [value.as_bytes(), b"\0"].concat())
    }

    /// Adds or replaces a note.
    pub fn raw(mut self, kind: u32, desc: Vec<u8>) -> Self {
        self.notes.retain(|(other, _)| *other != kind);
        self.notes.push((kind, desc));
        self
    }

    /// Removes a note.
    pub fn without(mut self, kind: u32) -> Self {
        self.notes.retain(|(other, _)| *other != kind);
        self
    }

    /// Replaces the segments.
    pub fn loads(mut self, segments: &[(u64, usize, u64)]) -> Self {
        self.segments = segments
            .iter()
            .map(|(paddr, len, size)| (*paddr, Vec::from_iter((0..*len).map(|b| b as u8)), *size))
            .collect();
        self
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (kind, desc) in &self.notes {
            for word in [4, desc.len() as u32, *kind] {
                notes.extend(word.to_le_bytes());
            }
            notes.extend(b"Xen\0");
            notes.extend(desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let count = self.segments.len() + 1;
        let mut offset = 64 + 56 * count as u64;
        let mut headers = program_header(4, offset, 0, notes.len() as u64, notes.len() as u64);
        offset += notes.len() as u64;
        let mut body = notes;
        for (paddr, bytes, size) in &self.segments {
            headers.extend(program_header(1, offset, *paddr, bytes.len() as u64, *size));
            offset += bytes.len() as u64;
            body.extend(bytes);
        }
        let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
        for word in [self.entry, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, count as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(headers);
        file.extend(body);
        file
    }
}

fn program_header(kind: u32, offset: u64, paddr: u64, file_size: u64, mem_size: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    // p_vaddr is nonsense on purpose: nothing may read it.
    for word in [offset, 0xdead_beef_0000, paddr, file_size, mem_size, 4] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// A domain's memory on the heap. Frames are in descending order, so that no test passes by mistaking pfn for mfn, and
/// hold rubbish until they are written.
#[derive(Debug)]
pub struct HeapMemory {
    bytes: Vec<u8>,
}

/// Machine frame below which no frame of a [`HeapMemory`] is.
const BASE: u64 = 0x12_3000;

impl HeapMemory {
    /// Memory of so many pages.
    pub fn new(pages: u64) -> Self {
        Self { bytes: alloc::vec![0xa5; pages as usize * PAGE_SIZE] }
    }

    fn pages(&self) -> u64 {
        (self.bytes.len() / PAGE_SIZE) as u64
    }

    /// The page behind `pfn`.
    pub fn page(&self, pfn: Pfn) -> &[u8] {
        let start = pfn.0 as usize * PAGE_SIZE;
        &self.bytes[start..start + PAGE_SIZE]
    }

    /// The pfn of a machine frame of this memory.
    pub fn pfn(&self, mfn: Mfn) -> Pfn {
        Pfn(self.pages() - 1 - (mfn.0 - BASE))
    }

    /// Walks the page tables below `root`: frame and flags of the leaf that maps `vaddr`.
    pub fn walk(&self, root: Mfn, vaddr: Vaddr) -> Option<(Pfn, PteFlags)> {
        let mut table = root;
        for level in (1..=4).rev() {
            let at = vaddr.table_index(level) * 8;
            let entry = Pte(u64::from_le_bytes(self.page(self.pfn(table))[at..at + 8].try_into().ok()?));
            if !entry.flags().contains(PteFlags::PRESENT) {
                return None;
            }
            if level == 1 {
                return Some((self.pfn(entry.mfn()), entry.flags()));
            }
            table = entry.mfn();
        }
        None
    }
}

impl GuestMemory for HeapMemory {
    type Error = Infallible;

    fn mfn(&self, pfn: Pfn) -> Mfn {
        assert!(pfn.0 < self.pages(), "{pfn:?} is not the domain's");
        Mfn(BASE + self.pages() - 1 - pfn.0)
    }

    fn write(&mut self, pfn: Pfn, offset: usize, bytes: &[u8]) -> Result<(), Infallible> {
        assert!(offset + bytes.len() <= PAGE_SIZE, "a write across the end of {pfn:?}");
        let start = pfn.0 as usize * PAGE_SIZE + offset;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, pfn: Pfn, offset: usize, len: usize) -> Result<(), Infallible> {
        assert!(offset + len <= PAGE_SIZE, "zeroes across the end of {pfn:?}");
        let start = pfn.0 as usize * PAGE_SIZE + offset;
        self.bytes[start..start + len].fill(0);
        Ok(())
    }
}
