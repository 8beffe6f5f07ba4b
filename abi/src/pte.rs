//! Page-table entries: the hardware's format, with the names the interface uses.

use crate::frame::{Maddr, Mfn, PAGE_SHIFT};
use core::ops::{BitAnd, BitOr, Not};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Flag bits of an entry: 0..=11 and 52..=63.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct PteFlags(pub u64);

impl PteFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The entry maps something.
    pub const PRESENT: Self = Self(1 << 0);
    /// Writes allowed.
    pub const RW: Self = Self(1 << 1);
    /// Ring 3 may use it; PV kernels run there, so every guest mapping has it.
    pub const USER: Self = Self(1 << 2);
    /// Write-through.
    pub const PWT: Self = Self(1 << 3);
    /// Cache disable.
    pub const PCD: Self = Self(1 << 4);
    /// The processor used the entry.
    pub const ACCESSED: Self = Self(1 << 5);
    /// The processor wrote through the entry (L1).
    pub const DIRTY: Self = Self(1 << 6);
    /// A superpage (L2, L3).
    pub const PSE: Self = Self(1 << 7);
    /// PAT index bit (L1); the same bit as [`PteFlags::PSE`].
    pub const PAT: Self = Self(1 << 7);
    /// Kept in the TLB across CR3 loads (L1).
    pub const GLOBAL: Self = Self(1 << 8);
    /// Software's bits 9..=11.
    pub const AVAIL: Self = Self(7 << 9);
    /// Software's bits 52..=62.
    pub const AVAIL_HIGH: Self = Self(0x7ff << 52);
    /// No instruction fetch.
    pub const NX: Self = Self(1 << 63);
    /// All flag bits.
    pub const MASK: Self = Self(!Pte::MFN_MASK);

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets; usable in constants.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for PteFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitAnd for PteFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for PteFlags {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0 & Self::MASK.0)
    }
}

impl core::fmt::Debug for PteFlags {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PteFlags({:#x})", self.0)
    }
}

/// A page-table entry of any level.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// The entry that maps nothing.
    pub const EMPTY: Self = Self(0);
    /// Bits 12..=51: the frame.
    pub const MFN_MASK: u64 = 0x000f_ffff_ffff_f000;

    /// An entry for a frame; bits of the MFN beyond the field are lost.
    pub const fn new(mfn: Mfn, flags: PteFlags) -> Self {
        Self((mfn.0 << PAGE_SHIFT) & Self::MFN_MASK | flags.0 & !Self::MFN_MASK)
    }

    /// The frame in the entry, present or not.
    pub const fn mfn(self) -> Mfn {
        self.maddr().mfn()
    }

    /// The machine address in the entry.
    pub const fn maddr(self) -> Maddr {
        Maddr(self.0 & Self::MFN_MASK)
    }

    /// The flag bits.
    pub const fn flags(self) -> PteFlags {
        PteFlags(self.0 & !Self::MFN_MASK)
    }

    /// Whether the entry maps something.
    pub const fn present(self) -> bool {
        self.0 & PteFlags::PRESENT.0 != 0
    }

    /// Whether the entry has every one of these flags.
    pub const fn has(self, flags: PteFlags) -> bool {
        self.flags().contains(flags)
    }

    /// The entry with other flags.
    pub const fn with_flags(self, flags: PteFlags) -> Self {
        Self(self.0 & Self::MFN_MASK | flags.0 & !Self::MFN_MASK)
    }
}

impl core::fmt::Debug for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pte({:#x})", self.0)
    }
}
