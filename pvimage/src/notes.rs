//! The Xen notes of an image (xen/elfnote.h), as they stand in the file; [`crate::Image`] judges them.

use elf::ElfBytes;
use elf::abi::{PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::note::{Note as ElfNote, NoteIterator};

use crate::error::{ImageError, Note};
use crate::features::Features;

/// What the notes say. An absent note is `None` or `false`; no default is applied here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes<'a> {
    /// ENTRY: virtual address of the first instruction.
    pub entry: Option<u64>,
    /// HYPERCALL_PAGE: virtual address of the page the builder fills with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// VIRT_BASE: virtual address of pseudo-physical address 0.
    pub virt_base: Option<u64>,
    /// PADDR_OFFSET: what to subtract from a segment's `p_paddr` to get its pseudo-physical address.
    pub paddr_offset: Option<u64>,
    /// XEN_VERSION, `xen-3.0` for every PV kernel.
    pub xen_version: Option<&'a [u8]>,
    /// FEATURES and SUPPORTED_FEATURES.
    pub features: Features,
    /// SUPPORTED_FEATURES is there: then an initial domain must have set the bit `dom0` in it.
    pub has_supported_features: bool,
    /// HV_START_LOW: the lowest address at which the kernel tolerates the hypervisor.
    pub hv_start_low: Option<u64>,
    /// INIT_P2M: virtual address for the p2m list.
    pub init_p2m: Option<u64>,
    /// MOD_START_PFN: the kernel accepts a ramdisk that is not mapped, given by its first frame.
    pub mod_start_pfn: bool,
    /// PHYS32_ENTRY: there is a PVH entry point.
    pub phys32_entry: bool,
    seen: bool,
}

impl<'a> Notes<'a> {
    /// Collects the Xen notes of `file`: segments of type PT_NOTE, else note sections.
    pub(crate) fn find(file: &ElfBytes<'a, LittleEndian>) -> Result<Self, ImageError> {
        let mut notes = Self::default();
        for mut segment in file.segments().into_iter().flatten().filter(|s| s.p_type == PT_NOTE) {
            segment.p_align = 4; // Xen's notes are padded to 4 bytes, whatever the header says
            if let Ok(found) = file.segment_data_as_notes(&segment) {
                notes.take_all(found)?;
            }
        }
        if notes.seen {
            return Ok(notes);
        }
        for mut section in file.section_headers().into_iter().flatten().filter(|s| s.sh_type == SHT_NOTE) {
            section.sh_addralign = 4;
            if let Ok(found) = file.section_data_as_notes(&section) {
                notes.take_all(found)?;
            }
        }
        if notes.seen { Ok(notes) } else { Err(ImageError::NoXenNotes) }
    }

    fn take_all(&mut self, notes: NoteIterator<'a, LittleEndian>) -> Result<(), ImageError> {
        for note in notes {
            if let ElfNote::Unknown(note) = note
                && note.name == b"Xen\0"
            {
                self.seen = true;
                self.take(note.n_type, note.desc)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, kind: u64, desc: &'a [u8]) -> Result<(), ImageError> {
        match kind {
            1 => self.entry = Some(number(desc, Note::Entry)?),
            2 => self.hypercall_page = Some(number(desc, Note::HypercallPage)?),
            3 => self.virt_base = Some(number(desc, Note::VirtBase)?),
            4 => self.paddr_offset = Some(number(desc, Note::PaddrOffset)?),
            5 => self.xen_version = Some(string(desc, Note::XenVersion)?),
            10 => self.features.add_names(string(desc, Note::Features)?)?,
            12 => self.hv_start_low = Some(number(desc, Note::HvStartLow)?),
            15 => self.init_p2m = Some(number(desc, Note::InitP2m)?),
            16 => self.mod_start_pfn = number(desc, Note::ModStartPfn)? != 0,
            17 => {
                self.has_supported_features = true;
                self.features.add_supported(number(desc, Note::SupportedFeatures)?);
            }
            18 => {
                number(desc, Note::Phys32Entry)?;
                self.phys32_entry = true;
            }
            _ => {} // strings for people, and notes newer than us
        }
        Ok(())
    }
}

/// A number is 4 or 8 bytes, by the length of the note (elfnote.h); Xen also takes 1 and 2.
fn number(desc: &[u8], note: Note) -> Result<u64, ImageError> {
    if !matches!(desc.len(), 1 | 2 | 4 | 8) {
        return Err(ImageError::BadNote(note));
    }
    Ok(desc.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// A string ends at its first zero, or with the note.
fn string(desc: &[u8], note: Note) -> Result<&[u8], ImageError> {
    let text = desc.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.iter().all(|byte| matches!(byte, b' '..=b'~')) { Ok(text) } else { Err(ImageError::BadNote(note)) }
}
