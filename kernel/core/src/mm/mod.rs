//! Page types: the heart.
//!
//! A guest's page tables are the hardware's own, so every entry is checked before it is stored. A frame becomes a
//! page table of a level by *validation*: each of its entries takes a reference on what it names, a typed one where
//! it names a table or maps writable. While a frame is a table nobody can write it but this module, entry by entry.
//! The invariants are at the head of [`crate::frame`]; [`audit`] proves them.
//!
//! One lock a domain, `Domain::mm`, guards all of its tables; a [`Session`] is what holds it. Tables of different
//! levels are validated from the root down and can be large, so the work is interruptible between entries. A frame
//! in that state is [`State::PARTIAL`](crate::frame::State::PARTIAL): its first `progress` entries hold their
//! references, the others none, and the flag itself holds what keeps the frame a table. That is all there is to
//! remember: it does not matter in which direction the work was going, and whoever comes next carries on from there,
//! or back. What was being let go of when the time was up is noted in [`State::abandoned`], and taken up first by
//! whoever works on tables next.
//!
//! An entry may name the very table that it is in, read-only (a recursive mapping). Such an entry holds no reference.
//! No other linear page table is accepted, so there is no depth to bound.

pub mod audit;
mod entry;
mod grant;
mod io;
mod ldt;
mod pin;
mod relinquish;
mod root;
mod spoil;
mod table;
#[cfg(test)]
mod tests;
mod trapped;
mod update;
mod walk;

pub use crate::frame::PageType;
pub use entry::is_guest_address;
pub use grant::MapAt;
pub use io::has_devices as may_choose_caching;
pub use ldt::descriptors_are_fit;
pub use trapped::Trapped;
pub use update::MappedOwner;
pub(crate) use update::Store;

use crate::frame::OwnerWord;
use crate::{Core, Domain, Frame, Guard, Owner, Platform, Stop};

/// What `Domain::mm` guards, besides the tables themselves.
#[derive(Debug, Default)]
pub struct State {
    /// Tables whose last reference is gone and whose invalidation was interrupted, by level. Each is PARTIAL. At most
    /// one a level, since one interruption leaves one chain of them, and nothing else is let go of before they are
    /// finished.
    abandoned: [Option<Frame>; 4],
    /// Is there one?
    unfinished: bool,
}

/// Work on the page tables of one domain, with its lock held.
pub struct Session<'a, P: Platform> {
    core: &'a Core<P>,
    domain: &'a Domain<P>,
    state: Guard<'a, P, State>,
    /// The domain as an owner of frames.
    owner: OwnerWord,
}

impl<P: Platform> Core<P> {
    /// Takes a domain's page-table lock.
    pub fn mm<'a>(&'a self, domain: &'a Domain<P>) -> Session<'a, P> {
        Session { core: self, domain, state: domain.mm.lock(), owner: Owner::Domain(domain.id).word() }
    }
}

impl<P: Platform> Session<'_, P> {
    /// Finishes what an interruption left of tables that were let go of. PREEMPTED where that takes too long too.
    pub fn finish(&mut self) -> Result<(), Stop> {
        if self.state.unfinished { self.finish_slowly() } else { Ok(()) }
    }

    #[cold]
    fn finish_slowly(&mut self) -> Result<(), Stop> {
        while let Some((level, frame)) = self.next_abandoned() {
            self.resume_release(frame, level);
            if self.state.unfinished && self.core.platform.preempt() {
                return Err(Stop::PREEMPTED);
            }
        }
        Ok(())
    }

    /// The abandoned table of the lowest level: those above it wait for it.
    fn next_abandoned(&mut self) -> Option<(u8, Frame)> {
        let lowest =
            (1..=4u8).zip(self.state.abandoned.iter_mut()).find_map(|(level, slot)| Some((level, slot.take()?)));
        self.state.unfinished = self.state.abandoned.iter().any(Option::is_some);
        lowest
    }

    fn abandon(&mut self, frame: Frame, level: u8) {
        if let Some(slot) = self.state.abandoned.get_mut(usize::from(level.wrapping_sub(1))) {
            debug_assert!(slot.is_none(), "one abandoned table a level");
            *slot = Some(frame);
            self.state.unfinished = true;
        }
    }
}
