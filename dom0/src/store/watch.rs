//! Watches: who wants to hear of changes at and below which path.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::DomId;
use ring_proto::store::{PAYLOAD_MAX, StoreError};

use super::path::Path;

/// What can be watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A node and all below it.
    Node(Path),
    /// `@introduceDomain`: a domain was introduced.
    Introduce,
    /// `@releaseDomain`: a domain died or was released.
    Release,
}

impl Target {
    /// Reads the path of a WATCH request of `domain`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn parse(domain: DomId, text: &[u8]) -> Result<Self, StoreError> {
        match text {
            b"@introduceDomain" => Ok(Self::Introduce),
            b"@releaseDomain" => Ok(Self::Release),
            path => Path::parse(domain, path).map(Self::Node),
        }
    }

    /// The name of a special one.
    pub const fn special(&self) -> Option<&'static str> {
        match self {
            Self::Node(_) => None,
            Self::Introduce => Some("@introduceDomain"),
            Self::Release => Some("@releaseDomain"),
        }
    }
}

#[derive(Clone, Debug)]
struct Watch {
    owner: DomId,
    token: Rc<[u8]>,
    /// It was set by a relative path, so its events carry relative paths too.
    relative: bool,
}

impl Watch {
    /// The payload of an event: path, token, each with its terminator. `None` if no message can hold it.
    fn event(&self, path: &str) -> Option<Vec<u8>> {
        let base = Path::of_domain(self.owner);
        let relative = || path.strip_prefix(base.as_str())?.strip_prefix('/');
        let shown = if self.relative { relative().unwrap_or(path) } else { path };
        let payload = [shown.as_bytes(), b"\0", &self.token, b"\0"].concat();
        (payload.len() <= PAYLOAD_MAX).then_some(payload)
    }
}

/// All watches, found by what they watch.
#[derive(Debug, Default)]
pub struct Watches {
    nodes: BTreeMap<String, Vec<Watch>>,
    counts: BTreeMap<DomId, usize>,
}

impl Watches {
    /// How many watches `domain` has.
    pub fn count(&self, domain: DomId) -> usize {
        self.counts.get(&domain).copied().unwrap_or(0)
    }

    /// Sets a watch; returns the payload of the event that it starts with.
    ///
    /// # Errors
    /// `EEXIST` if the domain has the same one already.
    pub fn add(&mut self, owner: DomId, path: &[u8], token: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let target = Target::parse(owner, path)?;
        let relative = matches!(target, Target::Node(_)) && !path.starts_with(b"/");
        let watch = Watch { owner, token: token.into(), relative };
        let key = key(&target);
        let event = watch.event(key);
        let at = self.nodes.entry(key.to_string()).or_default();
        if at.iter().any(|other| other.owner == owner && *other.token == *token) {
            return Err(StoreError::Eexist);
        }
        at.push(watch);
        *self.counts.entry(owner).or_default() += 1;
        Ok(event)
    }

    /// Removes a watch.
    ///
    /// # Errors
    /// `ENOENT` if there is none such.
    pub fn remove(&mut self, owner: DomId, path: &[u8], token: &[u8]) -> Result<(), StoreError> {
        let target = Target::parse(owner, path)?;
        let at = self.nodes.get_mut(key(&target)).ok_or(StoreError::Enoent)?;
        let same = |watch: &Watch| watch.owner == owner && *watch.token == *token;
        let index = at.iter().position(same).ok_or(StoreError::Enoent)?;
        at.remove(index);
        if at.is_empty() {
            self.nodes.remove(key(&target));
        }
        if let Some(count) = self.counts.get_mut(&owner) {
            *count -= 1;
        }
        Ok(())
    }

    /// Removes all watches of a domain.
    pub fn forget(&mut self, domain: DomId) {
        self.nodes.retain(|_, at| {
            at.retain(|watch| watch.owner != domain);
            !at.is_empty()
        });
        self.counts.remove(&domain);
    }

    /// The events of a change at `path`: for watches on it and, unless `exact`, on any node above.
    pub fn events(&self, path: &Path, exact: bool, may_see: impl Fn(DomId) -> bool) -> Vec<(DomId, Vec<u8>)> {
        let mut events = Vec::new();
        for above in path.lineage().filter(|above| !exact || *above == path.as_str()) {
            self.collect(above, path.as_str(), &may_see, &mut events);
        }
        events
    }

    /// The events of something that is no node.
    pub fn special(&self, target: &Target, may_see: impl Fn(DomId) -> bool) -> Vec<(DomId, Vec<u8>)> {
        let mut events = Vec::new();
        self.collect(key(target), key(target), &may_see, &mut events);
        events
    }

    fn collect(&self, at: &str, shown: &str, may: &impl Fn(DomId) -> bool, events: &mut Vec<(DomId, Vec<u8>)>) {
        let watches = self.nodes.get(at).into_iter().flatten().filter(|watch| may(watch.owner));
        events.extend(watches.filter_map(|watch| Some((watch.owner, watch.event(shown)?))));
    }
}

fn key(target: &Target) -> &str {
    match target {
        Target::Node(path) => path.as_str(),
        special => special.special().unwrap_or_default(),
    }
}
