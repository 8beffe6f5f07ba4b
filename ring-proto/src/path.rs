//! Store paths of split devices, and numbers as the store writes them.

use abi::DomId;
use core::fmt;

/// A device class as store paths name it. The tools know some; a driver of one's own takes any other name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Class([u8; Self::MAX]);

impl Class {
    /// Bytes of a name, at most.
    pub const MAX: usize = 16;
    /// Network interface.
    pub const VIF: Self = Self::new("vif");
    /// Block device.
    pub const VBD: Self = Self::new("vbd");
    /// PCI device access.
    pub const PCI: Self = Self::new("pci");
    /// Console.
    pub const CONSOLE: Self = Self::new("console");

    /// The class of that name, for constants.
    ///
    /// # Panics
    /// If [`parse`](Self::parse) takes it for no name; a constant does not compile then.
    pub const fn new(name: &str) -> Self {
        match Self::parse(name) {
            Some(class) => class,
            None => panic!("not the name of a device class"),
        }
    }

    /// The class that `name` names: lower-case letters, digits and `-`, at most [`MAX`](Self::MAX) of them.
    pub const fn parse(name: &str) -> Option<Self> {
        let (mut padded, mut at, mut rest) = ([0; Self::MAX], 0, name.as_bytes());
        if rest.is_empty() || rest.len() > Self::MAX {
            return None;
        }
        while let [byte, behind @ ..] = rest {
            if !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-') {
                return None;
            }
            (padded[at], at, rest) = (*byte, at + 1, behind);
        }
        Some(Self(padded))
    }

    /// The path component.
    pub fn name(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default().trim_end_matches('\0')
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `/local/domain/ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(pub DomId);

/// One split device: who is at which end. Both directories of it follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub class: Class,
    /// The domain of the backend.
    pub back: DomId,
    /// The domain of the frontend.
    pub front: DomId,
    /// The number of the device among those of its class.
    pub handle: u32,
}

/// A [`Device`]'s frontend directory: `/local/domain/FRONT/device/CLASS/HANDLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontDir(pub Device);

/// A [`Device`]'s backend directory: `/local/domain/BACK/backend/CLASS/FRONT/HANDLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackDir(pub Device);

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/local/domain/{}", self.0.0)
    }
}

impl fmt::Display for FrontDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Device { class, front, handle, .. } = self.0;
        write!(f, "{}/device/{}/{handle}", Domain(front), class.name())
    }
}

impl fmt::Display for BackDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Device { class, back, front, handle } = self.0;
        write!(f, "{}/backend/{}/{}/{handle}", Domain(back), class.name(), front.0)
    }
}

impl Device {
    /// Reads a backend path, or one below it, with or without the leading `/local/domain/BACK/`, as the paths of
    /// watch events come; `back` is the domain that a relative path is relative to. `None` for anything else.
    pub fn from_backend_path(back: DomId, path: &str) -> Option<Self> {
        let relative = match path.strip_prefix("/local/domain/") {
            Some(rest) => {
                let (id, rest) = rest.split_once('/')?;
                (decimal::<u16>(id)? == back.0).then_some(rest)?
            }
            None => path,
        };
        let mut parts = relative.strip_prefix("backend/")?.split('/');
        let class = Class::parse(parts.next()?)?;
        let front = DomId(decimal(parts.next()?)?);
        let handle = decimal(parts.next()?)?;
        Some(Self { class, back, front, handle })
    }
}

/// A decimal number as the store holds it: digits only, no sign, no blanks, in range.
pub fn decimal<T: core::str::FromStr>(text: &str) -> Option<T> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}
