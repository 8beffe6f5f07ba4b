//! Our memory in units, and packets that lie in it.

use crate::platform::{Piece, Place};
use alloc::rc::Rc;
use alloc::vec::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::net::MAX_PACKET;

/// Bytes of a unit: half a page, so a frame of a usual network fits and none leaves its page.
pub const UNIT: usize = 2048;

/// Units before the first packet's: two pages, for the headers of guests' packets on their way in and to the NIC.
const RESERVED: u16 = (2 * crate::platform::PAGE / UNIT) as u16;
/// Most units of a packet.
const MOST: usize = MAX_PACKET.div_ceil(UNIT);

/// The units that are free.
#[derive(Debug)]
pub struct Pool {
    free: Vec<u16>,
}

/// A packet in our memory. Given back to the pool with [`Pool::free`].
#[must_use]
#[derive(Debug)]
pub struct Frame {
    units: heapless::Vec<u16, MOST>,
    len: usize,
}

fn offset(unit: u16) -> usize {
    usize::from(unit) * UNIT
}

impl Pool {
    /// The units of a memory of `bytes`, except those of its first two pages.
    pub fn new(bytes: usize) -> Self {
        let units = u16::try_from(bytes / UNIT).unwrap_or(u16::MAX);
        Self { free: (RESERVED..units).rev().collect() }
    }

    /// Units that are free.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Room for a packet of `len` bytes, at most [`MAX_PACKET`], or `None`.
    pub fn allocate(&mut self, len: usize) -> Option<Frame> {
        let count = len.div_ceil(UNIT);
        let rest = self.free.len().checked_sub(count)?;
        let units = heapless::Vec::from_slice(self.free.get(rest..)?).ok()?;
        self.free.truncate(rest);
        Some(Frame { units, len })
    }

    /// Takes a packet's memory back.
    pub fn free(&mut self, frame: Frame) {
        self.free.extend(frame.units);
    }

    /// Takes back the memory of a packet that nobody else uses any more.
    pub fn release(&mut self, frame: Rc<Frame>) {
        if let Ok(frame) = Rc::try_unwrap(frame) {
            self.free(frame);
        }
    }

    /// One unit for the NIC to receive into: its offset.
    pub fn take_unit(&mut self) -> Option<usize> {
        self.free.pop().map(offset)
    }

    /// The packet of `len` bytes that the NIC put into the unit at `at`.
    pub fn received(at: usize, len: usize) -> Frame {
        Frame { units: core::iter::once((at / UNIT) as u16).collect(), len: len.min(UNIT) }
    }
}

impl Frame {
    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs of bytes that are `len` bytes from `start` on.
    pub fn pieces(&self, start: usize, len: usize) -> impl Iterator<Item = Piece> {
        let end = self.len.min(start.saturating_add(len));
        let first = start / UNIT;
        self.units.iter().enumerate().skip(first).map_while(move |(index, unit)| {
            let from = start.max(index * UNIT);
            let to = end.min((index + 1) * UNIT);
            let len = to.checked_sub(from).filter(|len| *len > 0)?;
            Some(Piece { place: Place::Own(offset(*unit) + from % UNIT), len: len as u16 })
        })
    }

    /// Copies out from `start` on; as much as there is.
    pub fn read(&self, memory: &impl RingMemory, start: usize, out: &mut [u8]) -> usize {
        let mut rest = out;
        let mut count = 0;
        for Piece { place, len } in self.pieces(start, rest.len()) {
            let (now, later) = core::mem::take(&mut rest).split_at_mut(len.into());
            if let Place::Own(at) = place {
                memory.read(at, now);
            }
            count += now.len();
            rest = later;
        }
        count
    }

    /// Writes from `start` on; as much as there is room for.
    pub fn write(&self, memory: &impl RingMemory, start: usize, data: &[u8]) {
        let mut rest = data;
        for Piece { place, len } in self.pieces(start, rest.len()) {
            let (now, later) = rest.split_at(len.into());
            if let Place::Own(at) = place {
                memory.write(at, now);
            }
            rest = later;
        }
    }
}
