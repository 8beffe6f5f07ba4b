//! What a PV64 image is, and how a domain is made of one.
//!
//! [`Image::parse`] reads the ELF file and its Xen notes; [`Plan::new`] lays out the start-of-day memory (xen.h);
//! [`Plan::build`] writes kernel, ramdisk, p2m list, start_info and page tables through [`GuestMemory`]. The core builds
//! the initial domain with it, dom0 every other one: there is one builder. Nothing here allocates, and no input panics.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
extern crate alloc;

mod builder;
pub mod hypercall_page;
mod image;
mod memory;
mod notes;
mod plan;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use builder::Wiring;
pub use image::{Image, ImageError, Segment};
pub use memory::GuestMemory;
pub use plan::{MAX_PAGES, Plan, Request, Role};

/// Bytes of a page.
const PAGE: u64 = abi::PAGE_SIZE as u64;
