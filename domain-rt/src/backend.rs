//! What every backend does: notice its devices come and go, and meet each one's frontend.

use crate::activity::Activity;
use crate::counts;
use crate::runtime::Context;
use crate::store::{Error, Store, StoreError};
use crate::xenbus::Half;
use abi::DomId;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, pending, poll_fn};
use core::pin::pin;
use core::task::{Poll, Waker};
use embassy_futures::select::{Either, Either4, select, select4};
use embassy_time::{Duration, Instant, Timer};
use ring_proto::keys::Put;
use ring_proto::path::{BackDir, Class, Device, decimal};
use ring_proto::xenbus::{BackStep, State, back_step};

/// Something that happens once, and one task that waits for it.
#[derive(Clone, Debug, Default)]
pub struct Signal(Rc<(Cell<bool>, RefCell<Option<Waker>>)>);

impl Signal {
    /// It happens.
    pub fn raise(&self) {
        self.0.0.set(true);
        self.0.1.take().into_iter().for_each(Waker::wake);
    }

    /// Whether it has happened.
    pub fn is_raised(&self) -> bool {
        self.0.0.get()
    }

    /// Waits for it.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.is_raised() {
                return Poll::Ready(());
            }
            self.0.1.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Runs `serve` as a task for every device of `class` that the toolstack makes for this domain; the signal is raised
/// when the device is removed. Returns only if the store fails.
pub async fn serve_devices<F: Future<Output = ()> + 'static>(
    context: Context,
    store: Store,
    class: Class,
    serve: impl Fn(Device, Signal) -> F,
) -> Result<(), Error> {
    let own = DomId(store.read_number("domid").await?);
    let root = format!("backend/{}", class.name());
    let mut watch = store.watch(&root).await?;
    let mut known = Known { context, serve, devices: BTreeMap::new() };
    loop {
        let path = watch.changed().await?;
        match Device::from_backend_path(own, &path) {
            // Changes below a device's directory are mostly this domain's own.
            Some(device) if known.has(&device) && path.ends_with(|c: char| !c.is_ascii_digit()) => {}
            Some(device) => known.check(store, device).await?,
            // The whole class, or a whole guest.
            None => {
                for device in known.all() {
                    known.check(store, device).await?;
                }
                for device in list(store, own, class).await? {
                    known.check(store, device).await?;
                }
            }
        }
    }
}

/// The devices that are being served, by frontend and handle.
struct Known<S> {
    context: Context,
    serve: S,
    devices: BTreeMap<(u16, u32), (Device, Signal)>,
}

impl<F: Future<Output = ()> + 'static, S: Fn(Device, Signal) -> F> Known<S> {
    fn has(&self, device: &Device) -> bool {
        self.devices.contains_key(&(device.front.0, device.handle))
    }

    fn all(&self) -> Vec<Device> {
        self.devices.values().map(|(device, _)| *device).collect()
    }

    /// Starts or ends serving a device, as its directory is there or not.
    async fn check(&mut self, store: Store, device: Device) -> Result<(), Error> {
        let state = store.read_if_there(&format!("{}/state", BackDir(device))).await?;
        let key = (device.front.0, device.handle);
        match (state, self.devices.contains_key(&key)) {
            (Some(_), false) => {
                let gone = Signal::default();
                self.context.spawn((self.serve)(device, gone.clone()));
                self.devices.insert(key, (device, gone));
            }
            (None, true) => {
                if let Some((_, gone)) = self.devices.remove(&key) {
                    gone.raise();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The devices of `class` in the store.
async fn list(store: Store, back: DomId, class: Class) -> Result<Vec<Device>, Error> {
    let mut found = Vec::new();
    let root = format!("backend/{}", class.name());
    for front in names(store, &root).await? {
        for handle in names(store, &format!("{root}/{front}")).await? {
            if let (Some(front), Some(handle)) = (decimal(&front), decimal(&handle)) {
                found.push(Device { class, back, front: DomId(front), handle });
            }
        }
    }
    Ok(found)
}

/// The children of a node; none if it is not there.
async fn names(store: Store, path: &str) -> Result<Vec<String>, Error> {
    match store.list(path).await {
        Err(Error::Store(_)) => Ok(Vec::new()),
        names => names,
    }
}

/// What a backend is, apart from how it meets its frontend.
pub trait Backend {
    /// A connected frontend. Dropping it disconnects.
    type Connection: Connection;
    /// Writes what the backend can do.
    fn offer(&self, put: Put<'_>);
    /// Takes up what the frontend has published.
    fn connect(&self, half: &Half) -> impl Future<Output = Result<Self::Connection, String>>;
    /// Writes what the device is.
    fn describe(&self, put: Put<'_>);
}

/// A connected frontend.
pub trait Connection {
    /// Waits for an event of the frontend's. It may be dropped while it waits.
    fn wait(&self) -> impl Future<Output = ()>;
    /// Serves what the frontend asks for; run to its end.
    fn serve(&self) -> impl Future<Output = ()>;
    /// Raised when the frontend has broken a ring.
    fn broken(&self) -> &Signal;
    /// Says when there is something new in [`stats`](Self::stats).
    fn activity(&self) -> &Activity;
    /// What was done so far, for this frontend and for all, each as names and numbers in turn.
    fn stats(&self) -> (String, String);
}

/// How long figures wait for more before they are written to the store; while nothing happens, nothing is written.
const STATS_DELAY: Duration = Duration::from_secs(1);

/// Serves one device until it is removed. An error is one of the store's.
pub async fn serve_device<B: Backend>(store: Store, device: Device, gone: &Signal, backend: &B) -> Result<(), Error> {
    match meet(store, device, gone, backend).await {
        // The directory is no longer there, and `gone` is on its way.
        Err(Error::Store(StoreError::Enoent)) => Ok(()),
        end => end,
    }
}

async fn meet<B: Backend>(store: Store, device: Device, gone: &Signal, backend: &B) -> Result<(), Error> {
    let mut half = Half::back(store, device).await?;
    let mut connection: Option<B::Connection> = None;
    // What the store has been told of the connection's activity.
    let mut reported = 0;
    let mut peer = half.read_peer_state().await?;
    loop {
        loop {
            let step = back_step(half.state(), peer);
            let Some(next) = step.next() else { break };
            if step != BackStep::Connect {
                connection = None;
            }
            match step {
                BackStep::Offer => half.publish(next, |put| backend.offer(put)).await?,
                BackStep::Connect => match backend.connect(&half).await {
                    Ok(connected) => {
                        reported = connected.activity().count();
                        connection = Some(connected);
                        half.publish(next, |put| backend.describe(put)).await?;
                    }
                    Err(error) => fail(&mut half, &error).await?,
                },
                _ => half.set_state(next).await?,
            }
        }
        match work(store, &mut half, connection.as_ref(), gone, &mut reported).await? {
            News::Peer(state) => peer = state,
            News::Gone => return Ok(()),
            News::Broken => {
                connection = None;
                fail(&mut half, "the frontend broke its ring").await?;
            }
        }
    }
}

/// Says why in the backend's directory, and closes.
pub async fn fail(half: &mut Half, why: &str) -> Result<(), Error> {
    crate::println!("{}: {why}", half.directory());
    half.publish(State::Closing, |put| put("error", &why)).await
}

/// Why work stopped.
enum News {
    Peer(State),
    Broken,
    Gone,
}

/// Serves the connection until something else happens.
async fn work<C: Connection>(
    store: Store,
    half: &mut Half,
    connection: Option<&C>,
    gone: &Signal,
    reported: &mut u64,
) -> Result<News, Error> {
    let directory = String::from(half.directory());
    let mut peer = pin!(half.peer_state());
    // When the next report is.
    let mut due = None;
    loop {
        let event = async {
            match connection {
                Some(connection) => connection.wait().await,
                None => pending().await,
            }
        };
        let broken = async {
            match connection {
                Some(connection) => connection.broken().wait().await,
                None => pending().await,
            }
        };
        let news = async {
            match (connection, due) {
                (Some(connection), None) => connection.activity().since(*reported).await,
                (Some(_), Some(due)) => Timer::at(due).await,
                (None, _) => pending().await,
            }
        };
        match select(&mut peer, select4(event, broken, gone.wait(), news)).await {
            Either::First(state) => return state.map(News::Peer),
            Either::Second(Either4::First(())) => {
                if let Some(connection) = connection {
                    connection.serve().await;
                }
            }
            Either::Second(Either4::Second(())) => return Ok(News::Broken),
            Either::Second(Either4::Third(())) => return Ok(News::Gone),
            Either::Second(Either4::Fourth(())) if due.is_none() => due = Some(Instant::now() + STATS_DELAY),
            Either::Second(Either4::Fourth(())) => {
                due = None;
                if let Some(connection) = connection {
                    *reported = connection.activity().count();
                    report(store, &directory, connection).await?;
                }
            }
        }
    }
}

/// Where a driver domain says what it has done in all.
const DOMAIN_STATS: &str = "data/stats";

/// Writes figures: of the device into its directory, of the whole domain, with its hypercalls, into its own.
async fn report<C: Connection>(store: Store, directory: &str, connection: &C) -> Result<(), Error> {
    let (state_path, stats_path) = (format!("{directory}/state"), format!("{directory}/stats"));
    store
        .transaction(async |store| {
            // A directory that was removed is not made again.
            store.read(&state_path).await?;
            // Read anew each time the transaction is: others write the domain's figures too, and older ones must not
            // replace newer.
            let (device, all) = connection.stats();
            let all = format!("{all} {}", counts::read());
            store.write(&stats_path, device).await?;
            store.write(DOMAIN_STATS, all).await
        })
        .await
}
