//! The store as dom0 itself uses it: the same operations, without the wire.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::DomId;
use ring_proto::keys::Keys;
use ring_proto::store::StoreError;

use super::path::Path;
use super::perms::Perms;
use super::{Context, Store};

const SELF: Context = Context { domain: DomId::DOM0, transaction: 0 };

/// The values of one directory, a level deep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory(pub BTreeMap<String, String>);

impl Keys for Directory {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

fn path(text: &str) -> Result<Path, StoreError> {
    Path::parse(DomId::DOM0, text.as_bytes())
}

impl Store {
    /// The value at `at`, if there is one and it is text.
    pub fn get(&mut self, at: &str) -> Option<String> {
        let value = self.read_node(SELF, &path(at).ok()?).ok()?;
        str::from_utf8(&value).ok().map(str::to_string)
    }

    /// Sets the value at `at`.
    ///
    /// # Errors
    /// `EINVAL` if `at` is no path.
    pub fn put(&mut self, at: &str, value: &str) -> Result<(), StoreError> {
        self.write_node(SELF, &path(at)?, value.as_bytes())
    }

    /// Creates a node, and says to whom it and what is created below it belongs.
    ///
    /// # Errors
    /// `EINVAL` if `at` is no path.
    pub fn make(&mut self, at: &str, perms: Perms) -> Result<(), StoreError> {
        let path = path(at)?;
        self.make_directory(SELF, &path)?;
        self.change_perms(SELF, &path, perms)
    }

    /// Removes the node at `at` and all below it.
    ///
    /// # Errors
    /// `EINVAL` if `at` is no path or the root, `ENOENT` if not even its parent exists.
    pub fn delete(&mut self, at: &str) -> Result<(), StoreError> {
        self.remove_node(SELF, &path(at)?)
    }

    /// Names of the children of `at`; none if it does not exist.
    pub fn list(&mut self, at: &str) -> Vec<String> {
        let names = path(at).and_then(|path| self.directory(SELF, &path)).map(|(names, _)| names).unwrap_or_default();
        names.split_terminator('\0').map(str::to_string).collect()
    }

    /// The values right below `at`.
    pub fn read_directory(&mut self, at: &str) -> Directory {
        let names = self.list(at);
        let value = |name: String| Some((name.clone(), self.get(&alloc::format!("{at}/{name}"))?));
        Directory(names.into_iter().filter_map(value).collect())
    }

    /// Permissions of `at`, as `r0 n3`.
    pub fn perms_text(&mut self, at: &str) -> Option<String> {
        let perms = self.get_perms(SELF, &path(at).ok()?).ok()?.to_wire();
        Some(perms.trim_end_matches('\0').replace('\0', " "))
    }

    /// Watches `at` for dom0 itself; events come by [`next_message`](Self::next_message) of domain 0.
    ///
    /// # Errors
    /// `EINVAL` if `at` is no path, `EEXIST` if it is watched with this token already.
    pub fn watch(&mut self, at: &str, token: &str) -> Result<(), StoreError> {
        self.add_watch(SELF, at.as_bytes(), token.as_bytes())
    }

    /// Watches `at` as `domain` does by its ring.
    #[cfg(test)]
    pub(crate) fn watch_of(&mut self, domain: DomId, at: &str, token: &str) -> Result<(), StoreError> {
        self.add_watch(Context { domain, transaction: 0 }, at.as_bytes(), token.as_bytes())
    }

    /// Stops watching.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn unwatch(&mut self, at: &str, token: &str) -> Result<(), StoreError> {
        self.watches.remove(DomId::DOM0, at.as_bytes(), token.as_bytes())
    }

    /// Whether `domain` watches `at` or what is above it.
    pub fn is_watched(&self, domain: DomId, at: &str) -> bool {
        path(at).is_ok_and(|path| !self.watches.events(&path, false, |owner| owner == domain).is_empty())
    }

    /// The next watch event for dom0 itself: path and token.
    pub fn next_event(&mut self) -> Option<(String, String)> {
        let message = self.next_message(DomId::DOM0)?;
        let mut words =
            ring_proto::store::strings(&message.payload).map(|word| String::from_utf8_lossy(word).into_owned());
        Some((words.next()?, words.next().unwrap_or_default()))
    }
}
