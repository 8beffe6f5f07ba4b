//! The byte ring of the console and the store: a power of two of bytes, a producer and a consumer index.
//!
//! There are no event words, so who must be told follows from the indices. A producer's event is needed if the
//! consumer had taken all that was there before; a consumer's if the producer had filled the ring. Both ends store
//! their index, fence, and only then read the other's, and both look again the same way before they sleep
//! ([`Consumer::final_check`], [`Producer::final_check`]), so no wake-up is lost. A foreign consumer may not look
//! again; for such a peer use [`Wake::Always`].

use crate::memory::RingMemory;
use crate::ring::{Corrupt, Notify};
use crate::sync::{Ordering::*, fence};

/// Where one byte ring lies in a shared page. Offsets and size in bytes; `size` is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLayout {
    /// First data byte.
    pub data: usize,
    /// Data bytes.
    pub size: u32,
    /// The consumer index.
    pub cons: usize,
    /// The producer index.
    pub prod: usize,
}

impl StreamLayout {
    /// Bytes of memory the layout needs.
    pub const fn end(&self) -> usize {
        let data = self.data + self.size as usize;
        let index = 4 + if self.cons > self.prod { self.cons } else { self.prod };
        if data > index { data } else { index }
    }
}

/// When a publication needs an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// After every change, for peers that do not look again before they sleep (Xen's console daemon).
    Always,
    /// Only when the peer may be asleep: it had drained, or filled, the ring.
    WhenIdle,
}

/// Contiguous range of ring bytes: offset in memory and length; a transfer has at most two.
fn ranges(layout: &StreamLayout, index: u32, count: u32) -> [(usize, usize); 2] {
    let at = index & (layout.size - 1);
    let first = count.min(layout.size - at);
    [(layout.data + at as usize, first as usize), (layout.data, (count - first) as usize)]
}

/// What both ends share: the memory, the end's own cursor, and the poison.
#[derive(Debug)]
struct End<M> {
    memory: M,
    layout: StreamLayout,
    wake: Wake,
    /// The end's own index, and that index when it was last published.
    own: u32,
    published: u32,
    poison: Option<Corrupt>,
}

impl<M: RingMemory> End<M> {
    fn new(memory: M, layout: StreamLayout, wake: Wake, own: usize) -> Self {
        assert!(layout.size.is_power_of_two() && memory.len() >= layout.end(), "a ring outside its memory");
        let own = memory.word(own).load(Acquire);
        Self { memory, layout, wake, own, published: own, poison: None }
    }

    /// Reads the peer's index once. It may lie at most `size` ahead of `from`.
    fn peer(&mut self, word: usize, from: u32) -> Result<u32, Corrupt> {
        if let Some(corrupt) = self.poison {
            return Err(corrupt);
        }
        let index = self.memory.word(word).load(Acquire);
        if index.wrapping_sub(from) <= self.layout.size {
            return Ok(index);
        }
        let corrupt = Corrupt::Index { index, from, ahead: self.layout.size };
        self.poison = Some(corrupt);
        Err(corrupt)
    }

    /// Publishes the own index; whether the peer, whose index is `other`, had nothing left to do at `idle_at`.
    fn publish(&mut self, own: usize, other: usize, idle_at: u32) -> Notify {
        if self.published == self.own || self.poison.is_some() {
            return Notify::Hold;
        }
        self.memory.word(own).store(self.own, Release);
        self.published = self.own;
        fence(SeqCst);
        let seen = self.memory.word(other).load(Relaxed);
        // Short of idle_at the peer still has work and looks again; an index out of range gets an event too many.
        let behind = idle_at.wrapping_sub(seen);
        let busy = (1..=self.layout.size).contains(&behind);
        if busy && self.wake == Wake::WhenIdle { Notify::Hold } else { Notify::Send }
    }
}

/// The writing end of a byte ring.
#[derive(Debug)]
pub struct Producer<M>(End<M>);

impl<M: RingMemory> Producer<M> {
    /// Takes the writing end, going on at the producer index found in memory.
    ///
    /// # Panics
    /// If the layout does not fit the memory: a fault of this program, not of a peer.
    pub fn new(memory: M, layout: StreamLayout, wake: Wake) -> Self {
        Self(End::new(memory, layout, wake, layout.prod))
    }

    /// Bytes that may be written now.
    pub fn room(&mut self) -> Result<u32, Corrupt> {
        // The consumer lies at most `size` behind the producer.
        let (size, own) = (self.0.layout.size, self.0.own);
        let cons = self.0.peer(self.0.layout.cons, own.wrapping_sub(size))?;
        Ok(size - own.wrapping_sub(cons))
    }

    /// Writes as much of `data` as fits; how many bytes. The peer sees them after [`publish`](Self::publish).
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Corrupt> {
        let count = data.len().min(self.room()? as usize);
        let mut rest = &data[..count];
        for (offset, len) in ranges(&self.0.layout, self.0.own, count as u32) {
            let (now, later) = rest.split_at(len);
            self.0.memory.write(offset, now);
            rest = later;
        }
        self.0.own = self.0.own.wrapping_add(count as u32);
        Ok(count)
    }

    /// Shows the consumer everything written so far.
    pub fn publish(&mut self) -> Notify {
        let old = self.0.published;
        let StreamLayout { prod, cons, .. } = self.0.layout;
        self.0.publish(prod, cons, old)
    }

    /// Before sleeping for room, with everything published: looks once more. True: there is room, do not sleep.
    pub fn final_check(&mut self) -> Result<bool, Corrupt> {
        // The fence is the one of the publication that went before.
        debug_assert_eq!(self.0.own, self.0.published, "publish before sleeping");
        Ok(self.room()? > 0)
    }

    /// Why this end is closed, if it is.
    pub fn poison(&self) -> Option<Corrupt> {
        self.0.poison
    }

    /// The memory under the ring.
    pub fn memory(&self) -> &M {
        &self.0.memory
    }
}

/// The reading end of a byte ring.
#[derive(Debug)]
pub struct Consumer<M>(End<M>);

impl<M: RingMemory> Consumer<M> {
    /// Takes the reading end, going on at the consumer index found in memory.
    ///
    /// # Panics
    /// If the layout does not fit the memory: a fault of this program, not of a peer.
    pub fn new(memory: M, layout: StreamLayout, wake: Wake) -> Self {
        Self(End::new(memory, layout, wake, layout.cons))
    }

    /// Bytes that may be read now.
    pub fn available(&mut self) -> Result<u32, Corrupt> {
        let own = self.0.own;
        Ok(self.0.peer(self.0.layout.prod, own)?.wrapping_sub(own))
    }

    /// Copies out as much as there is and `out` holds; how many bytes. The space is the producer's again after
    /// [`publish`](Self::publish).
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Corrupt> {
        let count = out.len().min(self.available()? as usize);
        let mut rest = &mut out[..count];
        for (offset, len) in ranges(&self.0.layout, self.0.own, count as u32) {
            let (now, later) = rest.split_at_mut(len);
            self.0.memory.read(offset, now);
            rest = later;
        }
        self.0.own = self.0.own.wrapping_add(count as u32);
        Ok(count)
    }

    /// Returns the space of everything read so far.
    pub fn publish(&mut self) -> Notify {
        let full = self.0.published.wrapping_add(self.0.layout.size);
        let StreamLayout { prod, cons, .. } = self.0.layout;
        self.0.publish(cons, prod, full)
    }

    /// Closes this end: what came through it breaks the protocol.
    pub fn close(&mut self, why: Corrupt) {
        self.0.poison.get_or_insert(why);
    }

    /// Before sleeping for data, with everything published: looks once more. True: there is some, do not sleep.
    pub fn final_check(&mut self) -> Result<bool, Corrupt> {
        // The fence is the one of the publication that went before.
        debug_assert_eq!(self.0.own, self.0.published, "publish before sleeping");
        Ok(self.available()? > 0)
    }

    /// Why this end is closed, if it is.
    pub fn poison(&self) -> Option<Corrupt> {
        self.0.poison
    }

    /// The memory under the ring.
    pub fn memory(&self) -> &M {
        &self.0.memory
    }
}
