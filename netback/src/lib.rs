//! The network backend: a learning bridge between the vifs of all guests and one NIC.
//!
//! What is here is logic, free of hypercalls and devices, and runs on the host: [`switch`] moves packets in rounds, with
//! one hypercall for each kind of work in a round; [`vif`] is one guest's connection; [`bridge`] knows which address is
//! where; [`headers`] and [`offload`] do in software what a destination does not do itself. [`platform`] says what all
//! that wants of hypervisor and NIC.
//!
//! Payload goes from guest to guest in one copy by the hypervisor, from the NIC to a guest in one, and from a guest to
//! the NIC in none where the guest has done its own checksums, else in one.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bridge;
pub mod counters;
pub(crate) mod groups;
pub mod headers;
pub mod offload;
pub mod platform;
pub mod pool;
pub(crate) mod queue;
pub mod switch;
pub mod vif;

#[cfg(test)]
mod tests;
