//! The roots that vCPUs walk.

use core::sync::atomic::Ordering::Relaxed;

use abi::Mfn;

use super::Session;
use crate::{Core, Cpu, Domain, Frame, Platform, Run, Stop, guest};

/// `VMASST_TYPE_m2p_strict` of the public headers: user mode does not see the machine-to-physical table.
const M2P_STRICT: u64 = 1 << 32;

impl<P: Platform> Session<'_, P> {
    /// MMUEXT_NEW_BASEPTR: the calling vCPU, in kernel mode, walks another root. What is left of the old one is for
    /// [`finish`](Self::finish).
    ///
    /// EINVAL: not a frame of the domain's that can be a root.
    #[inline(never)]
    pub fn new_baseptr(&mut self, cpu: &Cpu<P>, run: &mut Run, mfn: Mfn) -> Result<(), Stop> {
        if run.kernel_root.map(Frame::mfn) == Some(mfn) {
            self.core.load_root(cpu, run);
            return Ok(());
        }
        let root = self.take_table(mfn, 4)?;
        self.core.show_m2p(root, true);
        self.core.unmap_ldt(run);
        let old = run.kernel_root.replace(root);
        if run.kernel_mode {
            run.hardware_root = Some(root);
            self.core.load_root(cpu, run);
        }
        if let Some(old) = old {
            self.put_table(old, 4);
        }
        Ok(())
    }

    /// MMUEXT_NEW_USER_BASEPTR: the root that user mode walks; frame 0 for none.
    ///
    /// EINVAL: as for [`new_baseptr`](Self::new_baseptr).
    #[inline(never)]
    pub fn new_user_baseptr(&mut self, run: &mut Run, mfn: Mfn) -> Result<(), Stop> {
        if run.user_root.map_or(0, |root| root.mfn().0) == mfn.0 {
            return Ok(());
        }
        self.finish()?;
        let root = if mfn.0 == 0 { None } else { Some(self.take_table(mfn, 4)?) };
        if let Some(root) = root
            && self.domain.assist.load(Relaxed) & M2P_STRICT != 0
        {
            self.core.show_m2p(root, false);
        }
        let old = core::mem::replace(&mut run.user_root, root);
        if let Some(old) = old {
            self.put_table(old, 4);
        }
        Ok(())
    }
}

impl<P: Platform> Core<P> {
    /// Shows or hides the machine-to-physical table in a root. A vCPU's kernel root shows it.
    pub(crate) fn show_m2p(&self, root: Frame, shown: bool) {
        let slot = *P::CORE_SLOTS.start();
        if shown != (guest::load(&self.platform, root, slot) != 0) {
            let entry = if shown { self.platform.hypervisor_slots()[0] } else { 0 };
            guest::store_entry(&self.platform, root, slot, entry);
        }
    }

    /// Makes `run`'s hardware root the one that `cpu`, this one, walks, and notes the flush that this is.
    pub fn load_root(&self, cpu: &Cpu<P>, run: &Run) {
        let moment = self.frames.clock.flush_begins();
        self.platform.load_root(run);
        cpu.note_flush(moment);
    }

    /// Takes a general and an L4 reference on a frame of `domain`'s, for a context that is being set. EINVAL where it
    /// cannot be a root; PREEMPTED: call again.
    pub fn take_root(&self, domain: &Domain<P>, mfn: Mfn) -> Result<Frame, Stop> {
        self.mm(domain).take_table(mfn, 4)
    }

    /// Gives them back. PREEMPTED: call again, but with what this left in `root`.
    pub fn drop_root(&self, domain: &Domain<P>, root: &mut Option<Frame>) -> Result<(), Stop> {
        let mut session = self.mm(domain);
        session.finish()?;
        if let Some(frame) = root.take() {
            if domain.is_dying() {
                // With it goes, as a rule, all that the domain's tables hold.
                session.take_pin(frame);
            }
            session.put_table(frame, 4);
        }
        session.finish()
    }
}
