//! What a vbd has done, for `block-list -v`.

/// Counts since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests answered.
    pub requests: u64,
    /// Of those, answered with an error.
    pub errors: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Flushes and barriers.
    pub flushes: u64,
    /// Bytes of payload that this domain, or the hypervisor for it, copied on the way to a device. A RAM disk's
    /// transfers are not on the way to anything and do not count.
    pub bytes_copied: u64,
    /// Events sent to the guest.
    pub notifications: u64,
    /// Hypercalls made for this vbd alone: lists of indirect segments.
    pub hypercalls: u64,
}

impl Counters {
    /// Writes the counts as store keys, under `stats/`.
    pub fn publish(&self, put: ring_proto::keys::Put<'_>) {
        put("stats/requests", &self.requests);
        put("stats/errors", &self.errors);
        put("stats/bytes-read", &self.bytes_read);
        put("stats/bytes-written", &self.bytes_written);
        put("stats/flushes", &self.flushes);
        put("stats/bytes-copied", &self.bytes_copied);
        put("stats/notifications", &self.notifications);
        put("stats/hypercalls", &self.hypercalls);
    }
}
