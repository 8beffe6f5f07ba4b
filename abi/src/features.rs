//! Feature bit numbers (`features.h`), all in word 0.

/// The guest may write page tables it mapped writable.
pub const WRITABLE_PAGE_TABLES: u32 = 0;
/// The guest may write descriptor tables it mapped writable.
pub const WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
/// The hypervisor translates guest frames.
pub const AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// The guest kernel runs in ring 0.
pub const SUPERVISOR_MODE_KERNEL: u32 = 3;
/// Page directories may lie above 4 GiB.
pub const PAE_PGDIR_ABOVE_4GB: u32 = 4;
/// `mmu_update` can keep accessed and dirty bits.
pub const MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
/// Page clear and copy calls for high memory.
pub const HIGHMEM_ASSIST: u32 = 6;
/// Grant mappings can set the entry's software bits.
pub const GNTTAB_MAP_AVAIL_BITS: u32 = 7;
/// Hardware guests: callback by vector.
pub const HVM_CALLBACK_VECTOR: u32 = 8;
/// Hardware guests: safe clock.
pub const HVM_SAFE_PVCLOCK: u32 = 9;
/// Hardware guests: PIRQs by event channel.
pub const HVM_PIRQS: u32 = 10;
/// This is the initial domain (or may run as it, in an image's note).
pub const DOM0: u32 = 11;
/// Memory calls understand virtual nodes.
pub const MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// ARM only.
pub const ARM_SMCCC_SUPPORTED: u32 = 14;
/// Linux may take the ACPI root from its boot parameters.
pub const LINUX_RSDP_UNRESTRICTED: u32 = 15;
/// Guest frames differ from machine frames.
pub const NOT_DIRECT_MAPPED: u32 = 16;
/// Guest frames equal machine frames.
pub const DIRECT_MAPPED: u32 = 17;
/// Words of feature bits.
pub const NR_SUBMAPS: u32 = 1;
