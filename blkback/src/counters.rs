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
    /// Bytes of data that the hypervisor copied for this domain: all of a RAM disk's, none of a device's.
    pub bytes_copied: u64,
    /// Bytes of lists of indirect segments, copied to be checked.
    pub list_bytes: u64,
    /// Events sent to the guest.
    pub notifications: u64,
}

impl core::fmt::Display for Counters {
    /// Names and numbers in turn, as they stand in the store.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { requests, errors, bytes_read, bytes_written, flushes, bytes_copied, list_bytes, notifications } =
            self;
        write!(f, "requests {requests} errors {errors} bytes-read {bytes_read} bytes-written {bytes_written} ")?;
        write!(f, "flushes {flushes} bytes-copied {bytes_copied} list-bytes {list_bytes} ")?;
        write!(f, "notifications {notifications}")
    }
}
