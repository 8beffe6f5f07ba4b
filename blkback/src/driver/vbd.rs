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
use blkback::ram::Ram;
use blkback::session::{Extent, limits};
use blkback::target::{Mode, Target};
use domain_rt::activity::Activity;
use domain_rt::backend::{self, Signal};
use domain_rt::events::Event;
use domain_rt::grant::{Access, Mapping};
use domain_rt::page::Pages;
use domain_rt::store::KeySet;
use domain_rt::xenbus::Half;
use ring_proto::blk::info;
use ring_proto::blk_keys::{Features, FrontKeys, Properties};
use ring_proto::keys::{Keys, Put};

/// Largest ring: eight pages.
const MAX_RING_ORDER: u32 = 3;
/// What a vbd is made of.
pub struct Vbd {
    disk: Rc<SharedDisk>,
    extent: Extent,
    mode: Mode,
}

/// A connected frontend. Dropping it closes the session, then unmaps the ring and closes the event.
pub struct Connection {
    disk: Rc<SharedDisk>,
    session: SessionId,
    event: Rc<Event>,
    broken: Signal,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.disk.close(self.session);
    }
}

impl backend::Connection for Connection {
    async fn wait(&self) {
        self.event.wait().await;
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
        self.disk.stats(self.session)
    }
}

impl backend::Backend for Vbd {
    type Connection = Connection;

    fn offer(&self, put: Put<'_>) {
        self.features().publish(put);
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
        Ok(Self { disk, extent, mode })
    }

    fn features(&self) -> Features {
        let limits = limits(&self.disk.geometry(), &self.extent, self.mode.read_only);
        Features {
            flush: limits.flush,
            discard: limits.discard,
            persistent: false,
            indirect_segments: limits.indirect_segments,
            max_ring_order: MAX_RING_ORDER,
            max_queues: 1,
        }
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

/// Takes up what the frontend published.
async fn connect(half: &Half, vbd: &Vbd) -> Result<Connection, String> {
    let keys = half.peer_keys().await.map_err(|error| format!("{error}"))?;
    let front = FrontKeys::parse(&keys, &vbd.features()).map_err(|error| format!("{error}"))?;
    let queue = front.queues.first().ok_or("no queue")?;
    let peer: DomId = half.peer();
    let ring = Mapping::new(peer, &queue.ring, Access::ReadWrite).map_err(|status| format!("ring: {status:?}"))?;
    let event = Event::bind_interdomain(peer, queue.event).map_err(|error| format!("event-channel: {error:?}"))?;
    let (event, broken) = (Rc::new(event), Signal::default());
    let disk = vbd.disk.clone();
    let session = disk
        .open(ring, peer, vbd.extent, vbd.mode, event.clone(), broken.clone())
        .map_err(|error| format!("{error:?}"))?;
    let connection = Connection { disk, session, event, broken };
    // What was asked before anybody listened.
    connection.disk.run();
    Ok(connection)
}
