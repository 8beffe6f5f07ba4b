//! The store: a small tree of names and values that all domains share, through which devices meet (xenstore).
//!
//! [`Store::request`] takes one message of one domain as it came from the wire (`io/xs_wire.h`); replies and watch
//! events wait in a queue a domain until its ring has room. dom0 itself uses the same operations without the wire
//! ([`local`]). Domain 0 is privileged; every other domain has [`Quotas`], and whoever hits one is named in the log.
//!
//! The rules: an operation first checks everything and then performs an [`Edit`], which cannot fail. A transaction works
//! on a snapshot and notes what it relied on; its commit replays its edits if all that still holds, else it is `EAGAIN`.

mod client;
mod connection;
pub mod local;
mod ops;
pub mod path;
pub mod perms;
pub mod quota;
#[cfg(test)]
mod tests;
mod transaction;
mod tree;
mod watch;
mod wire;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use abi::DomId;
use ring_proto::store::StoreError;

use client::Client;
pub use client::Message;
pub use connection::{Connection, Turn};
use path::Path;
use perms::Access;
use quota::{Hits, Quota, QuotaHit, Quotas};
use transaction::{Touch, Transaction};
use tree::{Changed, Counts, Edit, Node, Tree};
use watch::{Target, Watches};
pub use wire::Act;

/// Whether a domain may do everything: the one the toolstack is in.
const fn privileged(domain: DomId) -> bool {
    domain.0 == DomId::DOM0.0
}

/// On whose behalf, and in which transaction (0 for none), something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Context {
    /// The domain that asked.
    pub domain: DomId,
    /// The transaction, as in the message's header.
    pub transaction: u32,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    tree: Tree,
    generation: u64,
    counts: Counts,
    watches: Watches,
    transactions: BTreeMap<Context, Transaction>,
    clients: BTreeMap<DomId, Client>,
    /// Domains with something in their queue.
    ready: BTreeSet<DomId>,
    quotas: Quotas,
    hits: Hits,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Quotas::default())
    }
}

impl Store {
    /// An empty store that knows only domain 0.
    pub fn new(quotas: Quotas) -> Self {
        let mut store = Self {
            tree: Tree::new(),
            generation: 0,
            counts: Counts::from([(DomId::DOM0, 1)]), // the root
            watches: Watches::default(),
            transactions: BTreeMap::new(),
            clients: BTreeMap::new(),
            ready: BTreeSet::new(),
            quotas,
            hits: Hits::default(),
        };
        store.clients.insert(DomId::DOM0, Client::default());
        store
    }

    /// Lets a domain in and tells who watches `@introduceDomain`. The same domain again changes nothing.
    pub fn introduce(&mut self, domain: DomId) {
        if !self.is_introduced(domain) {
            self.clients.insert(domain, Client::default());
            self.announce(&Target::Introduce);
        }
    }

    /// Removes all traces of a domain that is gone: its nodes, its place in permissions, its watches, transactions and
    /// queued messages; then tells who watches `@releaseDomain`.
    pub fn release(&mut self, domain: DomId) {
        if privileged(domain) || self.clients.remove(&domain).is_none() {
            return;
        }
        self.ready.remove(&domain);
        self.reset(domain);
        self.hits.forget(domain);
        self.generation += 1;
        let changed = self.tree.forget(domain, self.generation, &mut self.counts);
        self.counts.remove(&domain);
        self.fire(&changed);
        self.announce(&Target::Release);
    }

    /// Tells who watches `@releaseDomain` that a domain has shut down, though it is not gone yet.
    pub fn announce_shutdown(&mut self) {
        self.announce(&Target::Release);
    }

    /// Whether the domain has been let in.
    pub fn is_introduced(&self, domain: DomId) -> bool {
        self.clients.contains_key(&domain)
    }

    /// Drops a domain's watches and transactions, as for RESET_WATCHES.
    pub fn reset(&mut self, domain: DomId) {
        self.watches.forget(domain);
        self.transactions.retain(|context, _| context.domain != domain);
    }

    /// Lines for the log about domains that hit their quotas, since the last call.
    pub fn take_quota_hits(&mut self) -> Vec<QuotaHit> {
        self.hits.take()
    }

    /// Nodes that `domain` owns.
    pub fn nodes_of(&self, domain: DomId) -> usize {
        self.counts.get(&domain).map_or(0, |count| usize::try_from(*count).unwrap_or(0))
    }

    fn tree(&self, context: Context) -> Result<&Tree, StoreError> {
        match context.transaction {
            0 => Ok(&self.tree),
            _ => self.transactions.get(&context).map(|open| &open.work).ok_or(StoreError::Enoent),
        }
    }

    /// The node at `path`, as far as the context may do `need` to it; `None` if it does not exist, and the domain may
    /// know that.
    fn look(&mut self, context: Context, path: &Path, need: Access, touch: Touch) -> Result<Option<&Node>, StoreError> {
        if let Some(open) = self.transactions.get_mut(&context) {
            open.touch(path, touch);
            let full = open.size().max(open.edits.len()) > self.quotas.transaction_nodes;
            if full && !privileged(context.domain) {
                self.hits.record(context.domain, Quota::TransactionNodes);
                return Err(StoreError::Enospc);
            }
        }
        let tree = self.tree(context)?;
        let node = tree.get(path);
        let judge = node.unwrap_or_else(|| tree.nearest(path));
        if judge.perms.access(context.domain).allows(need) { Ok(node) } else { Err(StoreError::Eacces) }
    }

    /// Performs a change that was checked.
    fn perform(&mut self, context: Context, edit: Edit) -> Result<(), StoreError> {
        self.generation += 1;
        match context.transaction {
            0 => {
                let changed = self.tree.apply(&edit, self.generation, &mut self.counts);
                self.fire(&changed);
            }
            _ => {
                let open = self.transactions.get_mut(&context).ok_or(StoreError::Enoent)?;
                open.work.apply(&edit, self.generation, &mut open.counts);
                open.edits.push(edit);
            }
        }
        Ok(())
    }

    /// Checks that `domain` may own so many nodes more.
    fn charge_nodes(&mut self, context: Context, more: usize) -> Result<(), StoreError> {
        let domain = context.domain;
        let pending = self.transactions.get(&context).and_then(|open| open.counts.get(&domain)).copied().unwrap_or(0);
        let own = self.counts.get(&domain).copied().unwrap_or(0).saturating_add(pending);
        let over = i64::try_from(more).unwrap_or(i64::MAX).saturating_add(own) > self.quotas.nodes as i64;
        if over && more > 0 && !privileged(domain) {
            self.hits.record(domain, Quota::Nodes);
            return Err(StoreError::Enospc);
        }
        Ok(())
    }

    /// Queues the events of changes, each only to domains that could read the node before or can now.
    fn fire(&mut self, changed: &[Changed]) {
        for change in changed {
            let now = self.tree.get(&change.path).map(|node| &node.perms);
            let parent = change.path.parent().and_then(|path| self.tree.get(&path)).map(|node| &node.perms);
            let judges = [change.before.as_ref(), now, parent];
            let may_see = |domain| judges.iter().flatten().any(|perms| perms.access(domain).read);
            let events = self.watches.events(&change.path, change.below_removed, may_see);
            self.queue_events(events);
        }
    }

    /// Only privileged domains learn of others' coming and going.
    fn announce(&mut self, target: &Target) {
        let events = self.watches.special(target, privileged);
        self.queue_events(events);
    }

    fn queue_events(&mut self, events: Vec<(DomId, Vec<u8>)>) {
        for (domain, payload) in events {
            let Some(client) = self.clients.get_mut(&domain) else { continue };
            if client.queued_bytes() > self.quotas.outstanding && !privileged(domain) {
                self.hits.record(domain, Quota::Outstanding);
            } else {
                client.push_event(payload);
                self.ready.insert(domain);
            }
        }
    }
}
