//! The store's wire protocol and its page (`io/xs_wire.h`): two byte rings that carry messages of a 16-byte header
//! and at most 4096 bytes of payload.

use crate::memory::RingMemory;
use crate::ring::Corrupt;
use crate::stream::{Consumer, Producer, StreamLayout, Wake};
use crate::sync::Ordering::*;
use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Requests, towards the store.
pub const REQUESTS: StreamLayout = StreamLayout { data: 0, size: 1024, cons: 2048, prod: 2052 };
/// Replies and watch events, towards the client.
pub const REPLIES: StreamLayout = StreamLayout { data: 1024, size: 1024, cons: 2056, prod: 2060 };
const SERVER_FEATURES: usize = 2064;
const CONNECTION: usize = 2068;
const ERROR: usize = 2072;

/// Longest payload of one message, in bytes.
pub const PAYLOAD_MAX: usize = 4096;
/// Longest absolute path, in bytes without the terminator.
pub const ABS_PATH_MAX: usize = 3072;
/// Longest relative path, in bytes without the terminator.
pub const REL_PATH_MAX: usize = 2048;
/// Bytes of [`Header`].
pub const HEADER: usize = 16;

/// Feature bit: the server can reconnect a ring.
pub const FEATURE_RECONNECTION: u32 = 1;
/// Feature bit: the page has the error word.
pub const FEATURE_ERROR: u32 = 2;

/// What a message asks for or carries. Open: a client may send any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageType(pub u32);

#[expect(missing_docs, reason = "named as in io/xs_wire.h, without the XS_ prefix")]
impl MessageType {
    pub const CONTROL: Self = Self(0);
    pub const DIRECTORY: Self = Self(1);
    pub const READ: Self = Self(2);
    pub const GET_PERMS: Self = Self(3);
    pub const WATCH: Self = Self(4);
    pub const UNWATCH: Self = Self(5);
    pub const TRANSACTION_START: Self = Self(6);
    pub const TRANSACTION_END: Self = Self(7);
    pub const INTRODUCE: Self = Self(8);
    pub const RELEASE: Self = Self(9);
    pub const GET_DOMAIN_PATH: Self = Self(10);
    pub const WRITE: Self = Self(11);
    pub const MKDIR: Self = Self(12);
    pub const RM: Self = Self(13);
    pub const SET_PERMS: Self = Self(14);
    pub const WATCH_EVENT: Self = Self(15);
    pub const ERROR: Self = Self(16);
    pub const IS_DOMAIN_INTRODUCED: Self = Self(17);
    pub const RESUME: Self = Self(18);
    pub const SET_TARGET: Self = Self(19);
    pub const RESET_WATCHES: Self = Self(21);
    pub const DIRECTORY_PART: Self = Self(22);
}

/// The head of every message (`struct xsd_sockmsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// What the payload is.
    pub kind: MessageType,
    /// Chosen by the client, echoed in the reply; 0 in a watch event.
    pub req_id: u32,
    /// The transaction, or 0.
    pub tx_id: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}
const _: () = assert!(size_of::<Header>() == HEADER && core::mem::offset_of!(Header, len) == 12);

/// The errors the protocol can name; on the wire they are strings ([`name`](Self::name)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "POSIX error names")]
pub enum StoreError {
    Einval,
    Eacces,
    Eexist,
    Eisdir,
    Enoent,
    Enomem,
    Enospc,
    Eio,
    Enotempty,
    Enosys,
    Erofs,
    Ebusy,
    Eagain,
    Eisconn,
    E2big,
    Eperm,
}

impl StoreError {
    /// Every error with its name, in the order of the public header.
    pub const NAMES: [(Self, &'static str); 16] = [
        (Self::Einval, "EINVAL"),
        (Self::Eacces, "EACCES"),
        (Self::Eexist, "EEXIST"),
        (Self::Eisdir, "EISDIR"),
        (Self::Enoent, "ENOENT"),
        (Self::Enomem, "ENOMEM"),
        (Self::Enospc, "ENOSPC"),
        (Self::Eio, "EIO"),
        (Self::Enotempty, "ENOTEMPTY"),
        (Self::Enosys, "ENOSYS"),
        (Self::Erofs, "EROFS"),
        (Self::Ebusy, "EBUSY"),
        (Self::Eagain, "EAGAIN"),
        (Self::Eisconn, "EISCONN"),
        (Self::E2big, "E2BIG"),
        (Self::Eperm, "EPERM"),
    ];

    /// The name that goes on the wire, NUL-terminated there.
    pub fn name(self) -> &'static str {
        // The table is in declaration order; the unit test holds it to that.
        Self::NAMES[self as usize].1
    }

    /// The error a reply's payload names; unknown names read as `Einval`, as Xen's own client does.
    pub fn from_payload(payload: &[u8]) -> Self {
        let name = payload.strip_suffix(b"\0").unwrap_or(payload);
        Self::NAMES.iter().find(|(_, n)| n.as_bytes() == name).map_or(Self::Einval, |(error, _)| *error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The NUL-terminated strings of a payload; a last one without its NUL counts too.
pub fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = payload.strip_suffix(b"\0").unwrap_or(payload);
    body.split(|byte| *byte == 0).take(if payload.is_empty() { 0 } else { usize::MAX })
}

/// Why a connection is broken, as the page's error word says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ConnectionError {
    /// None.
    None = 0,
    /// Communication problem.
    Communication = 1,
    /// An index of the ring is impossible.
    RingIndex = 2,
    /// The protocol was broken, as by a payload too long.
    Protocol = 3,
}

impl From<Corrupt> for ConnectionError {
    fn from(corrupt: Corrupt) -> Self {
        match corrupt {
            Corrupt::Index { .. } => Self::RingIndex,
            Corrupt::Protocol(_) => Self::Protocol,
        }
    }
}

/// The client's end of a store page.
#[derive(Debug)]
pub struct Front<M> {
    /// Where requests go.
    pub requests: Producer<M>,
    /// Where replies and watch events come from.
    pub replies: Consumer<M>,
}

impl<M: RingMemory + Clone> Front<M> {
    /// Takes the client's end.
    pub fn new(page: M) -> Self {
        Self {
            requests: Producer::new(page.clone(), REQUESTS, Wake::Always),
            replies: Consumer::new(page, REPLIES, Wake::WhenIdle),
        }
    }

    /// Whether the server says that a reconnection is under way; then both rings are to be left alone.
    pub fn reconnecting(&self) -> bool {
        self.page().word(CONNECTION).load(Acquire) != 0
    }

    /// Asks the server to reconnect the ring, if it can; the caller then sends an event.
    pub fn request_reconnect(&self) -> bool {
        let can = self.page().word(SERVER_FEATURES).load(Acquire) & FEATURE_RECONNECTION != 0;
        if can {
            self.page().word(CONNECTION).store(1, Release);
        }
        can
    }

    /// The error word, raw; 0 is none.
    pub fn error(&self) -> u32 {
        self.page().word(ERROR).load(Acquire)
    }

    fn page(&self) -> &M {
        self.requests.memory()
    }
}

/// The store's end of a client's page.
#[derive(Debug)]
pub struct Back<M> {
    /// Where requests come from.
    pub requests: Consumer<M>,
    /// Where replies and watch events go.
    pub replies: Producer<M>,
}

impl<M: RingMemory + Clone> Back<M> {
    /// Takes the store's end and publishes what the server can do.
    ///
    /// Linux and Mini-OS look again after taking replies, but some clients do not: replies are always announced.
    pub fn new(page: M, features: u32) -> Self {
        page.word(SERVER_FEATURES).store(features, Release);
        Self::ends(page)
    }

    fn ends(page: M) -> Self {
        Self {
            requests: Consumer::new(page.clone(), REQUESTS, Wake::WhenIdle),
            replies: Producer::new(page, REPLIES, Wake::Always),
        }
    }

    /// Tells the client why nothing more will come; the caller then sends an event.
    pub fn report(&self, error: ConnectionError) {
        self.page().word(ERROR).store(error as u32, Release);
    }

    /// Whether the client asked to reconnect.
    pub fn reconnect_requested(&self) -> bool {
        self.page().word(CONNECTION).load(Acquire) == 1
    }

    /// Empties both rings and returns to the connected state; the caller drops the client's transactions, watches
    /// and half-received message, then sends an event.
    pub fn reconnect(&mut self) {
        let page = self.page().clone();
        let zero = |offset: usize| page.word(offset).store(0, Relaxed);
        [REQUESTS.cons, REQUESTS.prod, REPLIES.cons, REPLIES.prod, ERROR].into_iter().for_each(zero);
        page.word(CONNECTION).store(0, Release);
        *self = Self::ends(page);
    }

    fn page(&self) -> &M {
        self.requests.memory()
    }
}

/// One whole message, copied out of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its head; `len` equals the payload's length.
    pub header: Header,
    /// Its body.
    pub payload: &'a [u8],
}

/// Puts messages together from a byte ring.
pub struct Receiver {
    buffer: [u8; HEADER + PAYLOAD_MAX],
    have: usize,
    need: usize,
}

impl Default for Receiver {
    fn default() -> Self {
        Self { buffer: [0; HEADER + PAYLOAD_MAX], have: 0, need: HEADER }
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({} of {} bytes)", self.have, self.need)
    }
}

impl Receiver {
    /// Takes bytes from `ring` until a message is whole (`Some`) or the ring is empty (`None`). The caller publishes
    /// the ring afterwards, whatever came of it.
    pub fn receive<M: RingMemory>(&mut self, ring: &mut Consumer<M>) -> Result<Option<Message<'_>>, Corrupt> {
        if self.have >= HEADER && self.have == self.need {
            (self.have, self.need) = (0, HEADER);
        }
        loop {
            while self.have < self.need {
                match ring.read(&mut self.buffer[self.have..self.need])? {
                    0 => return Ok(None),
                    count => self.have += count,
                }
            }
            let header = self.header();
            let whole = HEADER + header.len as usize;
            if self.need == whole {
                return Ok(Some(Message { header, payload: &self.buffer[HEADER..whole] }));
            }
            if header.len as usize > PAYLOAD_MAX {
                let corrupt = Corrupt::Protocol("store message longer than 4096 bytes");
                ring.close(corrupt);
                return Err(corrupt);
            }
            self.need = whole;
        }
    }

    fn header(&self) -> Header {
        let word = |index: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| self.buffer[4 * index + byte]));
        Header { kind: MessageType(word(0)), req_id: word(1), tx_id: word(2), len: word(3) }
    }
}
