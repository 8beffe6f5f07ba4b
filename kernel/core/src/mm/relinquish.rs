//! The end of a domain's memory.

use super::Session;
use crate::{Core, Domain, Frame, Platform, State, Stop};

/// Frames that are freed between two looks at the clock.
const SLICE: usize = 64;

impl<P: Platform> Session<'_, P> {
    /// Takes from a frame all that its own domain holds on it but by page tables: pin, interruption, allocation.
    fn relinquish(&mut self, frame: Frame) {
        let info = self.core.frames.info(frame);
        if !self.take_pin(frame) && info.state().has(State::PARTIAL) {
            self.resume_release(frame, info.state().kind().level());
        }
        self.core.deallocate(frame);
    }
}

impl<P: Platform> Core<P> {
    /// Gives back a dying domain's memory, a slice at a time: PREEMPTED means call again. Its vCPUs have let go of
    /// their roots and descriptor tables before.
    ///
    /// Frames that others still map stay on the domain's account until they are let go of; see
    /// [`frames_left`](Self::frames_left).
    pub fn relinquish_memory(&self, domain: &Domain<P>) -> Result<(), Stop> {
        debug_assert!(domain.is_dying());
        let mut session = self.mm(domain);
        session.finish()?;
        loop {
            // Most frames are not in use any more by the time that the roots are gone.
            while self.free_unshared(domain, SLICE) == SLICE {
                if self.platform.preempt() {
                    return Err(Stop::PREEMPTED);
                }
            }
            let next = domain.memory.lock().next_to_relinquish(&self.frames);
            let Some(frame) = next else { return Ok(()) };
            // One that another CPU freed meanwhile needs nothing, and may be another domain's by now.
            if self.get_page(frame.mfn(), domain).is_ok() {
                session.relinquish(frame);
                self.put_page(frame);
            }
            session.finish()?;
            if self.platform.preempt() {
                return Err(Stop::PREEMPTED);
            }
        }
    }

    /// Frames that a domain is still charged with, pages of the core included: none, and it can be forgotten.
    pub fn frames_left(&self, domain: &Domain<P>) -> u64 {
        let account = domain.memory.lock();
        account.pages + u64::from(account.core_pages)
    }
}
