//! Copies by the hypervisor, between guests' pages and the packets' memory.

use abi::grant::GrantStatus;
use alloc::rc::Rc;
use domain_rt::grant::{Copier, CopyEnd, CopyRequest};
use domain_rt::page::Pages;
use netback::platform::{Copy, CopyGrants, Place};

/// The memory of all packets, and the batch of copies.
pub struct Machine {
    memory: Rc<Pages>,
    copier: Copier,
}

impl Machine {
    /// Packets lie in `memory`.
    pub fn new(memory: Rc<Pages>) -> Self {
        Self { memory, copier: Copier::default() }
    }
}

impl CopyGrants for Machine {
    type Memory = Pages;

    fn memory(&self) -> &Pages {
        &self.memory
    }

    fn copy(&mut self, copies: &mut [Copy]) {
        let end = |place| match place {
            Place::Guest(peer, grant, offset) => CopyEnd::grant(peer, grant, offset),
            Place::Own(offset) => CopyEnd::own(&self.memory, offset),
        };
        let request = |copy: &Copy| CopyRequest { from: end(copy.from), to: end(copy.to), len: copy.len };
        self.copier.run(copies.iter().map(request));
        for (copy, status) in copies.iter_mut().zip(self.copier.statuses()) {
            copy.done = status == GrantStatus::OKAY;
        }
    }
}
