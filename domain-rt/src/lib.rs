//! What a Rust domain stands on: start, hypercalls, console; above them events, memory, grants, the store.
//!
//! An image needs three things: this package as a dependency, the build script shown in
//! `build.rs`, and [`entry!`].
#![no_std]

pub use abi;

pub mod arch;
pub mod console;
pub mod entry;
pub mod hypercall;
pub mod notes;
