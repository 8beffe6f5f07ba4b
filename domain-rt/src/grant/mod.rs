//! Grants: letting a peer use this domain's pages, and using a peer's.
//!
//! - [`Granted`]: own pages that a peer may map or copy, until dropped.
//! - [`Mapping`]: a peer's pages, mapped for the CPU; [`DeviceGrant`]: a peer's page, reachable for a device only.
//! - [`Copier`]: the hypervisor copies between pages of either side.
//!
//! What a peer grants can fail in every way, entry by entry; each status is checked and what was mapped before is
//! unmapped again.

mod copy;
mod device;
mod granted;
mod mapping;
mod table;

pub use copy::{Copier, CopyEnd, CopyRequest};
pub use device::{DeviceGrant, DeviceMapper};
pub use granted::{GrantError, Granted};
pub use mapping::Mapping;
pub use table::{init, limbo};

/// What a peer may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}
