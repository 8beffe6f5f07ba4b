//! What a vif has done, for `network-list -v`.

/// Counts since the connection began. `tx` is from the guest, `rx` to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Refused: bad slots, forged addresses, pages that could not be read.
    pub tx_errors: u64,
    /// No room to send them on.
    pub tx_dropped: u64,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// The guest offered no pages, or ones that could not be written.
    pub rx_dropped: u64,
    /// Bytes copied for this guest's packets, headers included.
    pub bytes_copied: u64,
    /// Checksums computed in software.
    pub checksums: u64,
    /// Segments cut in software.
    pub segments: u64,
    /// Events sent to the guest.
    pub notifications: u64,
}

impl Counters {
    /// Writes the counts as store keys, under `stats/`.
    pub fn publish(&self, put: ring_proto::keys::Put<'_>) {
        put("stats/tx-packets", &self.tx_packets);
        put("stats/tx-bytes", &self.tx_bytes);
        put("stats/tx-errors", &self.tx_errors);
        put("stats/tx-dropped", &self.tx_dropped);
        put("stats/rx-packets", &self.rx_packets);
        put("stats/rx-bytes", &self.rx_bytes);
        put("stats/rx-dropped", &self.rx_dropped);
        put("stats/bytes-copied", &self.bytes_copied);
        put("stats/checksums", &self.checksums);
        put("stats/segments", &self.segments);
        put("stats/notifications", &self.notifications);
    }
}
