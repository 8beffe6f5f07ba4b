//! One vbd: its negotiation with the frontend, and its connection.

use super::grants::Copier;
use super::{AnyMedium, Blkback, SharedDisk};
use abi::{DomId, PAGE_SIZE};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use blkback::disk::SessionId;
use blkback::gpt::Partition;
use blkback::kept;
use blkback::medium::Geometry;
use blkback::ram::Ram;
use blkback::session::{Config, Extent, limits};
use blkback::target::{Mode, Target};
use domain_rt::activity::Activity;
use domain_rt::backend::{self, Signal};
use domain_rt::events::{self, Event};
use domain_rt::grant::{Access, Mapping};
use domain_rt::page::Pages;
use domain_rt::store::KeySet;
use domain_rt::xenbus::Half;
use ring_proto::blk::{Limits, info};
use ring_proto::blk_keys::{Features, FrontKeys, Properties, QueueKeys};
use ring_proto::keys::{Keys, Put};

/// Largest ring: eight pages.
const MAX_RING_ORDER: u32 = 3;
/// Queues offered where the manifest says nothing: as many as this domain has vCPUs.
const QUEUES: usize = 1;
/// Whether grants that stay mapped are offered where the manifest says nothing.
const PERSISTENT: bool = false;

/// What a vbd is made of.
pub struct Vbd {
    disk: Rc<SharedDisk>,
    extent: Extent,
    mode: Mode,
    /// What the guest is offered.
    offered: Features,
}

/// A connected frontend. Dropping it closes its queues, then unmaps their rings and closes their events.
pub struct Connection {
    disk: Rc<SharedDisk>,
    queues: Vec<(SessionId, Rc<Event>)>,
    broken: Signal,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.queues.iter().for_each(|(session, _)| self.disk.close(*session));
    }
}

impl backend::Connection for Connection {
    async fn wait(&self) {
        events::wait_any(self.queues.iter().map(|(_, event)| &**event)).await;
    }

    async fn serve(&self) {
        self.disk.run();
    }

    fn broken(&self) -> &Signal {
        &self.broken
    }

    fn activity(&self) -> &Activity {
        &self.disk.totals.activity
    }

    fn stats(&self) -> (String, String) {
        self.disk.stats(self.queues.iter().map(|(session, _)| *session))
    }
}

impl backend::Backend for Vbd {
    type Connection = Connection;

    fn offer(&self, put: Put<'_>) {
        self.offered.publish(put);
    }

    async fn connect(&self, half: &Half) -> Result<Connection, String> {
        connect(half, self).await
    }

    fn describe(&self, put: Put<'_>) {
        self.properties().publish(put);
    }
}

impl Vbd {
    /// What the toolstack wants a vbd to be.
    pub(super) fn new(driver: &Blkback, keys: &KeySet) -> Result<Self, String> {
        let params = keys.get("params").ok_or("no params")?;
        let mode = keys.get("mode").and_then(Mode::parse).ok_or("mode is neither r nor w")?;
        let target = Target::parse(params).ok_or_else(|| format!("params: cannot read {params:?}"))?;
        let whole = |disk: Rc<SharedDisk>| {
            let sectors = disk.geometry().sectors;
            (disk, Extent { start: 0, sectors })
        };
        let part = |disk: Rc<SharedDisk>, wanted: &dyn Fn(&Partition) -> bool| {
            let found = disk.partitions.iter().find(|partition| wanted(partition)).map(|partition| partition.extent);
            found.map(|extent| (disk, extent)).ok_or_else(|| format!("there is no partition {params}"))
        };
        let (disk, extent) = match target {
            Target::Ram(bytes) => {
                let pages = usize::try_from(bytes / PAGE_SIZE as u64).ok().filter(|pages| *pages > 0);
                let memory = pages.and_then(|pages| Pages::new(pages).ok()).ok_or("no memory for that RAM disk")?;
                let medium = AnyMedium::Ram(Ram::new(memory, Copier::default()));
                whole(SharedDisk::new(medium, Vec::new(), &driver.totals).map_err(|_| "no memory")?)
            }
            Target::Whole(name) => whole(driver.disk(name)?),
            Target::Number(name, number) => part(driver.disk(name)?, &|partition| partition.number == number)?,
            Target::Label(name, label) => part(driver.disk(name)?, &|partition| partition.label == label)?,
        };
        let offered = features(&disk.geometry(), &extent, mode);
        let offered = offered.wanted(keys, PERSISTENT).map_err(|error| format!("{error}"))?;
        Ok(Self { disk, extent, mode, offered })
    }

    /// What requests are checked against.
    fn limits(&self) -> Limits {
        let Features { flush, discard, indirect_segments, .. } = self.offered;
        let limits = limits(&self.disk.geometry(), &self.extent, self.mode.read_only);
        Limits { flush, discard, indirect_segments, ..limits }
    }

    fn properties(&self) -> Properties {
        let geometry = self.disk.geometry();
        let read_only = self.mode.read_only || geometry.read_only;
        let info = if read_only { info::READONLY } else { 0 };
        // A partition that does not begin and end on the disk's blocks is not made of them.
        let block = u64::from(geometry.physical_sector / ring_proto::blk::SECTOR);
        let aligned = self.extent.start.is_multiple_of(block) && self.extent.sectors.is_multiple_of(block);
        let physical_sector = if aligned { geometry.physical_sector } else { ring_proto::blk::SECTOR };
        Properties { sectors: self.extent.sectors, info, physical_sector }
    }
}

/// All that can be offered on a disk. A RAM disk maps nothing that could stay.
fn features(geometry: &Geometry, extent: &Extent, mode: Mode) -> Features {
    let limits = limits(geometry, extent, mode.read_only);
    Features {
        flush: limits.flush,
        discard: limits.discard,
        persistent: geometry.maps,
        indirect_segments: limits.indirect_segments,
        max_ring_order: MAX_RING_ORDER,
        max_queues: QUEUES,
    }
}

/// Takes up what the frontend published.
async fn connect(half: &Half, vbd: &Vbd) -> Result<Connection, String> {
    let keys = half.peer_keys().await.map_err(|error| format!("{error}"))?;
    let front = FrontKeys::parse(&keys, &vbd.offered).map_err(|error| format!("{error}"))?;
    let peer = half.peer();
    let keep = if front.persistent { kept::MOST / front.queues.len() as u16 } else { 0 };
    let config = Config { peer, extent: vbd.extent, limits: vbd.limits(), keep };
    let mut connection = Connection { disk: vbd.disk.clone(), queues: Vec::new(), broken: Signal::default() };
    for queue in &front.queues {
        let (ring, event) = map(peer, queue)?;
        let (disk, event) = (&vbd.disk, Rc::new(event));
        let session = match connection.queues.first() {
            None => disk.open(ring, config, vbd.mode.shared),
            Some((first, _)) => disk.open_queue(ring, *first),
        };
        let session = session.map_err(|error| format!("{error:?}"))?;
        disk.peers.add(session, event.clone(), connection.broken.clone());
        connection.queues.push((session, event));
    }
    // What was asked before anybody listened.
    connection.disk.run();
    Ok(connection)
}

/// Maps a queue's ring and binds its event.
fn map(peer: DomId, queue: &QueueKeys) -> Result<(Mapping, Event), String> {
    let ring = Mapping::new(peer, &queue.ring, Access::ReadWrite).map_err(|status| format!("ring: {status:?}"))?;
    let event = Event::bind_interdomain(peer, queue.event).map_err(|error| format!("event-channel: {error:?}"))?;
    Ok((ring, event))
}
