//! What this domain has asked of the hypervisor since it started, counted where it is asked: nothing that moves data
//! or enters ring 0 goes by uncounted.

use core::sync::atomic::{AtomicU64, Ordering};

/// The counts. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Hypercalls of every kind; a batch or a multicall is one.
    pub hypercalls: u64,
    /// Events sent to other domains, each a hypercall.
    pub events: u64,
    /// Times this domain went to sleep, each a hypercall.
    pub sleeps: u64,
    /// Hypercalls about grants: copies, maps, unmaps.
    pub grant_calls: u64,
    /// Grant copies that succeeded, many of them in one hypercall.
    pub copies: u64,
    /// Bytes that those moved.
    pub copied_bytes: u64,
    /// Pages of peers mapped for devices, many of them in one hypercall.
    pub device_maps: u64,
    /// Pages of peers mapped for this domain's own use: rings.
    pub maps: u64,
}

/// One of the counts. There is one vCPU, so that no locked instruction is needed.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Count {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) static HYPERCALLS: Count = Count::new();
pub(crate) static EVENTS: Count = Count::new();
pub(crate) static SLEEPS: Count = Count::new();
pub(crate) static GRANT_CALLS: Count = Count::new();
pub(crate) static COPIES: Count = Count::new();
pub(crate) static COPIED_BYTES: Count = Count::new();
pub(crate) static DEVICE_MAPS: Count = Count::new();
pub(crate) static MAPS: Count = Count::new();

/// The counts now.
pub fn read() -> Counts {
    Counts {
        hypercalls: HYPERCALLS.get(),
        events: EVENTS.get(),
        sleeps: SLEEPS.get(),
        grant_calls: GRANT_CALLS.get(),
        copies: COPIES.get(),
        copied_bytes: COPIED_BYTES.get(),
        device_maps: DEVICE_MAPS.get(),
        maps: MAPS.get(),
    }
}

impl core::fmt::Display for Counts {
    /// Names and numbers in turn, as they stand in the store.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { hypercalls, events, sleeps, grant_calls, copies, copied_bytes, device_maps, maps } = self;
        write!(
            f,
            "hypercalls {hypercalls} events {events} sleeps {sleeps} grant-calls {grant_calls} copies {copies} "
        )?;
        write!(f, "copied-bytes {copied_bytes} device-maps {device_maps} maps {maps}")
    }
}
