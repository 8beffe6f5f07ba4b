//! Frames and addresses, each its own type.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page; the only page size of the interface.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// Entries in a page table.
pub const TABLE_ENTRIES: usize = 512;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}({:#x})", stringify!($name), self.0)
            }
        }

        impl core::fmt::LowerHex for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A machine frame number: a page of real memory (`xen_pfn_t` where the header says MFN).
    Mfn
);
number!(
    /// A guest's pseudo-physical frame number: an index into its own P2M.
    Pfn
);
number!(
    /// A machine address, in bytes.
    Maddr
);
number!(
    /// A virtual address in whatever address space the context names; also a guest handle.
    Vaddr
);

impl Mfn {
    /// What a P2M or an interface array holds where there is no frame (`INVALID_MFN`).
    pub const INVALID: Self = Self(u64::MAX);

    /// The machine address of the frame's first byte; bits beyond 64 are lost.
    pub const fn maddr(self) -> Maddr {
        Maddr(self.0 << PAGE_SHIFT)
    }
}

impl Maddr {
    /// The frame that holds this address.
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// Offset within the frame, below `PAGE_SIZE`.
    pub const fn page_offset(self) -> usize {
        self.0 as usize & (PAGE_SIZE - 1)
    }
}

impl Vaddr {
    /// The null handle.
    pub const NULL: Self = Self(0);

    /// Offset within the page, below `PAGE_SIZE`.
    pub const fn page_offset(self) -> usize {
        self.0 as usize & (PAGE_SIZE - 1)
    }

    /// The address rounded down to its page.
    pub const fn page_base(self) -> Self {
        Self(self.0 & !(PAGE_SIZE as u64 - 1))
    }

    /// Whether bits 63..47 are all equal, as 4-level paging requires.
    pub const fn is_canonical(self) -> bool {
        ((self.0 as i64) << 16 >> 16) as u64 == self.0
    }

    /// Index into the table of the given level (1 to 4) on the way to this address.
    pub const fn table_index(self, level: u32) -> usize {
        (self.0 >> (PAGE_SHIFT + 9 * (level - 1))) as usize & (TABLE_ENTRIES - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_boundaries() {
        for (addr, canonical) in [
            (0, true),
            (0x7fff_ffff_ffff, true),
            (0x8000_0000_0000, false),
            (0xffff_7fff_ffff_ffff, false),
            (0xffff_8000_0000_0000, true),
            (u64::MAX, true),
        ] {
            assert_eq!(Vaddr(addr).is_canonical(), canonical, "{addr:#x}");
        }
    }

    #[test]
    fn table_indices_cover_the_address() {
        let addr = Vaddr((256 << 39) | (1 << 30) | (2 << 21) | (511 << 12) | 5);
        assert_eq!([4, 3, 2, 1].map(|l| addr.table_index(l)), [256, 1, 2, 511]);
        assert_eq!(addr.page_offset(), 5);
    }
}
