//! Where things are in the core's own address range, L4 slots 256-271 of every address space.
//!
//! | from | what |
//! |---|---|
//! | `ffff8000_00000000` | machine-to-physical table, read-only for guests |
//! | `ffff8200_00000000` | per-CPU areas: stacks between guard pages, descriptor-table windows |
//! | `ffff8208_00000000` | device registers: APICs |
//! | `ffff82d0_80000000` | the image |
//! | `ffff82e0_00000000` | frame table |
//! | `ffff8300_00000000` | all of memory |

/// The machine-to-physical table, one u64 a frame (`__HYPERVISOR_VIRT_START` of the public headers).
pub const M2P: u64 = 0xffff_8000_0000_0000;
/// Per-CPU areas, [`CPU_AREA`] bytes each.
pub const CPU_AREAS: u64 = 0xffff_8200_0000_0000;
/// Device registers.
pub const DEVICES: u64 = 0xffff_8208_0000_0000;
/// The image is linked at this plus its physical address.
pub const IMAGE: u64 = 0xffff_82d0_8000_0000;
/// The frame table.
pub const FRAMES: u64 = 0xffff_82e0_0000_0000;
/// All of memory, at its machine address above this.
pub const DIRECT: u64 = 0xffff_8300_0000_0000;
/// The first address behind the core's range.
pub const END: u64 = 0xffff_8800_0000_0000;

/// Bytes of address space of one CPU's area.
pub const CPU_AREA: u64 = 1 << 20;
/// In a CPU's area: its stack, [`STACK_PAGES`] pages with an unmapped one before and behind.
pub const STACK: u64 = 0x1000;
/// Pages of a CPU's stack.
pub const STACK_PAGES: u64 = 8;
/// In a CPU's area: the one-page stacks of NMI, #DF, #MC and #DB, an unmapped page before each.
pub const IST_STACKS: u64 = 0x1_1000;
/// In a CPU's area: 16 pages that its GDT register points at: 14 of the guest, one of the core.
pub const GDT_WINDOW: u64 = 0x2_0000;
/// In a CPU's area: 16 pages for the LDT of the vCPU that runs.
pub const LDT_WINDOW: u64 = 0x3_0000;

/// The area of one CPU.
pub const fn cpu_area(cpu: u32) -> u64 {
    CPU_AREAS + cpu as u64 * CPU_AREA
}
