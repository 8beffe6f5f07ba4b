//! What every frontend does: meet the backend of its device, and meet it again when it dies or another takes its place.

use crate::store::{Error, KeySet, Store, StoreError};
use crate::xenbus::Half;
use abi::DomId;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::pin;
use embassy_futures::select::{Either3, select3};
use embassy_time::{Duration, Timer};
use ring_proto::keys::Put;
use ring_proto::path::{Class, decimal};
use ring_proto::xenbus::{FrontStep, State, front_step};

/// How long a frontend whose backend closed waits before it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// What a frontend is, apart from how it meets its backend.
pub trait Frontend {
    /// What its devices are.
    const CLASS: Class;

    /// Makes rings for the backend in domain `peer`, which has published `backend`; gives what it must know of them.
    /// `None` if that backend is of no use or there is no memory.
    fn setup(&self, peer: DomId, backend: &KeySet) -> Option<impl FnOnce(Put<'_>)>;

    /// The backend is connected and has published `backend`: what the device is. False if that says nothing sensible.
    /// A vif does not come by here, as it connects first.
    fn finish(&self, backend: &KeySet) -> bool {
        let _ = backend;
        true
    }

    /// Both halves are connected. Comes once or more often.
    fn connected(&self) {}

    /// The backend is gone, or broke the protocol: its rings are of no more use.
    fn lost(&self) {}

    /// Works on the rings that [`setup`](Self::setup) made, if it did; ends if the backend breaks the protocol. It may
    /// be dropped while it waits, and is called again then.
    fn work(&self) -> impl Future<Output = ()>;
}

/// The numbers of the devices of a class that the toolstack gave this domain, in order.
pub async fn devices(store: Store, class: Class) -> Result<Vec<u32>, Error> {
    let names = match store.list(&format!("device/{}", class.name())).await {
        Err(Error::Store(StoreError::Enoent)) => Vec::new(),
        names => names?,
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| decimal(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Keeps device `number` connected until the toolstack takes it away or the store fails.
pub async fn run<F: Frontend>(store: Store, number: u32, front: &F) -> Result<(), Error> {
    let directory = format!("device/{}/{number}", F::CLASS.name());
    while meet(store, &directory, front).await? == End::Again {
        front.lost();
    }
    Ok(())
}

/// Why a connection ended.
#[derive(PartialEq)]
enum End {
    /// Meet the backend, perhaps another one, again.
    Again,
    /// The toolstack took the device away.
    Gone,
}

/// One backend, from meeting it to its end.
async fn meet<F: Frontend>(store: Store, directory: &str, front: &F) -> Result<End, Error> {
    let backend_key = format!("{directory}/backend");
    if store.read_if_there(&backend_key).await?.is_none() {
        return Ok(End::Gone);
    }
    let mut half = Half::front(store, directory).await?;
    let backend = String::from(half.peer_directory());
    let mut moved = pin!(moved(store, &backend_key, &backend));
    if half.state() != State::Initialising {
        half.set_state(State::Initialising).await?;
    }
    loop {
        let peer = match select3(half.peer_state(), moved.as_mut(), front.work()).await {
            Either3::First(peer) => peer?,
            Either3::Second(moved) => return moved.map(|()| End::Again),
            Either3::Third(()) => {
                // This connection is over, and so is trust in the backend until it starts over.
                front.lost();
                half.set_state(State::Closing).await?;
                continue;
            }
        };
        // A backend that has given up before the two met is asked again, after a while.
        if (half.state(), peer) == (State::Initialising, State::Closed) {
            Timer::after(RETRY).await;
            half.set_state(State::Initialising).await?;
        }
        let step = front_step(half.state(), peer);
        match (step, step.next(F::CLASS)) {
            (FrontStep::Restart, _) => return Ok(End::Again),
            (FrontStep::Setup, Some(next)) => match front.setup(half.peer(), &half.peer_keys().await?) {
                Some(keys) => half.publish(next, keys).await?,
                None => half.set_state(State::Closed).await?,
            },
            (FrontStep::Finish, Some(next)) => {
                let finished = front.finish(&half.peer_keys().await?);
                half.set_state(if finished { next } else { State::Closed }).await?;
            }
            (FrontStep::Close, Some(next)) => {
                front.lost();
                half.set_state(next).await?;
                Timer::after(RETRY).await;
                return Ok(End::Again);
            }
            _ => {}
        }
        if (half.state(), peer) == (State::Connected, State::Connected) {
            front.connected();
        }
    }
}

/// Waits until the toolstack links a frontend to another backend than `known`, or to none.
async fn moved(store: Store, backend_key: &str, known: &str) -> Result<(), Error> {
    let mut watch = store.watch(backend_key).await?;
    loop {
        watch.changed().await?;
        if store.read_if_there(backend_key).await?.as_deref() != Some(known) {
            return Ok(());
        }
    }
}
