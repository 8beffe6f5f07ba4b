//! Validation and invalidation of whole tables, a slice at a time.

use abi::{Errno, Mfn, Pte};

use super::entry::{self, PRESENT, RW};
use super::{MappedOwner, Session};
use crate::{Flush, Frame, PageType, Platform, State, Stop, guest, refuse_if};

/// Entries of higher tables that are the core's, and hold no references.
fn is_core_entry<P: Platform>(level: u8, index: usize) -> bool {
    level == 4 && P::CORE_SLOTS.contains(&index)
}

impl<P: Platform> Session<'_, P> {
    /// L1 entries between two looks at the clock: 64.
    const L1_SLICE: usize = P::ENTRIES.div_ceil(8);

    /// Takes a general reference and one of type L1 to L4 on a frame of this domain's, once nothing is unfinished.
    ///
    /// EINVAL: not a frame of the domain's, or one that cannot be such a table. PREEMPTED: nothing was taken.
    pub(super) fn take_table(&mut self, mfn: Mfn, level: u8) -> Result<Frame, Stop> {
        self.finish()?;
        let frame = self.core.get_page(mfn, self.domain)?;
        self.get_table(frame, level).inspect_err(|_| self.core.put_page(frame))?;
        Ok(frame)
    }

    /// Takes a reference of type L1 to L4 on a frame of this domain's, validating it if it was no table before. The
    /// caller holds a general reference, which it keeps, and which goes with the type reference if that is got.
    ///
    /// EINVAL where the frame is in use as something else, or an entry may not be there; then nothing was taken.
    /// PREEMPTED: nothing was taken either, but the next attempt has less to do.
    fn get_table(&mut self, frame: Frame, level: u8) -> Result<(), Stop> {
        let info = self.core.frames.info(frame);
        let kind = PageType::table(level);
        loop {
            let old = info.state();
            if old.has(State::PARTIAL) && old.kind() == kind {
                // Takes over the references that the flag held; the caller has its own.
                if info.change(old, State((old.0 & !State::PARTIAL) - State::REF)) {
                    break;
                }
                continue;
            }
            let new = old.get_type(kind).ok_or(Errno::EINVAL)?;
            if !info.change(old, new) {
                continue;
            }
            if old.type_refs() != 0 {
                return Ok(());
            }
            // The reference first, then the flush: nobody can make the frame writable again in between (XSA-401).
            if old.kind() != PageType::None && old.kind() != kind {
                self.core.flush(self.core.stale(self.domain.dirty(), info.stamp()), Flush::All);
            }
            self.core.dma_changed(frame);
            info.set_progress(0);
            break;
        }
        self.validate(frame, level)
    }

    /// Takes the references of a table's entries, from its progress on. The caller has made sure that the frame has
    /// one type reference, which is the caller's to have if this succeeds.
    fn validate(&mut self, frame: Frame, level: u8) -> Result<(), Stop> {
        let info = self.core.frames.info(frame);
        let begin = info.progress();
        let ended =
            if level == 1 { self.validate_l1(frame, begin) } else { self.validate_directory(frame, level, begin) };
        match ended {
            Ok(()) => {
                if level == 4 {
                    self.store_core_slots(frame);
                }
                let _ = info.update(|state| Some(State(state.0 | State::VALIDATED)));
                Ok(())
            }
            Err((progress, stop)) => {
                info.set_progress(progress);
                match stop {
                    Stop::PREEMPTED => self.suspend(frame),
                    _ => self.invalidate(frame, level),
                }
                Err(stop)
            }
        }
    }

    /// On an error or an interruption: how many entries hold their references.
    fn validate_l1(&self, frame: Frame, begin: usize) -> Result<(), (usize, Stop)> {
        let owner = MappedOwner::Domain(self.domain);
        let mut index = begin;
        while index < P::ENTRIES {
            if index > begin && self.core.platform.preempt() {
                return Err((index, Stop::PREEMPTED));
            }
            let end = (index / Self::L1_SLICE + 1) * Self::L1_SLICE;
            while index < end {
                let pte = Pte(guest::load(&self.core.platform, frame, index));
                if pte.present() && !self.get_plain_l1(pte) {
                    let stored = self.get_l1_slowly(pte, &owner).map_err(|errno| (index, errno.into()))?;
                    guest::store_entry(&self.core.platform, frame, index, stored.0);
                }
                index += 1;
            }
        }
        Ok(())
    }

    fn validate_directory(&mut self, frame: Frame, level: u8, begin: usize) -> Result<(), (usize, Stop)> {
        let mut worked = false;
        for index in begin..P::ENTRIES {
            let pte = Pte(guest::load(&self.core.platform, frame, index));
            if !pte.present() || is_core_entry::<P>(level, index) {
                continue;
            }
            if worked && self.core.platform.preempt() {
                return Err((index, Stop::PREEMPTED));
            }
            worked = true;
            let stored = self.get_entry(frame, level, pte).map_err(|stop| (index, stop))?;
            if stored != pte {
                guest::store_entry(&self.core.platform, frame, index, stored.0);
            }
        }
        Ok(())
    }

    /// Writes the core's own entries into a root: all but the machine-to-physical table's, which a kernel's root gets
    /// when it is loaded as such.
    fn store_core_slots(&self, root: Frame) {
        let slots = self.core.platform.hypervisor_slots();
        for (index, slot) in P::CORE_SLOTS.zip(slots) {
            let slot = if index == *P::CORE_SLOTS.start() { 0 } else { slot };
            guest::store_entry(&self.core.platform, root, index, slot);
        }
    }

    /// Makes an interrupted table hold itself: the type reference, and a general one of its own.
    fn suspend(&self, frame: Frame) {
        let info = self.core.frames.info(frame);
        let _ = info.update(|state| Some(State((state.0 | State::PARTIAL) + State::REF)));
    }

    /// Gives back what [`take_table`](Self::take_table) took. The last type reference invalidates the table; if that
    /// takes too long the rest is left in [`super::State::abandoned`].
    pub(super) fn put_table(&mut self, frame: Frame, level: u8) {
        let info = self.core.frames.info(frame);
        let before = info.update(|state| match state.type_refs() {
            1 => Some(State(state.0 & !State::VALIDATED)),
            _ => Some(State(state.0 - State::TYPE_REF)),
        });
        if before.is_ok_and(|state| state.type_refs() == 1) {
            info.set_progress(P::ENTRIES);
            self.invalidate(frame, level);
        }
        self.core.put_page(frame);
    }

    /// Takes up the invalidation of an abandoned table.
    pub(super) fn resume_release(&mut self, frame: Frame, level: u8) {
        // The flag's general reference is ours for as long as this takes.
        if self.core.frames.info(frame).take_flag(State::PARTIAL).is_some() {
            self.invalidate(frame, level);
            self.core.put_page(frame);
        }
    }

    /// Gives back the references of a table's first `progress` entries, last first, and then the frame's one type
    /// reference.
    fn invalidate(&mut self, frame: Frame, level: u8) {
        let info = self.core.frames.info(frame);
        let begin = info.progress();
        let left =
            if level == 1 { self.invalidate_l1(frame, begin) } else { self.invalidate_directory(frame, level, begin) };
        if left > 0 {
            info.set_progress(left);
            self.suspend(frame);
            self.abandon(frame, level);
            return;
        }
        self.core.put_type(frame);
    }

    /// Returns how many entries still hold their references.
    fn invalidate_l1(&self, frame: Frame, begin: usize) -> usize {
        let mut left = begin;
        while left > 0 {
            if left < begin && self.core.platform.preempt() {
                return left;
            }
            let slice = (left - 1) / Self::L1_SLICE * Self::L1_SLICE..left;
            left = slice.start;
            for index in slice.rev() {
                self.put_l1(Pte(guest::load(&self.core.platform, frame, index)));
            }
        }
        0
    }

    fn invalidate_directory(&mut self, frame: Frame, level: u8, begin: usize) -> usize {
        let mut worked = false;
        for index in (0..begin).rev() {
            let pte = Pte(guest::load(&self.core.platform, frame, index));
            if !pte.present() || is_core_entry::<P>(level, index) {
                continue;
            }
            if self.waits_for_child(level) || (worked && self.core.platform.preempt()) {
                return index + 1;
            }
            worked = true;
            self.put_entry(frame, level, pte);
        }
        0
    }

    /// Was a table below this one abandoned just now? Then this one is too. (Of its own level there is none meanwhile.)
    fn waits_for_child(&self, level: u8) -> bool {
        self.state.abandoned.iter().take(level.into()).any(Option::is_some)
    }

    /// What an entry of a table above L1 takes; returns the entry as it is to be stored.
    pub(super) fn get_entry(&mut self, table: Frame, level: u8, pte: Pte) -> Result<Pte, Stop> {
        refuse_if(pte.0 & entry::TABLE_FORBIDDEN != 0, Errno::EINVAL)?;
        if pte.mfn() == table.mfn() {
            // Recursive: no reference, but the table must not become writable through it.
            return if pte.0 & RW == 0 { Ok(entry::adjust_table(pte)) } else { Err(Errno::EINVAL.into()) };
        }
        self.take_table(pte.mfn(), level - 1)?;
        Ok(entry::adjust_table(pte))
    }

    /// Gives back what an entry of a table above L1 took.
    pub(super) fn put_entry(&mut self, table: Frame, level: u8, pte: Pte) {
        if pte.0 & PRESENT == 0 || pte.mfn() == table.mfn() {
            return;
        }
        if let Some(child) = self.core.frames.get(pte.mfn()) {
            self.put_table(child, level - 1);
        }
    }
}
