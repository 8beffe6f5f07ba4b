//! Exceptions and their handlers (`arch-x86/xen.h`).

use crate::frame::Vaddr;

wire_struct! {
    /// One entry of `set_trap_table` (`trap_info`). The table ends at an entry with address 0.
    pub struct TrapInfo {
        /// Exception vector.
        pub vector: u8,
        /// Bits 0..=1: the lowest privilege that may raise it by `int n`; bit 2: mask events.
        pub flags: u8,
        /// Code selector of the handler.
        pub cs: u16,
        /// Padding.
        pub _pad: u32,
        /// The handler.
        pub address: Vaddr,
    }
}
layout!(TrapInfo: 16; vector @ 0, flags @ 1, cs @ 2, address @ 8);

impl TrapInfo {
    /// Mask of the privilege in [`TrapInfo::flags`].
    pub const DPL: u8 = 3;
    /// The handler starts with events masked (`TI_GET_IF`).
    pub const MASK_EVENTS: u8 = 1 << 2;

    /// The privilege level that may raise the vector by `int n`.
    pub const fn dpl(&self) -> u8 {
        self.flags & Self::DPL
    }

    /// Whether the handler starts with events masked.
    pub const fn masks_events(&self) -> bool {
        self.flags & Self::MASK_EVENTS != 0
    }
}

/// Exception vectors.
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// Bound range.
    pub const BR: u8 = 5;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Device not available.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 error.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// SIMD error.
    pub const XM: u8 = 19;

    /// Whether the processor pushes an error code for this exception.
    pub const fn has_error_code(vector: u8) -> bool {
        matches!(vector, DF | TS | NP | SS | GP | PF | AC)
    }
}

/// Bits of a page fault's error code.
pub mod fault {
    /// The page was present: a protection violation.
    pub const PRESENT: u32 = 1;
    /// A write.
    pub const WRITE: u32 = 2;
    /// Seen from the guest: by its user mode.
    pub const USER: u32 = 4;
    /// A reserved bit was set in an entry.
    pub const RESERVED: u32 = 8;
    /// An instruction fetch.
    pub const FETCH: u32 = 16;
}
