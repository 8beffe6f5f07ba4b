//! Moving a vCPU's `vcpu_info`, and giving it back.

use core::sync::atomic::Ordering::SeqCst;

use abi::vcpu::VcpuInfo;
use abi::{Errno, Mfn};

use super::layout;
use crate::{Core, Domain, PageType, Platform, Vcpu, guest, refuse_if};

impl<P: Platform> Core<P> {
    /// Moves a vCPU's `vcpu_info` out of `shared_info` into a frame of its domain's, at a byte offset that is a
    /// multiple of 8 and leaves room for it. EINVAL if it has been moved before, or the frame is not the domain's or
    /// cannot be writable.
    pub fn move_vcpu_info(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, to: Mfn, offset: usize) -> Result<(), Errno> {
        // One lock for all vCPUs of the domain, so that two callers at once do not both find it unmoved.
        let _ports = domain.events.ports.lock();
        let (old_frame, old) = vcpu.info.get();
        refuse_if(old_frame != domain.shared_info, Errno::EINVAL)?;
        let frame = self.get_page_and_type(to, domain, PageType::Writable).map_err(|_| Errno::EINVAL)?;
        let new = offset / 8;
        guest::copy(&self.platform, (old_frame, old * 8), (frame, offset), size_of::<VcpuInfo>());
        vcpu.info.set(frame, new);
        // Events that came to the old place meanwhile are not lost: let the guest look at every port. It may find
        // nothing, and copes.
        for (word, bits) in [(layout::SELECTOR, u64::MAX), (layout::UPCALL, 1)] {
            guest::shared_word(&self.platform, frame, new + word).fetch_or(bits, SeqCst);
        }
        self.update_time_page(domain, vcpu);
        Ok(())
    }

    /// Moves a dying domain's `vcpu_info` back, and gives the frame's references back. Its ports are closed.
    pub fn release_vcpu_info(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) {
        let _ports = domain.events.ports.lock();
        let (frame, _) = vcpu.info.get();
        if frame != domain.shared_info {
            vcpu.info.set(domain.shared_info, 0);
            self.put_page_and_type(frame);
        }
    }
}
