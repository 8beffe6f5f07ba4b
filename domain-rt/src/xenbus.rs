//! One half of a split device in the store: its directory, its peer's, and both states.
//!
//! What to do follows from [`ring_proto::xenbus`]: a driver calls [`Half::peer_state`] for the next state of its peer,
//! asks `front_step` or `back_step`, does it, and [`publish`](Half::publish)es the state that goes with it.

use crate::store::{Error, KeySet, Store, Watch};
use abi::DomId;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ring_proto::keys::Put;
use ring_proto::path::{BackDir, Device, FrontDir};
use ring_proto::xenbus::State;

/// One half of a device.
#[derive(Debug)]
pub struct Half {
    store: Store,
    /// This half's directory.
    directory: String,
    /// The other's.
    peer_directory: String,
    /// The domain of the other.
    peer: DomId,
    state: State,
    watch: Watch,
    /// The watch has fired, and the peer's state was not read since.
    news: bool,
}

impl Half {
    /// The frontend in `directory`, like `device/vif/0`, which the toolstack made and linked to its backend.
    pub async fn front(store: Store, directory: &str) -> Result<Self, Error> {
        let peer_directory = store.read(&format!("{directory}/backend")).await?;
        let peer = DomId(store.read_number(&format!("{directory}/backend-id")).await?);
        Self::new(store, directory.to_string(), peer_directory, peer).await
    }

    /// The backend of `device`.
    pub async fn back(store: Store, device: Device) -> Result<Self, Error> {
        let (own, other) = (BackDir(device).to_string(), FrontDir(device).to_string());
        Self::new(store, own, other, device.front).await
    }

    async fn new(store: Store, directory: String, peer_directory: String, peer: DomId) -> Result<Self, Error> {
        let state = store.read_if_there(&format!("{directory}/state")).await?;
        let watch = store.watch(&format!("{peer_directory}/state")).await?;
        Ok(Self { store, directory, peer_directory, peer, state: State::parse(state.as_deref()), watch, news: false })
    }

    /// The domain of the other half.
    pub fn peer(&self) -> DomId {
        self.peer
    }

    /// The other half's directory.
    pub fn peer_directory(&self) -> &str {
        &self.peer_directory
    }

    /// This half's directory.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// This half's state, as last published or as found at the start.
    pub fn state(&self) -> State {
        self.state
    }

    /// Waits for news of the peer's state and reads it. The first call returns at once. It may be dropped while it
    /// waits: the next call gives what this one would have given.
    pub async fn peer_state(&mut self) -> Result<State, Error> {
        if !self.news {
            self.watch.changed().await?;
            self.news = true;
        }
        let state = self.read_peer_state().await?;
        self.news = false;
        Ok(state)
    }

    /// The peer's state now.
    pub async fn read_peer_state(&self) -> Result<State, Error> {
        let state = self.store.read_if_there(&format!("{}/state", self.peer_directory)).await;
        match state {
            // A directory that may no longer be read belongs to nobody who could be talked to.
            Err(Error::Store(_)) => Ok(State::Unknown),
            state => Ok(State::parse(state?.as_deref())),
        }
    }

    /// What the peer has published.
    pub async fn peer_keys(&self) -> Result<KeySet, Error> {
        self.store.keys(&self.peer_directory, |name| name.starts_with("queue-")).await
    }

    /// Writes keys and then the state, as a whole; `ENOENT` if the toolstack has removed the directory, which is not
    /// made again.
    pub async fn publish(&mut self, state: State, keys: impl FnOnce(Put<'_>)) -> Result<(), Error> {
        let mut list: Vec<(String, String)> = Vec::new();
        keys(&mut |key, value| list.push((format!("{}/{key}", self.directory), value.to_string())));
        let state_path = format!("{}/state", self.directory);
        self.store
            .transaction(async |store| {
                store.read(&state_path).await?;
                for (path, value) in &list {
                    store.write(path, value).await?;
                }
                store.write(&state_path, state).await
            })
            .await?;
        self.state = state;
        Ok(())
    }

    /// Writes the state alone, as [`publish`](Self::publish) does.
    pub async fn set_state(&mut self, state: State) -> Result<(), Error> {
        self.publish(state, |_| {}).await
    }
}
