//! The block backend: disks, partitions and RAM disks as vbds, one session a guest's vbd.
//!
//! What is here is logic, free of hypercalls and devices, and runs on the host: [`session`] takes requests off a ring,
//! checks and orders them; [`medium`] is what it wants of a disk; [`ram`] and [`virtio`] are the two disks there are;
//! [`disk`] drives one medium for all of its sessions; [`gpt`] and [`target`] say which sectors a vbd is. The driver
//! domain's `main` gives them grants, a queue and events.
//!
//! No payload is copied on the way to a device: the guest's pages are mapped for the device only, by machine address,
//! and stay so if the guest lets them ([`kept`]).
//! A RAM disk's copy is the transfer itself, made by the hypervisor.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod counters;
pub mod disk;
pub mod gpt;
pub mod kept;
pub mod medium;
pub mod ram;
pub mod session;
pub mod target;
pub mod virtio;

#[cfg(test)]
mod tests;
