//! ELF notes of a PV image (`elfnote.h`): name "Xen", numbers little-endian, texts terminated.

/// The owner's name of every note, with its terminator.
pub const NAME: &[u8; 4] = b"Xen\0";

open_enum! {
    /// Note types.
    pub struct NoteType(u32) {
        /// Informative text.
        INFO = 0;
        /// Number: address of the first instruction.
        ENTRY = 1;
        /// Number: address of a page the builder fills with hypercall stubs.
        HYPERCALL_PAGE = 2;
        /// Number: virtual address of PFN 0.
        VIRT_BASE = 3;
        /// Number: what physical addresses in the headers are offset by.
        PADDR_OFFSET = 4;
        /// Text: interface version, "xen-3.0".
        XEN_VERSION = 5;
        /// Text: name of the system.
        GUEST_OS = 6;
        /// Text: version of the system.
        GUEST_VERSION = 7;
        /// Text: the loader, "generic".
        LOADER = 8;
        /// Text: 32-bit only.
        PAE_MODE = 9;
        /// Text: features, separated by `|`, a leading `!` makes one required.
        FEATURES = 10;
        /// Text: load symbols.
        BSD_SYMTAB = 11;
        /// Number: lowest address the hypervisor may use.
        HV_START_LOW = 12;
        /// Pairs (mask, value): how a valid L1 entry of the guest looks.
        L1_MFN_VALID = 13;
        /// Number: a suspend may be cancelled.
        SUSPEND_CANCEL = 14;
        /// Number: address of the P2M.
        INIT_P2M = 15;
        /// Number, not 0: the module's start is a PFN.
        MOD_START_PFN = 16;
        /// Number: bits of features the image can do with.
        SUPPORTED_FEATURES = 17;
        /// Number: 32-bit physical entry (PVH).
        PHYS32_ENTRY = 18;
    }
}
