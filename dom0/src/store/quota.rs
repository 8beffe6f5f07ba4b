//! What one unprivileged domain may take from the store, and the record of who asked for more (XSA-206, 326, 414-421).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use abi::DomId;

/// The limits, for each domain.
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Nodes it owns.
    pub nodes: usize,
    /// Bytes of one node's value.
    pub node_size: usize,
    /// Watches it has set.
    pub watches: usize,
    /// Transactions open at once.
    pub transactions: usize,
    /// Nodes one transaction may touch.
    pub transaction_nodes: usize,
    /// Bytes of messages waiting for it to take; above it no request of its is read and no watch event is kept.
    pub outstanding: usize,
}

impl Default for Quotas {
    /// Xen's own defaults where it has one.
    fn default() -> Self {
        Self {
            nodes: 1000,
            node_size: 2048,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            outstanding: 64 << 10,
        }
    }
}

/// Which limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is described at its field in Quotas")]
pub enum Quota {
    Nodes,
    NodeSize,
    Watches,
    Transactions,
    TransactionNodes,
    Outstanding,
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nodes => "nodes",
            Self::NodeSize => "node size",
            Self::Watches => "watches",
            Self::Transactions => "transactions",
            Self::TransactionNodes => "nodes in a transaction",
            Self::Outstanding => "outstanding messages",
        })
    }
}

/// A line for the log: `domain` ran into `quota`, for the `times`-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaHit {
    /// Who.
    pub domain: DomId,
    /// Which limit.
    pub quota: Quota,
    /// How often so far; 1, 2, 4, 8... are reported, so that the log is no way to do harm.
    pub times: u64,
}

impl fmt::Display for QuotaHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store: domain {} hit its quota of {} ({} times)", self.domain.0, self.quota, self.times)
    }
}

/// Counts hits and keeps those to be logged.
#[derive(Debug, Default)]
pub struct Hits {
    counts: BTreeMap<(DomId, Quota), u64>,
    log: Vec<QuotaHit>,
}

impl Hits {
    /// Notes that `domain` hit `quota`.
    pub fn record(&mut self, domain: DomId, quota: Quota) {
        let times = self.counts.entry((domain, quota)).or_default();
        *times += 1;
        if times.is_power_of_two() {
            self.log.push(QuotaHit { domain, quota, times: *times });
        }
    }

    /// Takes what is to be logged.
    pub fn take(&mut self) -> Vec<QuotaHit> {
        core::mem::take(&mut self.log)
    }

    /// Forgets a domain that is gone.
    pub fn forget(&mut self, domain: DomId) {
        self.counts.retain(|(of, _), _| *of != domain);
    }
}
