//! Spin locks that serve TLB-flush requests while they wait.
//!
//! Whoever holds a lock may be waiting until this CPU has flushed; so a CPU that waits for the lock, with interrupts
//! off, serves such requests meanwhile. That makes flushing under a lock free of deadlock.

use spin::{RelaxStrategy, mutex::SpinMutex, rwlock::RwLock};

use crate::flush;

/// What a CPU does while it waits.
pub struct Serve;

impl RelaxStrategy for Serve {
    fn relax() {
        flush::serve();
        core::hint::spin_loop();
    }
}

/// A lock for one holder.
pub type SpinLock = SpinMutex<(), Serve>;
/// A lock for many readers or one writer.
pub type SpinRwLock = RwLock<(), Serve>;
