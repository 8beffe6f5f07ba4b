//! ELF notes: what the builder of the domain reads in the image.

/// Emits the notes of an image linked by `image.ld`: entry `_start`, PFN 0 at its first byte, no
/// hypercall page, fit to be the initial domain. [`entry!`](crate::entry) includes them.
///
/// The form of a note is three words (bytes of the name, bytes of the value, type), the name
/// "Xen", the value, each padded to 4 bytes.
#[macro_export]
macro_rules! notes {
    () => {
        $crate::notes!(number ENTRY "_start");
        $crate::notes!(number VIRT_BASE "VIRT_BASE");
        $crate::notes!(number PADDR_OFFSET "0");
        $crate::notes!(number SUPPORTED_FEATURES "1 << 11");
        $crate::notes!(text FEATURES "!writable_page_tables|pae_pgdir_above_4gb");
        $crate::notes!(text XEN_VERSION "xen-3.0");
        $crate::notes!(text GUEST_OS "ferrule");
        $crate::notes!(text LOADER "generic");
        $crate::notes!(pair L1_MFN_VALID "1" "1");
    };
    (number $type:ident $value:literal) => {
        $crate::notes!(raw $type concat!(".quad ", $value));
    };
    (pair $type:ident $first:literal $second:literal) => {
        $crate::notes!(raw $type concat!(".quad ", $first, ", ", $second));
    };
    (text $type:ident $value:literal) => {
        $crate::notes!(raw $type concat!(".asciz \"", $value, "\""));
    };
    (raw $type:ident $value:expr) => {
        #[cfg(target_os = "none")]
        ::core::arch::global_asm!(
            ".pushsection .note.Xen, \"a\", @note",
            ".balign 4",
            ".long 4, 3f - 2f, {kind}",
            ".asciz \"Xen\"",
            "2:",
            $value,
            "3:",
            ".balign 4",
            ".popsection",
            kind = const $crate::abi::elfnote::NoteType::$type.0,
        );
    };
}
