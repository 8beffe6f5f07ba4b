//! Copies by the hypervisor, between guests' pages and the packets' memory.

use abi::grant::GrantStatus;
use alloc::rc::Rc;
use alloc::vec::Vec;
use domain_rt::grant::{CopyEnd, CopyRequest, copy};
use domain_rt::page::Pages;
use netback::platform::{Copy, CopyGrants, Place};

/// The memory of all packets.
pub struct Machine(pub Rc<Pages>);

impl CopyGrants for Machine {
    type Memory = Pages;

    fn memory(&self) -> &Pages {
        &self.0
    }

    fn copy(&mut self, copies: &mut [Copy]) {
        let end = |place| match place {
            Place::Guest(peer, grant, offset) => CopyEnd::Grant(peer, grant, offset),
            Place::Own(offset) => CopyEnd::Own(&self.0, offset),
        };
        let request = |copy: &Copy| CopyRequest { from: end(copy.from), to: end(copy.to), len: copy.len };
        let requests: Vec<_> = copies.iter().map(request).collect();
        for (one, status) in copies.iter_mut().zip(copy(&requests)) {
            one.done = status == GrantStatus::OKAY;
        }
    }
}
