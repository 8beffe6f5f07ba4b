//! The Xen notes of an image (xen/elfnote.h), as they stand in the file; [`crate::Image`] judges them.

use abi::elfnote::{NAME, NoteType};
use elf::ElfBytes;
use elf::abi::{PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;

use crate::ImageError;

/// What each note holds, by its number.
pub(crate) struct Notes<'a>([Option<&'a [u8]>; NoteType::PHYS32_ENTRY.0 as usize + 1]);

impl<'a> Notes<'a> {
    /// Collects the Xen notes of a file from its note segments and note sections. Each is padded to 4 bytes, whatever
    /// the header says.
    pub(crate) fn find(file: &ElfBytes<'a, LittleEndian>) -> Result<Self, ImageError> {
        let segments = file.segments().into_iter().flatten().filter(|segment| segment.p_type == PT_NOTE);
        let sections = file.section_headers().into_iter().flatten().filter(|section| section.sh_type == SHT_NOTE);
        let segments = segments.filter_map(|mut segment| {
            segment.p_align = 4;
            file.segment_data_as_notes(&segment).ok()
        });
        let sections = sections.filter_map(|mut section| {
            section.sh_addralign = 4;
            file.section_data_as_notes(&section).ok()
        });
        let mut notes = Self([None; _]);
        for note in segments.chain(sections).flatten() {
            if let Note::Unknown(note) = note
                && note.name == NAME
                && let Some(slot) = notes.0.get_mut(note.n_type as usize)
            {
                *slot = Some(note.desc);
            }
        }
        let any = notes.0.iter().any(Option::is_some);
        any.then_some(notes).ok_or(ImageError::Unfit("no Xen ELF notes: not a PV kernel"))
    }

    /// A number is 4 or 8 bytes, by the length of the note (elfnote.h); Xen also takes 1 and 2.
    pub(crate) fn number(&self, note: NoteType) -> Result<Option<u64>, ImageError> {
        match self.bytes(note) {
            None => Ok(None),
            Some(desc) if matches!(desc.len(), 1 | 2 | 4 | 8) => {
                Ok(Some(desc.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))))
            }
            Some(_) => Err(ImageError::Unfit("a Xen ELF note that is to be a number is none")),
        }
    }

    /// A text ends at its first zero, or with the note; empty where there is none.
    pub(crate) fn text(&self, note: NoteType) -> &'a [u8] {
        let text = self.bytes(note).unwrap_or_default();
        text.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn bytes(&self, note: NoteType) -> Option<&'a [u8]> {
        self.0.get(note.0 as usize).copied().flatten()
    }
}
