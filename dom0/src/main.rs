//! dom0: builds the domains of the manifest, keeps the store and the consoles, and listens to the serial console.
//!
//! Everything decided is decided in the library; this program gives it hypercalls, rings and events. On a host it does
//! nothing.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod program;

#[cfg(target_os = "none")]
domain_rt::entry!(program::run);

#[cfg(not(target_os = "none"))]
fn main() {}
