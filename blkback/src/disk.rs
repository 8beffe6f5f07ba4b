//! One disk and all the sessions on it.

use crate::counters::Counters;
use crate::medium::{Medium, ReadGrants};
use crate::session::{Extent, Session};
use abi::DomId;
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::ring::{BadSize, Corrupt, Notify};

/// Names a session on its disk; a place is used again, its generation is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId {
    place: u16,
    generation: u32,
}

/// What a run has to say to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this session's event.
    Notify(SessionId),
    /// This session's guest broke its ring: close it. It is served no more.
    Corrupt(SessionId, Corrupt),
}

/// Why a vbd was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The ring is too small for even one request.
    Ring(BadSize),
    /// A writer has these sectors, or the new one is a writer and somebody has them.
    InUse,
    /// Not on the disk.
    Beyond,
    /// Too many sessions.
    Full,
}

struct Place<M> {
    generation: u32,
    session: Option<Session<M>>,
    read_only: bool,
    broken: bool,
}

/// A disk with its sessions.
pub struct Disk<D, M> {
    medium: D,
    places: Vec<Place<M>>,
    generation: u32,
    completed: u64,
}

impl<D: core::fmt::Debug, M> core::fmt::Debug for Disk<D, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Disk({:?}, {} places)", self.medium, self.places.len())
    }
}

impl<D: Medium, M: RingMemory> Disk<D, M> {
    /// A disk without sessions.
    pub fn new(medium: D) -> Self {
        Self { medium, places: Vec::new(), generation: 0, completed: 0 }
    }

    /// The disk itself.
    pub fn medium(&self) -> &D {
        &self.medium
    }

    /// The disk itself, for its interrupt.
    pub fn medium_mut(&mut self) -> &mut D {
        &mut self.medium
    }

    /// Opens a vbd: `extent` of the disk for `peer` over the ring in `memory`. Two vbds share sectors only if both
    /// are read-only, or the new one says so by `shared`.
    pub fn open(
        &mut self,
        memory: M,
        peer: DomId,
        extent: Extent,
        read_only: bool,
        shared: bool,
    ) -> Result<SessionId, OpenError> {
        let geometry = self.medium.geometry();
        let end = extent.start.checked_add(extent.sectors);
        if end.is_none_or(|end| end > geometry.sectors) {
            return Err(OpenError::Beyond);
        }
        let clash = |place: &Place<M>| {
            let other = place.session.as_ref().map(Session::extent);
            other.is_some_and(|other| other.overlaps(&extent)) && !(read_only && place.read_only)
        };
        if !shared && self.places.iter().any(clash) {
            return Err(OpenError::InUse);
        }
        let vacant = self.places.iter().position(|place| place.session.is_none());
        let place = u16::try_from(vacant.unwrap_or(self.places.len())).map_err(|_| OpenError::Full)?;
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let session =
            Session::new(memory, peer, &geometry, extent, read_only, (place, generation)).map_err(OpenError::Ring)?;
        let new = Place { generation, session: Some(session), read_only, broken: false };
        match self.places.get_mut(usize::from(place)) {
            Some(old) => *old = new,
            None => self.places.push(new),
        }
        Ok(SessionId { place, generation })
    }

    /// Closes a vbd. What it has on the disk ends there and is answered to nobody.
    pub fn close(&mut self, id: SessionId) -> Option<Counters> {
        let place = self.places.get_mut(usize::from(id.place))?;
        let session = place.session.take_if(|_| place.generation == id.generation)?;
        Some(*session.counters())
    }

    /// What a vbd has done.
    pub fn counters(&self, id: SessionId) -> Option<&Counters> {
        let place = self.places.get(usize::from(id.place)).filter(|place| place.generation == id.generation)?;
        place.session.as_ref().map(Session::counters)
    }

    /// Operations that the disk has completed, of all vbds there ever were.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Whether any request is under way.
    pub fn busy(&self) -> bool {
        self.places.iter().filter_map(|place| place.session.as_ref()).any(|session| session.in_flight() > 0)
    }

    /// Does all that can be done now: takes requests of every session, starts them together, answers what is done.
    /// Called after any event of a guest or of the disk.
    pub fn run(&mut self, grants: &mut impl ReadGrants, mut tell: impl FnMut(Outcome)) {
        loop {
            let mut moved = false;
            for place in self.places.iter_mut().filter(|place| !place.broken) {
                let Some(session) = &mut place.session else { continue };
                match session.take(&mut self.medium, grants) {
                    Ok(more) => moved |= more,
                    Err(corrupt) => {
                        place.broken = true;
                        let (place, generation) = session.place();
                        tell(Outcome::Corrupt(SessionId { place, generation }, corrupt));
                    }
                }
            }
            self.medium.kick();
            while let Some(done) = self.medium.completed() {
                moved = true;
                self.completed += 1;
                let place = self.places.get_mut(usize::from(done.token.session));
                let place = place.filter(|place| place.generation == done.token.generation);
                if let Some(session) = place.and_then(|place| place.session.as_mut()) {
                    session.complete(done);
                }
            }
            if !moved {
                break;
            }
        }
        for place in self.places.iter_mut().filter(|place| !place.broken) {
            let Some(session) = &mut place.session else { continue };
            if session.publish() == Notify::Send {
                let (place, generation) = session.place();
                tell(Outcome::Notify(SessionId { place, generation }));
            }
        }
    }
}
