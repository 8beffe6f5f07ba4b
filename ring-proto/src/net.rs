//! Network rings (`io/netif.h`): wire structures, and what they mean once checked.
//!
//! Two rings a queue: tx carries packets out of the guest, rx offers pages for packets into it. A packet is one slot
//! or several; extra-info slots may follow the first. [`tx`](crate::net_tx) and [`rx`](crate::net_rx) put packets
//! together.

use crate::memory::Wire;
use crate::ring::RingClass;
use abi::GrantRef;
use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots a packet may take, extra-info slots not counted: what every frontend may send.
pub const MAX_SLOTS: usize = 18;
/// Bytes of an Ethernet header, the shortest packet taken.
pub const ETH_HEADER: usize = 14;
/// Longest packet, in bytes.
pub const MAX_PACKET: usize = 0xffff;
/// Bytes a page.
pub const PAGE: usize = 4096;

/// The transmit ring.
#[derive(Debug)]
pub enum Tx {}
impl RingClass for Tx {
    type Request = TxSlot;
    type Response = TxResponse;
}

/// The receive ring.
#[derive(Debug)]
pub enum Rx {}
impl RingClass for Rx {
    type Request = RxRequest;
    type Response = RxSlot;
}

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$flag_doc:meta])* $flag:ident = $bit:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(transparent)]
        pub struct $name(pub u16);
        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self(1 << $bit);)*

            /// Whether all flags of `other` are set.
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// These flags and those of `other`.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// `other`'s flags if `condition` holds, on top of these.
            #[must_use]
            pub const fn with_if(self, condition: bool, other: Self) -> Self {
                if condition { self.with(other) } else { self }
            }
        }
    };
}

flags! {
    /// Flags of a transmit slot.
    TxFlags {
        /// The transport checksum field holds only the pseudo-header's sum.
        CSUM_BLANK = 0;
        /// The data is known to be good.
        DATA_VALIDATED = 1;
        /// The packet goes on in the next slot.
        MORE_DATA = 2;
        /// An extra-info slot follows.
        EXTRA_INFO = 3;
    }
}

flags! {
    /// Flags of a receive slot. Not the same bits as [`TxFlags`].
    RxFlags {
        /// The data is known to be good.
        DATA_VALIDATED = 0;
        /// The transport checksum field holds only the pseudo-header's sum.
        CSUM_BLANK = 1;
        /// The packet goes on in the next slot.
        MORE_DATA = 2;
        /// An extra-info slot follows.
        EXTRA_INFO = 3;
    }
}

/// A transmit request (`netif_tx_request`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxRequest {
    /// The page.
    pub gref: GrantRef,
    /// First byte in the page.
    pub offset: u16,
    /// What follows and what is known of the packet.
    pub flags: TxFlags,
    /// Echoed in the response.
    pub id: u16,
    /// Bytes; in a packet's first slot, those of the whole packet.
    pub size: u16,
}

/// A slot of the transmit ring: a [`TxRequest`] or an [`Extra`], which only the slots before it tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxSlot(pub [u32; 3]);

/// The answer to a transmit request (`netif_tx_response`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxResponse {
    /// Of the request.
    pub id: u16,
    /// How it went.
    pub status: Status,
}

/// How a request went, or (received packets) how many bytes there are. Open: negative values are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Status(pub i16);

impl Status {
    /// The packet was dropped.
    pub const DROPPED: Self = Self(-2);
    /// The request was wrong.
    pub const ERROR: Self = Self(-1);
    /// Done.
    pub const OKAY: Self = Self(0);
    /// No answer: the slot held extra info.
    pub const NULL: Self = Self(1);
}

/// A page offered for a packet (`netif_rx_request`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// The page, granted writable.
    pub gref: GrantRef,
}

/// A packet or a part of one, received (`netif_rx_response`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxResponse {
    /// Of the request in the same slot.
    pub id: u16,
    /// First byte in the page.
    pub offset: u16,
    /// What follows and what is known of the packet.
    pub flags: RxFlags,
    /// Bytes, or an error.
    pub status: Status,
}

/// An answer slot of the receive ring: an [`RxResponse`] or an [`Extra`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxSlot(pub [u16; 4]);

/// An extra-info slot (`netif_extra_info`); 8 bytes, padded in the transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extra {
    /// What it says.
    pub kind: ExtraKind,
    /// Bit 0: another follows.
    pub flags: u8,
    /// By kind.
    pub body: [u8; 6],
}

/// The kind of an extra-info slot. Open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct ExtraKind(pub u8);

impl ExtraKind {
    /// Segmentation: size, type, padding, features.
    pub const GSO: Self = Self(1);
    /// A multicast address to let through.
    pub const MCAST_ADD: Self = Self(2);
    /// A multicast address to let through no more.
    pub const MCAST_DEL: Self = Self(3);
    /// A flow hash.
    pub const HASH: Self = Self(4);
}

const _: () = {
    assert!(size_of::<TxRequest>() == 12 && offset_of!(TxRequest, flags) == 6 && offset_of!(TxRequest, size) == 10);
    assert!(size_of::<TxSlot>() == 12 && size_of::<TxResponse>() == 4 && offset_of!(TxResponse, status) == 2);
    assert!(size_of::<RxRequest>() == 8 && offset_of!(RxRequest, gref) == 4);
    assert!(size_of::<RxResponse>() == 8 && offset_of!(RxResponse, flags) == 4 && offset_of!(RxResponse, status) == 6);
    assert!(size_of::<RxSlot>() == 8 && size_of::<Extra>() == 8 && offset_of!(Extra, body) == 2);
    assert!(Tx::SLOT == 12 && Rx::SLOT == 8);
    assert!(crate::ring::slots::<Tx>(PAGE) == 256 && crate::ring::slots::<Rx>(PAGE) == 256);
};

/// The first bytes of `from`, seen as another structure no longer than it.
fn recast<From: Wire, To: Wire>(from: &From) -> To {
    const { assert!(size_of::<To>() <= size_of::<From>()) }
    let mut to = To::new_zeroed();
    to.as_mut_bytes().copy_from_slice(&from.as_bytes()[..size_of::<To>()]);
    to
}

/// `from`, padded with zeros to a longer structure.
fn widen<From: Wire, To: Wire>(from: &From) -> To {
    const { assert!(size_of::<To>() >= size_of::<From>()) }
    let mut to = To::new_zeroed();
    to.as_mut_bytes()[..size_of::<From>()].copy_from_slice(from.as_bytes());
    to
}

impl TxSlot {
    /// The slot as a request.
    pub fn request(&self) -> TxRequest {
        recast(self)
    }
    /// The slot as extra info.
    pub fn extra(&self) -> Extra {
        recast(self)
    }
}
impl From<TxRequest> for TxSlot {
    fn from(request: TxRequest) -> Self {
        widen(&request)
    }
}
impl From<Extra> for TxSlot {
    fn from(extra: Extra) -> Self {
        widen(&extra)
    }
}
impl RxSlot {
    /// The slot as a response.
    pub fn response(&self) -> RxResponse {
        recast(self)
    }
    /// The slot as extra info.
    pub fn extra(&self) -> Extra {
        recast(self)
    }
}
impl From<RxResponse> for RxSlot {
    fn from(response: RxResponse) -> Self {
        widen(&response)
    }
}
impl From<Extra> for RxSlot {
    fn from(extra: Extra) -> Self {
        widen(&extra)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everyone.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group, broadcast included.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Reads six hexadecimal octets between colons.
    pub fn parse(text: &str) -> Option<Self> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *octet = u8::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+'))?;
        }
        parts.next().is_none().then_some(Self(octets))
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What is known of a packet's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The field holds the pseudo-header's sum; whoever needs the checksum computes the rest.
    Blank,
    /// The field is right, or was known to be.
    Validated,
    /// Nothing is known: the packet is as it came.
    Unknown,
}

/// The IP version of a packet to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// A packet longer than a frame: TCP data to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The protocols.
    pub kind: GsoKind,
    /// Bytes of TCP payload a segment, not 0.
    pub size: u16,
}

impl Gso {
    /// Reads the body of an [`ExtraKind::GSO`] slot.
    pub fn parse(extra: &Extra) -> Option<Self> {
        let [low, high, kind, _pad, _features @ ..] = extra.body;
        let size = u16::from_le_bytes([low, high]);
        let kind = match kind {
            1 => GsoKind::TcpV4,
            2 => GsoKind::TcpV6,
            _ => return None,
        };
        (size != 0).then_some(Self { kind, size })
    }

    /// The slot that says this; it is the last of its packet's extras.
    pub fn extra(self) -> Extra {
        let [low, high] = self.size.to_le_bytes();
        let kind = match self.kind {
            GsoKind::TcpV4 => 1,
            GsoKind::TcpV6 => 2,
        };
        Extra { kind: ExtraKind::GSO, flags: 0, body: [low, high, kind, 0, 0, 0] }
    }
}
