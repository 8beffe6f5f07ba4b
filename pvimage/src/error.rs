//! Why an image cannot be started.

/// What is wrong with an image, or with the domain it is to be put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file does not start with an ELF header.
    NotElf,
    /// ELF, but not 64-bit little-endian x86-64.
    NotX86_64,
    /// The ELF header or its program header table is damaged or reaches past the end of the file.
    Header,
    /// No Xen note, neither in a PT_NOTE segment nor in a note section.
    NoXenNotes,
    /// The Xen notes describe a PVH kernel only (PHYS32_ENTRY without ENTRY).
    PvhOnly,
    /// A Xen note holds something its type does not allow.
    BadNote(Note),
    /// XEN_VERSION names another interface than `xen-3.0`.
    OtherInterface,
    /// The FEATURES note requires (`!`) a feature that a PV domain does not have here, by its bit number.
    RequiredFeature(u8),
    /// FEATURES requires a feature this crate has never heard of.
    UnknownFeature,
    /// SUPPORTED_FEATURES is there and lacks the bit `dom0`, which an initial domain must set.
    NotForInitialDomain,
    /// More loadable segments than [`crate::MAX_SEGMENTS`].
    TooManySegments,
    /// No loadable segment.
    NoSegments,
    /// A loadable segment's bytes reach past the end of the file.
    SegmentTruncated(u16),
    /// A loadable segment has more bytes in the file than in memory.
    SegmentSize(u16),
    /// A loadable segment lies below PADDR_OFFSET, or its addresses overflow.
    SegmentAddress(u16),
    /// Two loadable segments claim the same bytes of memory.
    SegmentsOverlap(u16, u16),
    /// VIRT_BASE is missing although PADDR_OFFSET is given, is no page address, is not canonical or is the hypervisor's.
    VirtBase,
    /// The entry point is outside the loaded image.
    EntryOutside,
    /// The hypercall page is outside the loaded image or not page-aligned.
    HypercallPageOutside,
    /// INIT_P2M is not page-aligned, not canonical, the hypervisor's, or inside the kernel's own mapping.
    InitP2m,
    /// HV_START_LOW lies above the hypervisor's first address.
    HvStartLow,
    /// Kernel, ramdisk and tables do not fit below the end of the address space or of the hypervisor's hole.
    DoesNotFitAddressSpace,
    /// More pages than a p2m list can describe here.
    TooManyPages,
    /// The domain needs at least this many pages.
    TooLittleMemory(u64),
    /// The command line is longer than start_info holds (1023 bytes and the terminating zero).
    CommandLine,
}

/// The Xen notes with contents that can be wrong (elfnote.h), by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the header's own")]
pub enum Note {
    Entry = 1,
    HypercallPage = 2,
    VirtBase = 3,
    PaddrOffset = 4,
    XenVersion = 5,
    Features = 10,
    HvStartLow = 12,
    InitP2m = 15,
    ModStartPfn = 16,
    SupportedFeatures = 17,
    Phys32Entry = 18,
}

impl core::fmt::Display for ImageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotElf => "not an ELF image",
            Self::NotX86_64 => "ELF, but not for x86-64",
            Self::Header => "ELF header or program headers damaged or truncated",
            Self::NoXenNotes => "no Xen ELF notes: not a PV kernel",
            Self::PvhOnly => "a PVH kernel without a PV entry point",
            Self::BadNote(note) => return write!(f, "note {note:?}: not of its type"),
            Self::OtherInterface => "note XEN_VERSION: not xen-3.0",
            Self::RequiredFeature(_) => "note FEATURES: requires a feature not offered to PV domains",
            Self::UnknownFeature => "note FEATURES: requires an unknown feature",
            Self::NotForInitialDomain => "note SUPPORTED_FEATURES: lacks dom0, cannot be the initial domain",
            Self::TooManySegments => "too many loadable segments",
            Self::NoSegments => "no loadable segment",
            Self::SegmentTruncated(_) => "a segment's bytes reach past the end of the file",
            Self::SegmentSize(_) => "a segment has a larger file size than memory size",
            Self::SegmentAddress(_) => "a segment's physical address is out of range",
            Self::SegmentsOverlap(..) => "two segments overlap in memory",
            Self::VirtBase => "note VIRT_BASE: missing or not a usable address",
            Self::EntryOutside => "entry point outside the image",
            Self::HypercallPageOutside => "note HYPERCALL_PAGE: outside the image or unaligned",
            Self::InitP2m => "note INIT_P2M: not a usable address",
            Self::HvStartLow => "note HV_START_LOW: above the hypervisor's area",
            Self::DoesNotFitAddressSpace => "image, ramdisk and page tables do not fit the address space",
            Self::TooManyPages => "too many pages for one domain",
            Self::TooLittleMemory(_) => "too little memory for kernel, ramdisk and tables",
            Self::CommandLine => "command line longer than 1023 bytes",
        })
    }
}

impl core::error::Error for ImageError {}
