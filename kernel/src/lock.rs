//! Spin locks that serve TLB-flush requests while they wait.
//!
//! Whoever holds a lock may be waiting until this CPU has flushed; so a CPU that waits for the lock, with interrupts
//! off, serves such requests meanwhile. That makes flushing under a lock free of deadlock.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::{GuardNoSend, RawMutex, RawRwLock};

use crate::flush;

/// A lock for one holder.
pub struct SpinLock(AtomicBool);

// SAFETY: the flag is taken by one compare-exchange and given back by its holder alone, so at most one holds it.
unsafe impl RawMutex for SpinLock {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            while self.0.load(Ordering::Relaxed) {
                flush::serve();
                core::hint::spin_loop();
            }
        }
    }

    fn try_lock(&self) -> bool {
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A lock for many readers or one writer. The writer's bit keeps new readers out while it waits.
pub struct SpinRwLock(AtomicU32);

const WRITER: u32 = 1 << 31;

// SAFETY: a reader counts itself only while the writer's bit is clear; a writer sets the bit once and then waits for the
// count to fall to 0. So a writer is alone.
unsafe impl RawRwLock for SpinRwLock {
    const INIT: Self = Self(AtomicU32::new(0));
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        while !self.try_lock_shared() {
            flush::serve();
            core::hint::spin_loop();
        }
    }

    fn try_lock_shared(&self) -> bool {
        let now = self.0.load(Ordering::Relaxed);
        now & WRITER == 0 && self.0.compare_exchange(now, now + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock_shared(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    fn lock_exclusive(&self) {
        while self.0.fetch_or(WRITER, Ordering::Acquire) & WRITER != 0 {
            flush::serve();
            core::hint::spin_loop();
        }
        while self.0.load(Ordering::Acquire) != WRITER {
            flush::serve();
            core::hint::spin_loop();
        }
    }

    fn try_lock_exclusive(&self) -> bool {
        self.0.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock_exclusive(&self) {
        self.0.fetch_and(!WRITER, Ordering::Release);
    }
}
