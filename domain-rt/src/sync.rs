//! Shared state of a runtime that has one vCPU and no preemption.
//!
//! Events never interrupt Rust code (see [`crate::events`]), so a lock that is taken is being used by a caller
//! further up the stack: waiting would never end, and [`Local`] panics instead. That also makes it sound on a host,
//! where tests have several threads.

use core::sync::atomic::{AtomicBool, Ordering};

/// A lock that panics where another would wait.
#[derive(Debug)]
pub struct RawLocal(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller at a time, and `lock` returns only after it did.
unsafe impl lock_api::RawMutex for RawLocal {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardNoSend;

    #[track_caller]
    fn lock(&self) {
        assert!(self.try_lock(), "runtime state used while in use");
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// State of the runtime: borrowed by one caller at a time, never across an `await`.
pub type Local<T> = lock_api::Mutex<RawLocal, T>;
