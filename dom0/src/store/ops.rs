//! The operations on nodes, transactions and watches, each checked in full before anything changes.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use ring_proto::store::{PAYLOAD_MAX, StoreError};

use super::path::Path;
use super::perms::{Access, Perms};
use super::quota::Quota;
use super::transaction::{Touch, Transaction};
use super::tree::Edit;
use super::{Context, Store, privileged};

const NODE: Touch = Touch { node: true, children: false };
const CHILDREN: Touch = Touch { node: true, children: true };

impl Store {
    pub(super) fn read_node(&mut self, context: Context, path: &Path) -> Result<Rc<[u8]>, StoreError> {
        let node = self.look(context, path, Access::READ, NODE)?.ok_or(StoreError::Enoent)?;
        Ok(node.value.clone())
    }

    /// Names of the children, each with its terminator.
    pub(super) fn directory(&mut self, context: Context, path: &Path) -> Result<(String, u64), StoreError> {
        let node = self.look(context, path, Access::READ, CHILDREN)?.ok_or(StoreError::Enoent)?;
        let names = node.child_names().fold(String::new(), |names, name| names + name + "\0");
        Ok((names, node.children_generation))
    }

    /// A part of a directory: its generation, then names from byte `offset` on, then an empty name at the end.
    pub(super) fn directory_part(
        &mut self,
        context: Context,
        path: &Path,
        offset: usize,
    ) -> Result<String, StoreError> {
        let (names, generation) = self.directory(context, path)?;
        let mut part = format!("{generation}\0");
        let rest = names.get(offset..).unwrap_or_default();
        let room = PAYLOAD_MAX - part.len() - 1;
        let fits = if rest.len() <= room { rest.len() } else { rest[..room].rfind('\0').map_or(0, |at| at + 1) };
        part += &rest[..fits];
        if fits == rest.len() {
            part.push('\0');
        }
        Ok(part)
    }

    pub(super) fn write_node(&mut self, context: Context, path: &Path, value: &[u8]) -> Result<(), StoreError> {
        if value.len() > self.quotas.node_size && !privileged(context.domain) {
            self.hits.record(context.domain, Quota::NodeSize);
            return Err(StoreError::Enospc);
        }
        self.check_create(context, path)?;
        self.perform(context, Edit::Write(path.clone(), value.into(), context.domain))
    }

    pub(super) fn make_directory(&mut self, context: Context, path: &Path) -> Result<(), StoreError> {
        if self.check_create(context, path)? {
            return Ok(());
        }
        self.perform(context, Edit::Mkdir(path.clone(), context.domain))
    }

    /// Whether the node exists; an error if it may not be written, or not be created.
    fn check_create(&mut self, context: Context, path: &Path) -> Result<bool, StoreError> {
        let mut exists = self.look(context, path, Access::WRITE, NODE)?.is_some();
        // A new node depends on what is above it, down from the deepest node there is.
        let mut above = path.parent();
        while let Some(parent) = above.filter(|_| !exists) {
            exists = self.look(context, &parent, Access::WRITE, NODE)?.is_some();
            above = parent.parent();
        }
        let missing = self.tree(context)?.missing(path);
        self.charge_nodes(context, missing)?;
        Ok(missing == 0)
    }

    pub(super) fn remove_node(&mut self, context: Context, path: &Path) -> Result<(), StoreError> {
        let Some(parent) = path.parent() else { return Err(StoreError::Einval) };
        if self.look(context, path, Access::WRITE, CHILDREN)?.is_some() {
            return self.perform(context, Edit::Remove(path.clone()));
        }
        // What is not there has been removed, if it could have been there.
        self.look(context, &parent, Access::WRITE, NODE)?.map(|_| ()).ok_or(StoreError::Enoent)
    }

    pub(super) fn get_perms(&mut self, context: Context, path: &Path) -> Result<Perms, StoreError> {
        Ok(self.look(context, path, Access::READ, NODE)?.ok_or(StoreError::Enoent)?.perms.clone())
    }

    /// Only the owner may set permissions, and only a privileged domain may give a node away.
    pub(super) fn change_perms(&mut self, context: Context, path: &Path, perms: Perms) -> Result<(), StoreError> {
        let old = self.look(context, path, Access::WRITE, NODE)?.ok_or(StoreError::Enoent)?.perms.owner();
        if !privileged(context.domain) {
            if old != context.domain {
                return Err(StoreError::Eacces);
            }
            if perms.owner() != old {
                return Err(StoreError::Eperm);
            }
        }
        self.perform(context, Edit::SetPerms(path.clone(), perms))
    }

    pub(super) fn add_watch(&mut self, context: Context, path: &[u8], token: &[u8]) -> Result<(), StoreError> {
        let domain = context.domain;
        if self.watches.count(domain) >= self.quotas.watches && !privileged(domain) {
            self.hits.record(domain, Quota::Watches);
            return Err(StoreError::Enospc);
        }
        let event = self.watches.add(domain, path, token)?;
        self.queue_events(event.map(|event| (domain, event)).into_iter().collect());
        Ok(())
    }

    pub(super) fn start_transaction(&mut self, context: Context) -> Result<u32, StoreError> {
        let domain = context.domain;
        if context.transaction != 0 {
            return Err(StoreError::Ebusy);
        }
        let open = self.transactions.keys().filter(|open| open.domain == domain).count();
        if open >= self.quotas.transactions && !privileged(domain) {
            self.hits.record(domain, Quota::Transactions);
            return Err(StoreError::Enospc);
        }
        let client = self.clients.get_mut(&domain).ok_or(StoreError::Einval)?;
        let in_use = |transaction| self.transactions.contains_key(&Context { domain, transaction });
        let transaction = client.next_transaction(in_use);
        self.transactions.insert(Context { domain, transaction }, Transaction::new(&self.tree));
        Ok(transaction)
    }

    /// Ends a transaction. A commit happens in whole or, with `EAGAIN`, not at all.
    pub(super) fn end_transaction(&mut self, context: Context, commit: bool) -> Result<(), StoreError> {
        let ended = self.transactions.remove(&context).ok_or(StoreError::Enoent)?;
        if !commit || ended.edits.is_empty() {
            return Ok(());
        }
        if !ended.holds(&self.tree) {
            return Err(StoreError::Eagain);
        }
        let more = ended.counts.get(&context.domain).copied().unwrap_or(0);
        self.charge_nodes(Context { transaction: 0, ..context }, usize::try_from(more).unwrap_or(0))?;
        for edit in &ended.edits {
            self.generation += 1;
            let changed = self.tree.apply(edit, self.generation, &mut self.counts);
            self.fire(&changed);
        }
        Ok(())
    }
}
