//! Pinned tables: kept validated whether anything refers to them or not.

use abi::{Errno, Mfn};

use super::Session;
use crate::{Frame, Platform, State, Stop, refuse_if};

impl<P: Platform> Session<'_, P> {
    /// Validates a frame as a table of `level` (1 to 4) and keeps it one.
    ///
    /// EINVAL: not a frame of the domain's, cannot be such a table, or pinned already.
    #[inline(never)]
    pub fn pin(&mut self, mfn: Mfn, level: u8) -> Result<(), Stop> {
        refuse_if(self.domain.is_dying(), Errno::EINVAL)?;
        let frame = self.take_table(mfn, level)?;
        let flag = |state: State| (!state.has(State::PINNED)).then_some(State(state.0 | State::PINNED));
        if self.core.frames.info(frame).update(flag).is_err() {
            self.put_table(frame, level);
            return Err(Errno::EINVAL.into());
        }
        Ok(())
    }

    /// Takes back a pin of any level. What there is left to do when it returns is for [`finish`](Self::finish).
    ///
    /// EINVAL: not a frame of the domain's, or not pinned.
    #[inline(never)]
    pub fn unpin(&mut self, mfn: Mfn) -> Result<(), Stop> {
        self.finish()?;
        let frame = self.core.get_page(mfn, self.domain)?;
        let pinned = self.take_pin(frame);
        self.core.put_page(frame);
        if pinned { Ok(()) } else { Err(Errno::EINVAL.into()) }
    }

    /// Takes a frame's pin, if it has one, and lets go of what that held.
    pub(super) fn take_pin(&mut self, frame: Frame) -> bool {
        let pinned = self.core.frames.info(frame).take_flag(State::PINNED);
        if let Some(state) = pinned {
            self.put_table(frame, state.kind().level());
        }
        pinned.is_some()
    }
}
