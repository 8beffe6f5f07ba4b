//! A RAM disk: sectors in this domain's memory, moved by the hypervisor's copies.

use crate::medium::{Busy, Copy, CopyGrants, Done, Geometry, Io, Medium, Token};
use alloc::{collections::VecDeque, vec::Vec};
use ring_proto::blk::{Direction, SECTOR};
use ring_proto::memory::RingMemory;

const PAGE: usize = 4096;
/// Most copies of one hypercall's batch.
const BATCH: usize = 512;

/// A disk in memory.
pub struct Ram<G: CopyGrants> {
    memory: G::Memory,
    grants: G,
    copies: Vec<Copy>,
    /// Operations whose copies are queued: how many copies each has.
    queued: Vec<(Token, usize)>,
    done: VecDeque<Done>,
    /// Hypercalls made for transfers.
    hypercalls: u64,
}

impl<G: CopyGrants> core::fmt::Debug for Ram<G> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Ram({} bytes)", self.memory.len())
    }
}

impl<G: CopyGrants> Ram<G> {
    /// A disk that holds what `memory` holds.
    pub fn new(memory: G::Memory, grants: G) -> Self {
        let (copies, queued, done) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { memory, grants, copies, queued, done, hypercalls: 0 }
    }

    /// The memory.
    pub fn memory(&self) -> &G::Memory {
        &self.memory
    }

    /// Hypercalls made for transfers so far.
    pub fn hypercalls(&self) -> u64 {
        self.hypercalls
    }

    fn zero(&self, start: usize, end: usize) {
        for at in (start..end).step_by(PAGE) {
            let zeros = [0; PAGE];
            self.memory.write(at, zeros.get(..end - at).unwrap_or(&zeros));
        }
    }
}

/// Where a sector begins, in bytes.
fn offset(sector: u64) -> Option<usize> {
    usize::try_from(sector.checked_mul(u64::from(SECTOR))?).ok()
}

impl<G: CopyGrants> Medium for Ram<G> {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.memory.len() as u64 / u64::from(SECTOR),
            physical_sector: PAGE as u32,
            read_only: false,
            discard: true,
            maps: false,
            max_segments: 256,
        }
    }

    fn submit(&mut self, token: Token, io: Io<'_>) -> Result<(), Busy> {
        match io {
            Io::Transfer { direction, sector, peer, segments, .. } => {
                if self.copies.len() + segments.len() > BATCH {
                    return Err(Busy);
                }
                let Some(mut local) = offset(sector) else {
                    self.done.push_back(Done::of(token));
                    return Ok(());
                };
                for segment in segments {
                    self.copies.push(Copy {
                        peer,
                        grant: segment.grant,
                        offset: segment.offset,
                        len: segment.len,
                        local,
                        to_peer: direction == Direction::Read,
                        done: false,
                    });
                    local += usize::from(segment.len);
                }
                self.queued.push((token, segments.len()));
            }
            // Memory is as durable as it gets.
            Io::Flush => self.done.push_back(Done { success: true, ..Done::of(token) }),
            Io::Discard { sector, count } => {
                let range = offset(sector).zip(offset(sector.saturating_add(count)));
                let range = range.filter(|(_, end)| *end <= self.memory.len());
                let success = range.map(|(start, end)| self.zero(start, end)).is_some();
                self.done.push_back(Done { success, ..Done::of(token) });
            }
        }
        Ok(())
    }

    fn kick(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        self.hypercalls += 1;
        self.grants.copy(&self.memory, &mut self.copies);
        let mut results = self.copies.drain(..);
        for (token, count) in self.queued.drain(..) {
            let (mut success, mut copied) = (true, 0);
            for copy in results.by_ref().take(count) {
                success &= copy.done;
                copied += if copy.done { u64::from(copy.len) } else { 0 };
            }
            self.done.push_back(Done { success, copied, ..Done::of(token) });
        }
    }

    fn completed(&mut self) -> Option<Done> {
        self.done.pop_front()
    }
}

/// The bytes that `SIZE` of `ram:SIZE` names: a number with K, M or G behind it.
pub fn parse_size(text: &str) -> Option<u64> {
    let unit = match text.as_bytes().last()? {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => return None,
    };
    let number: u64 = ring_proto::path::decimal(text.get(..text.len() - 1)?)?;
    number.checked_mul(1 << unit).filter(|bytes| *bytes > 0)
}
