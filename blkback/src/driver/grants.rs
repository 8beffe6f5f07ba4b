//! Copies by the hypervisor, page by page of our memory.

use abi::grant::GrantStatus;
use abi::{DomId, GrantRef, PAGE_SIZE};
use alloc::vec::Vec;
use blkback::medium::{Copy, CopyGrants, ReadGrants};
use domain_rt::grant::{CopyEnd, CopyRequest, copy};
use domain_rt::page::Pages;
use ring_proto::memory::RingMemory;

/// The hypervisor's copies.
pub struct Copier;

impl CopyGrants for Copier {
    type Memory = Pages;

    fn copy(&mut self, local: &Pages, copies: &mut [Copy]) {
        let mut requests = Vec::with_capacity(copies.len());
        let mut owners = Vec::with_capacity(copies.len());
        for (owner, copy) in copies.iter_mut().enumerate() {
            let end = copy.local + usize::from(copy.len);
            copy.done = end <= local.len();
            let mut at = copy.local;
            // Consecutive pages of ours need not be consecutive frames.
            while copy.done && at < end {
                let len = (end - at).min(PAGE_SIZE - at % PAGE_SIZE) as u16;
                let theirs = CopyEnd::Grant(copy.peer, copy.grant, copy.offset + (at - copy.local) as u16);
                let ours = CopyEnd::Own(local, at);
                let (from, to) = if copy.to_peer { (ours, theirs) } else { (theirs, ours) };
                requests.push(CopyRequest { from, to, len });
                owners.push(owner);
                at += usize::from(len);
            }
        }
        for (owner, status) in owners.into_iter().zip(copy(&requests)) {
            if let Some(copy) = copies.get_mut(owner) {
                copy.done &= status == GrantStatus::OKAY;
            }
        }
    }
}

/// Small reads, through a page of ours.
pub struct Reader(pub Pages);

impl ReadGrants for Reader {
    fn read(&mut self, peer: DomId, grant: GrantRef, out: &mut [u8]) -> bool {
        let Some(len) = u16::try_from(out.len()).ok().filter(|len| usize::from(*len) <= PAGE_SIZE) else {
            return false;
        };
        let request = CopyRequest { from: CopyEnd::Grant(peer, grant, 0), to: CopyEnd::Own(&self.0, 0), len };
        let done = copy(&[request]).into_iter().all(|status| status == GrantStatus::OKAY);
        if done {
            self.0.read(0, out);
        }
        done
    }
}
