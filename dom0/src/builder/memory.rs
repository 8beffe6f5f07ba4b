//! A new domain's memory, written through a small window of mapped frames.

use abi::{DomId, Errno, Mfn, PAGE_SIZE, Pfn};
use pvimage::GuestMemory;
use ring_proto::memory::RingMemory;

use crate::control::Control;

/// Frames mapped at a time: enough that mapping is rare, few enough that a short write maps little.
const WINDOW: usize = 64;
static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// The frames of a domain, some of them mapped.
pub(super) struct ForeignMemory<'a, C: Control> {
    control: &'a mut C,
    domain: DomId,
    frames: &'a [Mfn],
    /// The first frame that is mapped, and the mapping.
    window: Option<(usize, C::Mapping)>,
}

impl<'a, C: Control> ForeignMemory<'a, C> {
    pub fn new(control: &'a mut C, domain: DomId, frames: &'a [Mfn]) -> Self {
        Self { control, domain, frames, window: None }
    }

    /// The mapping that `pfn` is in, and its offset there.
    fn reach(&mut self, pfn: Pfn) -> Result<(&C::Mapping, usize), Errno> {
        let index = pfn.0 as usize;
        let inside = |(first, mapping): &(usize, C::Mapping)| {
            index.checked_sub(*first).is_some_and(|page| page < mapping.len() / PAGE_SIZE)
        };
        if !self.window.as_ref().is_some_and(inside) {
            self.window = None; // unmapped before the next is mapped
            let end = self.frames.len().min(index.saturating_add(WINDOW));
            let frames = self.frames.get(index..end).filter(|frames| !frames.is_empty()).ok_or(Errno::EINVAL)?;
            self.window = Some((index, self.control.map(self.domain, frames)?));
        }
        let (first, mapping) = self.window.as_ref().ok_or(Errno::EINVAL)?;
        Ok((mapping, (index - first) * PAGE_SIZE))
    }
}

impl<C: Control> GuestMemory for ForeignMemory<'_, C> {
    type Error = Errno;

    fn mfn(&self, pfn: Pfn) -> Mfn {
        self.frames.get(pfn.0 as usize).copied().unwrap_or(Mfn::INVALID)
    }

    fn write(&mut self, pfn: Pfn, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let (mapping, at) = self.reach(pfn)?;
        mapping.write(at + offset, bytes);
        Ok(())
    }

    fn zero(&mut self, pfn: Pfn, offset: usize, len: usize) -> Result<(), Errno> {
        self.write(pfn, offset, ZEROES.get(..len).ok_or(Errno::EINVAL)?)
    }
}
