//! One disk and all the sessions on it.

use crate::counters::Counters;
use crate::medium::{Medium, ReadGrants};
use crate::session::{Config, Session};
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::ring::{BadSize, Corrupt, Notify};

/// Names a session, one queue of a vbd, on its disk; a place is used again, its generation is not.
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

    /// Opens a vbd with its first queue, the ring in `memory`. Two vbds share sectors only if both are read-only, or the
    /// new one says so by `shared`.
    pub fn open(&mut self, memory: M, config: Config, shared: bool) -> Result<SessionId, OpenError> {
        let extent = config.extent;
        let end = extent.start.checked_add(extent.sectors);
        if end.is_none_or(|end| end > self.medium.geometry().sectors) {
            return Err(OpenError::Beyond);
        }
        let mut others = self.places.iter().filter_map(|place| place.session.as_ref()).map(Session::config);
        let clash =
            |other: &Config| other.extent.overlaps(&extent) && !(config.limits.read_only && other.limits.read_only);
        if !shared && others.any(clash) {
            return Err(OpenError::InUse);
        }
        self.serve(memory, config)
    }

    /// Opens another queue of a vbd. Queues know nothing of each other; a flush on one of them makes durable what was
    /// answered before on any.
    pub fn open_queue(&mut self, memory: M, first: SessionId) -> Result<SessionId, OpenError> {
        let config = self.session(first).map(|session| *session.config());
        self.serve(memory, config.ok_or(OpenError::Beyond)?)
    }

    fn serve(&mut self, memory: M, config: Config) -> Result<SessionId, OpenError> {
        let vacant = self.places.iter().position(|place| place.session.is_none());
        let place = u16::try_from(vacant.unwrap_or(self.places.len())).map_err(|_| OpenError::Full)?;
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let session = Session::new(memory, config, (place, generation)).map_err(OpenError::Ring)?;
        let new = Place { generation, session: Some(session), broken: false };
        match self.places.get_mut(usize::from(place)) {
            Some(old) => *old = new,
            None => self.places.push(new),
        }
        Ok(SessionId { place, generation })
    }

    /// Closes a queue. What it has on the disk ends there and is answered to nobody.
    pub fn close(&mut self, id: SessionId) -> Option<Counters> {
        let place = self.places.get_mut(usize::from(id.place))?;
        let session = place.session.take_if(|_| place.generation == id.generation)?;
        self.medium.closed(id.place);
        Some(*session.counters())
    }

    fn session(&self, id: SessionId) -> Option<&Session<M>> {
        let place = self.places.get(usize::from(id.place)).filter(|place| place.generation == id.generation)?;
        place.session.as_ref()
    }

    /// What a queue has done.
    pub fn counters(&self, id: SessionId) -> Option<&Counters> {
        self.session(id).map(Session::counters)
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
