//! One vbd: its negotiation with the frontend, and its connection.

use super::grants::Copier;
use super::{AnyMedium, Disks, SharedDisk};
use abi::{DomId, PAGE_SIZE};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use blkback::disk::SessionId;
use blkback::ram::Ram;
use blkback::session::{Extent, limits};
use blkback::target::{Mode, Target};
use domain_rt::backend::{self, Signal};
use domain_rt::events::Event;
use domain_rt::grant::{Access, Mapping};
use domain_rt::page::Pages;
use domain_rt::println;
use domain_rt::store::Store;
use domain_rt::xenbus::Half;
use ring_proto::blk::info;
use ring_proto::blk_keys::{Features, FrontKeys, Properties};
use ring_proto::keys::{Keys, Put};
use ring_proto::path::{BackDir, Device};

/// Largest ring: eight pages.
const MAX_RING_ORDER: u32 = 3;
/// What a vbd is made of.
struct Backing {
    disk: Rc<SharedDisk>,
    extent: Extent,
    mode: Mode,
}

/// A connected frontend. Dropping it closes the session, then unmaps the ring and closes the event.
struct Connection {
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

    fn stats(&self, put: Put<'_>) {
        if let Some(counters) = self.disk.disk.borrow().counters(self.session) {
            counters.publish(put);
        }
    }
}

impl backend::Backend for Backing {
    type Connection = Connection;

    fn offer(&self, put: Put<'_>) {
        features(self).publish(put);
    }

    async fn connect(&self, half: &Half) -> Result<Connection, String> {
        connect(half, self).await
    }

    fn describe(&self, put: Put<'_>) {
        properties(self).publish(put);
    }
}

/// Serves a vbd until it is removed.
pub async fn serve(store: Store, disks: Disks, device: Device, gone: Signal) {
    let served = match backing(store, device, &disks).await {
        Ok(backing) => backend::serve_device(store, device, &gone, &backing).await,
        Err(why) => match Half::back(store, device).await {
            Ok(mut half) => backend::fail(&mut half, &why).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = served {
        println!("blkback: {}: {error}", BackDir(device));
    }
}

/// Finds what the toolstack wants this vbd to be.
async fn backing(store: Store, device: Device, disks: &Disks) -> Result<Backing, String> {
    let keys = store.keys(&format!("{}", BackDir(device)), |_| false).await.map_err(|error| format!("{error}"))?;
    let params = keys.get("params").ok_or("no params")?;
    let mode = keys.get("mode").and_then(Mode::parse).ok_or("mode is neither r nor w")?;
    let target = Target::parse(params).ok_or_else(|| format!("params: cannot read {params:?}"))?;
    let named = |name: &str| disks.get(name).cloned().ok_or_else(|| format!("there is no disk {name}"));
    let whole = |disk: Rc<SharedDisk>| {
        let sectors = geometry(&disk).sectors;
        (disk, Extent { start: 0, sectors })
    };
    let part = |disk: Rc<SharedDisk>, wanted: &dyn Fn(&blkback::gpt::Partition) -> bool| {
        let found = disk.partitions.iter().find(|partition| wanted(partition)).map(|partition| partition.extent);
        found.map(|extent| (disk, extent)).ok_or_else(|| format!("there is no partition {params}"))
    };
    let (disk, extent) = match target {
        Target::Ram(bytes) => {
            let pages = usize::try_from(bytes / PAGE_SIZE as u64).ok().filter(|pages| *pages > 0);
            let memory = pages.and_then(|pages| Pages::new(pages).ok()).ok_or("no memory for that RAM disk")?;
            let medium = AnyMedium::Ram(Ram::new(memory, Copier));
            whole(SharedDisk::new(medium, alloc::vec::Vec::new()).map_err(|_| "no memory")?)
        }
        Target::Whole(name) => whole(named(name)?),
        Target::Number(name, number) => part(named(name)?, &|partition| partition.number == number)?,
        Target::Label(name, label) => part(named(name)?, &|partition| partition.label == label)?,
    };
    Ok(Backing { disk, extent, mode })
}

fn geometry(disk: &SharedDisk) -> blkback::medium::Geometry {
    use blkback::medium::Medium;
    disk.disk.borrow().medium().geometry()
}

fn features(backing: &Backing) -> Features {
    let limits = limits(&geometry(&backing.disk), &backing.extent, backing.mode.read_only);
    Features {
        flush: limits.flush,
        discard: limits.discard,
        persistent: false,
        indirect_segments: limits.indirect_segments,
        max_ring_order: MAX_RING_ORDER,
        max_queues: 1,
    }
}

fn properties(backing: &Backing) -> Properties {
    let geometry = geometry(&backing.disk);
    let read_only = backing.mode.read_only || geometry.read_only;
    let info = if read_only { info::READONLY } else { 0 };
    // A partition that does not begin and end on the disk's blocks is not made of them.
    let block = u64::from(geometry.physical_sector / ring_proto::blk::SECTOR);
    let aligned = backing.extent.start.is_multiple_of(block) && backing.extent.sectors.is_multiple_of(block);
    let physical_sector = if aligned { geometry.physical_sector } else { ring_proto::blk::SECTOR };
    Properties { sectors: backing.extent.sectors, info, physical_sector }
}

/// Takes up what the frontend published.
async fn connect(half: &Half, backing: &Backing) -> Result<Connection, String> {
    let keys = half.peer_keys().await.map_err(|error| format!("{error}"))?;
    let front = FrontKeys::parse(&keys, &features(backing)).map_err(|error| format!("{error}"))?;
    let queue = front.queues.first().ok_or("no queue")?;
    let peer: DomId = half.peer();
    let ring = Mapping::new(peer, &queue.ring, Access::ReadWrite).map_err(|status| format!("ring: {status:?}"))?;
    let event = Event::bind_interdomain(peer, queue.event).map_err(|error| format!("event-channel: {error:?}"))?;
    let (event, broken) = (Rc::new(event), Signal::default());
    let disk = backing.disk.clone();
    let session = disk
        .open(ring, peer, backing.extent, backing.mode, event.clone(), broken.clone())
        .map_err(|error| format!("{error:?}"))?;
    let connection = Connection { disk, session, event, broken };
    // What was asked before anybody listened.
    connection.disk.run();
    Ok(connection)
}
