//! A peer's pages for a device's use: a machine address, no mapping, so no flush when it ends.

use super::Access;
use crate::{counts, hypercall};
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

/// Maps pages of peers for devices, and ends such mappings, in batches. Kept and used again, it allocates nothing.
#[derive(Debug, Default)]
pub struct DeviceMapper {
    map: Vec<MapGrantRef>,
    unmap: Vec<UnmapGrantRef>,
}

impl DeviceMapper {
    /// Maps pages with one hypercall, or with none if there are none: an outcome each, in order. Outcomes that are not
    /// taken are mappings that nobody can end.
    pub fn map(
        &mut self,
        requests: impl Iterator<Item = (DomId, GrantRef, Access)>,
    ) -> impl ExactSizeIterator<Item = Result<DeviceGrant, GrantStatus>> {
        self.map.clear();
        self.map.extend(requests.map(|(dom, gref, access)| MapGrantRef {
            flags: gntmap::DEVICE_MAP | if access == Access::ReadOnly { gntmap::READONLY } else { 0 },
            gref,
            dom,
            status: GrantStatus::GENERAL_ERROR,
            ..MapGrantRef::default()
        }));
        if !self.map.is_empty() {
            // If the call itself fails, the statuses are as they were set.
            // SAFETY: no address is mapped.
            let _ = unsafe { hypercall::grant_table_op(GrantOp::MAP_GRANT_REF, &mut self.map) };
        }
        let mapped = self.map.iter().filter(|call| call.status == GrantStatus::OKAY);
        counts::DEVICE_MAPS.add(mapped.count() as u64);
        self.map.iter().map(|call| match call.status {
            GrantStatus::OKAY => Ok(DeviceGrant { handle: call.handle, address: call.dev_bus_addr }),
            status => Err(status),
        })
    }

    /// Ends mappings with one hypercall, or with none if there are none.
    pub fn unmap(&mut self, grants: impl Iterator<Item = DeviceGrant>) {
        self.unmap.clear();
        self.unmap.extend(grants.map(|grant| {
            let grant = core::mem::ManuallyDrop::new(grant);
            UnmapGrantRef {
                dev_bus_addr: grant.address,
                handle: grant.handle,
                status: GrantStatus::GENERAL_ERROR,
                ..UnmapGrantRef::default()
            }
        }));
        if self.unmap.is_empty() {
            return;
        }
        // SAFETY: no address is unmapped.
        let done = unsafe { hypercall::grant_table_op(GrantOp::UNMAP_GRANT_REF, &mut self.unmap) };
        if done.is_err() || self.unmap.iter().any(|call| call.status != GrantStatus::OKAY) {
            crate::console::print(format_args!("grant: a device mapping cannot be ended\n"));
        }
    }
}

impl Drop for DeviceGrant {
    fn drop(&mut self) {
        let ended = Self { handle: self.handle, address: self.address };
        DeviceMapper::default().unmap(core::iter::once(ended));
    }
}
