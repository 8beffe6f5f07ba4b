//! Page walks that only look.

use abi::{Pte, TABLE_ENTRIES, Vaddr};

use crate::{AddressSpace, Core, Frame, Platform, guest};

/// The entries on the way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The address.
    pub va: Vaddr,
    /// L4, L3, L2, L1; behind the first that is not present, or does not lead to RAM, zeros.
    pub entries: [Pte; 4],
    /// The table that the L1 entry is in, if the walk came that far.
    pub table: Option<Frame>,
}

impl Walk {
    /// The frame and the offset that a guest's access would reach, if the walk allows it.
    pub fn target(&self, write: bool) -> Option<Pte> {
        let need = if write { 7 } else { 5 };
        self.entries.iter().all(|pte| pte.0 & need == need).then(|| self.entries[3])
    }
}

impl<P: Platform> Core<P> {
    /// Walks an address space as the hardware would, without a lock: what it finds may be gone already. Only frames
    /// of RAM are looked into.
    pub fn walk(&self, space: AddressSpace, va: Vaddr) -> Walk {
        let mut walk = Walk { va, entries: [Pte::EMPTY; 4], table: None };
        let mut table = Some(space.root);
        for (level, slot) in (1..=4).rev().zip(&mut walk.entries) {
            let Some(frame) = table else { break };
            *slot = Pte(guest::load(&self.platform, frame, va.table_index(level) % TABLE_ENTRIES));
            if level == 1 {
                walk.table = Some(frame);
            } else if !slot.present() || slot.0 & abi::PteFlags::PSE.0 != 0 {
                // The core's own range may have large pages.
                break;
            }
            table = self.frames.get(slot.mfn());
        }
        walk
    }
}
