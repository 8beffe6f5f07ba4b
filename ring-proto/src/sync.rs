//! The one place that names atomics, so that loom can stand in for them.
//!
//! loom treats a SeqCst access as AcqRel; every store-then-load handshake in this crate therefore uses
//! `fence(SeqCst)`, which loom does model.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, Ordering, fence};
