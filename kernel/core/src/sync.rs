//! Locks, and the one order in which they are taken.
//!
//! The kind of lock is the platform's: in ring 0 a spin lock that serves TLB-flush requests while it waits (a CPU
//! that holds a lock may be waiting for this one's acknowledgement), on the host an ordinary one.
//!
//! **Lock order.** A lock may be taken only while locks that stand above it are held; among equals the lower domain
//! id first.
//!
//! 1. a vCPU's [`Run`](crate::vcpu::Run), held by the CPU that runs it
//! 2. `Domain::mm` (page-table changes of one domain)
//! 3. `Domain::grants` (map tracking, then any domain's grant table)
//! 4. `Domains::table` (creation and destruction of domains). Who walks the domains lets go of it in between
//!    ([`Domains::from`](crate::domain::Domains::from)).
//! 5. `Domain::devices`, then `Core::lines` (interrupts), then `Domain::events` (ports, then its FIFO layout: who holds
//!    any domain's ports may take any one domain's)
//! 6. `Domain::memory` (the list of a domain's frames, its allowance)
//! 7. the frame allocator
//! 8. a vCPU's timers, then a CPU's timer queue
//! 9. a CPU's run queue
//! 10. the console
//!
//! The test machine's locks note who was held when who was taken, and fail where that is the other way round.

use crate::Platform;

/// A mutual-exclusion lock of the platform's kind.
pub type Lock<P, T> = lock_api::Mutex<<P as Platform>::RawMutex, T>;
/// What holds a [`Lock`].
pub type Guard<'a, P, T> = lock_api::MutexGuard<'a, <P as Platform>::RawMutex, T>;
/// What holds a [`Lock`] that is kept in an `Arc`, for as long as one likes.
pub type ArcGuard<P, T> = lock_api::ArcMutexGuard<<P as Platform>::RawMutex, T>;
/// A lock with many readers or one writer.
pub type RwLock<P, T> = lock_api::RwLock<<P as Platform>::RawRwLock, T>;

/// The atomics of the words that are tested under loom: `tests/loom.rs` compiles those files once more, with loom's in
/// place of these.
pub mod atomic {
    pub use core::sync::atomic::{AtomicU32, AtomicU64};

    /// Nothing here: sequentially consistent operations are ordered among themselves. loom takes them for acquire and
    /// release only, so that it needs a fence where that order counts.
    pub fn order() {}
}
