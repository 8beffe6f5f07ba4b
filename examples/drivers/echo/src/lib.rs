//! The device class `echo`: a split driver to start from (docs/adding-a-driver.md). A guest sends text, and the backend
//! sends it back, in capitals if the manifest says `params = "upper"`.
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
use ring_proto::path::decimal;
use ring_proto::ring::{Back, BadSize, Corrupt, Notify, PopError, RingClass};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
    /// Echoed in the answer.
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
    upper: bool,
    counters: Counters,
}

impl<M: RingMemory> Session<M> {
    /// Serves the ring in `memory`.
    pub fn new(memory: M, upper: bool) -> Result<Self, BadSize> {
        Ok(Self { ring: Back::attach(memory)?, upper, counters: Counters::default() })
    }

    /// What was done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Answers what is there, one ring full at most: whether the guest wants to be told, and whether there may be more.
    /// An error ends the connection: no honest guest brings it about.
    pub fn run(&mut self) -> Result<(Notify, bool), Corrupt> {
        let mut more = true;
        for _ in 0..self.ring.slots() {
            match self.ring.pop() {
                Ok(message) => self.answer(message),
                Err(PopError::Corrupt(corrupt)) => return Err(corrupt),
                // Asks for an event at the next message, unless there is one by now.
                Err(PopError::Empty) => {
                    more = self.ring.final_check()?;
                    if !more {
                        break;
                    }
                }
            }
        }
        let notify = self.ring.publish();
        self.counters.notifications += u64::from(notify.needed());
        Ok((notify, more))
    }

    /// `message` is a copy: the guest can no longer change what is looked at here.
    fn answer(&mut self, mut message: Message) {
        self.counters.requests += 1;
        match message.text_mut() {
            Some(text) if self.upper => text.make_ascii_uppercase(),
            Some(_) => {}
            None => {
                self.counters.errors += 1;
                message.len = Message::BAD;
            }
        }
        // The slot of the message just taken is free.
        let _ = self.ring.push(&message);
    }
}

#[cfg(test)]
mod tests;
