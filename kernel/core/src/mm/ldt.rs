//! Descriptor tables in guest frames.

use abi::{Errno, PAGE_SHIFT, Vaddr};

use crate::guest::{self, WORDS};
use crate::vcpu::LDT_FRAMES;
use crate::{Caller, Core, Frame, PageType, Platform, Run, refuse_if};

/// Makes the descriptors of a frame that nobody can write fit for a guest to use; false if one cannot be.
pub fn descriptors_are_fit<P: Platform>(core: &Core<P>, frame: Frame) -> bool {
    (0..WORDS).all(|index| {
        let old = guest::load(&core.platform, frame, index);
        let Some(fit) = crate::segment::admit(old) else { return false };
        if fit != old {
            guest::store(&core.platform, frame, index, fit);
        }
        true
    })
}

impl<P: Platform> Core<P> {
    /// Gives up the frames of the LDT of the vCPU that runs here; they are mapped again when they are used.
    pub fn unmap_ldt(&self, run: &mut Run) {
        // Without an LDT none is mapped.
        if run.ldt_entries != 0 && run.ldt.iter().any(Option::is_some) {
            let frames = core::mem::replace(&mut run.ldt, [None; LDT_FRAMES]);
            // The hardware lets go of them first.
            self.platform.load_tables(run);
            frames.into_iter().flatten().for_each(|frame| self.put_page_and_type(frame));
        }
    }
}

impl<P: Platform> Caller<'_, P> {
    /// MMUEXT_SET_LDT: where the LDT is, and how many descriptors it has. Its frames are mapped when they are used.
    ///
    /// EINVAL: not at the start of a page, not a guest's address, or more than 8192.
    #[inline(never)]
    pub(crate) fn set_ldt(&mut self, base: u64, entries: u32) -> Result<(), Errno> {
        let base = if entries == 0 { 0 } else { base };
        refuse_if(
            Vaddr(base).page_offset() != 0 || !super::is_guest_address(Vaddr(base)) || entries > 8192,
            Errno::EINVAL,
        )?;
        if self.run.ldt_base == base && self.run.ldt_entries == entries {
            return Ok(());
        }
        self.core.unmap_ldt(self.run);
        self.run.ldt_base = base;
        self.run.ldt_entries = entries;
        self.core.platform.load_tables(self.run);
        Ok(())
    }

    /// Maps the frame of the LDT that holds byte `offset`, after a fault on it. False where the guest's own tables do
    /// not map it, or its frame cannot hold descriptors: then the fault is the guest's.
    pub fn map_ldt(&mut self, offset: u64) -> bool {
        if offset >> 3 >= u64::from(self.run.ldt_entries) {
            return false;
        }
        let va = Vaddr(self.run.ldt_base.wrapping_add(offset));
        let pte = self.run.kernel_root.and_then(|root| self.core.translate(crate::AddressSpace { root }, va, false));
        let slot = self.run.ldt.get_mut((offset >> PAGE_SHIFT) as usize).filter(|slot| slot.is_none());
        let (Some(pte), Some(slot)) = (pte, slot) else { return false };
        let frame = self.core.get_page_and_type(pte.mfn(), self.domain, PageType::SegmentDescriptor);
        let Ok(frame) = frame else { return false };
        *slot = Some(frame);
        self.core.platform.load_tables(self.run);
        true
    }
}
