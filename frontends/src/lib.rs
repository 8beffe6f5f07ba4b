//! Frontends of split devices for Rust guests, in the shapes that the ecosystem's crates expect.
//!
//! - [`net`]: a network interface, an `embassy_net_driver::Driver`; [`stack`]: it under `embassy-net`, by DHCP.
//! - [`blk`]: a disk, a `block_device_driver::BlockDevice`; [`files`] and [`cache`]: an ext4 file system on one.
//! - The console is `domain_rt::pvconsole::Console`, an `embedded_io_async::Read` and `Write`.
//! - [`http`], [`ping`], [`partitions`], [`options`]: what the guests `web` and `client` need besides.
//!
//! No backend is trusted: what it answers is checked by the rings' halves, what it writes is copied out first, and one
//! that dies is met again when it is back.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod blk;
pub mod cache;
pub mod files;
pub mod http;
pub mod net;
pub mod options;
pub mod partitions;
pub mod ping;
pub mod slice;
pub mod stack;

pub use domain_rt::frontend::devices;
