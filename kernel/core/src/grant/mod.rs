//! Grant tables, version 1: a domain lets another map, or have copied, some of its frames.
//!
//! Two sides, two locks a domain. The [`table`] is what it grants: frames shared with it, full of entries that it
//! writes, and beside them what the core knows of those that are in use (*pinned*). The [`track`] is what it maps of
//! others: a handle each. Work on a batch holds the mapper's page-table lock and its track, and one granter's table
//! at a time.
//!
//! **References.** A pin takes a general reference on the granted frame, and one of type Writable if it may be
//! written, for each way in which it is used: a host mapping's belong to the page-table entry from when it is stored,
//! a device mapping's to the track, a copy's to the copy. They are given back, and only then the pin, after the TLBs
//! were flushed: so whoever sees an entry no longer in use can rely on it. Page tables cannot be granted writable,
//! since the frame could not have both types.
//!
//! Left out: version 2, transitive grants, transfer. They end as in a Xen without them.

mod copy;
mod map;
pub mod status;
mod table;
#[cfg(test)]
mod tests;
mod track;

use alloc::sync::Arc;

pub use copy::Copier;
pub use map::{Mapper, Unmapped};
pub use track::Track;

use crate::{Core, Domain, Lock, Platform, Stop};
use table::Table;

/// The grant frames that a domain may have if nothing else is said: as in Xen.
const USUAL_FRAMES: u32 = 64;

/// What a domain grants, and what it maps of others.
pub struct Grants<P: Platform> {
    pub(crate) table: Lock<P, Table>,
    pub(crate) track: Lock<P, Track<P>>,
}

impl<P: Platform> Grants<P> {
    /// A table without frames, and nothing mapped. The table may have `frames`; 0 is the usual number.
    pub fn new(frames: u32) -> Self {
        let limit = if frames == 0 { USUAL_FRAMES } else { frames };
        Self { table: Lock::<P, _>::new(Table::new(limit)), track: Lock::<P, _>::new(Track::new()) }
    }

    /// How many frames the table has, and may have.
    pub fn size(&self) -> (u32, u32) {
        let table = self.table.lock();
        (table.frames.len() as u32, table.limit)
    }

    /// Bytes of the heap that both take.
    pub(crate) fn bytes(&self) -> usize {
        // One after the other: who maps holds its tracking while it takes the granter's table, which may be this one.
        let table = self.table.lock().bytes();
        table + self.track.lock().bytes()
    }

    /// How many of its entries are in use, and how many mappings of others' it has. For debugging and audits.
    pub fn in_use(&self) -> (usize, usize) {
        let used = self.table.lock().in_use().count();
        (used, self.track.lock().mappings().count())
    }
}

impl<P: Platform> Core<P> {
    /// Gives up all that a dying domain maps of others, a slice at a time: `PREEMPTED` while there is more. Its page
    /// tables are gone, and with them the references of its host mappings.
    pub fn release_mappings(&self, domain: &Arc<Domain<P>>) -> Result<(), Stop> {
        loop {
            let Some(mapping) = domain.grants.track.lock().take_any() else { return Ok(()) };
            self.end_mapping(&mapping);
            if self.platform.preempt() {
                return Err(Stop::PREEMPTED);
            }
        }
    }
}
