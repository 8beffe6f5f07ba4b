//! blkfront: a virtual disk, asynchronous, also as a [`block_device_driver::BlockDevice`].
//!
//! Data goes through a pool of pages that stay granted for as long as the connection, so that a backend may keep them
//! mapped. A backend that dies is met again, and what was asked and not answered is asked again.

mod connection;

use abi::DomId;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use block_device_driver::{BlockDevice, blocks_to_slice, blocks_to_slice_mut};
use connection::{Connection, PAGES};
use core::cell::RefCell;
use core::fmt;
use core::future::{pending, poll_fn};
use core::task::{Poll, Waker};
use domain_rt::frontend::{self, Frontend};
use domain_rt::store::{Error as StoreFailure, KeySet, Store};
use ring_proto::blk::{BlkOp, BlkStatus, DIRECT_SEGMENTS, SECTOR, info};
use ring_proto::blk_keys::{Features, Properties};
use ring_proto::keys::Put;
use ring_proto::path::Class;

/// Bytes of a sector.
pub const SECTOR_SIZE: usize = SECTOR as usize;
/// Most bytes of one request: what a ring slot can name.
const MAX_TRANSFER: usize = DIRECT_SEGMENTS * abi::PAGE_SIZE;

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The backend says so: the disk failed, is read-only, or has no such sectors.
    Failed,
    /// The backend does not do this.
    Unsupported,
    /// Not whole sectors.
    Unaligned,
    /// The device was taken away.
    Gone,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the disk reports an error",
            Self::Unsupported => "the disk does not do this",
            Self::Unaligned => "not whole sectors",
            Self::Gone => "the disk was taken away",
        })
    }
}
impl core::error::Error for Error {}

/// What a disk moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sectors read.
    pub sectors_read: u64,
    /// Sectors written.
    pub sectors_written: u64,
    /// Requests.
    pub requests: u64,
    /// Events sent to the backend.
    pub notifications: u64,
    /// Times the backend was met again.
    pub reconnects: u64,
}

/// A request from its start until its caller has seen the answer.
#[derive(Debug)]
struct Request {
    op: BlkOp,
    sector: u64,
    /// Pages of the pool, in order, and bytes in all of them.
    pages: heapless::Vec<usize, DIRECT_SEGMENTS>,
    bytes: usize,
    answer: Option<BlkStatus>,
    waiter: Option<Waker>,
    /// Nobody waits for the answer any more; the pages are free when it comes.
    abandoned: bool,
}

#[derive(Default)]
struct Shared {
    connection: Option<Connection>,
    /// What the backend said of the disk; there once it was first connected.
    properties: Option<Properties>,
    features: Option<Features>,
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    /// Who waits for pages, slots or the first connection.
    waiters: Vec<Waker>,
    counters: Counters,
    gone: bool,
}

impl Shared {
    fn wake(&mut self) {
        self.waiters.drain(..).for_each(Waker::wake);
    }

    /// Takes the answers that are there.
    fn reap(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while let Some((id, status)) = connection.answer() {
            match self.requests.get_mut(id) {
                Some(slot @ Some(Request { abandoned: true, .. })) => {
                    slot.take().into_iter().for_each(|request| self.free.extend(request.pages));
                }
                Some(Some(request @ Request { answer: None, .. })) => {
                    request.answer = Some(status);
                    request.waiter.take().into_iter().for_each(Waker::wake);
                }
                _ => connection.close("blk response to nothing"),
            }
        }
        // Pages and slots come free with the answers.
        self.wake();
    }

    /// Asks again what was not answered, on a new connection.
    fn resume(&mut self) {
        let Self { connection: Some(connection), requests, counters, .. } = self else { return };
        let open = requests.iter().enumerate().filter_map(|(id, request)| Some((id, request.as_ref()?)));
        open.filter(|(_, request)| request.answer.is_none()).for_each(|(id, request)| connection.push(id, request));
        counters.notifications += u64::from(connection.publish());
    }
}

/// A disk. Clones are the same disk; transfers of several run side by side.
#[derive(Clone)]
pub struct Disk {
    shared: Rc<RefCell<Shared>>,
    /// `xvda` and the like.
    name: String,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({})", self.name)
    }
}

/// Keeps a disk connected.
pub struct Task {
    store: Store,
    handle: u32,
    disk: Disk,
    /// Made in `setup`, in use from `finish` on.
    next: RefCell<Option<Connection>>,
}

/// The disks that the toolstack gave this domain, by number.
pub async fn disks(store: Store) -> Result<Vec<u32>, StoreFailure> {
    crate::devices(store, Class::VBD).await
}

/// A disk by its number, and the task that must run for it to work.
pub fn connect(store: Store, handle: u32) -> (Disk, Task) {
    let shared = Shared { free: (0..PAGES).collect(), ..Shared::default() };
    let disk = Disk { shared: Rc::new(RefCell::new(shared)), name: disk_name(handle) };
    (disk.clone(), Task { store, handle, disk, next: RefCell::default() })
}

/// `xvda`, `xvdb3` and so on, for the numbers that Xen uses: major 202, 16 minors a disk.
fn disk_name(handle: u32) -> String {
    let minor = handle & 0xff;
    let letter = char::from_digit(10 + (minor >> 4), 36).unwrap_or('?');
    match (handle >> 8, minor & 15) {
        (202, 0) => format!("xvd{letter}"),
        (202, partition) => format!("xvd{letter}{partition}"),
        _ => format!("vbd-{handle}"),
    }
}

impl Disk {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was moved so far.
    pub fn counters(&self) -> Counters {
        self.shared.borrow().counters
    }

    /// Waits until the disk was connected once; what it is.
    pub async fn properties(&self) -> Result<Properties, Error> {
        self.until(|shared| shared.properties).await
    }

    /// Whether writes are refused.
    pub async fn read_only(&self) -> Result<bool, Error> {
        Ok(self.properties().await?.info & info::READONLY != 0)
    }

    /// Takes the answers that are there; whether the backend broke the protocol.
    fn reap_is_broken(&self) -> bool {
        let mut shared = self.shared.borrow_mut();
        shared.reap();
        shared.connection.as_ref().is_some_and(Connection::is_broken)
    }

    /// Waits until `ready` gives something.
    async fn until<T>(&self, mut ready: impl FnMut(&mut Shared) -> Option<T>) -> Result<T, Error> {
        poll_fn(|context| {
            let mut shared = self.shared.borrow_mut();
            if shared.gone {
                return Poll::Ready(Err(Error::Gone));
            }
            match ready(&mut shared) {
                Some(value) => Poll::Ready(Ok(value)),
                None => {
                    shared.waiters.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Starts a request if there are pages and a slot for it; `fill` sees the pages before it goes out.
    fn try_start(
        &self,
        shared: &mut Shared,
        op: BlkOp,
        sector: u64,
        bytes: usize,
        fill: &impl Fn(&Connection, &[usize]),
    ) -> Option<Started<'_>> {
        let needed = bytes.div_ceil(abi::PAGE_SIZE);
        let Shared { connection, free, requests, counters, .. } = shared;
        let connection = connection.as_mut()?;
        if free.len() < needed || connection.room() == 0 {
            return None;
        }
        let pages: heapless::Vec<_, DIRECT_SEGMENTS> = free.drain(free.len() - needed..).collect();
        fill(connection, &pages);
        let request = Request { op, sector, pages, bytes, answer: None, waiter: None, abandoned: false };
        let id = requests.iter().position(Option::is_none).unwrap_or(requests.len());
        connection.push(id, &request);
        counters.requests += 1;
        match requests.get_mut(id) {
            Some(slot) => *slot = Some(request),
            None => requests.push(Some(request)),
        }
        Some(Started { disk: self, id })
    }

    /// Starts requests for as much of `bytes` as there is room for, at least one: it waits for that, but never while it
    /// holds what another transfer may wait for.
    async fn start(
        &self,
        op: BlkOp,
        sector: u64,
        bytes: usize,
        fill: impl Fn(&Connection, &[usize], usize),
    ) -> Result<Vec<(Started<'_>, usize)>, Error> {
        self.until(|shared| {
            let mut started = Vec::new();
            let mut done = 0;
            while done < bytes || started.is_empty() {
                let len = (bytes - done).min(MAX_TRANSFER);
                let at = sector + (done / SECTOR_SIZE) as u64;
                let fill = |connection: &Connection, pages: &[usize]| fill(connection, pages, done);
                let Some(request) = self.try_start(shared, op, at, len, &fill) else { break };
                started.push((request, len));
                done += len;
            }
            let Shared { connection: Some(connection), counters, .. } = shared else { return None };
            counters.notifications += u64::from(connection.publish());
            (!started.is_empty()).then_some(started)
        })
        .await
    }

    /// Reads whole sectors.
    pub async fn read(&self, sector: u64, out: &mut [u8]) -> Result<(), Error> {
        if !out.len().is_multiple_of(SECTOR_SIZE) {
            return Err(Error::Unaligned);
        }
        let mut rest = out;
        let mut at = sector;
        while !rest.is_empty() {
            for (request, len) in self.start(BlkOp::READ, at, rest.len(), |_, _, _| {}).await? {
                request.answer().await?;
                let (now, later) = rest.split_at_mut(len);
                request.copy_out(now)?;
                rest = later;
                at += (len / SECTOR_SIZE) as u64;
                self.shared.borrow_mut().counters.sectors_read += (len / SECTOR_SIZE) as u64;
            }
        }
        Ok(())
    }

    /// Writes whole sectors. Durable after a [`flush`](Self::flush).
    pub async fn write(&self, sector: u64, data: &[u8]) -> Result<(), Error> {
        if !data.len().is_multiple_of(SECTOR_SIZE) {
            return Err(Error::Unaligned);
        }
        let mut rest = data;
        let mut at = sector;
        while !rest.is_empty() {
            let fill = |connection: &Connection, pages: &[usize], done: usize| {
                connection.fill(pages, rest.get(done..).unwrap_or(&[]));
            };
            for (request, len) in self.start(BlkOp::WRITE, at, rest.len(), fill).await? {
                request.answer().await?;
                rest = rest.get(len..).unwrap_or(&[]);
                at += (len / SECTOR_SIZE) as u64;
                self.shared.borrow_mut().counters.sectors_written += (len / SECTOR_SIZE) as u64;
            }
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub async fn flush(&self) -> Result<(), Error> {
        if !self.until(|shared| shared.features).await?.flush {
            return Ok(());
        }
        for (request, _) in self.start(BlkOp::FLUSH_DISKCACHE, 0, 0, |_, _, _| {}).await? {
            request.answer().await?;
        }
        Ok(())
    }
}

/// A request whose pages come back when it is dropped, but not before the backend has answered.
struct Started<'a> {
    disk: &'a Disk,
    id: usize,
}

impl Started<'_> {
    async fn answer(&self) -> Result<(), Error> {
        let status = poll_fn(|context| {
            let mut shared = self.disk.shared.borrow_mut();
            if shared.gone {
                return Poll::Ready(Err(Error::Gone));
            }
            match shared.requests.get_mut(self.id).and_then(Option::as_mut) {
                Some(Request { answer: Some(status), .. }) => Poll::Ready(Ok(*status)),
                Some(request) => {
                    request.waiter = Some(context.waker().clone());
                    Poll::Pending
                }
                None => Poll::Ready(Err(Error::Gone)),
            }
        });
        match status.await? {
            BlkStatus::OKAY => Ok(()),
            BlkStatus::EOPNOTSUPP => Err(Error::Unsupported),
            _ => Err(Error::Failed),
        }
    }

    fn copy_out(&self, out: &mut [u8]) -> Result<(), Error> {
        let shared = self.disk.shared.borrow();
        let request = shared.requests.get(self.id).and_then(Option::as_ref).ok_or(Error::Gone)?;
        // With the connection gone meanwhile, so are the pages that held the answer.
        let connection = shared.connection.as_ref().ok_or(Error::Failed)?;
        connection.copy_out(&request.pages, out);
        Ok(())
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let mut shared = self.disk.shared.borrow_mut();
        let Shared { requests, free, .. } = &mut *shared;
        let Some(slot) = requests.get_mut(self.id) else { return };
        match slot {
            Some(Request { answer: Some(_), pages, .. }) => {
                free.extend_from_slice(pages);
                *slot = None;
                shared.wake();
            }
            // Nobody waits any more, but the backend still uses the pages.
            Some(request) => request.abandoned = true,
            None => {}
        }
    }
}

impl BlockDevice<SECTOR_SIZE> for Disk {
    type Error = Error;
    type Align = aligned::A1;

    async fn read(
        &mut self,
        block_address: u32,
        data: &mut [aligned::Aligned<Self::Align, [u8; SECTOR_SIZE]>],
    ) -> Result<(), Error> {
        Disk::read(self, block_address.into(), blocks_to_slice_mut(data)).await
    }

    async fn write(
        &mut self,
        block_address: u32,
        data: &[aligned::Aligned<Self::Align, [u8; SECTOR_SIZE]>],
    ) -> Result<(), Error> {
        Disk::write(self, block_address.into(), blocks_to_slice(data)).await
    }

    async fn size(&mut self) -> Result<u64, Error> {
        Ok(self.properties().await?.sectors.saturating_mul(SECTOR.into()))
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({})", self.disk.name)
    }
}

impl Task {
    /// Runs until the device is taken away or the store fails.
    pub async fn run(self) -> Result<(), StoreFailure> {
        let end = frontend::run(self.store, self.handle, &self).await;
        let mut shared = self.disk.shared.borrow_mut();
        shared.gone = true;
        shared.connection = None;
        let waiters = shared.requests.iter_mut().flatten().filter_map(|request| request.waiter.take());
        waiters.for_each(Waker::wake);
        shared.wake();
        end
    }

    /// Puts a new connection in the place of an old one, with the data of what was not answered.
    fn take_up(&self, connection: Option<Connection>, properties: Properties) {
        let mut shared = self.disk.shared.borrow_mut();
        let Shared { connection: old, requests, counters, .. } = &mut *shared;
        if let (Some(old), Some(new)) = (old.as_ref(), connection.as_ref()) {
            let open = requests.iter().flatten();
            open.for_each(|request| new.adopt(old, &request.pages));
            counters.reconnects += 1;
        }
        *old = connection;
        shared.properties = Some(properties);
        shared.resume();
        shared.wake();
    }
}

impl Frontend for Task {
    const CLASS: Class = Class::VBD;

    fn setup(&self, peer: DomId, backend: &KeySet) -> Option<impl FnOnce(Put<'_>)> {
        let features = Features::parse(backend).ok()?;
        let connection = Connection::new(peer)?;
        let keys = connection.keys();
        self.disk.shared.borrow_mut().features = Some(features);
        self.next.replace(Some(connection));
        Some(move |put: Put<'_>| keys.publish(put))
    }

    fn finish(&self, backend: &KeySet) -> bool {
        let properties = Properties::parse(backend);
        properties.map(|properties| self.take_up(self.next.take(), properties)).is_ok()
    }

    /// Takes answers. The pages of a connection that is lost stay, for what must be asked again.
    async fn work(&self) {
        let connection =
            |shared: &Shared| shared.connection.as_ref().filter(|it| !it.is_broken()).map(Connection::event);
        let Some(event) = connection(&self.disk.shared.borrow()) else { return pending().await };
        loop {
            event.wait().await;
            if self.disk.reap_is_broken() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::disk_name;

    #[test]
    fn numbers_have_names() {
        for (handle, name) in [(51712, "xvda"), (51728, "xvdb"), (51713, "xvda1"), (51727, "xvda15"), (768, "vbd-768")]
        {
            assert_eq!(disk_name(handle), name);
        }
    }
}
