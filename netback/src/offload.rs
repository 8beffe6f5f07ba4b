//! What a NIC does for hosts that it serves well, done in software: transport checksums, and segments of TCP.

use crate::headers::{Headers, MAX_HEADERS, Sum};
use crate::pool::Frame;
use heapless::Vec;
use ring_proto::memory::RingMemory;
use ring_proto::net::{Gso, GsoKind};

/// Most segments made of one packet; one that would need more is refused.
pub const MAX_SEGMENTS: usize = 128;

/// TCP flags that only the first, or only the last segment carries.
const CWR: u8 = 0x80;
const FIN_PSH: u8 = 0x09;

/// The headers of a packet, copied.
#[derive(Clone, Debug)]
pub struct Head {
    bytes: Vec<u8, MAX_HEADERS>,
    headers: Headers,
}

impl Head {
    /// Reads the headers of a packet; `None`: nothing this module can work on.
    pub fn read(frame: &Frame, memory: &impl RingMemory) -> Option<Self> {
        let mut bytes = [0; MAX_HEADERS];
        let count = frame.read(memory, 0, &mut bytes);
        let headers = Headers::parse(bytes.get(..count)?, frame.len())?;
        Some(Self { bytes: Vec::from_slice(bytes.get(..headers.payload)?).ok()?, headers })
    }

    /// How many segments `gso` makes of the packet; `None`: it is of another kind, or there would be too many.
    pub fn segments(&self, gso: Gso) -> Option<usize> {
        let right = self.headers.tcp && self.headers.v6 == (gso.kind == GsoKind::TcpV6);
        let count = self.payload_len().div_ceil(gso.size.into()).max(1);
        (right && count <= MAX_SEGMENTS).then_some(count)
    }

    fn payload_len(&self) -> usize {
        self.headers.end - self.headers.payload
    }

    /// Offset and length of the payload of segment `index`.
    pub fn payload(&self, gso: Gso, index: usize) -> (usize, usize) {
        let size = usize::from(gso.size);
        let start = (index * size).min(self.payload_len());
        (self.headers.payload + start, size.min(self.payload_len() - start))
    }

    fn put(&mut self, at: usize, value: u16) {
        if let Some(bytes) = self.bytes.get_mut(at..at + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }

    fn get(&self, at: usize) -> u16 {
        self.bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    /// The headers of segment `index` of `count`, with right lengths, numbers and checksums.
    pub fn segment(
        &self,
        frame: &Frame,
        memory: &impl RingMemory,
        gso: Gso,
        index: usize,
        count: usize,
    ) -> Vec<u8, MAX_HEADERS> {
        let mut head = self.clone();
        let Headers { network, transport, payload, v6, .. } = self.headers;
        let (start, len) = self.payload(gso, index);
        let end = payload + len;
        head.headers.end = end;
        if v6 {
            head.put(network + 4, (end - network - 40) as u16);
        } else {
            head.put(network + 2, (end - network) as u16);
            head.put(network + 4, self.get(network + 4).wrapping_add(index as u16));
        }
        if let Some(number) = head.bytes.get_mut(transport + 4..transport + 8) {
            let old = <[u8; 4]>::try_from(&*number).map_or(0, u32::from_be_bytes);
            number.copy_from_slice(&old.wrapping_add((start - payload) as u32).to_be_bytes());
        }
        if let Some(flags) = head.bytes.get_mut(transport + 13) {
            *flags &= if index > 0 { !CWR } else { !0 } & if index + 1 < count { !FIN_PSH } else { !0 };
        }
        head.checksums(sum_of(frame, memory, start, len), end - transport);
        head.bytes
    }

    /// Sets the checksums of headers whose payload has `sum`, for a transport part of `len` bytes.
    fn checksums(&mut self, sum: Sum, len: usize) {
        let Headers { network, transport, v6, tcp, .. } = self.headers;
        if !v6 {
            self.put(network + 10, 0);
            let header = usize::from(self.bytes.get(network).map_or(0, |byte| byte & 15)) * 4;
            let mut ip = Sum::default();
            ip.add(self.bytes.get(network..network + header).unwrap_or(&[]));
            self.put(network + 10, ip.checksum());
        }
        self.put(self.headers.checksum(), 0);
        let mut sum = sum.plus(self.headers.pseudo_sum(&self.bytes, len));
        let mut own = Sum::default();
        own.add(self.bytes.get(transport..).unwrap_or(&[]));
        sum = sum.plus(own);
        // A UDP checksum of 0 means none.
        let checksum = match sum.checksum() {
            0 if !tcp => 0xffff,
            checksum => checksum,
        };
        self.put(self.headers.checksum(), checksum);
    }

    /// Computes the checksums of a whole packet and writes them into it.
    pub fn complete(mut self, frame: &Frame, memory: &impl RingMemory) {
        let Headers { transport, payload, end, .. } = self.headers;
        self.checksums(sum_of(frame, memory, payload, end - payload), end - transport);
        frame.write(memory, 0, &self.bytes);
    }
}

/// The sum of part of a packet.
fn sum_of(frame: &Frame, memory: &impl RingMemory, start: usize, len: usize) -> Sum {
    let mut sum = Sum::default();
    let mut at = start;
    while at < start + len {
        let mut chunk = [0; 512];
        let want = (start + len - at).min(chunk.len());
        let count = frame.read(memory, at, &mut chunk[..want]);
        if count == 0 {
            break;
        }
        sum.add(&chunk[..count]);
        at += count;
    }
    sum
}
