//! Grant tables, version 1 (`grant_table.h`).

use crate::frame::{Maddr, Mfn, Vaddr};
use crate::ids::{DomId, GrantRef};

wire_struct! {
    /// A grant entry (`grant_entry_v1`). Both sides change `flags` with atomic operations.
    pub struct GrantEntryV1 {
        /// `GrantEntryV1::GTF_*`.
        pub flags: u16,
        /// To whom.
        pub domid: DomId,
        /// The frame; where transfers are accepted, the PFN.
        pub frame: u32,
    }
}
layout!(GrantEntryV1: 8; flags @ 0, domid @ 2, frame @ 4);

impl GrantEntryV1 {
    /// Grants nothing.
    pub const GTF_INVALID: u16 = 0;
    /// The peer may map or copy the frame.
    pub const GTF_PERMIT_ACCESS: u16 = 1;
    /// The peer may give us a frame.
    pub const GTF_ACCEPT_TRANSFER: u16 = 2;
    /// Version 2 only.
    pub const GTF_TRANSITIVE: u16 = 3;
    /// Mask of the three above.
    pub const GTF_TYPE_MASK: u16 = 3;
    /// Only to be read.
    pub const GTF_READONLY: u16 = 1 << 2;
    /// Set by the hypervisor: mapped for reading now.
    pub const GTF_READING: u16 = 1 << 3;
    /// Set by the hypervisor: mapped for writing now.
    pub const GTF_WRITING: u16 = 1 << 4;
    /// Cache attribute bits of the mapping.
    pub const GTF_PWT: u16 = 1 << 5;
    /// Cache attribute bits of the mapping.
    pub const GTF_PCD: u16 = 1 << 6;
    /// Cache attribute bits of the mapping.
    pub const GTF_PAT: u16 = 1 << 7;
    /// Version 2 only.
    pub const GTF_SUB_PAGE: u16 = 1 << 8;
    /// Of a transfer: the frame is on its way.
    pub const GTF_TRANSFER_COMMITTED: u16 = 1 << 2;
    /// Of a transfer: the frame is here.
    pub const GTF_TRANSFER_COMPLETED: u16 = 1 << 3;
}

/// Entries kept for tools (`GNTTAB_NR_RESERVED_ENTRIES`).
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// The reserved entry of the console ring.
pub const RESERVED_CONSOLE: GrantRef = GrantRef(0);
/// The reserved entry of the store ring.
pub const RESERVED_XENSTORE: GrantRef = GrantRef(1);
/// Entries in a frame of the table.
pub const ENTRIES_PER_FRAME: u32 = 512;

open_enum! {
    /// Sub-operations of `grant_table_op(op, args, count)`.
    pub struct GrantOp(u32) {
        /// [`MapGrantRef`] each.
        MAP_GRANT_REF = 0;
        /// [`UnmapGrantRef`] each.
        UNMAP_GRANT_REF = 1;
        /// One [`SetupTable`].
        SETUP_TABLE = 2;
        /// One [`DumpTable`].
        DUMP_TABLE = 3;
        /// [`Transfer`] each.
        TRANSFER = 4;
        /// [`Copy`](struct@Copy) each.
        COPY = 5;
        /// One [`QuerySize`].
        QUERY_SIZE = 6;
        /// [`UnmapAndReplace`] each.
        UNMAP_AND_REPLACE = 7;
        /// One [`SetVersion`].
        SET_VERSION = 8;
        /// Version 2 only.
        GET_STATUS_FRAMES = 9;
        /// One [`GetVersion`].
        GET_VERSION = 10;
        /// [`SwapGrantRef`] each.
        SWAP_GRANT_REF = 11;
        /// ARM only.
        CACHE_FLUSH = 12;
    }
}

open_enum! {
    /// Result of one grant operation; 0 or negative.
    pub struct GrantStatus(i16) {
        /// Done.
        OKAY = 0;
        /// Unspecified.
        GENERAL_ERROR = -1;
        /// No such domain.
        BAD_DOMAIN = -2;
        /// No such grant, or not ours.
        BAD_GNTREF = -3;
        /// No such mapping.
        BAD_HANDLE = -4;
        /// Not a fit virtual address.
        BAD_VIRT_ADDR = -5;
        /// Not a fit device address.
        BAD_DEV_ADDR = -6;
        /// No space left in the IOMMU.
        NO_DEVICE_SPACE = -7;
        /// Not allowed.
        PERMISSION_DENIED = -8;
        /// The page is unfit.
        BAD_PAGE = -9;
        /// A copy crosses a page boundary.
        BAD_COPY_ARG = -10;
        /// The frame's address is too large.
        ADDRESS_TOO_BIG = -11;
        /// Try again.
        EAGAIN = -12;
        /// No space for the mapping.
        NO_SPACE = -13;
    }
}

wire_struct! {
    /// Maps a grant.
    pub struct MapGrantRef {
        /// Where: a virtual address, or with [`gntmap::CONTAINS_PTE`] the machine address of
        /// the entry to write.
        pub host_addr: u64,
        /// `gntmap` flags.
        pub flags: u32,
        /// The grant.
        pub gref: GrantRef,
        /// Whose.
        pub dom: DomId,
        /// Out.
        pub status: GrantStatus,
        /// Out: names the mapping.
        pub handle: GrantHandle,
        /// Out: machine address for devices.
        pub dev_bus_addr: Maddr,
    }
}
layout!(MapGrantRef: 32; flags @ 8, gref @ 12, dom @ 16, status @ 18, handle @ 20,
    dev_bus_addr @ 24);

open_enum! {
    /// Names a mapping of its mapper (`grant_handle_t`).
    pub struct GrantHandle(u32) {
        /// Names none.
        INVALID = u32::MAX;
    }
}

/// Flags of a mapping (`GNTMAP_*`).
pub mod gntmap {
    /// For a device.
    pub const DEVICE_MAP: u32 = 1 << 0;
    /// For the processor.
    pub const HOST_MAP: u32 = 1 << 1;
    /// Only to be read.
    pub const READONLY: u32 = 1 << 2;
    /// Reachable by user mode.
    pub const APPLICATION_MAP: u32 = 1 << 3;
    /// `host_addr` is a machine address of an L1 entry.
    pub const CONTAINS_PTE: u32 = 1 << 4;
    /// Flags from this bit up go to the entry's software bits.
    pub const GUEST_AVAIL_SHIFT: u32 = 16;
}

wire_struct! {
    /// Ends a mapping.
    pub struct UnmapGrantRef {
        /// Where it was mapped for the processor; 0 leaves that mapping.
        pub host_addr: u64,
        /// Where it was mapped for devices; 0 leaves that mapping.
        pub dev_bus_addr: Maddr,
        /// Its name.
        pub handle: GrantHandle,
        /// Out.
        pub status: GrantStatus,
        /// Padding.
        pub _pad: u16,
    }
}
layout!(UnmapGrantRef: 24; dev_bus_addr @ 8, handle @ 16, status @ 20);

wire_struct! {
    /// Grows a grant table and lists its frames.
    pub struct SetupTable {
        /// Whose.
        pub dom: DomId,
        /// Padding.
        pub _pad0: u16,
        /// Frames wanted.
        pub nr_frames: u32,
        /// Out.
        pub status: GrantStatus,
        /// Padding.
        pub _pad1: [u16; 3],
        /// Array of MFNs to fill.
        pub frame_list: Vaddr,
    }
}
layout!(SetupTable: 24; nr_frames @ 4, status @ 8, frame_list @ 16);

wire_struct! {
    /// Prints a grant table on the console.
    pub struct DumpTable {
        /// Whose.
        pub dom: DomId,
        /// Out.
        pub status: GrantStatus,
    }
}
layout!(DumpTable: 4; status @ 2);

wire_struct! {
    /// Gives a frame to a domain that accepts transfers.
    pub struct Transfer {
        /// The frame.
        pub mfn: Mfn,
        /// To whom.
        pub domid: DomId,
        /// Padding.
        pub _pad0: u16,
        /// Its accepting entry.
        pub gref: GrantRef,
        /// Out.
        pub status: GrantStatus,
        /// Padding.
        pub _pad1: [u16; 3],
    }
}
layout!(Transfer: 24; domid @ 8, gref @ 12, status @ 16);

wire_struct! {
    /// One side of a copy.
    pub struct CopyPtr {
        /// A grant reference (low 32 bits) or a frame, as the copy's flags say.
        pub frame: u64,
        /// Whose.
        pub domid: DomId,
        /// Byte within the page.
        pub offset: u16,
        /// Padding.
        pub _pad: u32,
    }
}
layout!(CopyPtr: 16; domid @ 8, offset @ 10);

wire_struct! {
    /// Copies within one page on each side.
    pub struct Copy {
        /// From.
        pub source: CopyPtr,
        /// To.
        pub dest: CopyPtr,
        /// Bytes.
        pub len: u16,
        /// [`Copy::SOURCE_GREF`], [`Copy::DEST_GREF`].
        pub flags: u16,
        /// Out.
        pub status: GrantStatus,
        /// Padding.
        pub _pad: u16,
    }
}
layout!(Copy: 40; dest @ 16, len @ 32, flags @ 34, status @ 36);

impl Copy {
    /// The source is a grant reference.
    pub const SOURCE_GREF: u16 = 1 << 0;
    /// The destination is a grant reference.
    pub const DEST_GREF: u16 = 1 << 1;
}

wire_struct! {
    /// Size of a grant table.
    pub struct QuerySize {
        /// Whose.
        pub dom: DomId,
        /// Padding.
        pub _pad0: u16,
        /// Out: frames now.
        pub nr_frames: u32,
        /// Out: frames at most.
        pub max_nr_frames: u32,
        /// Out.
        pub status: GrantStatus,
        /// Padding.
        pub _pad1: u16,
    }
}
layout!(QuerySize: 16; nr_frames @ 4, max_nr_frames @ 8, status @ 12);

wire_struct! {
    /// Ends a mapping and puts the entry that maps `new_addr` in its place.
    pub struct UnmapAndReplace {
        /// Where it was mapped.
        pub host_addr: u64,
        /// Whose entry takes its place; that one is cleared.
        pub new_addr: u64,
        /// Its name.
        pub handle: GrantHandle,
        /// Out.
        pub status: GrantStatus,
        /// Padding.
        pub _pad: u16,
    }
}
layout!(UnmapAndReplace: 24; new_addr @ 8, handle @ 16, status @ 20);

wire_struct! {
    /// Chooses the version of the caller's table.
    pub struct SetVersion {
        /// In: wanted. Out: what it is.
        pub version: u32,
    }
}
layout!(SetVersion: 4);

wire_struct! {
    /// Asks for the version of a table.
    pub struct GetVersion {
        /// Whose.
        pub dom: DomId,
        /// Padding.
        pub _pad: u16,
        /// Out.
        pub version: u32,
    }
}
layout!(GetVersion: 8; version @ 4);

wire_struct! {
    /// Swaps two entries of the caller's table.
    pub struct SwapGrantRef {
        /// One.
        pub ref_a: GrantRef,
        /// The other.
        pub ref_b: GrantRef,
        /// Out.
        pub status: GrantStatus,
        /// Padding.
        pub _pad: u16,
    }
}
layout!(SwapGrantRef: 12; ref_b @ 4, status @ 8);
