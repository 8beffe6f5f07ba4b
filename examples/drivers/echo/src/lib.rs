//! The device class `echo`: a split driver to start from (docs/adding-a-driver.md). A guest sends text, and the backend
//! sends it back, in capitals if the manifest says `params = "upper"`; with `params = "poll"` it looks for more some times
//! before it asks for an event.
//!
//! Here is what both halves say on the ring and in the store, and the backend's logic, which knows no hypercall and runs
//! on the host; `bin/echoback.rs` is the driver domain around it, `bin/echo.rs` a guest with a frontend.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

use abi::{GrantRef, Port};
use ring_proto::keys::{BadKey, Keys, Put};
use ring_proto::memory::RingMemory;
use ring_proto::path::{Class, decimal};
use ring_proto::ring::{Back, BadSize, Corrupt, Notify, PopError, RingClass};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The class, as the manifest and store paths name it.
pub const CLASS: Class = Class::new("echo");

/// The ring.
#[derive(Debug)]
pub enum Echo {}
impl RingClass for Echo {
    type Request = Message;
    type Response = Message;
}

/// Bytes of text in a message, at most.
pub const TEXT: usize = 56;

/// What stands in a slot, either way: anything at all, until [`text`](Self::text) has looked at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Message {
    /// The same in the answer.
    pub id: u32,
    /// Bytes of text; in an answer, [`BAD`](Self::BAD) if there were too many.
    pub len: u32,
    /// The text, and whatever is behind it.
    pub bytes: [u8; TEXT],
}
const _: () = assert!(size_of::<Message>() == 64);

impl Message {
    /// The length of an answer to a message that made no sense.
    pub const BAD: u32 = u32::MAX;

    /// A message of `text`, or of as much of it as fits.
    pub fn new(id: u32, text: &[u8]) -> Self {
        let mut bytes = [0; TEXT];
        bytes.iter_mut().zip(text).for_each(|(byte, from)| *byte = *from);
        Self { id, len: text.len().min(TEXT) as u32, bytes }
    }

    /// The text, if the length is one.
    pub fn text(&self) -> Option<&[u8]> {
        self.bytes.get(..usize::try_from(self.len).ok()?)
    }

    /// Makes it its own answer. It is a copy: the guest can no longer change what is looked at here.
    fn answer(&mut self, params: Params, counters: &mut Counters) {
        counters.requests += 1;
        match self.text_mut() {
            Some(text) if params.upper => text.make_ascii_uppercase(),
            Some(_) => {}
            None => {
                counters.errors += 1;
                self.len = Self::BAD;
            }
        }
    }

    fn text_mut(&mut self) -> Option<&mut [u8]> {
        self.bytes.get_mut(..usize::try_from(self.len).ok()?)
    }
}

/// What a frontend publishes in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontKeys {
    /// The page of the ring.
    pub ring: GrantRef,
    /// Its port.
    pub event: Port,
}

impl FrontKeys {
    /// Writes them.
    pub fn publish(&self, put: Put<'_>) {
        put("ring-ref", &self.ring.0);
        put("event-channel", &self.event.0);
    }

    /// Reads them.
    pub fn parse(keys: &(impl Keys + ?Sized)) -> Result<Self, BadKey> {
        let number = |key| keys.get(key).and_then(decimal).ok_or(BadKey(key));
        Ok(Self { ring: GrantRef(number("ring-ref")?), event: Port(number("event-channel")?) })
    }
}

/// What the manifest says of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// Answers are in capitals.
    pub upper: bool,
    /// While there is load, the ring is looked at again instead of waiting for an event.
    pub poll: bool,
}

impl Params {
    /// Words in any order; the first that is none of ours is the error.
    pub fn parse(text: &str) -> Result<Self, &str> {
        text.split_whitespace().try_fold(Self::default(), |params, word| match word {
            "upper" => Ok(Self { upper: true, ..params }),
            "poll" => Ok(Self { poll: true, ..params }),
            other => Err(other),
        })
    }
}

/// Times in turn that a backend which polls finds nothing, before it asks for an event.
pub const LOOKS: u32 = 64;
/// Messages taken at a time.
const PIECE: usize = 8;

/// What was done for one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages answered.
    pub requests: u64,
    /// Of those, the ones that made no sense.
    pub errors: u64,
    /// Events the guest asked for.
    pub notifications: u64,
}

impl core::fmt::Display for Counters {
    /// Names and numbers in turn, as they stand in the store.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { requests, errors, notifications } = self;
        write!(f, "requests {requests} errors {errors} notifications {notifications}")
    }
}

/// One guest's ring, as the backend has it.
#[derive(Debug)]
pub struct Session<M> {
    ring: Back<M, Echo>,
    params: Params,
    /// Times in turn that nothing was found.
    idle: u32,
    /// Messages in hand.
    piece: [Message; PIECE],
    counters: Counters,
}

impl<M: RingMemory> Session<M> {
    /// Serves the ring in `memory`.
    pub fn new(memory: M, params: Params) -> Result<Self, BadSize> {
        let (ring, piece) = (Back::attach(memory)?, [Message::new(0, &[]); PIECE]);
        Ok(Self { ring, params, idle: 0, piece, counters: Counters::default() })
    }

    /// What was done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether the last look at the ring found nothing.
    pub fn is_idle(&self) -> bool {
        self.idle > 0
    }

    /// Answers what is there, one ring full at most: whether the guest wants to be told, and whether there may be more.
    /// An error ends the connection: no honest guest brings it about.
    pub fn run(&mut self) -> Result<(Notify, bool), Corrupt> {
        let (mut left, mut more) = (self.ring.slots() as usize, true);
        while left > 0 {
            let (room, _) = self.piece.split_at_mut(left.min(PIECE));
            match self.ring.pop_many(room) {
                Ok(taken) => {
                    let (taken, _) = room.split_at_mut(taken);
                    taken.iter_mut().for_each(|message| message.answer(self.params, &mut self.counters));
                    // The slots of the messages just taken are free.
                    self.ring.push_many(taken);
                    left -= taken.len();
                    self.idle = 0;
                }
                Err(PopError::Corrupt(corrupt)) => return Err(corrupt),
                Err(PopError::Empty) => {
                    self.idle = self.idle.saturating_add(1);
                    let polls = self.params.poll && self.idle <= LOOKS;
                    // Asks for an event at the next message, unless there is one by now.
                    more = polls || self.ring.final_check()?;
                    if polls || !more {
                        break;
                    }
                }
            }
        }
        let notify = self.ring.publish();
        self.counters.notifications += u64::from(notify.needed());
        Ok((notify, more))
    }
}

#[cfg(test)]
mod tests;
