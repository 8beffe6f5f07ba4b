//! A peer's pages for a device's use: a machine address, no mapping, so no flush when it ends.

use super::Access;
use crate::hypercall;
use abi::grant::{GrantHandle, GrantOp, GrantStatus, MapGrantRef, UnmapGrantRef, gntmap};
use abi::{DomId, GrantRef, Maddr};
use alloc::vec::Vec;

/// A page of a peer that a device may use until this is dropped. While a device may still use it, it must not be.
#[must_use]
#[derive(Debug)]
pub struct DeviceGrant {
    handle: GrantHandle,
    address: Maddr,
}

impl DeviceGrant {
    /// The machine address of the page's first byte.
    pub fn address(&self) -> Maddr {
        self.address
    }
}

/// Maps pages of peers for devices with one hypercall: an outcome each, in order.
pub fn map_device(requests: impl Iterator<Item = (DomId, GrantRef, Access)>) -> Vec<Result<DeviceGrant, GrantStatus>> {
    let mut calls: Vec<MapGrantRef> = requests
        .map(|(dom, gref, access)| MapGrantRef {
            flags: gntmap::DEVICE_MAP | if access == Access::ReadOnly { gntmap::READONLY } else { 0 },
            gref,
            dom,
            status: GrantStatus::GENERAL_ERROR,
            ..MapGrantRef::default()
        })
        .collect();
    if calls.is_empty() {
        return Vec::new();
    }
    // If the call itself fails, the statuses are as they were set.
    // SAFETY: no address is mapped.
    let _ = unsafe { hypercall::grant_table_op(GrantOp::MAP_GRANT_REF, &mut calls) };
    let outcome = |call: MapGrantRef| match call.status {
        GrantStatus::OKAY => Ok(DeviceGrant { handle: call.handle, address: call.dev_bus_addr }),
        status => Err(status),
    };
    calls.into_iter().map(outcome).collect()
}

/// Ends mappings with one hypercall.
pub fn unmap_device(grants: impl Iterator<Item = DeviceGrant>) {
    let end = |grant: DeviceGrant| {
        let grant = core::mem::ManuallyDrop::new(grant);
        UnmapGrantRef {
            dev_bus_addr: grant.address,
            handle: grant.handle,
            status: GrantStatus::GENERAL_ERROR,
            ..UnmapGrantRef::default()
        }
    };
    let mut calls: Vec<UnmapGrantRef> = grants.map(end).collect();
    if calls.is_empty() {
        return;
    }
    // SAFETY: no address is unmapped.
    let done = unsafe { hypercall::grant_table_op(GrantOp::UNMAP_GRANT_REF, &mut calls) };
    if done.is_err() || calls.iter().any(|call| call.status != GrantStatus::OKAY) {
        crate::console::print(format_args!("grant: a device mapping cannot be ended\n"));
    }
}

impl Drop for DeviceGrant {
    fn drop(&mut self) {
        unmap_device(core::iter::once(Self { handle: self.handle, address: self.address }));
    }
}
