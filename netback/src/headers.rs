//! The headers of a packet, as far as checksums and segments need them, and the checksums.

/// Bytes that hold every header understood here: Ethernet with a tag, IPv4 or IPv6 with options, TCP with options.
pub const MAX_HEADERS: usize = 192;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the headers of a TCP or UDP packet are. Offsets in bytes from the start of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The IP header.
    pub network: usize,
    /// Version 6, not 4.
    pub v6: bool,
    /// The TCP or UDP header.
    pub transport: usize,
    /// TCP, not UDP.
    pub tcp: bool,
    /// Behind the headers.
    pub payload: usize,
    /// The end of the packet as its IP header says; at most the packet's length.
    pub end: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Headers {
    /// Finds the headers of a packet of `len` bytes in its first bytes, at most [`MAX_HEADERS`]. `None`: not TCP or UDP
    /// over IP, a fragment, or lengths that contradict each other.
    pub fn parse(bytes: &[u8], len: usize) -> Option<Self> {
        let (mut kind, mut network) = (u16_at(bytes, 12)?, 14);
        if kind == ETHERTYPE_VLAN {
            (kind, network) = (u16_at(bytes, 16)?, 18);
        }
        let (protocol, transport, end) = match kind {
            ETHERTYPE_IPV4 => ipv4(bytes.get(network..)?)?,
            ETHERTYPE_IPV6 => ipv6(bytes.get(network..)?)?,
            _ => return None,
        };
        let (transport, end) = (network + transport, network + end);
        let payload = match protocol {
            TCP => transport + usize::from(bytes.get(transport + 12)? >> 4) * 4,
            UDP => transport + 8,
            _ => return None,
        };
        let tcp = protocol == TCP;
        let sound = payload >= transport + if tcp { 20 } else { 8 } && payload <= end && end <= len;
        let whole = payload <= bytes.len();
        (sound && whole).then_some(Self { network, v6: kind == ETHERTYPE_IPV6, transport, tcp, payload, end })
    }

    /// A number made of addresses and ports, the same for all packets of a connection in this direction.
    pub fn flow(&self, bytes: &[u8]) -> u32 {
        let addresses =
            if self.v6 { self.network + 8..self.network + 40 } else { self.network + 12..self.network + 20 };
        let ports = self.transport..self.transport + 4;
        let named = [addresses, ports].into_iter().flat_map(|range| bytes.get(range).unwrap_or_default());
        // FNV-1a; guests choose ports, but only whose queue they load is theirs to choose.
        let hash = named.fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        hash ^ hash >> 16
    }

    /// Offset of the transport checksum.
    pub fn checksum(&self) -> usize {
        self.transport + if self.tcp { 16 } else { 6 }
    }

    /// The sum of the pseudo-header for a transport part of `len` bytes.
    pub fn pseudo_sum(&self, headers: &[u8], len: usize) -> Sum {
        let addresses =
            if self.v6 { self.network + 8..self.network + 40 } else { self.network + 12..self.network + 20 };
        let mut sum = Sum::default();
        sum.add(headers.get(addresses).unwrap_or(&[]));
        sum.add(&(len as u32).to_be_bytes());
        sum.add(&[0, if self.tcp { TCP } else { UDP }]);
        sum
    }
}

/// Protocol, header length and packet length of an IPv4 packet that is no fragment.
fn ipv4(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let version = *bytes.first()?;
    let header = usize::from(version & 15) * 4;
    let fragment = u16_at(bytes, 6)? & 0x3fff != 0;
    let good = version >> 4 == 4 && header >= 20 && !fragment;
    good.then_some((*bytes.get(9)?, header, u16_at(bytes, 2)?.into()))
}

/// The same of an IPv6 packet, past a few extension headers.
fn ipv6(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    if bytes.first()? >> 4 != 6 {
        return None;
    }
    let end = 40 + usize::from(u16_at(bytes, 4)?);
    let (mut next, mut at) = (*bytes.get(6)?, 40);
    // Hop-by-hop, routing, destination options.
    while matches!(next, 0 | 43 | 60) {
        next = *bytes.get(at)?;
        at += 8 + usize::from(*bytes.get(at + 1)?) * 8;
    }
    Some((next, at, end))
}

/// A ones' complement sum of 16-bit words in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; all calls but the last with an even number of them.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            self.0 += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        let mut last = [0; 4];
        let rest = words.remainder();
        last[..rest.len()].copy_from_slice(rest);
        self.0 += u64::from(u32::from_be_bytes(last));
    }

    /// Adds another sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(u64::from(self.folded()) + u64::from(other.folded()))
    }

    fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    /// The checksum.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}
