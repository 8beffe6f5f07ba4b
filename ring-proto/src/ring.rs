//! The request/response ring of Xen's `io/ring.h`, both halves, as one piece of code.
//!
//! The shared page holds four indices, padding to 64 bytes, then a power of two of slots, each large enough for
//! a request or a response:
//!
//! | offset | word | written by |
//! |---|---|---|
//! | 0 | `req_prod`: requests published | front |
//! | 4 | `req_event`: tell the back when `req_prod` reaches it | back |
//! | 8 | `rsp_prod`: responses published | back |
//! | 12 | `rsp_event`: tell the front when `rsp_prod` reaches it | front |
//!
//! Indices run free over 32 bits. A response reuses the slot of a request that was taken before, so
//! `rsp_cons <= rsp_prod <= req_cons <= req_prod <= rsp_cons + slots` holds between two honest peers. A half
//! keeps every cursor it owns in private memory, writes the shared copies but never reads them back, and reads
//! the peer's producer once per check, against the exact range that an honest peer could have put it in. Anything
//! else is corruption: it poisons this half for good and concerns nobody else.

use crate::memory::{RingMemory, Wire};
use crate::sync::{Ordering::*, fence};
use core::marker::PhantomData;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
/// Where the slots begin.
const SLOTS: usize = 64;
/// Bytes of slots that [`Half::push_many`] writes before it shows them.
const PIECE: usize = 1024;

/// What a device class puts on its ring.
pub trait RingClass {
    /// What the front sends.
    type Request: Wire;
    /// What the back answers.
    type Response: Wire;
    /// Bytes from one slot to the next: the C union of both.
    const SLOT: usize = {
        let (a, b) = (size_of::<Self::Request>(), size_of::<Self::Response>());
        let (x, y) = (align_of::<Self::Request>(), align_of::<Self::Response>());
        let (size, align) = (if a > b { a } else { b }, if x > y { x } else { y });
        size.next_multiple_of(align)
    };
}

/// How many slots a ring of `bytes` bytes has: as many as fit, rounded down to a power of two; 0 if none fits.
pub const fn slots<C: RingClass>(bytes: usize) -> u32 {
    slots_that_fit(bytes, C::SLOT)
}

const fn slots_that_fit(bytes: usize, slot: usize) -> u32 {
    match (bytes.saturating_sub(SLOTS) / slot).checked_ilog2() {
        Some(log) if log < 31 => 1 << log,
        Some(_) => 1 << 31,
        None => 0,
    }
}

/// Why a connection is over: the peer did what no honest peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// A producer or consumer index outside the `ahead` entries it could have moved from `from`.
    Index {
        /// What the peer wrote.
        index: u32,
        /// The cursor that it must not precede.
        from: u32,
        /// How far past `from` it may be.
        ahead: u32,
    },
    /// An entry that breaks the device class's protocol.
    Protocol(&'static str),
}

/// Why nothing was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PopError {
    /// Nothing there yet.
    Empty,
    /// The connection is over.
    Corrupt(Corrupt),
}

impl From<Corrupt> for PopError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// No slot is free. A front waits for responses; a back that sees it has answered more than it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The memory holds not even one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSize;

/// Whether the peer asked to be told of what was just published.
#[must_use = "a peer that waits for an event sleeps for good without it"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Send the event.
    Send,
    /// The peer is awake, or asked for a later entry.
    Hold,
}

impl Notify {
    /// True for [`Notify::Send`].
    pub fn needed(self) -> bool {
        self == Self::Send
    }

    /// One event for two publications.
    pub fn or(self, other: Self) -> Self {
        if self.needed() { self } else { other }
    }
}

/// One end of a ring: what it sends, what it takes, and which words are its own.
pub trait Side {
    /// What this side pushes.
    type Out: Wire;
    /// What this side pops.
    type In: Wire;
    /// Bytes a slot.
    const SLOT: usize;
    /// Whether this is the end that starts requests.
    const FRONT: bool;
}

/// The front's end of class `C`.
#[derive(Debug)]
pub struct FrontSide<C>(PhantomData<C>);
/// The back's end of class `C`.
#[derive(Debug)]
pub struct BackSide<C>(PhantomData<C>);

impl<C: RingClass> Side for FrontSide<C> {
    type Out = C::Request;
    type In = C::Response;
    const SLOT: usize = C::SLOT;
    const FRONT: bool = true;
}
impl<C: RingClass> Side for BackSide<C> {
    type Out = C::Response;
    type In = C::Request;
    const SLOT: usize = C::SLOT;
    const FRONT: bool = false;
}

/// The half that pushes requests and pops responses.
pub type Front<M, C> = Half<M, FrontSide<C>>;
/// The half that pops requests and pushes responses.
pub type Back<M, C> = Half<M, BackSide<C>>;

/// One half of a ring.
///
/// Entries pushed one by one become visible with [`publish`](Self::publish), all at once. Popping touches the shared index
/// only when everything known to be there has been taken. Before it sleeps, a half calls
/// [`final_check`](Self::final_check), which asks for an event and looks once more.
#[derive(Debug)]
pub struct Half<M, S> {
    memory: M,
    mask: u32,
    /// Entries written to slots.
    sent: u32,
    /// Entries of those that the peer may see.
    published: u32,
    /// Entries of those about which the peer was told, or needed not to be.
    told: u32,
    /// Entries taken.
    taken: u32,
    /// The peer's producer as last read and found possible.
    seen: u32,
    poison: Option<Corrupt>,
    side: PhantomData<S>,
}

impl<M: RingMemory, C: RingClass> Front<M, C> {
    /// Makes a fresh ring in `memory` and takes its front. The peer must not have been told of it yet.
    pub fn new(memory: M) -> Result<Self, BadSize> {
        let half = Self::over(memory, 0)?;
        half.memory.write(0, &[0; SLOTS]);
        half.memory.word(REQ_EVENT).store(1, Relaxed);
        half.memory.word(RSP_EVENT).store(1, Release);
        Ok(half)
    }
}

impl<M: RingMemory, C: RingClass> Back<M, C> {
    /// Takes the back of a ring that the peer made.
    ///
    /// A ring that an earlier back of the same device had used goes on after its last response: requests that it
    /// took and never answered are popped again.
    pub fn attach(memory: M) -> Result<Self, BadSize> {
        let start = memory_word(&memory, RSP_PROD).ok_or(BadSize)?;
        Self::over(memory, start)
    }
}

/// The word at `offset`, if there is one.
fn memory_word(memory: &impl RingMemory, offset: usize) -> Option<u32> {
    (memory.len() >= offset + 4).then(|| memory.word(offset).load(Acquire))
}

impl<M: RingMemory, S: Side> Half<M, S> {
    const OWN_PROD: usize = if S::FRONT { REQ_PROD } else { RSP_PROD };
    const OWN_EVENT: usize = if S::FRONT { RSP_EVENT } else { REQ_EVENT };
    const PEER_PROD: usize = if S::FRONT { RSP_PROD } else { REQ_PROD };
    const PEER_EVENT: usize = if S::FRONT { REQ_EVENT } else { RSP_EVENT };

    fn over(memory: M, start: u32) -> Result<Self, BadSize> {
        let mask = slots_that_fit(memory.len(), S::SLOT).checked_sub(1).ok_or(BadSize)?;
        let [sent, published, told, taken, seen] = [start; 5];
        Ok(Self { memory, mask, sent, published, told, taken, seen, poison: None, side: PhantomData })
    }

    /// Number of slots, a power of two.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.mask + 1
    }

    /// Slots that may be pushed to now. For a back: requests taken and not yet answered.
    #[inline]
    pub fn room(&self) -> u32 {
        if S::FRONT {
            self.slots().wrapping_sub(self.sent.wrapping_sub(self.taken))
        } else {
            self.taken.wrapping_sub(self.sent)
        }
    }

    /// Entries known to be there without a look at shared memory.
    #[inline]
    pub fn known(&self) -> u32 {
        self.seen.wrapping_sub(self.taken)
    }

    /// How many entries this half has taken since it was made, modulo 2^32. The entry taken next sits in slot
    /// `taken() % slots()`.
    #[inline]
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// How many entries this half has pushed since it was made, modulo 2^32; the next goes to slot
    /// `sent() % slots()`.
    #[inline]
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Why this half is closed, if it is.
    pub fn poison(&self) -> Option<Corrupt> {
        self.poison
    }

    /// Closes this half: nothing is popped, pushed or published any more.
    pub fn close(&mut self, why: Corrupt) {
        self.poison.get_or_insert(why);
        self.seen = self.taken;
    }

    /// The memory under the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Gives the memory back.
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Reads the peer's producer once and bounds it once; the number of entries to take.
    #[inline]
    pub fn refresh(&mut self) -> Result<u32, Corrupt> {
        if let Some(corrupt) = self.poison {
            return Err(corrupt);
        }
        let from = self.taken;
        // A back answers at most what was asked; a front has at most `slots` requests unanswered.
        let limit = if S::FRONT { self.published } else { self.sent.wrapping_add(self.slots()) };
        let ahead = limit.wrapping_sub(from);
        let index = self.memory.word(Self::PEER_PROD).load(Acquire);
        if index.wrapping_sub(from) > ahead {
            let corrupt = Corrupt::Index { index, from, ahead };
            self.close(corrupt);
            return Err(corrupt);
        }
        self.seen = index;
        Ok(self.known())
    }

    #[inline]
    fn slot(&self, index: u32) -> usize {
        SLOTS + (index & self.mask) as usize * S::SLOT
    }

    /// Takes the next entry: a copy, made once.
    #[inline]
    pub fn pop(&mut self) -> Result<S::In, PopError> {
        if self.known() == 0 && self.refresh()? == 0 {
            return Err(PopError::Empty);
        }
        let entry = self.memory.read_value(self.slot(self.taken));
        self.taken = self.taken.wrapping_add(1);
        Ok(entry)
    }

    /// Takes up to `out.len()` entries with one look at the shared index; how many.
    #[inline]
    pub fn pop_many(&mut self, out: &mut [S::In]) -> Result<usize, PopError> {
        if (self.known() as usize) < out.len() && self.refresh()? == 0 {
            return Err(PopError::Empty);
        }
        let count = out.len().min(self.known() as usize);
        let (first, wrapped) = out[..count].split_at_mut(count.min(self.before_wrap(self.taken)));
        self.take_run(self.slot(self.taken), first);
        if !wrapped.is_empty() {
            self.take_run(SLOTS, wrapped);
        }
        self.taken = self.taken.wrapping_add(count as u32);
        Ok(count)
    }

    /// Copies out what lies side by side. This half writes to the same slots next, so their lines come once, to be written.
    #[inline]
    fn take_run(&self, offset: usize, out: &mut [S::In]) {
        self.memory.claim(offset, out.len() * S::SLOT);
        self.memory.read_each(offset, S::SLOT, out);
    }

    /// Slots from `index` to the end of the ring.
    #[inline]
    fn before_wrap(&self, index: u32) -> usize {
        (self.slots() - (index & self.mask)) as usize
    }

    /// Writes an entry to the next slot; the peer sees it after [`publish`](Self::publish).
    #[inline]
    pub fn push(&mut self, entry: &S::Out) -> Result<(), Full> {
        if self.room() == 0 || self.poison.is_some() {
            return Err(Full);
        }
        self.memory.write_value(self.slot(self.sent), entry);
        self.sent = self.sent.wrapping_add(1);
        Ok(())
    }

    /// Writes as many of `entries` as there is room for, and lets the peer see them piece by piece, so that it need not wait
    /// for the last; how many. Each must mean something by itself. A peer that sleeps learns of them by
    /// [`publish`](Self::publish), which is due when there is nothing more to do.
    #[inline]
    pub fn push_many(&mut self, entries: &[S::Out]) -> usize {
        if self.poison.is_some() {
            return 0;
        }
        let count = entries.len().min(self.room() as usize);
        let mut rest = &entries[..count];
        while !rest.is_empty() {
            let run = rest.len().min(self.before_wrap(self.sent)).min(PIECE.div_ceil(S::SLOT));
            let (now, later) = rest.split_at(run);
            self.memory.write_each(self.slot(self.sent), S::SLOT, now);
            self.sent = self.sent.wrapping_add(run as u32);
            self.show();
            rest = later;
        }
        count
    }

    /// Lets the peer see everything pushed so far.
    #[inline]
    fn show(&mut self) {
        self.memory.word(Self::OWN_PROD).store(self.sent, Release);
        self.published = self.sent;
    }

    /// Shows the peer everything pushed so far, and says whether it asked for an event at any of it.
    #[inline]
    pub fn publish(&mut self) -> Notify {
        let (old, new) = (self.told, self.sent);
        if old == new || self.poison.is_some() {
            return Notify::Hold;
        }
        if self.published != new {
            self.show();
        }
        self.told = new;
        // Against the peer's final_check: it stores its event index, then reads our producer. With a full fence
        // between store and load on both sides, at least one of the two sees the other.
        fence(SeqCst);
        let event = self.memory.word(Self::PEER_EVENT).load(Relaxed);
        if new.wrapping_sub(event) < new.wrapping_sub(old) { Notify::Send } else { Notify::Hold }
    }

    /// Before sleeping: asks for an event at the next entry, then looks once more. True: do not sleep.
    pub fn final_check(&mut self) -> Result<bool, Corrupt> {
        self.final_check_after(1)
    }

    /// As [`final_check`](Self::final_check), but for a half that needs several entries: true if they are there, else
    /// the event comes with the `entries`-th from here. `entries` is at least 1 and at most what the peer is sure to
    /// send: fewer bring no event.
    pub fn final_check_after(&mut self, entries: u32) -> Result<bool, Corrupt> {
        if self.refresh()? >= entries {
            return Ok(true);
        }
        self.memory.word(Self::OWN_EVENT).store(self.taken.wrapping_add(entries), Relaxed);
        fence(SeqCst);
        Ok(self.refresh()? >= entries)
    }
}

#[cfg(all(test, not(loom)))]
impl<M: RingMemory, C: RingClass> Front<M, C> {
    /// A front that has run until both indices are `start`.
    pub(crate) fn resume_for_test(memory: M, start: u32) -> Self {
        Self::over(memory, start).unwrap()
    }
}
