//! One vbd: its negotiation with the frontend, and its connection.

use super::grants::Copier;
use super::{AnyMedium, Disks, SharedDisk};
use abi::{DomId, PAGE_SIZE};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use blkback::counters::Counters;
use blkback::disk::SessionId;
use blkback::ram::Ram;
use blkback::session::{Extent, limits};
use blkback::target::{Mode, Target};
use core::future::pending;
use core::pin::pin;
use domain_rt::backend::Signal;
use domain_rt::events::Event;
use domain_rt::grant::{Access, Mapping};
use domain_rt::page::Pages;
use domain_rt::println;
use domain_rt::store::{Error, Store};
use domain_rt::xenbus::Half;
use embassy_futures::select::{Either4, select4};
use embassy_time::{Duration, Timer};
use ring_proto::blk::info;
use ring_proto::blk_keys::{Features, FrontKeys, Properties};
use ring_proto::keys::Keys;
use ring_proto::path::{BackDir, Device};
use ring_proto::xenbus::{BackStep, State, back_step};

/// Largest ring: eight pages.
const MAX_RING_ORDER: u32 = 3;
/// How long counters wait for more before they are written to the store.
const STATS_DELAY: Duration = Duration::from_secs(1);

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

/// Serves a vbd until it is removed.
pub async fn serve(store: Store, disks: Disks, device: Device, gone: Signal) {
    if let Err(error) = try_serve(store, disks, device, gone).await {
        println!("blkback: vbd {}/{}: {error}", device.front.0, device.handle);
        let _ = store.write(&format!("{}/error", BackDir(device)), &error).await;
        let _ = store.write(&format!("{}/state", BackDir(device)), State::Closed).await;
    }
}

async fn try_serve(store: Store, disks: Disks, device: Device, gone: Signal) -> Result<(), String> {
    let failed = |error: Error| format!("{error}");
    let mut half = Half::back(store, device).await.map_err(failed)?;
    let backing = backing(&half, &disks).await?;
    let mut connection: Option<Connection> = None;
    let mut peer = half.read_peer_state().await.map_err(failed)?;
    loop {
        loop {
            let step = back_step(half.state(), peer);
            let Some(next) = step.next() else { break };
            if step != BackStep::Connect {
                connection = None;
            }
            match step {
                BackStep::Offer => half.publish(next, |put| features(&backing).publish(put)).await,
                BackStep::Connect => match connect(&half, &backing).await {
                    Ok(connected) => {
                        connection = Some(connected);
                        half.publish(next, |put| properties(&backing).publish(put)).await
                    }
                    Err(error) => {
                        println!("blkback: vbd {}/{}: {error}", device.front.0, device.handle);
                        half.publish(State::Closing, |put| put("error", &error)).await
                    }
                },
                _ => half.set_state(next).await,
            }
            .map_err(failed)?;
        }
        match work(store, &mut half, connection.as_ref(), &gone).await.map_err(failed)? {
            News::Peer(state) => peer = state,
            News::Gone => return Ok(()),
            News::Broken => {
                connection = None;
                let why = "the ring is corrupt";
                half.publish(State::Closing, |put| put("error", &why)).await.map_err(failed)?;
            }
        }
    }
}

/// Why work stopped.
enum News {
    Peer(State),
    Broken,
    Gone,
}

/// Serves the connection until something else happens.
async fn work(store: Store, half: &mut Half, connection: Option<&Connection>, gone: &Signal) -> Result<News, Error> {
    let directory = String::from(half.directory());
    let mut written = Counters::default();
    let mut peer = pin!(half.peer_state());
    loop {
        let counters = connection.and_then(|c| c.disk.disk.borrow().counters(c.session).copied());
        let counters = counters.filter(|counters| *counters != written);
        let event = async {
            match connection {
                Some(connection) => connection.event.wait().await,
                None => pending().await,
            }
        };
        let broken = async {
            match connection {
                Some(connection) => connection.broken.wait().await,
                None => pending().await,
            }
        };
        let due = async {
            match counters {
                Some(_) => Timer::after(STATS_DELAY).await,
                None => pending().await,
            }
        };
        match select4(&mut peer, event, broken, embassy_futures::select::select(gone.wait(), due)).await {
            Either4::First(state) => return state.map(News::Peer),
            Either4::Second(()) => connection.into_iter().for_each(|connection| connection.disk.run()),
            Either4::Third(()) => return Ok(News::Broken),
            Either4::Fourth(embassy_futures::select::Either::First(())) => return Ok(News::Gone),
            Either4::Fourth(embassy_futures::select::Either::Second(())) => {
                if let Some(counters) = counters {
                    written = counters;
                    let mut list = alloc::vec::Vec::new();
                    counters.publish(&mut |key, value| list.push((format!("{directory}/{key}"), format!("{value}"))));
                    for (path, value) in list {
                        store.write(&path, value).await?;
                    }
                }
            }
        }
    }
}

/// Finds what the toolstack wants this vbd to be.
async fn backing(half: &Half, disks: &Disks) -> Result<Backing, String> {
    let keys = half.own_keys().await.map_err(|error| format!("{error}"))?;
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
