//! The hypervisor's CPUID leaves (`arch-x86/cpuid.h`) and forced emulation (`arch-x86/xen.h`).

/// First leaf: EAX is the last leaf, EBX, ECX, EDX the signature.
pub const FIRST_LEAF: u32 = 0x4000_0000;
/// "XenV".
pub const SIGNATURE_EBX: u32 = 0x566e_6558;
/// "MMXe".
pub const SIGNATURE_ECX: u32 = 0x6558_4d4d;
/// "nVMM".
pub const SIGNATURE_EDX: u32 = 0x4d4d_566e;
/// Offset of the leaf whose EAX is `major << 16 | minor`.
pub const LEAF_VERSION: u32 = 1;
/// Offset of the leaf with EAX pages of hypercall stubs, ECX [`FEAT1_MMU_PT_UPDATE_PRESERVE_AD`].
pub const LEAF_HYPERCALL: u32 = 2;
/// Offset of the leaf about the TSC.
pub const LEAF_TIME: u32 = 3;
/// Offset of the leaf of hardware guests.
pub const LEAF_HVM: u32 = 4;
/// Offset of the leaf of PV guests: EBX bits 0..=7 are the bits of a machine address.
pub const LEAF_PV: u32 = 5;
/// Leaves after the first.
pub const MAX_NUM_LEAVES: u32 = 5;
/// `mmu_update` can keep accessed and dirty bits.
pub const FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1 << 0;
/// Before `cpuid`: asks for the virtual answer. It is `ud2; .ascii "xen"`.
pub const EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];
