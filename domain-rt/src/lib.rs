//! What a Rust domain stands on: start, hypercalls, console; above them events, memory, grants, the store.
//!
//! An image needs three things: this package as a dependency, the build script shown in
//! `build.rs`, and [`entry!`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub use abi;

pub mod activity;
pub mod arch;
pub mod backend;
mod bitmap;
pub mod console;
pub mod control;
pub mod counts;
pub mod driver;
pub mod entry;
pub mod events;
pub mod executor;
pub mod foreign;
pub mod frontend;
pub mod grant;
pub mod heap;
pub mod hypercall;
pub mod interrupt;
pub mod memory;
pub mod notes;
pub mod page;
pub mod pci;
#[cfg(feature = "probe")]
pub mod probe;
pub mod pvconsole;
mod raw;
pub mod runtime;
mod shared;
pub mod store;
pub mod sync;
pub mod time;
mod traps;
pub mod virtio;
pub mod xenbus;
