//! The core as pure logic: page types, grants, event channels, domains, scheduling and hypercall dispatch.
//!
//! Nothing here touches hardware. What it needs of a machine is the [`platform::Platform`] trait: the ring-0 image
//! implements it over the real one, and [`testing`] over heap memory, so that all of this runs under plain
//! `cargo test`. The crate has no unsafe code.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod buddy;
pub mod counters;
pub mod cpu;
pub mod cpuid;
pub mod debug;
pub mod dispatch;
pub mod domain;
pub mod emulate;
pub mod event;
pub mod frame;
pub mod grant;
pub mod guest;
pub mod hypercall;
pub mod irq;
pub mod lifecycle;
pub mod log;
pub mod memory;
pub mod mm;
pub mod platform;
pub mod sched;
pub mod segment;
pub mod sync;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod trap;
pub mod vcpu;

pub use cpu::{Cpu, CpuId, CpuSet};
pub use dispatch::{Args, Caller, HcResult, Stop};
pub use domain::{Domain, Privilege, Stage};
pub use frame::{Frame, Owner, PageType, State};
pub use platform::{AddressSpace, Fault, Flush, Platform};
pub use sync::{Guard, Lock, RwLock};
pub use vcpu::{Run, Vcpu};

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::BitOr;

/// The whole state of the core.
///
/// There is one for a machine; tests make as many as they like. `'static` data lives in it by reference, so that a
/// `&Core` is all that any part needs.
pub struct Core<P: Platform> {
    /// The machine below.
    pub platform: P,
    /// What each machine frame is, and who owns it.
    pub frames: frame::FrameTable,
    /// The free frames.
    pub free: Lock<P, buddy::Blocks>,
    /// Every domain that exists, zombies included.
    pub domains: domain::Domains<P>,
    /// The CPUs that are online, by [`CpuId`].
    pub cpus: Box<[Cpu<P>]>,
    /// Who has which of the machine's interrupt lines.
    pub lines: sync::Lock<P, irq::Lines<P>>,
    /// Whether hypercalls that are refused are logged (`log=debug`).
    pub log_refusals: bool,
    /// Hypercalls by outcome (`tally`).
    pub tally: counters::Tally<P>,
    /// The last of what the core printed.
    pub messages: sync::Lock<P, log::Ring>,
}

/// An error where something is so that must not be.
pub(crate) fn refuse_if<E>(it: bool, with: E) -> Result<(), E> {
    if it { Err(with) } else { Ok(()) }
}

/// Those of some flags whose condition holds.
pub(crate) fn flags<T: Default + BitOr<Output = T>, const N: usize>(all: [(bool, T); N]) -> T {
    all.into_iter().fold(T::default(), |flags, (holds, flag)| if holds { flags | flag } else { flags })
}

/// Is there memory for so many `T`, and for what others take at the same time? ENOMEM where there is not.
///
/// Asked right before something is put into a `Box` or an `Arc`, which cannot report that there is none.
pub(crate) fn headroom<T>(count: usize) -> Result<(), abi::Errno> {
    let (mut these, mut others) = (Vec::<T>::new(), Vec::<[u8; 16384]>::new());
    these.try_reserve_exact(count).and_then(|()| others.try_reserve_exact(1)).map_err(|_| abi::Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_headroom_for_little_but_not_for_all() {
        let refused = Err(abi::Errno::ENOMEM);
        assert_eq!([1, usize::MAX].map(super::headroom::<u64>), [Ok(()), refused]);
        assert_eq!([0, isize::MAX as usize].map(super::headroom::<u8>), [Ok(()), refused]);
    }
}
