//! The shared address space and the hypervisor's selectors (`arch-x86/xen-x86_64.h`).

use crate::frame::Vaddr;

/// First address of the hypervisor's range, L4 slot 256.
pub const HYPERVISOR_VIRT_START: Vaddr = Vaddr(0xffff_8000_0000_0000);
/// End of the hypervisor's range (exclusive), L4 slot 272.
pub const HYPERVISOR_VIRT_END: Vaddr = Vaddr(0xffff_8800_0000_0000);
/// The machine-to-physical table, mapped read-only into every guest: one u64 an MFN.
pub const MACH2PHYS_VIRT_START: Vaddr = Vaddr(0xffff_8000_0000_0000);
/// End (exclusive) of the window of the machine-to-physical table.
pub const MACH2PHYS_VIRT_END: Vaddr = Vaddr(0xffff_8040_0000_0000);
/// Entries the window has room for.
pub const MACH2PHYS_NR_ENTRIES: u64 = (MACH2PHYS_VIRT_END.0 - MACH2PHYS_VIRT_START.0) >> 3;
/// First L4 slot guests may not write.
pub const FIRST_XEN_SLOT: usize = 256;
/// Last L4 slot guests may not write.
pub const LAST_XEN_SLOT: usize = 271;

/// Ring-3 code selector, 32-bit.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// Ring-3 code selector, 64-bit: guest kernels and guest users start with it.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Ring-3 data selector, 32-bit.
pub const FLAT_RING3_DS32: u16 = 0xe02b;
/// Ring-3 data selector, 64-bit: null.
pub const FLAT_RING3_DS64: u16 = 0;
/// Ring-3 stack selector.
pub const FLAT_RING3_SS64: u16 = 0xe02b;

/// First page of the GDT that is the hypervisor's; guests own the pages before it.
pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
/// First byte of the GDT that is the hypervisor's.
pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
/// First descriptor of the GDT that is the hypervisor's: 7168.
pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;

/// vCPUs whose `vcpu_info` lies in the shared-info page; others must register one.
pub const LEGACY_MAX_VCPUS: usize = 32;
