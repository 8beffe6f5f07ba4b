//! What the halves tell each other through the store: reading and writing a directory's keys.

use abi::{GrantRef, Port};
use core::fmt::{self, Write};

use crate::path::decimal;

/// The keys of one directory, as read from the store at one time. Names may have a `/` in them.
pub trait Keys {
    /// The value of a key, if it is there.
    fn get(&self, key: &str) -> Option<&str>;
}

impl Keys for [(&str, &str)] {
    fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }
}

/// Where keys are written: each call is one key of one directory.
pub type Put<'a> = &'a mut dyn FnMut(&str, &dyn fmt::Display);

/// A key that must be there and is not, or says nothing sensible. Whoever wrote the directory is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey(pub &'static str);

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} is missing or wrong", self.0)
    }
}

/// Most queues of one device.
pub const MAX_QUEUES: usize = 8;
/// Most pages of one ring, as a power of two.
pub const MAX_RING_ORDER: u32 = 4;
/// Most pages of one ring.
pub const MAX_RING_PAGES: usize = 1 << MAX_RING_ORDER;

/// A number, or `default` where the key is missing. A key that is there and is no number in range is an error.
pub(crate) fn number_or<T: core::str::FromStr>(
    keys: &(impl Keys + ?Sized),
    key: &'static str,
    default: T,
) -> Result<T, BadKey> {
    keys.get(key).map_or(Ok(default), |text| decimal(text).ok_or(BadKey(key)))
}

/// A boolean: `0` or missing is false, any other number true.
pub(crate) fn flag(keys: &(impl Keys + ?Sized), key: &str) -> bool {
    keys.get(key).and_then(decimal::<u32>).is_some_and(|value| value != 0)
}

/// The name of a key of a queue: in a directory `queue-N` when there is more than one queue.
#[derive(Debug)]
pub(crate) struct QueueKey(heapless::String<48>);

impl QueueKey {
    /// The key `name`, with `index` after it if there is one, of `queue` if queues have directories.
    pub(crate) fn new(queue: Option<usize>, name: &str, index: Option<usize>) -> Self {
        let mut key = heapless::String::new();
        // All names of the protocol fit; a name cut short is a key that is not there.
        let _ = match queue {
            Some(queue) => write!(key, "queue-{queue}/{name}"),
            None => write!(key, "{name}"),
        };
        let _ = index.map_or(Ok(()), |index| write!(key, "{index}"));
        Self(key)
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn number(&self, keys: &(impl Keys + ?Sized), name: &'static str) -> Result<u32, BadKey> {
        keys.get(self.as_str()).and_then(decimal).ok_or(BadKey(name))
    }

    /// The grant reference under this key.
    pub(crate) fn grant(&self, keys: &(impl Keys + ?Sized), name: &'static str) -> Result<GrantRef, BadKey> {
        self.number(keys, name).map(GrantRef)
    }

    /// The event channel port under this key.
    pub(crate) fn port(&self, keys: &(impl Keys + ?Sized), name: &'static str) -> Result<Port, BadKey> {
        self.number(keys, name).map(Port)
    }
}

/// Something of a backend's offer that a manifest may say of a device: `features = { NAME = ... }` there, `offer-NAME`
/// in the backend's directory, where the toolstack writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The least and the greatest number; none: it is on or off, 1 or 0.
    pub range: Option<(u32, u32)>,
}

impl Feature {
    pub(crate) const fn switch(name: &'static str) -> Self {
        Self { name, range: None }
    }

    pub(crate) const fn number(name: &'static str, most: usize) -> Self {
        Self { name, range: Some((1, most as u32)) }
    }
}

/// Whether the toolstack wants something offered; `default` where it says nothing.
pub(crate) fn offer(keys: &(impl Keys + ?Sized), key: &'static str, default: bool) -> Result<bool, BadKey> {
    number_or(keys, key, u8::from(default)).map(|number| number != 0)
}

/// How many queues the toolstack wants offered; `default` where it says nothing.
pub(crate) fn offer_queues(keys: &(impl Keys + ?Sized), default: usize) -> Result<usize, BadKey> {
    number_or(keys, "offer-queues", default).map(|number| number.clamp(1, MAX_QUEUES))
}

/// How many queues the peer chose, of at most `limit`; and whether they have directories of their own.
pub(crate) fn queues(keys: &(impl Keys + ?Sized), limit: usize) -> Result<(usize, bool), BadKey> {
    const KEY: &str = "multi-queue-num-queues";
    let count = number_or(keys, KEY, 1usize)?;
    if (1..=limit.min(MAX_QUEUES)).contains(&count) { Ok((count, count > 1)) } else { Err(BadKey(KEY)) }
}
