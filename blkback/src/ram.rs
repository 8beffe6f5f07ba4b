//! A RAM disk: sectors in this domain's memory, moved by the hypervisor's copies.

use crate::medium::{Busy, Copy, CopyGrants, Geometry, Io, Medium, Token};
use alloc::{collections::VecDeque, vec::Vec};
use ring_proto::blk::{Direction, SECTOR};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const PAGE: usize = 4096;
/// Most copies of one hypercall's batch.
const BATCH: usize = 512;

/// A page at a page's address, so that a page copied is one copy.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// A disk in memory, zeroed.
pub struct Ram<G> {
    pages: Vec<Page>,
    grants: G,
    copies: Vec<Copy>,
    /// Operations whose copies are queued: how many copies each has.
    queued: Vec<(Token, usize)>,
    done: VecDeque<(Token, bool)>,
    /// Hypercalls made for transfers.
    hypercalls: u64,
}

impl<G> core::fmt::Debug for Ram<G> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Ram({} pages)", self.pages.len())
    }
}

impl<G: CopyGrants> Ram<G> {
    /// A disk of `bytes` bytes, rounded down to whole pages. `None` if there is not so much memory.
    pub fn new(bytes: u64, grants: G) -> Option<Self> {
        let count = usize::try_from(bytes).ok()? / PAGE;
        let mut pages = Vec::new();
        pages.try_reserve_exact(count).ok()?;
        pages.resize(count, Page([0; PAGE]));
        let (copies, queued, done) = (Vec::new(), Vec::new(), VecDeque::new());
        Some(Self { pages, grants, copies, queued, done, hypercalls: 0 })
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        self.pages.as_bytes()
    }

    /// The contents, to be filled before anyone uses them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_bytes()
    }

    /// Hypercalls made for transfers so far.
    pub fn hypercalls(&self) -> u64 {
        self.hypercalls
    }
}

/// Where a sector begins, in bytes.
fn offset(sector: u64) -> Option<usize> {
    usize::try_from(sector.checked_mul(u64::from(SECTOR))?).ok()
}

impl<G: CopyGrants> Medium for Ram<G> {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: (self.pages.len() * PAGE) as u64 / u64::from(SECTOR),
            physical_sector: PAGE as u32,
            read_only: false,
            discard: true,
            max_segments: 256,
        }
    }

    fn submit(&mut self, token: Token, io: Io<'_>) -> Result<(), Busy> {
        match io {
            Io::Transfer { direction, sector, peer, segments } => {
                if self.copies.len() + segments.len() > BATCH {
                    return Err(Busy);
                }
                let Some(mut local) = offset(sector) else {
                    self.done.push_back((token, false));
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
            Io::Flush => self.done.push_back((token, true)),
            Io::Discard { sector, count } => {
                let range = offset(sector).zip(offset(sector.saturating_add(count)));
                let bytes = range.and_then(|(start, end)| self.pages.as_mut_bytes().get_mut(start..end));
                let success = bytes.map(|bytes| bytes.fill(0)).is_some();
                self.done.push_back((token, success));
            }
        }
        Ok(())
    }

    fn kick(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        self.hypercalls += 1;
        self.grants.copy(self.pages.as_mut_bytes(), &mut self.copies);
        let mut results = self.copies.drain(..);
        for (token, count) in self.queued.drain(..) {
            let success = results.by_ref().take(count).fold(true, |all, copy| all && copy.done);
            self.done.push_back((token, success));
        }
    }

    fn completed(&mut self) -> Option<(Token, bool)> {
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
