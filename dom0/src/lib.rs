//! dom0 as pure logic: the store, manifests, the builder of domains, the supervisor, the shell and the consoles.
//!
//! Nothing here touches a machine; the binary gives it hypercalls, rings and events. All of it runs under plain
//! `cargo test`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod builder;
pub mod bzimage;
pub mod console;
pub mod control;
pub mod cpio;
pub mod manifest;
#[cfg(test)]
mod mock;
pub mod nearest;
pub mod pciback;
pub mod shell;
pub mod store;
pub mod toolstack;
