//! Store paths: checked once, absolute from then on.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use abi::DomId;
use ring_proto::store::{ABS_PATH_MAX, REL_PATH_MAX, StoreError};

/// Components a path may have. Xen has no such limit; here it bounds every walk, and the drop of a tree (XSA-418).
pub const MAX_DEPTH: usize = 64;

/// An absolute path: `/`, or components of the allowed characters, each after a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// The root.
    pub fn root() -> Self {
        Self("/".to_string())
    }

    /// `/local/domain/ID`, to which the relative paths of domain ID are relative.
    pub fn of_domain(domain: DomId) -> Self {
        Self(ring_proto::path::Domain(domain).to_string())
    }

    /// Reads a path sent by `domain`, which may be relative to its own directory.
    ///
    /// # Errors
    /// `EINVAL` for anything that is not a path by xs_wire.h, or is longer or deeper than allowed.
    pub fn parse(domain: DomId, text: &[u8]) -> Result<Self, StoreError> {
        let text = str::from_utf8(text).map_err(|_| StoreError::Einval)?;
        let path = match text.as_bytes().first() {
            Some(b'/') if text.len() <= ABS_PATH_MAX => text.to_string(),
            Some(b'/' | b'@') | None => return Err(StoreError::Einval),
            Some(_) if text.len() <= REL_PATH_MAX => format!("{}/{text}", Self::of_domain(domain)),
            Some(_) => return Err(StoreError::Einval),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
        let whole = path == "/" || (!path.ends_with('/') && !path.contains("//"));
        let path = Self(path);
        if whole && path.0.bytes().all(allowed) && path.components().count() <= MAX_DEPTH {
            Ok(path)
        } else {
            Err(StoreError::Einval)
        }
    }

    /// The names on the way from the root.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The path one level up; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (above, name) = self.0.rsplit_once('/')?;
        match (above, name) {
            (_, "") => None,
            ("", _) => Some(Self::root()),
            (above, _) => Some(Self(above.to_string())),
        }
    }

    /// The path of a child.
    pub fn child(&self, name: &str) -> Self {
        Self(if self.0 == "/" { format!("/{name}") } else { format!("{}/{name}", self.0) })
    }

    /// The path and every path above it, root first.
    pub fn lineage(&self) -> impl Iterator<Item = &str> {
        let slashes = self.0.match_indices('/').map(|(at, _)| &self.0[..at.max(1)]);
        let own = (self.0 != "/").then_some(self.0.as_str());
        slashes.chain(own)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn parse(text: &str) -> Result<String, StoreError> {
        Path::parse(DomId(7), text.as_bytes()).map(|path| path.0)
    }

    #[test]
    fn absolute_and_relative() {
        assert_eq!(parse("/"), Ok("/".into()));
        assert_eq!(parse("/a/b-c_d@2"), Ok("/a/b-c_d@2".into()));
        assert_eq!(parse("device/vif"), Ok("/local/domain/7/device/vif".into()));
    }

    #[test]
    fn what_is_no_path() {
        for text in ["", "/a/", "//", "/a//b", "a/", "/a b", "/a\u{e9}", "/.", "/a:b"] {
            assert_eq!(parse(text), Err(StoreError::Einval), "{text}");
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let long = |len: usize| format!("/{}", "x".repeat(len - 1));
        assert!(parse(&long(ABS_PATH_MAX)).is_ok());
        assert_eq!(parse(&long(ABS_PATH_MAX + 1)), Err(StoreError::Einval));
        assert_eq!(parse(&"y".repeat(REL_PATH_MAX + 1)), Err(StoreError::Einval));
        assert!(parse(&"/z".repeat(MAX_DEPTH)).is_ok());
        assert_eq!(parse(&"/z".repeat(MAX_DEPTH + 1)), Err(StoreError::Einval));
    }

    #[test]
    fn lineage_is_root_first() {
        let path = Path::parse(DomId(0), b"/a/b").unwrap();
        assert_eq!(path.lineage().collect::<Vec<_>>(), ["/", "/a", "/a/b"]);
        assert_eq!(Path::root().lineage().collect::<Vec<_>>(), ["/"]);
        assert_eq!(path.parent().unwrap().parent(), Some(Path::root()));
        assert_eq!(Path::root().parent(), None);
    }
}
