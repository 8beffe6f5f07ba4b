//! A PV64 ELF image, parsed and judged: after [`Image::parse`] every address in it can be relied on.

use core::ops::Range;

use abi::layout::HYPERVISOR_VIRT_START;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;

use crate::PAGE;
use crate::error::ImageError;
use crate::notes::Notes;
use crate::space::{page_ceil, page_floor, usable};

/// Loadable segments an image may have. Linux has 4; the limit bounds the overlap check.
pub const MAX_SEGMENTS: usize = 32;

/// An image that can be started as a PV64 domain.
///
/// Pseudo-physical address 0 is mapped at [`virt_base`](Self::virt_base); a segment goes to `p_paddr - PADDR_OFFSET`,
/// as Xen's builder has it, and `p_vaddr` is not read.
#[derive(Debug)]
pub struct Image<'a> {
    file: ElfBytes<'a, LittleEndian>,
    /// The notes as they stand in the file.
    pub notes: Notes<'a>,
    /// Virtual address of pseudo-physical address 0; page-aligned.
    pub virt_base: u64,
    /// Virtual address of the first instruction, inside the image.
    pub entry: u64,
    /// Pseudo-physical addresses the image occupies, whole pages.
    pub extent: Range<u64>,
    paddr_offset: u64,
}

/// One loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Pseudo-physical address of its first byte.
    pub paddr: u64,
    /// Its bytes from the file.
    pub bytes: &'a [u8],
    /// Bytes in memory, at least `bytes.len()`; the rest is zero.
    pub mem_size: u64,
}

impl Segment<'_> {
    fn end(&self) -> u64 {
        self.paddr + self.mem_size // checked by Image::segment
    }
}

impl<'a> Image<'a> {
    /// Parses `file` and checks everything that does not depend on the domain's size.
    ///
    /// # Errors
    /// The first thing found wrong; see [`ImageError`].
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        if !file.starts_with(b"\x7fELF") {
            return Err(ImageError::NotElf);
        }
        let (class, encoding) = (file.get(4), file.get(5));
        if class != Some(&2) || encoding != Some(&1) {
            return Err(ImageError::NotX86_64);
        }
        let file = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ImageError::Header)?;
        if file.ehdr.class != Class::ELF64 || file.ehdr.e_machine != EM_X86_64 {
            return Err(ImageError::NotX86_64);
        }
        let notes = Notes::find(&file)?;
        check_notes(&notes)?;
        let virt_base = notes.virt_base.unwrap_or(0);
        let paddr_offset = notes.paddr_offset.unwrap_or(0);
        let entry = notes.entry.unwrap_or(file.ehdr.e_entry);
        let mut image = Self { file, notes, virt_base, entry, extent: 0..0, paddr_offset };
        image.extent = image.measure()?;
        image.check_addresses()?;
        Ok(image)
    }

    /// The loadable segments, in the file's order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> {
        self.loadable().map_while(|(index, header)| self.segment(index, &header).ok())
    }

    /// Virtual address of a pseudo-physical one.
    pub const fn vaddr(&self, paddr: u64) -> u64 {
        self.virt_base.wrapping_add(paddr)
    }

    /// Pseudo-physical address of the page for hypercall stubs, if the image has one.
    pub fn hypercall_page(&self) -> Option<u64> {
        self.notes.hypercall_page.map(|vaddr| vaddr.wrapping_sub(self.virt_base))
    }

    fn loadable(&self) -> impl Iterator<Item = (u16, ProgramHeader)> + use<'a> {
        let loads = |header: &ProgramHeader| header.p_type == PT_LOAD && header.p_memsz != 0;
        (0..).zip(self.file.segments().into_iter().flatten().filter(loads))
    }

    fn segment(&self, index: u16, header: &ProgramHeader) -> Result<Segment<'a>, ImageError> {
        let bytes = self.file.segment_data(header).map_err(|_| ImageError::SegmentTruncated(index))?;
        if header.p_filesz > header.p_memsz {
            return Err(ImageError::SegmentSize(index));
        }
        let bad = ImageError::SegmentAddress(index);
        let paddr = header.p_paddr.checked_sub(self.paddr_offset).ok_or(bad)?;
        let end = paddr.checked_add(header.p_memsz).ok_or(bad)?;
        // One L4 entry's worth: far more than any kernel, and no sum of page addresses below can overflow.
        if end > 1 << 39 {
            return Err(bad);
        }
        Ok(Segment { paddr, bytes, mem_size: header.p_memsz })
    }

    /// Checks every segment, and that no two overlap; returns the whole pages they touch.
    fn measure(&self) -> Result<Range<u64>, ImageError> {
        let (mut start, mut end) = (u64::MAX, 0);
        for (index, header) in self.loadable() {
            if usize::from(index) >= MAX_SEGMENTS {
                return Err(ImageError::TooManySegments);
            }
            let segment = self.segment(index, &header)?;
            for (earlier, header) in self.loadable().take(usize::from(index)) {
                let other = self.segment(earlier, &header)?;
                if segment.paddr < other.end() && other.paddr < segment.end() {
                    return Err(ImageError::SegmentsOverlap(earlier, index));
                }
            }
            start = start.min(segment.paddr);
            end = end.max(segment.end());
        }
        if end == 0 { Err(ImageError::NoSegments) } else { Ok(page_floor(start)..page_ceil(end)) }
    }

    fn check_addresses(&self) -> Result<(), ImageError> {
        if !self.virt_base.is_multiple_of(PAGE) || !usable(self.virt_base, self.extent.end) {
            return Err(ImageError::VirtBase);
        }
        let loaded = self.vaddr(self.extent.start)..self.vaddr(self.extent.end);
        if !loaded.contains(&self.entry) {
            return Err(ImageError::EntryOutside);
        }
        if self.notes.hypercall_page.is_some_and(|page| !loaded.contains(&page) || !page.is_multiple_of(PAGE)) {
            return Err(ImageError::HypercallPageOutside);
        }
        Ok(())
    }
}

fn check_notes(notes: &Notes<'_>) -> Result<(), ImageError> {
    if notes.phys32_entry && notes.entry.is_none() && notes.virt_base.is_none() {
        return Err(ImageError::PvhOnly);
    }
    if notes.xen_version.is_some_and(|version| !version.starts_with(b"xen-3.0")) {
        return Err(ImageError::OtherInterface);
    }
    if let Some(bit) = notes.features.impossible() {
        return Err(ImageError::RequiredFeature(bit));
    }
    if notes.paddr_offset.is_some() && notes.virt_base.is_none() {
        return Err(ImageError::VirtBase);
    }
    if notes.hv_start_low.is_some_and(|start| start > HYPERVISOR_VIRT_START.0) {
        return Err(ImageError::HvStartLow);
    }
    Ok(())
}
