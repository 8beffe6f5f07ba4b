//! Page walks that only look.

use abi::{Pte, PteFlags, Vaddr};

use crate::{AddressSpace, Core, Platform, guest};

impl<P: Platform> Core<P> {
    /// The entries on the way to an address: L4, L3, L2, L1; behind the first that is not present, or does not lead to
    /// RAM, zeros. Walks as the hardware would, without a lock: what it finds may be gone already.
    pub fn walk(&self, space: AddressSpace, va: Vaddr) -> [Pte; 4] {
        let mut entries = [Pte::EMPTY; 4];
        let mut table = Some(space.root);
        for (level, slot) in (1..=4).rev().zip(&mut entries) {
            let Some(frame) = table else { break };
            *slot = Pte(guest::load(&self.platform, frame, va.table_index(level)));
            // The core's own range may have large pages.
            let leads_on = slot.present() && !slot.has(PteFlags::PSE);
            table = if leads_on { self.frames.get(slot.mfn()) } else { None };
        }
        entries
    }

    /// The L1 entry by which a guest's access to an address goes, if all entries on the way allow it.
    pub fn translate(&self, space: AddressSpace, va: Vaddr, write: bool) -> Option<Pte> {
        let need = if write { 7 } else { 5 };
        let entries = self.walk(space, va);
        entries.iter().all(|pte| pte.0 & need == need).then_some(entries[3])
    }
}
