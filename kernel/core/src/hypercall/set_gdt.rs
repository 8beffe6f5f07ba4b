//! `set_gdt` (2): replaces the descriptor table.
//!
//! - Arguments: the address of an array of machine frame numbers; the number of descriptors, at most 7168.
//! - Returns: 0.
//! - Faults: EINVAL: too many; a frame is not the domain's, or is writable or a page table somewhere, or holds a
//!   descriptor that no guest may have. EFAULT: the array cannot be read. The old table stays on any error.
//! - Notes: a frame of the table is typed as segment descriptors for as long as it is in use.
//! - Source: `xen.h`.

use crate::mm::PageType;
use crate::vcpu::GDT_FRAMES;
use crate::{Args, Caller, Core, Domain, Frame, HcResult, Platform, refuse_if};
use abi::{Errno, Mfn};

/// Descriptors in a frame.
const IN_FRAME: u64 = 512;
/// The frames of a descriptor table.
type Gdt = [Option<Frame>; GDT_FRAMES];
const MAX_ENTRIES: u64 = GDT_FRAMES as u64 * IN_FRAME;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [list, entries, ..] = *a;
    let entries = u64::from(entries as u32);
    refuse_if(entries > MAX_ENTRIES, Errno::EINVAL)?;
    let mut mfns = [Mfn(0); GDT_FRAMES];
    for (index, mfn) in (0..entries.div_ceil(IN_FRAME)).zip(&mut mfns) {
        *mfn = c.get_at(list, index)?;
    }
    let frames = c.core.claim_gdt(c.domain, &mfns, entries)?;
    let mut old = core::mem::replace(&mut c.run.gdt, frames);
    c.run.gdt_entries = entries as u32;
    c.core.platform.load_tables(c.run);
    // Only now: the hardware has let go of them, so that whoever writes them next flushes what is left.
    c.core.release_gdt(&mut old);
    Ok(0)
}

impl<P: Platform> Core<P> {
    /// Takes a descriptor-type reference on each frame of a table, or on none. EINVAL as the hypercall.
    pub(crate) fn claim_gdt(&self, domain: &Domain<P>, mfns: &[Mfn], entries: u64) -> Result<Gdt, Errno> {
        let mut frames = [None; GDT_FRAMES];
        refuse_if(entries > MAX_ENTRIES, Errno::EINVAL)?;
        for (slot, &mfn) in frames.iter_mut().zip(mfns).take(entries.div_ceil(IN_FRAME) as usize) {
            match self.get_page_and_type(mfn, domain, PageType::SegmentDescriptor) {
                Ok(frame) => *slot = Some(frame),
                Err(_) => {
                    self.release_gdt(&mut frames);
                    return Err(Errno::EINVAL);
                }
            }
        }
        Ok(frames)
    }

    /// Gives the references of a table back.
    pub(crate) fn release_gdt(&self, frames: &mut Gdt) {
        frames.iter_mut().filter_map(Option::take).for_each(|frame| self.put_page_and_type(frame));
    }
}
