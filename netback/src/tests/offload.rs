//! Headers, checksums and segments.

use super::{ip_packet, mac, verify};
use crate::headers::{Headers, Sum};
use crate::offload::{Head, MAX_SEGMENTS};
use crate::pool::{Frame, Pool, UNIT};
use proptest::prelude::*;
use ring_proto::net::{Gso, GsoKind};
use ring_proto::words::WordMemory;
use std::sync::Arc;
use std::vec::Vec;

fn staged(bytes: &[u8]) -> (Frame, Arc<WordMemory>) {
    let memory = WordMemory::new(64 * UNIT);
    let frame = Pool::new(64 * UNIT).allocate(bytes.len()).unwrap();
    frame.write(&memory, 0, bytes);
    (frame, memory)
}

fn contents(frame: &Frame, memory: &Arc<WordMemory>) -> Vec<u8> {
    let mut bytes = std::vec![0; frame.len()];
    assert_eq!(frame.read(memory, 0, &mut bytes), frame.len());
    bytes
}

#[test]
fn checksums_are_completed() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            for len in [0, 1, 2, 511, 512, 513, 1400, 5000] {
                let payload: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
                let (frame, memory) = staged(&ip_packet(mac(1), mac(2), v6, tcp, &payload));
                Head::read(&frame, &memory).unwrap().complete(&frame, &memory);
                assert_eq!(verify(&contents(&frame, &memory)).0, payload);
            }
        }
    }
}

#[test]
fn segments_are_right() {
    for v6 in [false, true] {
        let kind = if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
        for (len, size) in [(1usize, 1000u16), (1000, 1000), (1001, 1000), (60_000, 1448), (12_345, 97)] {
            let payload: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
            let (frame, memory) = staged(&ip_packet(mac(1), mac(2), v6, true, &payload));
            let gso = Gso { kind, size };
            let head = Head::read(&frame, &memory).unwrap();
            let count = head.segments(gso).unwrap();
            assert_eq!(count, len.div_ceil(size.into()));
            let mut joined = Vec::new();
            for index in 0..count {
                let mut segment = head.segment(&frame, &memory, gso, index, count).to_vec();
                let (start, len) = head.payload(gso, index);
                segment.extend(&contents(&frame, &memory)[start..start + len]);
                let (part, number, flags) = verify(&segment);
                assert_eq!(number, 0xffff_ff00u32.wrapping_add(joined.len() as u32), "sequence number wraps");
                let (first, last) = (index == 0, index + 1 == count);
                // CWR and FIN, PSH were set, with ACK.
                assert_eq!(flags, 0x10 | if first { 0x80 } else { 0 } | if last { 0x09 } else { 0 });
                joined.extend(part);
            }
            assert_eq!(joined, payload);
        }
    }
}

#[test]
fn what_cannot_be_segmented_is_refused() {
    let gso = |size| Gso { kind: GsoKind::TcpV4, size };
    let head = |bytes: &[u8]| {
        let (frame, memory) = staged(bytes);
        Head::read(&frame, &memory)
    };
    let tcp = head(&ip_packet(mac(1), mac(2), false, true, &[0; 1000])).unwrap();
    assert_eq!(tcp.segments(gso(1)), None, "more than {MAX_SEGMENTS}");
    assert_eq!(tcp.segments(Gso { kind: GsoKind::TcpV6, size: 100 }), None);
    assert_eq!(head(&ip_packet(mac(1), mac(2), false, false, &[0; 1000])).unwrap().segments(gso(100)), None);
    assert!(head(&super::frame(mac(1), mac(2), 0x0806, &[0; 100])).is_none());
    let mut fragment = ip_packet(mac(1), mac(2), false, true, &[0; 100]);
    fragment[20] = 0x20;
    assert!(head(&fragment).is_none());
    let mut long = ip_packet(mac(1), mac(2), false, true, &[0; 100]);
    long[17] += 1;
    assert!(head(&long).is_none(), "longer than the packet");
}

proptest! {
    /// Any bytes: headers inside the packet, or none.
    #[test]
    fn any_packet_is_survived(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in prop::sample::select(std::vec![0x0800u16, 0x86dd, 0x8100, 0x0806]),
        size in 1u16..2000,
    ) {
        if let Some(field) = bytes.get_mut(12..14) {
            field.copy_from_slice(&kind.to_be_bytes());
        }
        if let Some(version) = bytes.get_mut(14) {
            *version = if kind == 0x86dd { 0x60 } else { 0x40 | *version & 15 };
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(headers) = Headers::parse(&bytes, bytes.len()) {
            prop_assert!(headers.transport < headers.payload && headers.payload <= headers.end);
            prop_assert!(headers.end <= bytes.len());
        }
        let (frame, memory) = staged(&bytes);
        if let Some(head) = Head::read(&frame, &memory) {
            for kind in [GsoKind::TcpV4, GsoKind::TcpV6] {
                let gso = Gso { kind, size };
                if let Some(count) = head.segments(gso) {
                    for index in 0..count {
                        let _ = head.segment(&frame, &memory, gso, index, count);
                    }
                }
            }
            head.complete(&frame, &memory);
            prop_assert_eq!(contents(&frame, &memory).len(), bytes.len());
        }
    }

    /// The sum in any pieces is the sum of the whole.
    #[test]
    fn sums_are_the_slow_way(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..200) {
        let cut = (2 * cut).min(bytes.len() & !1);
        let mut whole = Sum::default();
        whole.add(&bytes[..cut]);
        whole.add(&bytes[cut..]);
        let mut slow = super::words(&bytes);
        slow = (slow & 0xffff) + (slow >> 16);
        prop_assert_eq!(whole.checksum(), !(slow as u16));
    }
}
