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
    /// Discards.
    pub discards: u64,
    /// Bytes of data that the hypervisor copied for this domain: all of a RAM disk's, none of a device's.
    pub bytes_copied: u64,
    /// Pages mapped for the device.
    pub pages_mapped: u64,
    /// Pages that were still mapped from before.
    pub pages_kept: u64,
    /// Bytes of lists of indirect segments, copied to be checked.
    pub list_bytes: u64,
    /// Events sent to the guest.
    pub notifications: u64,
}

impl core::iter::Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), |a, b| Self {
            requests: a.requests + b.requests,
            errors: a.errors + b.errors,
            bytes_read: a.bytes_read + b.bytes_read,
            bytes_written: a.bytes_written + b.bytes_written,
            flushes: a.flushes + b.flushes,
            discards: a.discards + b.discards,
            bytes_copied: a.bytes_copied + b.bytes_copied,
            pages_mapped: a.pages_mapped + b.pages_mapped,
            pages_kept: a.pages_kept + b.pages_kept,
            list_bytes: a.list_bytes + b.list_bytes,
            notifications: a.notifications + b.notifications,
        })
    }
}

impl core::fmt::Display for Counters {
    /// Names and numbers in turn, as they stand in the store.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { requests, errors, bytes_read, bytes_written, flushes, discards, bytes_copied, .. } = self;
        let Self { pages_mapped, pages_kept, list_bytes, notifications, .. } = self;
        write!(f, "requests {requests} errors {errors} bytes-read {bytes_read} bytes-written {bytes_written} ")?;
        write!(f, "flushes {flushes} discards {discards} bytes-copied {bytes_copied} list-bytes {list_bytes} ")?;
        write!(f, "pages-mapped {pages_mapped} pages-kept {pages_kept} ")?;
        write!(f, "notifications {notifications}")
    }
}
