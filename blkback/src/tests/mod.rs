//! The backend against ring-proto's peers, on the host.

mod hostile;
mod order;
mod persistent;
mod serve;
mod tables;

use crate::kept::Page;
use crate::medium::{Copy, CopyGrants, Geometry, ReadGrants};
use crate::ram::Ram;
use crate::virtio::{BlockDevice, Command, Finished};
use abi::{DomId, GrantRef};
use ring_proto::blk::{Direction, Segment};
use ring_proto::memory::RingMemory;
use ring_proto::peers::{Pages, Rng};
use ring_proto::words::WordMemory;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::vec::Vec;

/// The hypervisor's copies, from the pages of guests by their number, and what it was asked to do.
#[derive(Clone, Default)]
pub struct Grants(pub Rc<RefCell<Vec<(DomId, Pages)>>>, pub Rc<RefCell<Work>>);

/// Work of the hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of data copied, where it was possible, and of lists of segments.
    pub copied: u64,
    pub lists: u64,
    /// Pages mapped for a device.
    pub mapped: u64,
    /// Hypercalls for all of it.
    pub calls: u64,
}

impl Grants {
    pub fn guest(&self, dom: u16) -> Pages {
        let pages = Pages::default();
        self.0.borrow_mut().push((DomId(dom), pages.clone()));
        pages
    }
    fn of(&self, dom: DomId) -> Pages {
        let guests = self.0.borrow();
        guests.iter().find(|(id, _)| *id == dom).map(|(_, pages)| pages.clone()).expect("a guest")
    }
}

impl CopyGrants for Grants {
    type Memory = Arc<WordMemory>;
    fn copy(&mut self, local: &Arc<WordMemory>, copies: &mut [Copy]) {
        self.1.borrow_mut().calls += 1;
        for copy in copies {
            let mut bytes = std::vec![0; copy.len.into()];
            let (pages, offset) = (self.of(copy.peer), copy.offset.into());
            let result = if copy.to_peer {
                local.read(copy.local, &mut bytes);
                pages.copy_to(copy.grant, offset, &bytes)
            } else {
                pages.copy_from(copy.grant, offset, &mut bytes).map(|()| local.write(copy.local, &bytes))
            };
            copy.done = result.is_ok();
            self.1.borrow_mut().copied += if copy.done { u64::from(copy.len) } else { 0 };
        }
    }
}

impl ReadGrants for Grants {
    fn read(&mut self, peer: DomId, pages: &[GrantRef], out: &mut [u8]) -> bool {
        self.1.borrow_mut().calls += 1;
        let len = out.len() as u64;
        let mut chunks = out.chunks_mut(4096).zip(pages);
        let done = chunks.all(|(chunk, grant)| self.of(peer).copy_from(*grant, 0, chunk).is_ok());
        self.1.borrow_mut().lists += if done { len } else { 0 };
        done
    }
}

pub fn ram(grants: &Grants, sectors: u64) -> Ram<Grants> {
    Ram::new(WordMemory::new(sectors as usize * 512), grants.clone())
}

pub fn contents(memory: &Arc<WordMemory>) -> Vec<u8> {
    let mut bytes = std::vec![0; memory.len()];
    memory.read(0, &mut bytes);
    bytes
}

/// A page that a fake device has mapped; it notices when it is let go.
pub struct FakePage(Pages, GrantRef, Rc<RefCell<usize>>);

impl Drop for FakePage {
    fn drop(&mut self) {
        *self.2.borrow_mut() -= 1;
    }
}

/// A request: its tag, what it does, and its pages.
type Queued = (u16, Command, Vec<Segment>, Vec<Page<FakePage>>);

/// A device on memory that completes requests in random order, some of them later.
pub struct FakeDevice {
    pub grants: Grants,
    pub disk: Rc<RefCell<Vec<u8>>>,
    pub mapped: Rc<RefCell<usize>>,
    pub kicks: usize,
    size: usize,
    queued: Vec<Queued>,
    rng: Rng,
    /// How many completions may be had before the next kick or interrupt.
    pub budget: usize,
}

impl FakeDevice {
    pub fn new(grants: Grants, disk: Vec<u8>, size: usize, seed: u64) -> Self {
        let (disk, mapped) = (Rc::new(RefCell::new(disk)), Rc::default());
        Self { grants, disk, mapped, kicks: 0, size, queued: Vec::new(), rng: Rng(seed), budget: 0 }
    }

    pub fn geometry(&self) -> Geometry {
        let sectors = self.disk.borrow().len() as u64 / 512;
        Geometry { sectors, physical_sector: 512, read_only: false, discard: false, maps: true, max_segments: 62 }
    }
}

impl BlockDevice for FakeDevice {
    type Page = FakePage;

    fn map(&mut self, pages: &[(DomId, GrantRef, bool)], mapped: &mut Vec<Option<FakePage>>) {
        let map = |(dom, grant, writable): &(DomId, GrantRef, bool)| {
            let pages = self.grants.of(*dom);
            let mut byte = [0];
            pages.copy_from(*grant, 0, &mut byte).ok()?;
            if *writable {
                pages.copy_to(*grant, 0, &byte).ok()?;
            }
            *self.mapped.borrow_mut() += 1;
            self.grants.1.borrow_mut().mapped += 1;
            Some(FakePage(pages, *grant, self.mapped.clone()))
        };
        mapped.extend(pages.iter().map(map));
        self.grants.1.borrow_mut().calls += 1;
    }

    fn unmap(&mut self, pages: &mut Vec<FakePage>) {
        pages.clear();
        self.grants.1.borrow_mut().calls += 1;
    }

    fn room(&self) -> usize {
        self.size - self.queued.iter().map(|(_, _, segments, _)| segments.len() + 2).sum::<usize>()
    }

    fn entries(&self, pages: usize) -> usize {
        pages + 2
    }

    fn push(&mut self, tag: u16, command: Command, segments: &[Segment], pages: Vec<Page<FakePage>>) -> bool {
        assert!(self.room() >= self.entries(pages.len()), "room was promised");
        assert!(self.queued.iter().all(|other| other.0 != tag), "a tag in use once");
        self.queued.push((tag, command, segments.to_vec(), pages));
        true
    }

    fn kick(&mut self) {
        self.kicks += 1;
        self.budget = 1 + self.rng.below(8) as usize;
    }

    fn pop(&mut self) -> Option<Finished<FakePage>> {
        self.budget = self.budget.checked_sub(1)?;
        if self.queued.is_empty() {
            return None;
        }
        let index = self.rng.below(self.queued.len() as u64) as usize;
        let (tag, command, segments, pages) = self.queued.remove(index);
        let mut success = true;
        if let Command::Transfer(direction, sector) = command {
            let mut disk = self.disk.borrow_mut();
            let mut at = sector as usize * 512;
            for (segment, page) in segments.iter().zip(&pages) {
                let FakePage(guest, grant, _) = &**page;
                let bytes = &mut disk[at..at + usize::from(segment.len)];
                let done = match direction {
                    Direction::Read => guest.copy_to(*grant, segment.offset.into(), bytes),
                    Direction::Write => guest.copy_from(*grant, segment.offset.into(), bytes),
                };
                // The page of a grant that a guest ended while it is mapped is nobody's in this model.
                success &= done.is_ok();
                at += usize::from(segment.len);
            }
        }
        Some((tag, success, pages))
    }
}
