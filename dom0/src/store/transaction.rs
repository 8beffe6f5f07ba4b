//! A transaction: a snapshot, the changes made on it, and what it relied on.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::path::Path;
use super::tree::{Counts, Edit, Tree};

/// What a transaction relied on at a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// Its value, its permissions, or that it does not exist.
    pub node: bool,
    /// Which children it has.
    pub children: bool,
}

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    /// The store as it was at the start.
    pub base: Tree,
    /// The same with this transaction's changes.
    pub work: Tree,
    /// The changes, in order.
    pub edits: Vec<Edit>,
    /// Nodes created less nodes removed, by owner.
    pub counts: Counts,
    touched: BTreeMap<Path, Touch>,
}

impl Transaction {
    /// Begins on a snapshot of `tree`.
    pub fn new(tree: &Tree) -> Self {
        let (base, work) = (tree.clone(), tree.clone());
        Self { base, work, edits: Vec::new(), counts: Counts::new(), touched: BTreeMap::new() }
    }

    /// Notes that the transaction relies on something at `path`.
    pub fn touch(&mut self, path: &Path, what: Touch) {
        let touch = self.touched.entry(path.clone()).or_default();
        touch.node |= what.node;
        touch.children |= what.children;
    }

    /// How many nodes it touched.
    pub fn size(&self) -> usize {
        self.touched.len()
    }

    /// Whether everything it relied on is in `now` as it was at the start.
    pub fn holds(&self, now: &Tree) -> bool {
        self.touched.iter().all(|(path, touch)| match (self.base.get(path), now.get(path)) {
            (None, None) => true,
            (Some(was), Some(is)) => {
                (!touch.node || was.generation == is.generation)
                    && (!touch.children || was.children_generation == is.children_generation)
            }
            _ => false,
        })
    }
}
