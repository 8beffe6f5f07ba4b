//! A peer's pages, mapped for the CPU.

use super::Access;
use crate::memory::Window;
use crate::page::ring_memory;
use crate::raw::SharedRange;
use crate::{counts, hypercall};
use abi::grant::{GrantHandle, GrantOp, GrantStatus, MapGrantRef, UnmapGrantRef, gntmap};
use abi::{DomId, GrantRef, PAGE_SIZE};
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use ring_proto::memory::RingMemory;
use ring_proto::sync::AtomicU32;

/// Consecutive addresses that show pages of a peer, until dropped.
#[derive(Debug)]
pub struct Mapping {
    range: SharedRange,
    /// Kept reserved if unmapping fails.
    window: ManuallyDrop<Window>,
    handles: Vec<GrantHandle>,
}

impl Mapping {
    /// Maps pages that `peer` granted: all of them, or none and the first status that was not okay.
    pub fn new(peer: DomId, grants: &[GrantRef], access: Access) -> Result<Self, GrantStatus> {
        let window = Window::reserve(grants.len()).map_err(|_| GrantStatus::NO_SPACE)?;
        let readonly = if access == Access::ReadOnly { gntmap::READONLY } else { 0 };
        let mut requests: Vec<MapGrantRef> = grants
            .iter()
            .enumerate()
            .map(|(page, gref)| MapGrantRef {
                host_addr: window.address(page).0,
                flags: gntmap::HOST_MAP | readonly,
                gref: *gref,
                dom: peer,
                status: GrantStatus::GENERAL_ERROR,
                ..MapGrantRef::default()
            })
            .collect();
        // SAFETY: the addresses are the window's, where nothing is mapped.
        let call = unsafe { hypercall::grant_table_op(GrantOp::MAP_GRANT_REF, &mut requests) };
        call.map_err(|_| GrantStatus::GENERAL_ERROR)?;
        // SAFETY: a fresh range that is this value's alone; it is used only if every page of it was mapped.
        let range = unsafe { SharedRange::new(window.address(0).0 as *mut u8, grants.len() * PAGE_SIZE) };
        let okay = |request: &&MapGrantRef| request.status == GrantStatus::OKAY;
        counts::MAPS.add(requests.iter().filter(okay).count() as u64);
        let failed = requests.iter().find(|request| !okay(request)).map(|request| request.status);
        if let Some(status) = failed {
            let mapped = requests.iter().filter(okay).map(|request| (request.host_addr, request.handle));
            if !unmap(mapped) {
                core::mem::forget(window);
            }
            return Err(status);
        }
        let handles = requests.iter().map(|request| request.handle).collect();
        Ok(Self { range, window: ManuallyDrop::new(window), handles })
    }
}

/// Unmaps what nobody uses any more; whether all of it succeeded.
fn unmap(mappings: impl Iterator<Item = (u64, GrantHandle)>) -> bool {
    let mut requests: Vec<UnmapGrantRef> = mappings
        .map(|(host_addr, handle)| UnmapGrantRef {
            host_addr,
            handle,
            status: GrantStatus::GENERAL_ERROR,
            ..UnmapGrantRef::default()
        })
        .collect();
    // SAFETY: the callers own the mappings and use them no more.
    requests.is_empty()
        || unsafe { hypercall::grant_table_op(GrantOp::UNMAP_GRANT_REF, &mut requests) }.is_ok()
            && requests.iter().all(|request| request.status == GrantStatus::OKAY)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let window = &self.window;
        let mappings = self.handles.iter().enumerate().map(|(page, handle)| (window.address(page).0, *handle));
        if unmap(mappings) {
            // SAFETY: dropped once, here; nothing is mapped in it any more.
            unsafe { ManuallyDrop::drop(&mut self.window) };
        } else {
            crate::console::print(format_args!("grant: a page cannot be unmapped; its addresses stay reserved\n"));
        }
    }
}

ring_memory!(Mapping);
