//! Permissions of a node: an owner, what everybody else may do, and exceptions for single domains (xenstore's rules).

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use abi::DomId;
use ring_proto::path::decimal;
use ring_proto::store::StoreError;

/// Entries a node's permissions may have (Xen's quota `max-node-permissions` default).
pub const MAX_PERMS: usize = 5;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// See value, children and permissions.
    pub read: bool,
    /// Change the value, remove the node, create children.
    pub write: bool,
}

impl Access {
    /// Nothing.
    pub const NONE: Self = Self { read: false, write: false };
    /// Look only.
    pub const READ: Self = Self { read: true, write: false };
    /// Change only.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Both.
    pub const BOTH: Self = Self { read: true, write: true };

    /// Whether everything in `need` is allowed.
    pub const fn allows(self, need: Self) -> bool {
        (self.read || !need.read) && (self.write || !need.write)
    }

    const fn letter(self) -> char {
        match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        }
    }

    const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'n' => Some(Self::NONE),
            b'r' => Some(Self::READ),
            b'w' => Some(Self::WRITE),
            b'b' => Some(Self::BOTH),
            _ => None,
        }
    }
}

/// The permissions of a node: never empty; the first entry names the owner and what domains without an entry may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms(Rc<[(DomId, Access)]>);

impl Perms {
    /// Owned by `owner`, `others` for everybody else.
    pub fn owned(owner: DomId, others: Access) -> Self {
        Self(Rc::new([(owner, others)]))
    }

    /// Owned by `owner`; `reader` may look, nobody else.
    pub fn shared_with(owner: DomId, reader: DomId) -> Self {
        Self(Rc::new([(owner, Access::NONE), (reader, Access::READ)]))
    }

    /// Reads the strings of a SET_PERMS request: a letter and a domain each.
    ///
    /// # Errors
    /// `EINVAL` for no entry or a wrong one, `ENOSPC` for too many.
    pub fn parse<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Self, StoreError> {
        let entry = |word: &[u8]| {
            let (letter, digits) = word.split_first()?;
            Some((DomId(decimal(str::from_utf8(digits).ok()?)?), Access::from_letter(*letter)?))
        };
        let entries: Option<Vec<_>> = words.take(MAX_PERMS + 1).map(entry).collect();
        match entries {
            Some(entries) if entries.len() > MAX_PERMS => Err(StoreError::Enospc),
            Some(entries) if !entries.is_empty() => Ok(Self(entries.into())),
            _ => Err(StoreError::Einval),
        }
    }

    /// The strings of a GET_PERMS reply, each with its terminator.
    pub fn to_wire(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (domain, access)| {
            let _ = write!(text, "{}{}\0", access.letter(), domain.0); // a String takes everything
            text
        })
    }

    /// The domain the node belongs to, and is charged to.
    pub fn owner(&self) -> DomId {
        self.0.first().map_or(DomId(0), |(owner, _)| *owner)
    }

    /// What `domain` may do.
    pub fn access(&self, domain: DomId) -> Access {
        if super::privileged(domain) || domain == self.owner() {
            return Access::BOTH;
        }
        let own = self.0.iter().skip(1).find(|(listed, _)| *listed == domain);
        own.or(self.0.first()).map_or(Access::NONE, |(_, access)| *access)
    }

    /// What a child created by `creator` gets: the same, but owned by its creator unless that one is privileged.
    pub fn inherited(&self, creator: DomId) -> Self {
        if super::privileged(creator) || creator == self.owner() {
            return self.clone();
        }
        let mut entries = self.0.to_vec();
        if let Some(first) = entries.first_mut() {
            first.0 = creator;
        }
        Self(entries.into())
    }

    /// The same without the entries of `domain`, which is not the owner; `None` if there are none.
    pub fn without(&self, domain: DomId) -> Option<Self> {
        let gone = |(at, entry): &(usize, &(DomId, Access))| *at > 0 && entry.0 == domain;
        self.0
            .iter()
            .enumerate()
            .any(|entry| gone(&entry))
            .then(|| Self(self.0.iter().enumerate().filter(|entry| !gone(entry)).map(|(_, entry)| *entry).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perms(text: &str) -> Result<Perms, StoreError> {
        Perms::parse(text.split_terminator(' ').map(str::as_bytes))
    }

    #[test]
    fn wire_form_both_ways() {
        assert_eq!(perms("n3 r5 b0 w7").unwrap().to_wire(), "n3\0r5\0b0\0w7\0");
        for wrong in ["", "x3", "r", "r-1", "r65536", "r3x"] {
            assert_eq!(perms(wrong), Err(StoreError::Einval), "{wrong}");
        }
        assert_eq!(perms("r1 r2 r3 r4 r5 r6"), Err(StoreError::Enospc));
    }

    #[test]
    fn who_may_what() {
        let node = perms("r3 n5 w6").unwrap();
        let of = |domain| node.access(DomId(domain));
        assert_eq!(
            [of(0), of(3), of(4), of(5), of(6)],
            [Access::BOTH, Access::BOTH, Access::READ, Access::NONE, Access::WRITE]
        );
    }

    #[test]
    fn children_belong_to_their_creator() {
        let parent = perms("n3 b5").unwrap();
        assert_eq!(parent.inherited(DomId(5)).to_wire(), "n5\0b5\0");
        assert_eq!(parent.inherited(DomId(0)).to_wire(), "n3\0b5\0");
    }

    #[test]
    fn a_dead_domain_is_struck_off() {
        assert_eq!(perms("n3 b5 r5 r6").unwrap().without(DomId(5)).unwrap().to_wire(), "n3\0r6\0");
        assert_eq!(perms("n3 b5").unwrap().without(DomId(3)), None);
    }
}
