//! Copies by the hypervisor, page by page of our memory.

use abi::grant::GrantStatus;
use abi::{DomId, GrantRef, PAGE_SIZE};
use blkback::medium::{Copy, CopyGrants, ReadGrants};
use domain_rt::grant;
use domain_rt::grant::{CopyEnd, CopyRequest};
use domain_rt::page::Pages;
use ring_proto::memory::RingMemory;

/// The hypervisor's copies.
#[derive(Default)]
pub struct Copier(grant::Copier);

/// The parts of a copy, as consecutive pages of ours need not be consecutive frames: where in our memory, and bytes.
fn parts(copy: &Copy) -> impl Iterator<Item = (usize, u16)> {
    let end = copy.local + usize::from(copy.len);
    let border = (copy.local / PAGE_SIZE + 1) * PAGE_SIZE;
    let parts = [(copy.local, border.min(end)), (border, end)];
    parts.into_iter().filter(|(from, to)| from < to).map(|(from, to)| (from, (to - from) as u16))
}

impl CopyGrants for Copier {
    type Memory = Pages;

    fn copy(&mut self, local: &Pages, copies: &mut [Copy]) {
        let inside = |copy: &Copy| copy.local + usize::from(copy.len) <= local.len();
        let requests = copies.iter().filter(|copy| inside(copy)).flat_map(|copy| {
            parts(copy).map(move |(at, len)| {
                let theirs = CopyEnd::grant(copy.peer, copy.grant, copy.offset + (at - copy.local) as u16);
                let ours = CopyEnd::own(local, at);
                let (from, to) = if copy.to_peer { (ours, theirs) } else { (theirs, ours) };
                CopyRequest { from, to, len }
            })
        });
        self.0.run(requests);
        let mut statuses = self.0.statuses();
        for copy in copies.iter_mut() {
            let count = if inside(copy) { parts(copy).count() } else { 0 };
            let done = statuses.by_ref().take(count).filter(|status| *status == GrantStatus::OKAY).count();
            copy.done = count > 0 && done == count;
        }
    }
}

/// Small reads, through pages of ours.
pub struct Reader {
    pages: Pages,
    copier: grant::Copier,
}

impl Reader {
    /// Reads arrive in `pages`.
    pub fn new(pages: Pages) -> Self {
        Self { pages, copier: grant::Copier::default() }
    }
}

impl ReadGrants for Reader {
    fn read(&mut self, peer: DomId, pages: &[GrantRef], out: &mut [u8]) -> bool {
        if out.len() > self.pages.len() || out.len().div_ceil(PAGE_SIZE) != pages.len() {
            return false;
        }
        let request = |(index, page): (usize, &GrantRef)| CopyRequest {
            from: CopyEnd::grant(peer, *page, 0),
            to: CopyEnd::own(&self.pages, index * PAGE_SIZE),
            len: (out.len() - index * PAGE_SIZE).min(PAGE_SIZE) as u16,
        };
        self.copier.run(pages.iter().enumerate().map(request));
        let done = self.copier.statuses().all(|status| status == GrantStatus::OKAY);
        if done {
            self.pages.read(0, out);
        }
        done
    }
}
