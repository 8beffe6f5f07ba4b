//! What network halves tell each other through the store.

use crate::keys::{BadKey, Feature, Keys, MAX_QUEUES, Put, QueueKey, flag, offer, offer_queues, queues};
use abi::{GrantRef, Port};
use heapless::Vec;

/// The event channels of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// One for both rings.
    Shared(Port),
    /// One each.
    Split {
        /// Of the transmit ring.
        tx: Port,
        /// Of the receive ring.
        rx: Port,
    },
}

/// Where a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueKeys {
    /// The page of the transmit ring.
    pub tx_ring: GrantRef,
    /// The page of the receive ring.
    pub rx_ring: GrantRef,
    /// The frontend's ports.
    pub events: Events,
}

/// Packets that a half takes beyond plain ones with good checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Packets of several slots.
    pub scatter_gather: bool,
    /// TCP over IPv4 to be segmented.
    pub gso_tcpv4: bool,
    /// TCP over IPv6 to be segmented.
    pub gso_tcpv6: bool,
    /// Blank checksums over IPv4.
    pub checksum_v4: bool,
    /// Blank checksums over IPv6.
    pub checksum_v6: bool,
}

impl Offloads {
    fn parse(keys: &(impl Keys + ?Sized)) -> Self {
        Self {
            scatter_gather: flag(keys, "feature-sg"),
            gso_tcpv4: flag(keys, "feature-gso-tcpv4"),
            gso_tcpv6: flag(keys, "feature-gso-tcpv6"),
            checksum_v4: !flag(keys, "feature-no-csum-offload"),
            checksum_v6: flag(keys, "feature-ipv6-csum-offload"),
        }
    }

    fn publish(&self, put: Put<'_>) {
        put("feature-sg", &u8::from(self.scatter_gather));
        put("feature-gso-tcpv4", &u8::from(self.gso_tcpv4));
        put("feature-gso-tcpv6", &u8::from(self.gso_tcpv6));
        put("feature-no-csum-offload", &u8::from(!self.checksum_v4));
        put("feature-ipv6-csum-offload", &u8::from(self.checksum_v6));
    }
}

/// What a backend can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackKeys {
    /// What it takes from the guest.
    pub offloads: Offloads,
    /// The guest may have an event channel a ring.
    pub split_events: bool,
    /// The guest may name the multicast addresses it wants.
    pub multicast_control: bool,
    /// Most queues.
    pub max_queues: usize,
}

/// What a manifest may say of a vif.
pub const FEATURES: [Feature; 6] = [
    Feature::switch("sg"),
    Feature::switch("gso"),
    Feature::switch("checksum"),
    Feature::switch("split_events"),
    Feature::switch("multicast"),
    Feature::number("queues", MAX_QUEUES),
];

impl BackKeys {
    /// What of this the toolstack wants offered; `keys` are those of the backend's directory. It can ask for as many
    /// queues as it likes. Packets to be segmented take several slots, so without those there are none.
    pub fn wanted(self, keys: &(impl Keys + ?Sized)) -> Result<Self, BadKey> {
        let scatter_gather = offer(keys, "offer-sg", true)? && self.offloads.scatter_gather;
        let gso = offer(keys, "offer-gso", true)? && scatter_gather;
        let checksum = offer(keys, "offer-checksum", true)?;
        let Offloads { gso_tcpv4, gso_tcpv6, checksum_v4, checksum_v6, .. } = self.offloads;
        Ok(Self {
            offloads: Offloads {
                scatter_gather,
                gso_tcpv4: gso && gso_tcpv4,
                gso_tcpv6: gso && gso_tcpv6,
                checksum_v4: checksum && checksum_v4,
                checksum_v6: checksum && checksum_v6,
            },
            split_events: offer(keys, "offer-split_events", true)? && self.split_events,
            multicast_control: offer(keys, "offer-multicast", true)? && self.multicast_control,
            max_queues: offer_queues(keys, self.max_queues)?,
        })
    }

    /// Writes the keys of the backend's directory. Copying into the guest's pages is the only way it receives.
    pub fn publish(&self, put: Put<'_>) {
        put("feature-rx-copy", &1);
        put("feature-rx-flip", &0);
        self.offloads.publish(put);
        put("feature-split-event-channels", &u8::from(self.split_events));
        put("feature-multicast-control", &u8::from(self.multicast_control));
        put("multi-queue-max-queues", &self.max_queues);
    }

    /// Reads them. A backend that cannot copy is of no use.
    pub fn parse(keys: &(impl Keys + ?Sized)) -> Result<Self, BadKey> {
        if !flag(keys, "feature-rx-copy") {
            return Err(BadKey("feature-rx-copy"));
        }
        Ok(Self {
            offloads: Offloads::parse(keys),
            split_events: flag(keys, "feature-split-event-channels"),
            multicast_control: flag(keys, "feature-multicast-control"),
            max_queues: crate::keys::number_or(keys, "multi-queue-max-queues", 1)?,
        })
    }
}

/// What a frontend chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontKeys {
    /// Its queues, at least one.
    pub queues: Vec<QueueKeys, MAX_QUEUES>,
    /// What it takes from the backend.
    pub offloads: Offloads,
    /// It sends an event when it offers pages.
    pub rx_notify: bool,
    /// It wants only the multicast addresses that it names.
    pub multicast_control: bool,
}

impl FrontKeys {
    /// Writes the keys of the frontend's directory.
    pub fn publish(&self, put: Put<'_>) {
        let directories = self.queues.len() > 1;
        if directories {
            put("multi-queue-num-queues", &self.queues.len());
        }
        for (index, queue) in self.queues.iter().enumerate() {
            let mut put_in = |name: &str, value: u32| {
                put(QueueKey::new(directories.then_some(index), name, None).as_str(), &value);
            };
            put_in("tx-ring-ref", queue.tx_ring.0);
            put_in("rx-ring-ref", queue.rx_ring.0);
            match queue.events {
                Events::Shared(port) => put_in("event-channel", port.0),
                Events::Split { tx, rx } => {
                    put_in("event-channel-tx", tx.0);
                    put_in("event-channel-rx", rx.0);
                }
            }
        }
        put("request-rx-copy", &1);
        put("feature-rx-notify", &u8::from(self.rx_notify));
        self.offloads.publish(put);
        if self.multicast_control {
            put("request-multicast-control", &1);
        }
    }

    /// Reads them, against what was offered.
    pub fn parse(keys: &(impl Keys + ?Sized), offered: &BackKeys) -> Result<Self, BadKey> {
        if !flag(keys, "request-rx-copy") {
            return Err(BadKey("request-rx-copy"));
        }
        let (count, directories) = queues(keys, offered.max_queues)?;
        let queue = |index: usize| queue_keys(keys, directories.then_some(index), offered.split_events);
        Ok(Self {
            queues: (0..count).map(queue).collect::<Result<_, _>>()?,
            offloads: Offloads::parse(keys),
            rx_notify: flag(keys, "feature-rx-notify"),
            multicast_control: offered.multicast_control && flag(keys, "request-multicast-control"),
        })
    }
}

fn queue_keys(keys: &(impl Keys + ?Sized), queue: Option<usize>, may_split: bool) -> Result<QueueKeys, BadKey> {
    let key = |name| QueueKey::new(queue, name, None);
    let split = may_split && keys.get(key("event-channel-tx").as_str()).is_some();
    let port = |name| key(name).port(keys, name);
    Ok(QueueKeys {
        tx_ring: key("tx-ring-ref").grant(keys, "tx-ring-ref")?,
        rx_ring: key("rx-ring-ref").grant(keys, "rx-ring-ref")?,
        events: if split {
            Events::Split { tx: port("event-channel-tx")?, rx: port("event-channel-rx")? }
        } else {
            Events::Shared(port("event-channel")?)
        },
    })
}
