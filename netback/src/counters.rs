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
    /// Bytes of Ethernet headers read from this guest's pages, to see where its packets go.
    pub header_bytes: u64,
    /// Bytes of this guest's packets copied into our memory, to be mended there.
    pub tx_copied: u64,
    /// Bytes copied into this guest's pages.
    pub rx_copied: u64,
    /// Checksums computed in software.
    pub checksums: u64,
    /// Segments cut in software.
    pub segments: u64,
    /// Events sent to the guest.
    pub notifications: u64,
}

impl core::fmt::Display for Counters {
    /// Names and numbers in turn, as they stand in the store.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { tx_packets, tx_bytes, tx_errors, tx_dropped, header_bytes, tx_copied, .. } = self;
        let Self { rx_packets, rx_bytes, rx_dropped, rx_copied, checksums, segments, notifications, .. } = self;
        write!(f, "tx-packets {tx_packets} tx-bytes {tx_bytes} tx-errors {tx_errors} tx-dropped {tx_dropped} ")?;
        write!(f, "header-bytes {header_bytes} tx-copied {tx_copied} ")?;
        write!(f, "rx-packets {rx_packets} rx-bytes {rx_bytes} rx-dropped {rx_dropped} rx-copied {rx_copied} ")?;
        write!(f, "checksums {checksums} segments {segments} notifications {notifications}")
    }
}

/// Counts of the whole switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Hypercalls for copies.
    pub copy_calls: u64,
    /// Packets moved, from all ports; one that goes to several counts once.
    pub packets: u64,
    /// Packets from the NIC that were for nobody, or that nobody could take.
    pub nic_dropped: u64,
}

impl core::fmt::Display for Totals {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { copy_calls, packets, nic_dropped } = self;
        write!(f, "packets {packets} copy-calls {copy_calls} nic-dropped {nic_dropped}")
    }
}
