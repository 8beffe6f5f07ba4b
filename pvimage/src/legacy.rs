//! The `__xen_guest` section of kernels older than the ELF notes: one string, `NAME=VALUE` separated by commas.
//! elfnote.h says under LEGACY which note each name became, and where the meaning differs.

use elf::ElfBytes;
use elf::endian::LittleEndian;

use crate::error::{ImageError, Note};
use crate::notes::Notes;

/// The notes a `__xen_guest` section stands for; `None` when there is no such section.
pub(crate) fn find<'a>(file: &ElfBytes<'a, LittleEndian>) -> Option<Result<Notes<'a>, ImageError>> {
    let section = file.section_header_by_name("__xen_guest").ok()??;
    let (text, None) = file.section_data(&section).ok()? else { return None };
    Some(parse(text))
}

fn parse(text: &[u8]) -> Result<Notes<'_>, ImageError> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut notes = Notes::default();
    notes.legacy = true;
    let mut hypercall_page = None;
    for word in text.split(|byte| *byte == b',').filter(|word| !word.is_empty()) {
        let mut parts = word.splitn(2, |byte| *byte == b'=');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match name {
            b"VIRT_ENTRY" => notes.entry = Some(number(value, Note::Entry)?),
            b"VIRT_BASE" => notes.virt_base = Some(number(value, Note::VirtBase)?),
            b"ELF_PADDR_OFFSET" => notes.paddr_offset = Some(number(value, Note::PaddrOffset)?),
            b"HYPERCALL_PAGE" => hypercall_page = Some(number(value, Note::HypercallPage)?),
            b"XEN_VER" => notes.xen_version = Some(value),
            b"GUEST_OS" => notes.guest_os = Some(value),
            b"FEATURES" => notes.features.add_names(value)?,
            _ => {}
        }
    }
    // Here the value is a page number of the image, not a virtual address.
    notes.hypercall_page = match hypercall_page {
        None => None,
        Some(page) => Some(
            page.checked_mul(abi::PAGE_SIZE as u64)
                .and_then(|offset| offset.checked_add(notes.virt_base.unwrap_or(0)))
                .ok_or(ImageError::HypercallPageOutside)?,
        ),
    };
    Ok(notes)
}

/// A decimal number, or a hexadecimal one after `0x`.
fn number(text: &[u8], note: Note) -> Result<u64, ImageError> {
    let text = str::from_utf8(text).map_err(|_| ImageError::BadNote(note))?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| ImageError::BadNote(note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mini_os_of_2006() {
        let notes = parse(b"GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE=0x1000,HYPERCALL_PAGE=0x2,LOADER=generic\0junk");
        let notes = notes.unwrap();
        assert_eq!(notes.guest_os, Some(&b"Mini-OS"[..]));
        assert_eq!((notes.virt_base, notes.hypercall_page, notes.legacy), (Some(0x1000), Some(0x3000), true));
    }

    #[test]
    fn numbers_that_are_none() {
        assert_eq!(parse(b"VIRT_BASE=0xzz"), Err(ImageError::BadNote(Note::VirtBase)));
        assert_eq!(parse(b"VIRT_ENTRY="), Err(ImageError::BadNote(Note::Entry)));
        assert_eq!(parse(b"HYPERCALL_PAGE=0xffffffffffffffff"), Err(ImageError::HypercallPageOutside));
    }
}
