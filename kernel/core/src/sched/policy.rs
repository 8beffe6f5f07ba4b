//! How long a vCPU runs, and whom it goes before.

/// Where on a queue a vCPU goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind all others, with a whole slice.
    Back,
    /// In front of all others, with what is left of its slice.
    Front,
    /// In front of all others, and in place of the one that runs once that has run for [`Policy::LEAST`].
    Ahead,
}

/// A scheduling policy: two lengths and a few pure decisions. All times are in nanoseconds.
pub trait Policy {
    /// The length of a whole slice.
    const SLICE: u64;
    /// How long a vCPU runs at least before one that was woken takes its place.
    const LEAST: u64;
    /// What is left of the slice of a vCPU that was woken: it had `left`, and slept for `slept` while `others` used or
    /// wanted its CPU.
    fn rested(left: u64, slept: u64, others: u64) -> u64;
    /// Where a vCPU goes that was woken with `left` of its slice.
    fn woken(left: u64) -> Place;
    /// Where a vCPU goes that stopped running with `left` of its slice while it could go on.
    fn stopped(left: u64, yielded: bool) -> Place;
}

/// Each in turn, for one slice.
///
/// A vCPU that waits before its slice is over keeps the rest and, when woken, goes before those that compute; it
/// lines up behind them when the rest is used up. While it sleeps it earns its share of the time, up to a slice. So what
/// answers quickly is answered quickly, whoever else computes, and nobody starves.
pub struct RoundRobin;

impl Policy for RoundRobin {
    const SLICE: u64 = 5_000_000;
    const LEAST: u64 = 200_000;

    fn rested(left: u64, slept: u64, others: u64) -> u64 {
        left.saturating_add(slept / others.saturating_add(1)).min(Self::SLICE)
    }

    fn woken(left: u64) -> Place {
        if left == 0 { Place::Back } else { Place::Ahead }
    }

    fn stopped(left: u64, yielded: bool) -> Place {
        if left == 0 || yielded { Place::Back } else { Place::Front }
    }
}
