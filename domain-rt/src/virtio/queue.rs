//! A split virtqueue (virtio 1.2, 2.7), safe and over any memory.
//!
//! Each of its three areas is one page, so a queue has at most 256 entries and its pages may lie anywhere. A request of
//! several buffers takes one entry where indirect descriptors were negotiated, else one a buffer. What the device
//! returns is checked: an id that is not in flight ends the queue's use.

use super::{Buffer, Direction};
use crate::page::{OutOfMemory, Pages};
use abi::Maddr;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use ring_proto::memory::RingMemory;

/// Most entries: a page of descriptors.
const MAX_SIZE: u16 = 256;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// `avail.flags` and `used.flags`: do not tell me.
const NO_EVENT: u32 = 1;

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// Too few entries are free; some come back as requests complete.
    Full,
    /// No buffer, or more than a request may have.
    BadRequest,
    /// The device broke the protocol; the queue is of no more use.
    Broken,
}

/// A completed request.
#[derive(Debug)]
pub struct Used<T> {
    /// What came with it.
    pub owner: T,
    /// Bytes the device wrote, at most what its writable buffers hold.
    pub written: u32,
}

/// A request in flight.
#[derive(Debug)]
struct InFlight<T> {
    owner: T,
    /// Entries it takes.
    entries: u16,
    /// Bytes the device may write.
    writable: u32,
}

/// A queue whose requests own what their buffers name, as `T`, until they complete.
#[derive(Debug)]
pub struct Queue<T, M = Pages> {
    size: u16,
    descriptors: M,
    avail: M,
    used: M,
    /// A table of indirect descriptors an entry, made when first needed; empty where they were not negotiated.
    tables: Vec<Option<M>>,
    make: fn() -> Result<M, OutOfMemory>,
    maddr: fn(&M) -> Maddr,
    /// First of the free entries, which are chained by `next`; and how many.
    free: u16,
    next: Vec<u16>,
    room: u16,
    in_flight: Vec<Option<InFlight<T>>>,
    event_index: bool,
    /// `avail.idx`, and what of it the device was shown.
    added: u16,
    published: u16,
    taken: u16,
    broken: bool,
}

/// Whether passing `event` on the way from `old` to `new` was asked for.
fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

impl<T> Queue<T> {
    /// A queue of at most `limit` entries, a power of two as the device gave it.
    pub(super) fn new(limit: u16, indirect: bool, event_index: bool) -> Result<Self, OutOfMemory> {
        Self::over(limit, indirect, event_index, || Pages::new(1), |page| page.maddr(0))
    }
}

impl<T, M: RingMemory> Queue<T, M> {
    fn over(
        limit: u16,
        indirect: bool,
        event_index: bool,
        make: fn() -> Result<M, OutOfMemory>,
        maddr: fn(&M) -> Maddr,
    ) -> Result<Self, OutOfMemory> {
        let size = limit.clamp(1, MAX_SIZE);
        let size = if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 };
        let tables = if indirect { (0..size).map(|_| None).collect() } else { Vec::new() };
        let queue = Self {
            size,
            descriptors: make()?,
            avail: make()?,
            used: make()?,
            tables,
            make,
            maddr,
            free: 0,
            next: (1..=size).collect(),
            room: size,
            in_flight: (0..size).map(|_| None).collect(),
            event_index,
            added: 0,
            published: 0,
            taken: 0,
            broken: false,
        };
        Ok(queue)
    }

    /// Entries, and the machine addresses of descriptors, available ring and used ring.
    pub(super) fn areas(&self) -> (u16, [Maddr; 3]) {
        (self.size, [&self.descriptors, &self.avail, &self.used].map(self.maddr))
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Free entries. A request takes one, or without indirect descriptors one a buffer.
    pub fn room(&self) -> u16 {
        self.room
    }

    /// Most buffers of one request.
    pub fn max_buffers(&self) -> usize {
        if self.tables.is_empty() { self.size.into() } else { MAX_SIZE.into() }
    }

    /// Adds a request; those the device reads come first. `owner` keeps the buffers' memory and comes back with the
    /// completion. On an error it comes back at once.
    pub fn push(&mut self, buffers: &[Buffer], owner: T) -> Result<(), (QueueError, T)> {
        if self.broken {
            return Err((QueueError::Broken, owner));
        }
        if buffers.is_empty() || buffers.len() > self.max_buffers() {
            return Err((QueueError::BadRequest, owner));
        }
        let indirect = buffers.len() > 1 && !self.tables.is_empty();
        let entries = if indirect { 1 } else { buffers.len() as u16 };
        if entries > self.room {
            return Err((QueueError::Full, owner));
        }
        let head = self.free;
        if indirect {
            if self.fill_table(head, buffers).is_err() {
                return Err((QueueError::Full, owner));
            }
        } else {
            self.fill_chain(head, buffers);
        }
        let last = (1..entries).fold(head, |entry, _| self.next[usize::from(entry)]);
        self.free = self.next[usize::from(last)];
        self.room -= entries;
        let written = buffers.iter().filter(|buffer| buffer.direction == Direction::FromDevice);
        let writable = written.map(|buffer| buffer.len).sum();
        self.in_flight[usize::from(head)] = Some(InFlight { owner, entries, writable });
        self.avail.write(4 + 2 * usize::from(self.added & (self.size - 1)), &head.to_le_bytes());
        self.added = self.added.wrapping_add(1);
        Ok(())
    }

    fn fill_table(&mut self, head: u16, buffers: &[Buffer]) -> Result<(), OutOfMemory> {
        let slot = &mut self.tables[usize::from(head)];
        if slot.is_none() {
            *slot = Some((self.make)()?);
        }
        if let Some(table) = slot {
            for (index, buffer) in buffers.iter().enumerate() {
                let more = index + 1 < buffers.len();
                let next = more.then_some(index as u16 + 1);
                write_descriptor(table, index, buffer, next);
            }
            let address = (self.maddr)(table);
            let len = (buffers.len() * DESCRIPTOR) as u32;
            write_entry(&self.descriptors, head.into(), address, len, INDIRECT, 0);
        }
        Ok(())
    }

    fn fill_chain(&mut self, head: u16, buffers: &[Buffer]) {
        let mut entry = head;
        for (index, buffer) in buffers.iter().enumerate() {
            let next = self.next[usize::from(entry)];
            let more = index + 1 < buffers.len();
            write_descriptor(&self.descriptors, entry.into(), buffer, more.then_some(next));
            entry = next;
        }
    }

    /// Shows the device what was pushed; whether it asked to be notified of that.
    #[must_use = "a device that waits for a notification sleeps for good without it"]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.added);
        if old == new {
            return false;
        }
        let flags = self.avail.word(0).load(Ordering::Relaxed) & 0xffff;
        self.avail.word(0).store(flags | u32::from(new) << 16, Ordering::Release);
        self.published = new;
        fence(Ordering::SeqCst);
        if self.event_index {
            let mut event = [0; 2];
            self.used.read(4 + 8 * usize::from(self.size), &mut event);
            crossed(u16::from_le_bytes(event), new, old)
        } else {
            self.used.word(0).load(Ordering::Relaxed) & NO_EVENT == 0
        }
    }

    /// Completions that are there.
    fn waiting(&self) -> u16 {
        ((self.used.word(0).load(Ordering::Acquire) >> 16) as u16).wrapping_sub(self.taken)
    }

    /// The next completed request, if there is one.
    pub fn pop(&mut self) -> Result<Option<Used<T>>, QueueError> {
        if self.broken {
            return Err(QueueError::Broken);
        }
        match self.waiting() {
            0 => return Ok(None),
            count if count > self.size => return Err(self.give_up()),
            _ => {}
        }
        let slot = 4 + 8 * usize::from(self.taken & (self.size - 1));
        let id = self.used.word(slot).load(Ordering::Relaxed);
        let written = self.used.word(slot + 4).load(Ordering::Relaxed);
        let done = self.in_flight.get_mut(id as usize).and_then(Option::take);
        let Some(InFlight { owner, entries, writable }) = done else { return Err(self.give_up()) };
        let head = id as u16;
        let last = (1..entries).fold(head, |entry, _| self.next[usize::from(entry)]);
        self.next[usize::from(last)] = self.free;
        self.free = head;
        self.room += entries;
        self.taken = self.taken.wrapping_add(1);
        // Some devices report a length also for what they only read.
        Ok(Some(Used { owner, written: written.min(writable) }))
    }

    fn give_up(&mut self) -> QueueError {
        self.broken = true;
        QueueError::Broken
    }

    /// Before waiting for the interrupt: asks for one at the next completion, then looks once more. True: there is
    /// one, do not wait.
    pub fn final_check(&mut self) -> bool {
        if self.event_index {
            self.avail.write(4 + 2 * usize::from(self.size), &self.taken.to_le_bytes());
        } else {
            self.set_flags(0);
        }
        fence(Ordering::SeqCst);
        self.waiting() != 0
    }

    /// While polling: no interrupts, please.
    pub fn suppress(&mut self) {
        if !self.event_index {
            self.set_flags(NO_EVENT);
        }
    }

    fn set_flags(&mut self, flags: u32) {
        self.avail.word(0).store(flags | u32::from(self.published) << 16, Ordering::Relaxed);
    }

    /// Gives back what is in flight. Only once the device was reset: until then it may still use the memory.
    pub(super) fn abandon(&mut self) -> Vec<T> {
        self.broken = true;
        self.in_flight.iter_mut().filter_map(Option::take).map(|request| request.owner).collect()
    }
}

fn write_descriptor(table: &impl RingMemory, index: usize, buffer: &Buffer, next: Option<u16>) {
    let write = if buffer.direction == Direction::FromDevice { WRITE } else { 0 };
    let flags = write | if next.is_some() { NEXT } else { 0 };
    write_entry(table, index, buffer.address, buffer.len, flags, next.unwrap_or(0));
}

fn write_entry(table: &impl RingMemory, index: usize, address: Maddr, len: u32, flags: u16, next: u16) {
    let value = u128::from(address.0) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
    table.write(index * DESCRIPTOR, &value.to_le_bytes());
}

/// Memory that a device may still write is never used again, unless the device was reset
/// ([`VirtioPci::reset`](super::VirtioPci::reset)) and what was in flight given back.
impl<T, M> Drop for Queue<T, M> {
    fn drop(&mut self) {
        if self.in_flight.iter().any(Option::is_some) {
            core::mem::take(&mut self.in_flight).into_iter().for_each(core::mem::forget);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use ring_proto::words::WordMemory;

    type Memory = Arc<WordMemory>;

    fn queue(size: u16, indirect: bool, event_index: bool) -> Queue<u32, Memory> {
        let address = |memory: &Memory| Maddr(Arc::as_ptr(memory) as usize as u64);
        Queue::over(size, indirect, event_index, || Ok(WordMemory::new(4096)), address).unwrap()
    }

    fn buffer(address: u64, len: u32, direction: Direction) -> Buffer {
        Buffer { address: Maddr(address), len, direction }
    }

    /// The device's side: what it was shown, and completing it.
    struct Device {
        seen: u16,
        done: u16,
    }

    impl Device {
        fn take(&mut self, queue: &Queue<u32, Memory>) -> Option<u16> {
            let index = (queue.avail.word(0).load(Ordering::Acquire) >> 16) as u16;
            if index == self.seen {
                return None;
            }
            let mut head = [0; 2];
            queue.avail.read(4 + 2 * usize::from(self.seen % queue.size), &mut head);
            self.seen = self.seen.wrapping_add(1);
            Some(u16::from_le_bytes(head))
        }

        fn complete(&mut self, queue: &Queue<u32, Memory>, id: u32, len: u32) {
            let slot = 4 + 8 * usize::from(self.done % queue.size);
            queue.used.word(slot).store(id, Ordering::Relaxed);
            queue.used.word(slot + 4).store(len, Ordering::Relaxed);
            self.done = self.done.wrapping_add(1);
            queue.used.word(0).store(u32::from(self.done) << 16, Ordering::Release);
        }
    }

    fn descriptor(memory: &Memory, index: u16) -> (u64, u32, u16, u16) {
        let mut bytes = [0; 16];
        memory.read(usize::from(index) * DESCRIPTOR, &mut bytes);
        let value = u128::from_le_bytes(bytes);
        (value as u64, (value >> 64) as u32, (value >> 96) as u16, (value >> 112) as u16)
    }

    #[test]
    fn chains_run_round_the_ring_for_a_long_time() {
        let mut queue = queue(8, false, false);
        let mut device = Device { seen: 0, done: 0 };
        for round in 0..100_000u32 {
            let buffers = [
                buffer(0x1000, 16, Direction::ToDevice),
                buffer(0x2000, 512, Direction::FromDevice),
                buffer(0x3000, 1, Direction::FromDevice),
            ];
            queue.push(&buffers, round).unwrap();
            assert!(queue.publish());
            let head = device.take(&queue).unwrap();
            let (address, len, flags, next) = descriptor(&queue.descriptors, head);
            assert_eq!((address, len, flags), (0x1000, 16, NEXT));
            let (address, len, flags, next) = descriptor(&queue.descriptors, next);
            assert_eq!((address, len, flags), (0x2000, 512, NEXT | WRITE));
            assert_eq!(descriptor(&queue.descriptors, next).2, WRITE);
            device.complete(&queue, head.into(), 513);
            let used = queue.pop().unwrap().unwrap();
            assert_eq!((used.owner, used.written), (round, 513));
            assert_eq!(queue.room(), 8);
        }
    }

    #[test]
    fn entries_completed_out_of_order_are_all_free_again() {
        let mut queue = queue(4, false, false);
        let mut device = Device { seen: 0, done: 0 };
        let pair = [buffer(1, 1, Direction::ToDevice), buffer(2, 2, Direction::FromDevice)];
        queue.push(&pair, 1).unwrap();
        queue.push(&pair, 2).unwrap();
        assert_eq!(queue.push(&pair, 3), Err((QueueError::Full, 3)));
        let _ = queue.publish();
        let heads = [device.take(&queue).unwrap(), device.take(&queue).unwrap()];
        device.complete(&queue, heads[1].into(), 0);
        assert_eq!(queue.pop().unwrap().unwrap().owner, 2);
        queue.push(&pair, 4).unwrap();
        let _ = queue.publish();
        device.complete(&queue, heads[0].into(), 0);
        assert_eq!(queue.pop().unwrap().unwrap().owner, 1);
        let head = device.take(&queue).unwrap();
        device.complete(&queue, head.into(), 0);
        assert_eq!(queue.pop().unwrap().unwrap().owner, 4);
        assert_eq!((queue.room(), queue.pop().unwrap().is_none()), (4, true));
    }

    #[test]
    fn indirect_requests_take_one_entry() {
        let mut queue = queue(2, true, false);
        let many: Vec<_> = (0..100).map(|i| buffer(i * 4096, 4096, Direction::ToDevice)).collect();
        queue.push(&many, 1).unwrap();
        assert_eq!(queue.room(), 1);
        let _ = queue.publish();
        let head = Device { seen: 0, done: 0 }.take(&queue).unwrap();
        let (_, len, flags, _) = descriptor(&queue.descriptors, head);
        assert_eq!((len, flags), (1600, INDIRECT));
        let table = queue.tables[usize::from(head)].clone().unwrap();
        assert_eq!(descriptor(&table, 98), (98 * 4096, 4096, NEXT, 99));
        assert_eq!(descriptor(&table, 99), (99 * 4096, 4096, 0, 0));
        let too_many = alloc::vec![many[0]; 257];
        assert_eq!(queue.push(&too_many, 2), Err((QueueError::BadRequest, 2)));
        assert_eq!(queue.push(&[], 2), Err((QueueError::BadRequest, 2)));
        assert_eq!(queue.abandon(), [1]);
    }

    #[test]
    fn a_device_that_lies_ends_the_queue() {
        for (id, twice) in [(5, false), (9999, false), (u32::MAX, false), (0, true)] {
            let mut queue = queue(4, false, false);
            let mut device = Device { seen: 0, done: 0 };
            queue.push(&[buffer(1, 1, Direction::ToDevice)], 7).unwrap();
            let _ = queue.publish();
            device.complete(&queue, id, 0);
            if twice {
                assert!(queue.pop().unwrap().is_some());
                device.complete(&queue, id, 0);
            }
            assert_eq!(queue.pop().unwrap_err(), QueueError::Broken);
            assert_eq!(queue.push(&[buffer(1, 1, Direction::ToDevice)], 8), Err((QueueError::Broken, 8)));
            queue.abandon();
        }
        let mut queue = queue(4, false, false);
        queue.used.word(0).store(5 << 16, Ordering::Relaxed);
        assert_eq!(queue.pop().unwrap_err(), QueueError::Broken);
    }

    #[test]
    fn a_length_beyond_the_buffers_is_cut() {
        let mut queue = queue(4, false, false);
        queue.push(&[buffer(1, 100, Direction::FromDevice)], 7).unwrap();
        let _ = queue.publish();
        Device { seen: 0, done: 0 }.complete(&queue, 0, 5000);
        assert_eq!(queue.pop().unwrap().unwrap().written, 100);
    }

    #[test]
    fn notifications_follow_the_event_index() {
        let mut queue = queue(8, false, true);
        let one = [buffer(1, 1, Direction::ToDevice)];
        let event_at = |queue: &Queue<u32, Memory>, at: u16| queue.used.write(4 + 8 * 8, &at.to_le_bytes());
        event_at(&queue, 1);
        queue.push(&one, 0).unwrap();
        assert!(!queue.publish(), "asked from the second on");
        queue.push(&one, 1).unwrap();
        assert!(queue.publish());
        assert!(!queue.publish(), "nothing new");
        assert!(!queue.final_check());
        let mut event = [9; 2];
        queue.avail.read(4 + 2 * 8, &mut event);
        assert_eq!(event, [0; 2]);
        queue.abandon();
    }

    #[test]
    fn without_it_they_follow_the_flags() {
        let mut queue = queue(8, false, false);
        queue.used.word(0).store(NO_EVENT, Ordering::Relaxed);
        queue.push(&[buffer(1, 1, Direction::ToDevice)], 0).unwrap();
        assert!(!queue.publish());
        queue.suppress();
        assert_eq!(queue.avail.word(0).load(Ordering::Relaxed), 1 << 16 | NO_EVENT);
        assert!(!queue.final_check());
        assert_eq!(queue.avail.word(0).load(Ordering::Relaxed), 1 << 16);
        queue.abandon();
    }
}
