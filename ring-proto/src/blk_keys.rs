//! What block halves tell each other through the store.

use crate::blk::{MAX_SEGMENTS, SECTOR};
use crate::keys::{
    BadKey, Feature, Keys, MAX_QUEUES, MAX_RING_ORDER, MAX_RING_PAGES, Put, QueueKey, flag, number_or, offer,
    offer_queues, queues,
};
use abi::{GrantRef, Port};
use heapless::Vec;

/// What a backend can do; published before the frontend makes its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Barriers and flushes.
    pub flush: bool,
    /// Discards.
    pub discard: bool,
    /// Grants that stay mapped.
    pub persistent: bool,
    /// Most segments of an indirect request; 0: none.
    pub indirect_segments: u16,
    /// Largest ring, as a power of two of pages.
    pub max_ring_order: u32,
    /// Most queues.
    pub max_queues: usize,
}

/// What a manifest may say of a disk.
pub const FEATURES: [Feature; 6] = [
    Feature::switch("flush"),
    Feature::switch("discard"),
    Feature::switch("persistent"),
    Feature::switch("indirect"),
    Feature::switch("multi_page"),
    Feature::number("queues", MAX_QUEUES),
];

impl Features {
    /// What of this the toolstack wants offered; `keys` are those of the backend's directory. `persistent` says whether
    /// grants that stay mapped are offered where it does not say; it can ask for as many queues as it likes.
    pub fn wanted(self, keys: &(impl Keys + ?Sized), persistent: bool) -> Result<Self, BadKey> {
        Ok(Self {
            flush: offer(keys, "offer-flush", true)? && self.flush,
            discard: offer(keys, "offer-discard", true)? && self.discard,
            persistent: offer(keys, "offer-persistent", persistent)? && self.persistent,
            indirect_segments: if offer(keys, "offer-indirect", true)? { self.indirect_segments } else { 0 },
            max_ring_order: if offer(keys, "offer-multi_page", true)? { self.max_ring_order } else { 0 },
            max_queues: offer_queues(keys, self.max_queues)?,
        })
    }

    /// Writes the keys of the backend's directory. A key is left out where its absence means no.
    pub fn publish(&self, put: Put<'_>) {
        put("feature-barrier", &u8::from(self.flush));
        put("feature-flush-cache", &u8::from(self.flush));
        put("feature-persistent", &u8::from(self.persistent));
        if self.discard {
            put("feature-discard", &1);
            put("discard-granularity", &SECTOR);
            put("discard-alignment", &0);
            put("discard-secure", &0);
        }
        if self.indirect_segments > 0 {
            put("feature-max-indirect-segments", &self.indirect_segments);
        }
        put("max-ring-page-order", &self.max_ring_order);
        put("max-ring-pages", &(1u32 << self.max_ring_order));
        put("multi-queue-max-queues", &self.max_queues);
    }

    /// Reads them, bounded by what this crate handles.
    pub fn parse(keys: &(impl Keys + ?Sized)) -> Result<Self, BadKey> {
        let segments = number_or(keys, "feature-max-indirect-segments", 0u32)?;
        Ok(Self {
            flush: flag(keys, "feature-flush-cache"),
            discard: flag(keys, "feature-discard"),
            persistent: flag(keys, "feature-persistent"),
            indirect_segments: segments.min(MAX_SEGMENTS as u32) as u16,
            max_ring_order: number_or(keys, "max-ring-page-order", 0u32)?.min(MAX_RING_ORDER),
            max_queues: number_or(keys, "multi-queue-max-queues", 1usize)?.clamp(1, MAX_QUEUES),
        })
    }
}

/// The disk; published when the backend connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bits of [`info`](crate::blk::info).
    pub info: u32,
    /// Bytes that the disk writes at once, a multiple of 512.
    pub physical_sector: u32,
}

impl Properties {
    /// Writes the keys of the backend's directory.
    pub fn publish(&self, put: Put<'_>) {
        put("sectors", &self.sectors);
        put("info", &self.info);
        put("sector-size", &SECTOR);
        put("physical-sector-size", &self.physical_sector);
    }

    /// Reads them. A disk whose sectors are not of 512 bytes is refused: nobody asked for one.
    pub fn parse(keys: &(impl Keys + ?Sized)) -> Result<Self, BadKey> {
        let sectors = number_or(keys, "sectors", 0u64)?;
        if sectors == 0 {
            return Err(BadKey("sectors"));
        }
        if number_or(keys, "sector-size", SECTOR)? != SECTOR {
            return Err(BadKey("sector-size"));
        }
        let physical_sector = number_or(keys, "physical-sector-size", SECTOR)?;
        Ok(Self { sectors, info: number_or(keys, "info", 0)?, physical_sector })
    }
}

/// Where a queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueKeys {
    /// The pages of the ring in order, a power of two of them.
    pub ring: Vec<GrantRef, MAX_RING_PAGES>,
    /// The frontend's port.
    pub event: Port,
}

/// What a frontend chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontKeys {
    /// Its queues, at least one, all with rings of one size.
    pub queues: Vec<QueueKeys, MAX_QUEUES>,
    /// Its grants may stay mapped.
    pub persistent: bool,
}

const PROTOCOL: &str = "x86_64-abi";

impl FrontKeys {
    /// Writes the keys of the frontend's directory.
    pub fn publish(&self, put: Put<'_>) {
        let directories = self.queues.len() > 1;
        let pages = self.queues.first().map_or(1, |queue| queue.ring.len());
        if directories {
            put("multi-queue-num-queues", &self.queues.len());
        }
        if pages > 1 {
            put("ring-page-order", &pages.ilog2());
            put("num-ring-pages", &pages);
        }
        for (number, queue) in self.queues.iter().enumerate() {
            let directory = directories.then_some(number);
            for (index, page) in queue.ring.iter().enumerate() {
                put(QueueKey::new(directory, "ring-ref", (pages > 1).then_some(index)).as_str(), &page.0);
            }
            put(QueueKey::new(directory, "event-channel", None).as_str(), &queue.event.0);
        }
        put("protocol", &PROTOCOL);
        put("feature-persistent", &u8::from(self.persistent));
    }

    /// Reads them, against what was offered.
    pub fn parse(keys: &(impl Keys + ?Sized), offered: &Features) -> Result<Self, BadKey> {
        if keys.get("protocol").is_some_and(|protocol| protocol != PROTOCOL) {
            return Err(BadKey("protocol"));
        }
        // The two ways to say how large the ring is; order wins, as both are published alike.
        let max = 1usize << offered.max_ring_order.min(MAX_RING_ORDER);
        let pages = match keys.get("ring-page-order") {
            Some(_) => 1usize.checked_shl(number_or(keys, "ring-page-order", 0)?).ok_or(BadKey("ring-page-order"))?,
            None => number_or(keys, "num-ring-pages", 1)?,
        };
        if !pages.is_power_of_two() || pages > max {
            return Err(BadKey("ring-page-order"));
        }
        let (count, directories) = queues(keys, offered.max_queues)?;
        let queue = |number: usize| queue_keys(keys, directories.then_some(number), pages);
        let queues = (0..count).map(queue).collect::<Result<_, _>>()?;
        Ok(Self { queues, persistent: offered.persistent && flag(keys, "feature-persistent") })
    }
}

fn queue_keys(keys: &(impl Keys + ?Sized), queue: Option<usize>, pages: usize) -> Result<QueueKeys, BadKey> {
    let single = pages == 1 && keys.get(QueueKey::new(queue, "ring-ref", None).as_str()).is_some();
    let page = |index: usize| QueueKey::new(queue, "ring-ref", (!single).then_some(index)).grant(keys, "ring-ref");
    Ok(QueueKeys {
        ring: (0..pages).map(page).collect::<Result<_, _>>()?,
        event: QueueKey::new(queue, "event-channel", None).port(keys, "event-channel")?,
    })
}
