//! The store client: requests as futures, watches as streams, over the ring that start_info names.
//!
//! One task ([`serve`]) waits for the ring's event; every call also pumps the ring itself, so a request goes out and
//! an answer that is there comes in without a detour through the loop.

use crate::events::Event;
use crate::page::StaticPage;
use crate::sync::Local;
use abi::Port;
use abi::start_info::StartInfo;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::task::{Poll, Waker};
use ring_proto::keys::Keys;
use ring_proto::path::decimal;
use ring_proto::ring::Corrupt;
pub use ring_proto::store::StoreError;
use ring_proto::store::{ABS_PATH_MAX, Front, Header, MessageType, PAYLOAD_MAX, Receiver, strings};
use zerocopy::IntoBytes;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The store's answer.
    Store(StoreError),
    /// The store broke the protocol; this connection is over.
    Broken(Corrupt),
    /// An answer that makes no sense.
    BadReply,
    /// The request is longer than the protocol allows.
    TooLong,
    /// There is no store to talk to.
    NotConnected,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::Broken(_) => f.write_str("the store broke the protocol"),
            Self::BadReply => f.write_str("an answer of the store makes no sense"),
            Self::TooLong => f.write_str("request too long for the store"),
            Self::NotConnected => f.write_str("no store"),
        }
    }
}

/// A request that was sent.
enum Request {
    Waiting(Option<Waker>),
    Done(Result<Vec<u8>, StoreError>),
}

/// A watch that was set.
#[derive(Default)]
struct Watched {
    changed: VecDeque<String>,
    waiter: Option<Waker>,
}

struct Client {
    event: Arc<Event>,
    ring: Front<StaticPage>,
    receiver: Receiver,
    outgoing: VecDeque<u8>,
    requests: BTreeMap<u32, Request>,
    watches: BTreeMap<u32, Watched>,
    /// The last request id and watch token used.
    last: u32,
    broken: Option<Corrupt>,
}

static CLIENT: Local<Option<Client>> = Local::new(None);

fn with<T>(f: impl FnOnce(&mut Client) -> T) -> Result<T, Error> {
    CLIENT.lock().as_mut().map(f).ok_or(Error::NotConnected)
}

/// Connects to the store that `info` names; false if it names none, as in the domain that runs the store.
pub fn init(info: &StartInfo) -> bool {
    let page = (info.store_mfn.0 != 0).then(|| StaticPage::of(info.store_mfn)).flatten();
    let event = page.and_then(|_| Event::adopt(Port(info.store_evtchn)).ok());
    let (Some(page), Some(event)) = (page, event) else { return false };
    *CLIENT.lock() = Some(Client {
        event: Arc::new(event),
        ring: Front::new(page),
        receiver: Receiver::default(),
        outgoing: VecDeque::new(),
        requests: BTreeMap::new(),
        watches: BTreeMap::new(),
        last: 0,
        broken: None,
    });
    true
}

/// Handles the ring's events, for good.
pub async fn serve() {
    let Ok(event) = with(|client| client.event.clone()) else { return };
    loop {
        event.wait().await;
        let _ = with(Client::pump);
    }
}

impl Client {
    /// Moves everything that can move, in both directions.
    fn pump(&mut self) {
        if self.broken.is_none()
            && let Err(corrupt) = self.exchange()
        {
            self.broken = Some(corrupt);
            // Everybody learns of it.
            let requests = self.requests.values_mut().filter_map(|request| match request {
                Request::Waiting(waiter) => waiter.take(),
                Request::Done(_) => None,
            });
            let watches = self.watches.values_mut().filter_map(|watched| watched.waiter.take());
            requests.chain(watches).for_each(Waker::wake);
        }
    }

    fn exchange(&mut self) -> Result<(), Corrupt> {
        loop {
            let (data, _) = self.outgoing.as_slices();
            if !data.is_empty() {
                let written = self.ring.requests.write(data)?;
                self.outgoing.drain(..written);
                if self.ring.requests.publish().needed() {
                    self.event.notify();
                }
            }
            while let Some(message) = self.receiver.receive(&mut self.ring.replies)? {
                if message.header.kind == MessageType::WATCH_EVENT {
                    changed(&mut self.watches, message.payload);
                } else {
                    answered(&mut self.requests, message.header, message.payload);
                }
            }
            if self.ring.replies.publish().needed() {
                self.event.notify();
            }
            let room = !self.outgoing.is_empty() && self.ring.requests.final_check()?;
            if !self.ring.replies.final_check()? && !room {
                return Ok(());
            }
        }
    }

    fn send(&mut self, kind: MessageType, tx_id: u32, parts: &[&[u8]]) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        let len = parts.iter().map(|part| part.len() as u32).sum();
        let header = Header { kind, req_id: self.last, tx_id, len };
        self.outgoing.extend(header.as_bytes());
        parts.iter().for_each(|part| self.outgoing.extend(*part));
        self.requests.insert(self.last, Request::Waiting(None));
        self.pump();
        self.last
    }
}

/// Hands a reply to who asked; one nobody waits for is dropped.
fn answered(requests: &mut BTreeMap<u32, Request>, header: Header, payload: &[u8]) {
    if let Some(request @ Request::Waiting(_)) = requests.get_mut(&header.req_id) {
        let answer = match header.kind {
            MessageType::ERROR => Err(StoreError::from_payload(payload)),
            _ => Ok(payload.to_vec()),
        };
        if let Request::Waiting(Some(waiter)) = core::mem::replace(request, Request::Done(answer)) {
            waiter.wake();
        }
    }
}

/// Hands a changed path to its watch; the same path twice in a row is one change.
fn changed(watches: &mut BTreeMap<u32, Watched>, payload: &[u8]) {
    let mut parts = strings(payload).map(|part| core::str::from_utf8(part).ok());
    let (Some(Some(path)), Some(Some(token))) = (parts.next(), parts.next()) else { return };
    if let Some(watched) = decimal(token).and_then(|token: u32| watches.get_mut(&token)) {
        if watched.changed.back().is_none_or(|last| last != path) {
            watched.changed.push_back(path.to_string());
        }
        watched.waiter.take().into_iter().for_each(Waker::wake);
    }
}

/// Forgets a request whose future is gone.
struct Forget(u32);

impl Drop for Forget {
    fn drop(&mut self) {
        let _ = with(|client| client.requests.remove(&self.0));
    }
}

/// The store, outside or inside a transaction. Paths are absolute or relative to the domain's own directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Store {
    transaction: u32,
}

impl Store {
    /// The store, outside any transaction.
    pub const fn new() -> Self {
        Self { transaction: 0 }
    }

    async fn request(&self, kind: MessageType, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        if parts.iter().map(|part| part.len()).sum::<usize>() > PAYLOAD_MAX {
            return Err(Error::TooLong);
        }
        let id = with(|client| client.send(kind, self.transaction, parts))?;
        let _forget = Forget(id);
        poll_fn(|context| {
            let poll = with(|client| match client.requests.get_mut(&id) {
                Some(Request::Done(answer)) => {
                    Poll::Ready(core::mem::replace(answer, Ok(Vec::new())).map_err(Error::Store))
                }
                Some(Request::Waiting(waiter)) => match client.broken {
                    Some(corrupt) => Poll::Ready(Err(Error::Broken(corrupt))),
                    None => {
                        *waiter = Some(context.waker().clone());
                        Poll::Pending
                    }
                },
                None => Poll::Ready(Err(Error::BadReply)),
            });
            poll.unwrap_or(Poll::Ready(Err(Error::NotConnected)))
        })
        .await
    }

    async fn on_path(&self, kind: MessageType, path: &str) -> Result<Vec<u8>, Error> {
        if path.len() > ABS_PATH_MAX {
            return Err(Error::TooLong);
        }
        self.request(kind, &[path.as_bytes(), b"\0"]).await
    }

    /// The value of a node.
    pub async fn read(&self, path: &str) -> Result<String, Error> {
        String::from_utf8(self.on_path(MessageType::READ, path).await?).map_err(|_| Error::BadReply)
    }

    /// The value of a node, or `None` if there is no such node.
    pub async fn read_if_there(&self, path: &str) -> Result<Option<String>, Error> {
        match self.read(path).await {
            Err(Error::Store(StoreError::Enoent)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The value of a node that holds a decimal number.
    pub async fn read_number<T: core::str::FromStr>(&self, path: &str) -> Result<T, Error> {
        decimal(&self.read(path).await?).ok_or(Error::BadReply)
    }

    /// Sets the value of a node, made if it is not there.
    pub async fn write(&self, path: &str, value: impl fmt::Display) -> Result<(), Error> {
        let value = value.to_string();
        self.request(MessageType::WRITE, &[path.as_bytes(), b"\0", value.as_bytes()]).await.map(drop)
    }

    /// Makes a node, if it is not there.
    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.on_path(MessageType::MKDIR, path).await.map(drop)
    }

    /// Removes a node and everything below.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.on_path(MessageType::RM, path).await.map(drop)
    }

    /// The names of a node's children.
    pub async fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        let names = self.on_path(MessageType::DIRECTORY, path).await?;
        strings(&names).map(|name| String::from_utf8(name.to_vec()).map_err(|_| Error::BadReply)).collect()
    }

    /// Everything in a directory and, where `below` says so, in a directory in it.
    pub async fn keys(&self, directory: &str, below: impl Fn(&str) -> bool) -> Result<KeySet, Error> {
        let mut keys = KeySet::default();
        for name in self.list(directory).await? {
            let path = format!("{directory}/{name}");
            if below(&name) {
                for child in self.list(&path).await? {
                    if let Some(value) = self.read_if_there(&format!("{path}/{child}")).await? {
                        keys.0.insert(format!("{name}/{child}"), value);
                    }
                }
            }
            if let Some(value) = self.read_if_there(&path).await? {
                keys.0.insert(name, value);
            }
        }
        Ok(keys)
    }

    /// Does `work` in a transaction, as often as it takes for it to apply as a whole. An error abandons it.
    pub async fn transaction<T>(&self, work: impl AsyncFn(Self) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let id = self.request(MessageType::TRANSACTION_START, &[b"\0"]).await?;
            let id = core::str::from_utf8(id.strip_suffix(b"\0").unwrap_or(&id)).ok();
            let inside = Self { transaction: id.and_then(decimal).ok_or(Error::BadReply)? };
            let result = work(inside).await;
            let end: &[u8] = if result.is_ok() { b"T\0" } else { b"F\0" };
            match inside.request(MessageType::TRANSACTION_END, &[end]).await {
                Err(Error::Store(StoreError::Eagain)) if result.is_ok() => continue,
                Err(error) if result.is_ok() => return Err(error),
                _ => return result,
            }
        }
    }

    /// Watches a node and all below it; the first change comes at once.
    pub async fn watch(&self, path: &str) -> Result<Watch, Error> {
        let token = with(|client| {
            client.last = client.last.wrapping_add(1).max(1);
            client.watches.insert(client.last, Watched::default());
            client.last
        })?;
        // Dropping it takes the watch back, whatever came of the request.
        let watch = Watch { path: path.to_string(), token };
        let token = token.to_string();
        self.request(MessageType::WATCH, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"]).await?;
        Ok(watch)
    }
}

/// A stream of changed paths.
#[derive(Debug)]
pub struct Watch {
    path: String,
    token: u32,
}

impl Watch {
    /// The next path that changed, as the store gives it: in the form, absolute or relative, of the watch.
    pub async fn changed(&mut self) -> Result<String, Error> {
        poll_fn(|context| {
            let poll = with(|client| {
                let Some(watched) = client.watches.get_mut(&self.token) else {
                    return Poll::Ready(Err(Error::BadReply));
                };
                if let Some(path) = watched.changed.pop_front() {
                    return Poll::Ready(Ok(path));
                }
                if let Some(corrupt) = client.broken {
                    return Poll::Ready(Err(Error::Broken(corrupt)));
                }
                watched.waiter = Some(context.waker().clone());
                Poll::Pending
            });
            poll.unwrap_or(Poll::Ready(Err(Error::NotConnected)))
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let token = self.token.to_string();
        let _ = with(|client| {
            client.watches.remove(&self.token);
            let parts = [self.path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
            let id = client.send(MessageType::UNWATCH, 0, &parts);
            // Nobody waits for the answer.
            client.requests.remove(&id);
        });
    }
}

/// The keys of a directory at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(pub BTreeMap<String, String>);

impl Keys for KeySet {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}
