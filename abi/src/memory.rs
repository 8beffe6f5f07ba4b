//! `memory_op(op, arg)` (`memory.h`).

use crate::frame::{Mfn, Pfn, Vaddr};
use crate::ids::DomId;

open_enum! {
    /// Sub-operations. The number's low 6 bits; a hypervisor may keep its progress above them
    /// ([`MemoryOp::EXTENT_SHIFT`]).
    pub struct MemoryOp(u32) {
        /// [`MemoryReservation`]: more frames. Returns extents done.
        INCREASE_RESERVATION = 0;
        /// [`MemoryReservation`]: gives frames back. Returns extents done.
        DECREASE_RESERVATION = 1;
        /// Highest MFN of RAM, returned.
        MAXIMUM_RAM_PAGE = 2;
        /// [`MemoryDomain`]: pages now, returned.
        CURRENT_RESERVATION = 3;
        /// [`MemoryDomain`]: pages at most, returned.
        MAXIMUM_RESERVATION = 4;
        /// [`MachphysMfnList`].
        MACHPHYS_MFN_LIST = 5;
        /// [`MemoryReservation`]: frames at given PFNs. Returns extents done.
        POPULATE_PHYSMAP = 6;
        /// [`AddToPhysmap`].
        ADD_TO_PHYSMAP = 7;
        /// [`MemoryMap`]: the guest's E820.
        MEMORY_MAP = 9;
        /// [`MemoryMap`]: the machine's E820, for the privileged.
        MACHINE_MEMORY_MAP = 10;
        /// [`MemoryExchange`].
        EXCHANGE = 11;
        /// [`MachphysMapping`].
        MACHPHYS_MAPPING = 12;
        /// [`ForeignMemoryMap`]: sets a guest's E820.
        SET_MEMORY_MAP = 13;
        /// [`MemoryDomain`]: highest PFN in use, returned.
        MAXIMUM_GPFN = 14;
        /// [`RemoveFromPhysmap`].
        REMOVE_FROM_PHYSMAP = 15;
        /// Populate on demand, hardware guests only.
        SET_POD_TARGET = 16;
        /// Populate on demand, hardware guests only.
        GET_POD_TARGET = 17;
        /// Several [`AddToPhysmap`].
        ADD_TO_PHYSMAP_BATCH = 23;
        /// Claims pages for a domain in the making.
        CLAIM_PAGES = 24;
        /// As MACHPHYS_MFN_LIST for 32-bit guests.
        MACHPHYS_COMPAT_MFN_LIST = 25;
        /// Virtual NUMA.
        GET_VNUMAINFO = 26;
        /// Reserved device memory.
        RESERVED_DEVICE_MEMORY_MAP = 27;
        /// Frames of a domain's resource.
        ACQUIRE_RESOURCE = 28;
    }
}

impl MemoryOp {
    /// Where progress starts in the operation's number, on a continuation.
    pub const EXTENT_SHIFT: u32 = 6;
    /// Mask of the operation itself.
    pub const CMD_MASK: u32 = (1 << Self::EXTENT_SHIFT) - 1;
}

wire_struct! {
    /// `xen_memory_reservation`.
    pub struct MemoryReservation {
        /// Array of MFNs, or PFNs in and MFNs out, as the operation says.
        pub extent_start: Vaddr,
        /// How many extents.
        pub nr_extents: u64,
        /// log2 of the pages of each.
        pub extent_order: u32,
        /// Bits 0..=7: the addresses must fit these many bits (0: any); 8..=15: node + 1.
        pub mem_flags: u32,
        /// Whose.
        pub domid: DomId,
        /// Padding.
        pub _pad: [u16; 3],
    }
}
layout!(MemoryReservation: 32; nr_extents @ 8, extent_order @ 16, mem_flags @ 20, domid @ 24);

wire_struct! {
    /// `xen_memory_exchange`: gives frames for others.
    pub struct MemoryExchange {
        /// Given.
        pub input: MemoryReservation,
        /// Taken.
        pub output: MemoryReservation,
        /// In: 0. Out: extents of `input` exchanged.
        pub nr_exchanged: u64,
    }
}
layout!(MemoryExchange: 72; output @ 32, nr_exchanged @ 64);

wire_struct! {
    /// `xen_memory_domain`.
    pub struct MemoryDomain {
        /// Which.
        pub domid: DomId,
    }
}
layout!(MemoryDomain: 2);

wire_struct! {
    /// `xen_machphys_mfn_list`: the frames of the M2P, one per 2 MiB.
    pub struct MachphysMfnList {
        /// Room in the array.
        pub max_extents: u32,
        /// Padding.
        pub _pad0: u32,
        /// The array.
        pub extent_start: Vaddr,
        /// Out: how many were written.
        pub nr_extents: u32,
        /// Padding.
        pub _pad1: u32,
    }
}
layout!(MachphysMfnList: 24; extent_start @ 8, nr_extents @ 16);

wire_struct! {
    /// `xen_machphys_mapping`: out, where the M2P is mapped.
    pub struct MachphysMapping {
        /// Start.
        pub v_start: Vaddr,
        /// End, exclusive.
        pub v_end: Vaddr,
        /// Last MFN it may name.
        pub max_mfn: Mfn,
    }
}
layout!(MachphysMapping: 24; v_end @ 8, max_mfn @ 16);

open_enum! {
    /// What [`AddToPhysmap`] maps.
    pub struct MapSpace(u32) {
        /// The shared-info page.
        SHARED_INFO = 0;
        /// A frame of the grant table.
        GRANT_TABLE = 1;
        /// A frame of the domain.
        GMFN = 2;
        /// A range of them.
        GMFN_RANGE = 3;
        /// A frame of another domain.
        GMFN_FOREIGN = 4;
        /// Device memory.
        DEV_MMIO = 5;
    }
}

wire_struct! {
    /// `xen_add_to_physmap`: translated guests only.
    pub struct AddToPhysmap {
        /// Whose.
        pub domid: DomId,
        /// Pages, for a range.
        pub size: u16,
        /// What.
        pub space: MapSpace,
        /// Index in the space.
        pub idx: u64,
        /// Where.
        pub gpfn: Pfn,
    }
}
layout!(AddToPhysmap: 24; size @ 2, space @ 4, idx @ 8, gpfn @ 16);

wire_struct! {
    /// `xen_remove_from_physmap`.
    pub struct RemoveFromPhysmap {
        /// Whose.
        pub domid: DomId,
        /// Padding.
        pub _pad: [u16; 3],
        /// What.
        pub gpfn: Pfn,
    }
}
layout!(RemoveFromPhysmap: 16; gpfn @ 8);

wire_struct! {
    /// `xen_memory_map`.
    pub struct MemoryMap {
        /// In: room. Out: entries.
        pub nr_entries: u32,
        /// Padding.
        pub _pad: u32,
        /// Array of [`E820Entry`].
        pub buffer: Vaddr,
    }
}
layout!(MemoryMap: 16; buffer @ 8);

wire_struct! {
    /// `xen_foreign_memory_map`.
    pub struct ForeignMemoryMap {
        /// Whose.
        pub domid: DomId,
        /// Padding.
        pub _pad: [u16; 3],
        /// The map.
        pub map: MemoryMap,
    }
}
layout!(ForeignMemoryMap: 24; map @ 8);

/// One region of a memory map, packed to 20 bytes as the BIOS has it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C, packed)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// `E820Entry::RAM` and the like.
    pub kind: u32,
}
layout!(E820Entry: 20; size @ 8, kind @ 16);

impl E820Entry {
    /// Memory.
    pub const RAM: u32 = 1;
    /// Not memory, or not free.
    pub const RESERVED: u32 = 2;
    /// ACPI tables, reclaimable.
    pub const ACPI: u32 = 3;
    /// ACPI non-volatile storage.
    pub const NVS: u32 = 4;
    /// Broken memory.
    pub const UNUSABLE: u32 = 5;
}
