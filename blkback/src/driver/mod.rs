//! The logic of the library, on real devices, grants and events.

mod device;
mod grants;
pub mod vbd;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use blkback::disk::{Disk, OpenError, Outcome, SessionId};
use blkback::gpt::Partition;
use blkback::medium::{Busy, Geometry, Io, Medium, Token};
use blkback::ram::Ram;
use blkback::session::Extent;
use blkback::virtio::VirtioDisk;
use core::cell::RefCell;
use device::VirtioBlock;
use domain_rt::backend::Signal;
use domain_rt::events::Event;
use domain_rt::grant::Mapping;
use domain_rt::interrupt::Interrupt;
use domain_rt::page::{OutOfMemory, Pages};
use domain_rt::pci::Proxy;
use domain_rt::println;
use domain_rt::runtime::Context;
use domain_rt::store::Store;
use grants::{Copier, Reader};

/// Either kind of disk.
enum AnyMedium {
    Virtio(Box<VirtioDisk<VirtioBlock>>),
    Ram(Ram<Copier>),
}

impl Medium for AnyMedium {
    fn geometry(&self) -> Geometry {
        match self {
            Self::Virtio(disk) => disk.geometry(),
            Self::Ram(disk) => disk.geometry(),
        }
    }
    fn submit(&mut self, token: Token, io: Io<'_>) -> Result<(), Busy> {
        match self {
            Self::Virtio(disk) => disk.submit(token, io),
            Self::Ram(disk) => disk.submit(token, io),
        }
    }
    fn kick(&mut self) {
        match self {
            Self::Virtio(disk) => disk.kick(),
            Self::Ram(disk) => disk.kick(),
        }
    }
    fn completed(&mut self) -> Option<(Token, bool)> {
        match self {
            Self::Virtio(disk) => disk.completed(),
            Self::Ram(disk) => disk.completed(),
        }
    }
}

/// A disk, who is served on it, and how they are told.
pub struct SharedDisk {
    disk: RefCell<Disk<AnyMedium, Mapping>>,
    reader: RefCell<Reader>,
    /// A session's event, and what says that its ring is corrupt.
    peers: RefCell<Vec<(SessionId, Rc<Event>, Signal)>>,
    partitions: Vec<Partition>,
}

impl SharedDisk {
    fn new(medium: AnyMedium, partitions: Vec<Partition>) -> Result<Rc<Self>, OutOfMemory> {
        let reader = RefCell::new(Reader(Pages::new(1)?));
        Ok(Rc::new(Self { disk: RefCell::new(Disk::new(medium)), reader, peers: RefCell::default(), partitions }))
    }

    /// Does what can be done, and tells whom it concerns.
    fn run(&self) {
        let peers = self.peers.borrow();
        let find = |id| peers.iter().find(|(other, ..)| *other == id);
        self.disk.borrow_mut().run(&mut *self.reader.borrow_mut(), |outcome| match outcome {
            Outcome::Notify(id) => find(id).into_iter().for_each(|(_, event, _)| event.notify()),
            Outcome::Corrupt(id, corrupt) => {
                println!("blkback: a guest broke its ring: {corrupt:?}");
                find(id).into_iter().for_each(|(.., broken)| broken.raise());
            }
        });
    }

    fn open(
        &self,
        ring: Mapping,
        peer: abi::DomId,
        extent: Extent,
        mode: blkback::target::Mode,
        event: Rc<Event>,
        broken: Signal,
    ) -> Result<SessionId, OpenError> {
        let id = self.disk.borrow_mut().open(ring, peer, extent, mode.read_only, mode.shared)?;
        self.peers.borrow_mut().push((id, event, broken));
        Ok(id)
    }

    fn close(&self, id: SessionId) {
        self.disk.borrow_mut().close(id);
        self.peers.borrow_mut().retain(|(other, ..)| *other != id);
    }
}

/// The disks by name.
pub type Disks = Rc<BTreeMap<String, Rc<SharedDisk>>>;

/// Finds and starts the disks that this domain was given.
pub async fn disks(context: Context, store: Store) -> Disks {
    let mut disks = BTreeMap::new();
    match Proxy::connect(store).await {
        Ok((access, functions)) => {
            for function in functions {
                let name = name(disks.len());
                match device::open(access.clone(), function).await {
                    Ok((medium, interrupt, partitions)) => {
                        let sectors = medium.geometry().sectors;
                        println!("blkback: {name}: {sectors} sectors, {} partitions, at {function}", partitions.len());
                        let Ok(disk) = SharedDisk::new(AnyMedium::Virtio(Box::new(medium)), partitions) else { break };
                        context.spawn(interrupts(disk.clone(), interrupt));
                        disks.insert(name, disk);
                    }
                    Err(error) => println!("blkback: the device at {function} is of no use: {error}"),
                }
            }
        }
        Err(error) => println!("blkback: no PCI devices: {error:?}"),
    }
    Rc::new(disks)
}

/// `vda`, `vdb`, ...
fn name(index: usize) -> String {
    let letter = u8::try_from(index).ok().and_then(|index| b'a'.checked_add(index)).map_or('z', char::from);
    ["vd", letter.to_string().as_str()].concat()
}

/// Serves a disk's interrupt, for good.
async fn interrupts(disk: Rc<SharedDisk>, interrupt: Interrupt) {
    loop {
        interrupt.wait().await;
        if let AnyMedium::Virtio(medium) = disk.disk.borrow_mut().medium_mut() {
            medium.device_mut().acknowledge();
        }
        disk.run();
        interrupt.end();
    }
}
