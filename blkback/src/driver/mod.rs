//! The logic of the library, on real devices, grants and events.

mod device;
mod grants;
mod vbd;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use blkback::counters::Counters;
use blkback::disk::{Disk, OpenError, Outcome, SessionId};
use blkback::gpt::Partition;
use blkback::medium::{Busy, Done, Geometry, Io, Medium, Token};
use blkback::ram::Ram;
use blkback::session::Config;
use blkback::virtio::VirtioDisk;
use core::cell::{Cell, RefCell};
use device::VirtioBlock;
use domain_rt::activity::Activity;
use domain_rt::driver::{Driver, Function, Peers, serve_interrupt};
use domain_rt::events::Event;
use domain_rt::grant::Mapping;
use domain_rt::page::{OutOfMemory, Pages};
use domain_rt::println;
use domain_rt::runtime::Context;
use domain_rt::store::KeySet;
use grants::{Copier, Reader};
use ring_proto::path::Class;
use vbd::Vbd;

/// The block driver domain: its disks by name.
pub struct Blkback {
    disks: BTreeMap<String, Rc<SharedDisk>>,
    totals: Rc<Totals>,
}

/// What concerns all disks.
#[derive(Default)]
struct Totals {
    activity: Activity,
    /// Operations completed.
    operations: Cell<u64>,
}

impl Driver for Blkback {
    const NAME: &'static str = "blkback";
    const CLASS: Class = Class::VBD;
    type Device = Vbd;

    async fn start(context: Context, functions: Vec<Function>) -> Result<Self, String> {
        let mut blkback = Self { disks: BTreeMap::new(), totals: Rc::default() };
        for (index, function) in functions.into_iter().enumerate() {
            // By its place in the manifest: a device that is of no use must not give its name to the next.
            let (name, address) = (name(index), function.address);
            match device::open(function).await {
                Ok((medium, interrupt, partitions)) => {
                    let sectors = medium.geometry().sectors;
                    println!("blkback: {name}: {sectors} sectors, {} partitions, at {address}", partitions.len());
                    let medium = AnyMedium::Virtio(Box::new(medium));
                    let disk = SharedDisk::new(medium, partitions, &blkback.totals).map_err(|_| "no memory")?;
                    blkback.disks.insert(name, disk.clone());
                    context.spawn(serve_interrupt(interrupt, async move || disk.interrupted()));
                }
                Err(error) => println!("blkback: the device at {address} is of no use: {error}"),
            }
        }
        Ok(blkback)
    }

    fn device(self: &Rc<Self>, keys: &KeySet) -> Result<Vbd, String> {
        Vbd::new(self, keys)
    }
}

impl Blkback {
    /// A disk by its name.
    fn disk(&self, name: &str) -> Result<Rc<SharedDisk>, String> {
        self.disks.get(name).cloned().ok_or_else(|| format!("there is no disk {name}"))
    }
}

/// `vda`, `vdb`, ...
fn name(index: usize) -> String {
    let letter = u8::try_from(index).ok().and_then(|index| b'a'.checked_add(index)).map_or('z', char::from);
    ["vd", letter.to_string().as_str()].concat()
}

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
    fn completed(&mut self) -> Option<Done> {
        match self {
            Self::Virtio(disk) => disk.completed(),
            Self::Ram(disk) => disk.completed(),
        }
    }
    fn closed(&mut self, session: u16) {
        match self {
            Self::Virtio(disk) => disk.closed(session),
            Self::Ram(disk) => disk.closed(session),
        }
    }
}

/// A disk, who is served on it, and how they are told.
struct SharedDisk {
    disk: RefCell<Disk<AnyMedium, Mapping>>,
    reader: RefCell<Reader>,
    peers: Peers<SessionId, Event>,
    partitions: Vec<Partition>,
    totals: Rc<Totals>,
}

impl SharedDisk {
    fn new(medium: AnyMedium, partitions: Vec<Partition>, totals: &Rc<Totals>) -> Result<Rc<Self>, OutOfMemory> {
        let reader = RefCell::new(Reader::new(Pages::new(1)?));
        let (disk, peers, totals) = (RefCell::new(Disk::new(medium)), Peers::default(), totals.clone());
        Ok(Rc::new(Self { disk, reader, peers, partitions, totals }))
    }

    fn geometry(&self) -> Geometry {
        self.disk.borrow().medium().geometry()
    }

    /// Does what can be done, and tells whom it concerns.
    fn run(&self) {
        let mut disk = self.disk.borrow_mut();
        let before = disk.completed();
        disk.run(&mut *self.reader.borrow_mut(), |outcome| match outcome {
            Outcome::Notify(id) => self.peers.notify(id, Event::notify),
            Outcome::Corrupt(id, corrupt) => self.peers.broken(id, format_args!("{corrupt:?}")),
        });
        self.totals.operations.set(self.totals.operations.get() + (disk.completed() - before));
        self.totals.activity.note();
    }

    /// The device has something to say.
    fn interrupted(&self) {
        if let AnyMedium::Virtio(medium) = self.disk.borrow_mut().medium_mut() {
            medium.device_mut().acknowledge();
        }
        self.run();
    }

    /// Opens a vbd with its first queue.
    fn open(&self, ring: Mapping, config: Config, shared: bool) -> Result<SessionId, OpenError> {
        self.disk.borrow_mut().open(ring, config, shared)
    }

    /// Opens a further queue of a vbd.
    fn open_queue(&self, ring: Mapping, first: SessionId) -> Result<SessionId, OpenError> {
        self.disk.borrow_mut().open_queue(ring, first)
    }

    fn close(&self, id: SessionId) {
        self.disk.borrow_mut().close(id);
        self.peers.remove(id);
    }

    /// What a vbd of these queues has done, and all of them together.
    fn stats(&self, queues: impl Iterator<Item = SessionId>) -> (String, String) {
        let all = format!("requests {}", self.totals.operations.get());
        let disk = self.disk.borrow();
        let done: Counters = queues.filter_map(|id| disk.counters(id).copied()).sum();
        (done.to_string(), all)
    }
}
