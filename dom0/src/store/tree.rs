//! The nodes, as a persistent tree: a clone shares everything, and a change copies the nodes on its way only where
//! they are shared. That makes a transaction's snapshot one reference.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;

use abi::DomId;

use super::path::Path;
use super::perms::{Access, Perms};

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Any bytes.
    pub value: Rc<[u8]>,
    /// Who may do what.
    pub perms: Perms,
    /// Changes with the value and the permissions; no two states of any node have the same.
    pub generation: u64,
    /// Changes with the set of children.
    pub children_generation: u64,
    children: BTreeMap<Rc<str>, Rc<Node>>,
}

impl Node {
    fn new(perms: Perms, generation: u64) -> Self {
        Self { value: Rc::default(), perms, generation, children_generation: generation, children: BTreeMap::new() }
    }

    /// Names of the children, in order.
    pub fn child_names(&self) -> impl Iterator<Item = &str> {
        self.children.keys().map(|name| &**name)
    }

    /// Calls `see` with this node and every one below it.
    fn visit(&self, path: &Path, see: &mut dyn FnMut(&Path, &Node)) {
        see(path, self);
        for (name, child) in &self.children {
            child.visit(&path.child(name), see);
        }
    }
}

/// How many nodes each domain owns.
pub type Counts = BTreeMap<DomId, i64>;

/// A whole store's nodes.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Rc<Node>,
}

/// One change, which its maker was allowed to make.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Set a value, creating the node and what is missing above it.
    Write(Path, Rc<[u8]>, DomId),
    /// Create the node and what is missing above it.
    Mkdir(Path, DomId),
    /// Set the permissions of a node.
    SetPerms(Path, Perms),
    /// Remove a node with all below it.
    Remove(Path),
}

/// A node that changed, for the watches on it.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Where.
    pub path: Path,
    /// Removed together with a node above it: only watches on this very path fire.
    pub below_removed: bool,
    /// The permissions it had before, if it was there.
    pub before: Option<Perms>,
}

impl Tree {
    /// An empty store, whose root everybody may read.
    pub fn new() -> Self {
        Self { root: Rc::new(Node::new(Perms::owned(DomId(0), Access::READ), 0)) }
    }

    /// The node at `path`.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        path.components().try_fold(&*self.root, |node, name| Some(&**node.children.get(name)?))
    }

    /// The deepest node on the way to `path`, itself included.
    pub fn nearest(&self, path: &Path) -> &Node {
        let mut node = &*self.root;
        for name in path.components() {
            match node.children.get(name) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    /// Calls `see` with every node.
    pub fn each(&self, see: &mut dyn FnMut(&Path, &Node)) {
        self.root.visit(&Path::root(), see);
    }

    /// How many nodes must be created for `path` to exist.
    pub fn missing(&self, path: &Path) -> usize {
        let mut node = Some(&*self.root);
        let absent = |name| {
            node = node.and_then(|node| Some(&**node.children.get(name)?));
            node.is_none()
        };
        path.components().map(absent).filter(|absent| *absent).count()
    }

    /// Makes a change; `generation` is newer than any in the tree.
    pub fn apply(&mut self, edit: &Edit, generation: u64, counts: &mut Counts) -> Vec<Changed> {
        match edit {
            Edit::Write(path, value, by) => {
                let before = self.get(path).map(|node| node.perms.clone());
                let node = self.create(path, *by, generation, counts);
                node.value = value.clone();
                node.generation = generation;
                Vec::from([Changed { path: path.clone(), below_removed: false, before }])
            }
            Edit::Mkdir(path, by) => {
                self.create(path, *by, generation, counts);
                Vec::from([Changed { path: path.clone(), below_removed: false, before: None }])
            }
            Edit::SetPerms(path, perms) => self.set_perms(path, perms, generation, counts),
            Edit::Remove(path) => self.remove(path, generation, counts),
        }
    }

    fn create(&mut self, path: &Path, by: DomId, generation: u64, counts: &mut Counts) -> &mut Node {
        let mut node = Rc::make_mut(&mut self.root);
        for name in path.components() {
            if !node.children.contains_key(name) {
                let child = Node::new(node.perms.inherited(by), generation);
                *counts.entry(child.perms.owner()).or_default() += 1;
                node.children.insert(name.into(), Rc::new(child));
                node.children_generation = generation;
            }
            let child = node.children.get_mut(name).expect("present or just inserted");
            node = Rc::make_mut(child);
        }
        node
    }

    fn get_mut(&mut self, path: &Path) -> Option<&mut Node> {
        let root = Rc::make_mut(&mut self.root);
        path.components().try_fold(root, |node, name| Some(Rc::make_mut(node.children.get_mut(name)?)))
    }

    fn set_perms(&mut self, path: &Path, perms: &Perms, generation: u64, counts: &mut Counts) -> Vec<Changed> {
        let Some(node) = self.get_mut(path) else { return Vec::new() };
        let before = core::mem::replace(&mut node.perms, perms.clone());
        node.generation = generation;
        *counts.entry(before.owner()).or_default() -= 1;
        *counts.entry(perms.owner()).or_default() += 1;
        Vec::from([Changed { path: path.clone(), below_removed: false, before: Some(before) }])
    }

    fn remove(&mut self, path: &Path, generation: u64, counts: &mut Counts) -> Vec<Changed> {
        let Some(name) = path.components().last() else { return Vec::new() };
        let Some(parent) = path.parent().and_then(|parent| self.get_mut(&parent)) else { return Vec::new() };
        let Some(node) = parent.children.remove(name) else { return Vec::new() };
        parent.children_generation = generation;
        let mut changed = Vec::new();
        node.visit(path, &mut |below, node| {
            *counts.entry(node.perms.owner()).or_default() -= 1;
            let before = Some(node.perms.clone());
            changed.push(Changed { path: below.clone(), below_removed: below != path, before });
        });
        changed
    }

    /// Strikes a dead domain off every node: what it owned is removed (the root is domain 0's again), and it is taken out
    /// of all permissions, so that a new domain of the same number inherits nothing (XSA-322).
    pub fn forget(&mut self, domain: DomId, generation: u64, counts: &mut Counts) -> Vec<Changed> {
        let mut edits = Vec::new();
        let mut removed: Option<alloc::string::String> = None;
        self.each(&mut |path, node| {
            let inside = |above: &alloc::string::String| path.as_str().starts_with(above.as_str());
            if removed.as_ref().is_some_and(inside) {
                return;
            }
            if node.perms.owner() == domain && path.parent().is_none() {
                edits.push(Edit::SetPerms(path.clone(), Perms::owned(DomId::DOM0, Access::READ)));
            } else if node.perms.owner() == domain {
                removed = Some(path.as_str().to_string() + "/");
                edits.push(Edit::Remove(path.clone()));
            } else if let Some(perms) = node.perms.without(domain) {
                edits.push(Edit::SetPerms(path.clone(), perms));
            }
        });
        edits.iter().flat_map(|edit| self.apply(edit, generation, counts)).collect()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}
