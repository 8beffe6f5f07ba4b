//! A PV64 ELF image, parsed and judged: after [`Image::parse`] every address in it can be relied on.

use core::fmt;

use abi::elfnote::NoteType;
use abi::layout::HYPERVISOR_VIRT_END;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;

use crate::PAGE;
use crate::notes::Notes;

/// The features that a PV domain can have, as a kernel may require them: with a `!` before each, in its note FEATURES.
///
/// `!writable_page_tables` binds only the builder, which hands over read-only tables either way; the kernels that
/// say so (Linux) mean that they can do without it being announced.
const FEATURES: &str = "writable_page_tables|writable_descriptor_tables|pae_pgdir_above_4gb|\
    mmu_pt_update_preserve_ad|highmem_assist|gnttab_map_avail_bits|dom0|memory_op_vnode_supported|direct_mapped";
/// The bit of `dom0` in the note SUPPORTED_FEATURES (xen/features.h).
const DOM0: u64 = 1 << abi::version::features::DOM0;

/// Why an image cannot be started, or not in so much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// What is wrong with the image, or with what it is to be started with.
    Unfit(&'static str),
    /// The domain needs at least this many pages.
    TooLittleMemory(u64),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(why) => f.write_str(why),
            Self::TooLittleMemory(pages) => {
                write!(f, "too little memory: it needs at least {} KiB", pages * PAGE / 1024)
            }
        }
    }
}

impl core::error::Error for ImageError {}

/// An error where something is so that must not be.
pub(crate) fn refuse_if(it: bool, why: &'static str) -> Result<(), ImageError> {
    if it { Err(ImageError::Unfit(why)) } else { Ok(()) }
}

/// Loadable segments that an image may have; Linux has 4. They may overlap, so their number bounds the work they make.
const MAX_SEGMENTS: usize = 32;

/// An image that can be started as a PV64 domain.
///
/// Pseudo-physical address 0 is mapped at [`virt_base`](Self::virt_base); a segment goes to `p_paddr - PADDR_OFFSET`,
/// as Xen's builder has it, and `p_vaddr` is not read.
#[derive(Debug)]
pub struct Image<'a> {
    file: ElfBytes<'a, LittleEndian>,
    paddr_offset: u64,
    /// Virtual address of pseudo-physical address 0; page-aligned.
    pub virt_base: u64,
    /// Virtual address of the first instruction, inside the image.
    pub entry: u64,
    /// Pages from pseudo-physical address 0 to the end of the image.
    pub pages: u64,
    /// Pseudo-physical address of the page for hypercall stubs, if the image has one.
    pub hypercall_page: Option<u64>,
    /// It accepts a ramdisk that is not mapped, given by its first frame (MOD_START_PFN).
    pub unmapped_ramdisk: bool,
    /// It can be the initial domain.
    pub initial: bool,
}

/// One loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Pseudo-physical address of its first byte.
    pub paddr: u64,
    /// Its bytes from the file.
    pub bytes: &'a [u8],
    /// The address behind its last byte in memory; what `bytes` do not fill is zero.
    pub end: u64,
}

impl<'a> Image<'a> {
    /// Parses `file` and checks everything that does not depend on the domain's size.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(file).ok();
        let file = file.filter(|file| file.ehdr.class == Class::ELF64 && file.ehdr.e_machine == EM_X86_64);
        let file = file.ok_or(ImageError::Unfit("not an ELF image for x86-64"))?;
        let notes = Notes::find(&file)?;
        let (entry, base) = (notes.number(NoteType::ENTRY)?, notes.number(NoteType::VIRT_BASE)?);
        let pvh = entry.is_none() && base.is_none() && notes.number(NoteType::PHYS32_ENTRY)?.is_some();
        refuse_if(pvh, "a PVH kernel without a PV entry point")?;
        let version = notes.text(NoteType::XEN_VERSION);
        refuse_if(!version.is_empty() && !version.starts_with(b"xen-3.0"), "note XEN_VERSION: not xen-3.0")?;
        let words = notes.text(NoteType::FEATURES).split(|byte| *byte == b'|');
        let mut required = words.filter_map(|word| word.strip_prefix(b"!"));
        let met = required.all(|name| FEATURES.split('|').any(|known| known.as_bytes() == name));
        refuse_if(!met, "note FEATURES: requires what PV domains do not have")?;
        let virt_base = base.unwrap_or(0);
        let page = notes.number(NoteType::HYPERCALL_PAGE)?;
        let image = Self {
            paddr_offset: notes.number(NoteType::PADDR_OFFSET)?.unwrap_or(0),
            virt_base,
            entry: entry.unwrap_or(file.ehdr.e_entry),
            pages: 0,
            hypercall_page: page.map(|vaddr| vaddr.wrapping_sub(virt_base)),
            unmapped_ramdisk: notes.number(NoteType::MOD_START_PFN)?.is_some_and(|flag| flag != 0),
            initial: notes.number(NoteType::SUPPORTED_FEATURES)?.is_none_or(|bits| bits & DOM0 != 0),
            file,
        };
        image.measured()
    }

    /// With its size. Checks every segment, and that what the notes name lies inside.
    fn measured(mut self) -> Result<Self, ImageError> {
        let ends = self.segments().map(|segment| Ok(segment?.end.div_ceil(PAGE)));
        self.pages = ends.reduce(|a, b| Ok(a?.max(b?))).unwrap_or(Ok(0))?;
        let (base, outside) = (self.virt_base, |paddr: u64| paddr >= self.pages * PAGE);
        refuse_if(self.pages == 0, "no loadable segment")?;
        refuse_if(self.segments().nth(MAX_SEGMENTS).is_some(), "more than 32 loadable segments")?;
        refuse_if(!base.is_multiple_of(PAGE) || !usable(base, self.pages), "note VIRT_BASE: not a usable address")?;
        refuse_if(outside(self.entry.wrapping_sub(base)), "entry point outside the image")?;
        let unfit = self.hypercall_page.is_some_and(|page| outside(page) || !page.is_multiple_of(PAGE));
        refuse_if(unfit, "note HYPERCALL_PAGE: outside the image or unaligned")?;
        Ok(self)
    }

    /// The loadable segments, in the file's order. After [`parse`](Self::parse) none is an error.
    pub fn segments(&self) -> impl Iterator<Item = Result<Segment<'a>, ImageError>> + use<'_, 'a> {
        let headers = self.file.segments().into_iter().flatten();
        headers.filter(|header| header.p_type == PT_LOAD && header.p_memsz != 0).map(|header| self.segment(&header))
    }

    fn segment(&self, header: &ProgramHeader) -> Result<Segment<'a>, ImageError> {
        let bytes = self.file.segment_data(header).ok().filter(|_| header.p_filesz <= header.p_memsz);
        let bytes =
            bytes.ok_or(ImageError::Unfit("a segment is larger than its memory, or than the rest of the file"))?;
        let paddr = header.p_paddr.checked_sub(self.paddr_offset);
        let end = paddr.and_then(|paddr| paddr.checked_add(header.p_memsz));
        // One L4 entry's worth: far more than any kernel, and no sum of page addresses can overflow.
        match (paddr, end) {
            (Some(paddr), Some(end)) if end <= 1 << 39 => Ok(Segment { paddr, bytes, end }),
            _ => Err(ImageError::Unfit("a segment's physical address is out of range")),
        }
    }

    /// Virtual address of a pseudo-physical one.
    pub const fn vaddr(&self, paddr: u64) -> u64 {
        self.virt_base.wrapping_add(paddr)
    }
}

/// Whether `pages` pages at `start` are all canonical and none is the hypervisor's.
pub(crate) fn usable(start: u64, pages: u64) -> bool {
    const LOW_HALF_END: u64 = 1 << 47;
    match pages.checked_mul(PAGE).and_then(|bytes| start.checked_add(bytes)) {
        Some(end) => end <= LOW_HALF_END || start >= HYPERVISOR_VIRT_END.0,
        None => false,
    }
}
