//! Time: timers, the pages guests read it from, and how long each vCPU ran.

mod clock;
mod runstate;
#[cfg(test)]
mod tests;
mod timers;

pub use clock::DomainClock;
use timers::NOWHERE;
pub use timers::{NEVER, Timers};

use core::sync::atomic::{AtomicU32, AtomicU64};

use abi::vcpu::RunstateInfo;

use crate::{Lock, Platform};

/// The period of the ticker that a vCPU starts with, in nanoseconds.
const TICK: u64 = 10_000_000;

/// A vCPU's timers and runstate. Times are system time in nanoseconds.
pub struct VcpuTime<P: Platform> {
    /// When its single-shot timer goes off.
    pub(crate) singleshot: AtomicU64,
    /// When its poll is over.
    pub(crate) poll: AtomicU64,
    /// The period of its periodic timer; 0 for none. It ticks only while the vCPU runs, as Xen's does.
    period: AtomicU64,
    /// When it ticked last.
    ticked: AtomicU64,
    /// The CPU whose timer queue holds it, or [`NOWHERE`].
    parked: AtomicU32,
    /// How long it has been in which state.
    times: Lock<P, RunstateInfo>,
    /// Where the guest wants the runstate written: an address of its own; 0 for nowhere.
    runstate_area: AtomicU64,
    /// Where the guest wants a second copy of its time page; 0 for nowhere.
    time_area: AtomicU64,
}

impl<P: Platform> VcpuTime<P> {
    /// The 100 Hz ticker is on, as every PV vCPU of Xen's starts; no other timer is. It is offline since system time 0.
    pub fn new() -> Self {
        Self {
            singleshot: AtomicU64::new(NEVER),
            poll: AtomicU64::new(NEVER),
            period: AtomicU64::new(TICK),
            ticked: AtomicU64::new(0),
            parked: AtomicU32::new(NOWHERE),
            times: Lock::<P, _>::new(RunstateInfo { state: RunstateInfo::OFFLINE, ..Default::default() }),
            runstate_area: AtomicU64::new(0),
            time_area: AtomicU64::new(0),
        }
    }
}
