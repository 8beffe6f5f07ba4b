//! Every device class against its polite and its hostile peer.

use crate::blk::{self, Blk, BlkOp, BlkStatus, Limits, SECTOR};
use crate::net::*;
use crate::net_rx::RxReader;
use crate::pciif::{self, Address, Command, Operation, PciError, WireOp};
use crate::peers::hostile::{HostileFront, PCI_WORDS, RING_WORDS, Scribbler};
use crate::peers::{Pages, Rng, blk as blk_peers, net as net_peers};
use crate::ring::{Back, Front, PopError};
use crate::words::WordMemory;
use std::vec::Vec;

const SECTORS: u64 = 4096;
const LIMITS: Limits =
    Limits { sectors: SECTORS, read_only: false, flush: true, discard: true, indirect_segments: 128 };

#[test]
fn blk_polite_peers_agree_about_every_sector() {
    for (seed, pages_of_ring) in [(1, 1), (2, 1), (3, 4)] {
        let memory = WordMemory::new(4096 * pages_of_ring);
        let pages = Pages::default();
        let disk = std::vec![7; (SECTORS * u64::from(SECTOR)) as usize];
        let mut front = blk_peers::PoliteFront::new(memory.clone(), pages.clone(), disk.clone(), LIMITS, seed);
        let mut back = blk_peers::PoliteBack::new(memory, pages.clone(), disk, LIMITS);
        while front.answered < 2000 {
            let _ = front.step(true);
            let _ = back.step().unwrap();
        }
        let _ = front.step(false);
        assert!(front.disk() == back.disk && front.in_flight() == 0 && pages.count() == 0);
    }
}

#[test]
fn blk_hostile_front_hurts_only_itself() {
    for seed in 0..200 {
        let memory = WordMemory::new(4096);
        let pages = Pages::default();
        let grants: Vec<_> = (0..8).map(|n| pages.grant(n % 2 == 0)).collect();
        let disk = std::vec![0; (SECTORS * u64::from(SECTOR)) as usize];
        let mut front = HostileFront::<_, Blk>::new(memory.clone(), seed, seed % 2 == 0);
        let mut back = blk_peers::PoliteBack::new(memory, pages, disk, LIMITS);
        for _ in 0..100 {
            let _ = front.step(|rng| blk_peers::hostile_request(rng, &grants, SECTORS));
            if back.step().is_err() {
                assert!(seed % 2 == 0, "no index was scribbled over");
                break;
            }
        }
        assert!(front.alive() || seed % 2 == 0);
    }
}

#[test]
fn blk_requests_at_the_edges() {
    let page = abi::GrantRef(9);
    let one = |first, last| blk::WireSegment { gref: page, first, last, pad: [0; 2] };
    let whole = blk::Segment { grant: page, offset: 0, len: 4096 };
    let parse = |op, sector, segments: &[blk::Segment], limits: &Limits| {
        blk::WireRequest::transfer_of(op, 1, sector, segments).unwrap().parse(limits)
    };
    assert!(parse(BlkOp::READ, SECTORS - 8, &[whole], &LIMITS).is_ok());
    for sector in [SECTORS - 7, SECTORS, u64::MAX - 7, u64::MAX] {
        assert_eq!(parse(BlkOp::READ, sector, &[whole], &LIMITS), Err(BlkStatus::ERROR));
    }
    let read_only = Limits { read_only: true, ..LIMITS };
    for op in [BlkOp::WRITE, BlkOp::WRITE_BARRIER, BlkOp::FLUSH_DISKCACHE] {
        assert_eq!(parse(op, 0, &[whole], &read_only), Err(BlkStatus::ERROR), "{op:?}");
    }
    assert!(parse(BlkOp::READ, 0, &[whole], &read_only).is_ok());
    assert_eq!(blk::WireRequest::discard_of(1, 0, 1).parse(&read_only), Err(BlkStatus::ERROR));
    assert_eq!(parse(BlkOp::READ, 0, &[], &LIMITS), Err(BlkStatus::ERROR));
    assert_eq!(parse(BlkOp::FLUSH_DISKCACHE, 0, &[], &LIMITS), Ok(blk::Request::Flush));
    let none = Limits { flush: false, discard: false, indirect_segments: 0, ..LIMITS };
    for op in [2, 3, 4, 5, 6, 7, 255] {
        assert_eq!(parse(BlkOp(op), 0, &[whole], &none), Err(BlkStatus::EOPNOTSUPP), "operation {op}");
    }
    assert_eq!(blk::Segment::parse(&one(0, 7)), Some(whole));
    for bad in [one(1, 0), one(0, 8), one(8, 8), one(255, 255), one(0, 255)] {
        assert_eq!(blk::Segment::parse(&bad), None);
    }
    for count in [0, 129, 4097, 65535] {
        let request = blk::WireRequest::indirect_of(blk::Direction::Read, 1, 0, count, &[page]).unwrap();
        assert_eq!(request.parse(&LIMITS), Err(BlkStatus::ERROR), "{count} segments");
    }
}

#[test]
fn net_polite_peers_agree_about_every_packet() {
    let (tx, rx, pages) = (WordMemory::new(4096), WordMemory::new(4096), Pages::default());
    let mut front = net_peers::PoliteFront::new(tx.clone(), rx.clone(), pages.clone(), 5);
    let mut back = net_peers::PoliteBack::new(tx, rx, pages);
    let mut rng = Rng(17);
    let (mut sent, mut delivered) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        let packet = net_peers::Packet::random(&mut rng);
        if front.send(&packet) {
            sent.push(packet);
        }
        let _ = front.step();
        let packet = net_peers::Packet::random(&mut rng);
        if back.deliver(&packet).unwrap() {
            delivered.push(packet);
        }
        let _ = back.publish_rx();
        if rng.one_in(3) {
            let _ = back.step().unwrap();
        }
    }
    let _ = (back.step().unwrap(), front.step());
    assert!(sent.len() > 1000 && delivered.len() > 1000);
    assert!(back.taken == sent && front.received == delivered);
    assert_eq!((back.refused, front.errors, front.in_flight()), (0, 0, 0));
}

#[test]
fn net_hostile_front_hurts_only_itself() {
    let mut taken = 0;
    for seed in 0..200 {
        let (tx, rx, pages) = (WordMemory::new(4096), WordMemory::new(4096), Pages::default());
        let grants: Vec<_> = (0..4).map(|_| pages.grant(false)).collect();
        let mut front = HostileFront::<_, Tx>::new(tx.clone(), seed, seed % 2 == 0);
        let mut back = net_peers::PoliteBack::new(tx, rx, pages);
        for _ in 0..100 {
            let _ = front.step(|rng| net_peers::hostile_slot(rng, &grants));
            if back.step().is_err() {
                assert!(seed % 2 == 0, "no index was scribbled over");
                break;
            }
        }
        assert!(back.taken.iter().all(|packet| packet.bytes.len() >= ETH_HEADER));
        assert!(seed % 2 == 0 || front.alive() && back.refused > 0);
        taken += back.taken.len();
    }
    assert!(taken > 0, "some of it was fine");
}

/// What a frontend's reader hands out stays within its pages and within what was offered.
#[test]
fn net_hostile_back_hurts_only_itself() {
    for seed in 0..300 {
        let memory = WordMemory::new(4096);
        let mut front = Front::<_, Rx>::new(memory.clone()).unwrap();
        let mut back = Back::<_, Rx>::attach(memory.clone()).unwrap();
        let mut scribbler = Scribbler::new(memory, RING_WORDS, seed);
        let (mut reader, mut rng, mut outstanding) = (RxReader::default(), Rng(seed), 0usize);
        for _ in 0..100 {
            while front.room() > 0 {
                let id = (front.sent() & (front.slots() - 1)) as u16;
                front.push(&RxRequest { id, pad: 0, gref: abi::GrantRef(1) }).unwrap();
                outstanding += 1;
            }
            let _ = front.publish();
            for _ in 0..rng.below(20) {
                let Ok(request) = back.pop() else { break };
                back.push(&net_peers::hostile_answer(&mut rng, request.id)).unwrap();
            }
            let _ = back.publish();
            if rng.one_in(60) {
                scribbler.step();
            }
            let end = loop {
                match reader.next(&mut front) {
                    Ok(packet) => {
                        outstanding = outstanding.checked_sub(packet.parts.len() + packet.spare.len()).unwrap();
                        let inside = |part: &crate::net_rx::RxPart| usize::from(part.offset + part.len) <= PAGE;
                        assert!(packet.parts.iter().all(inside) && packet.parts.len() <= MAX_SLOTS);
                    }
                    Err(end) => break end,
                }
            };
            if end != PopError::Empty {
                assert!(front.poison().is_some());
                break;
            }
        }
    }
}

#[test]
fn net_packets_at_the_edges() {
    use crate::net_tx::{TxError, TxItem, TxReader};
    let slot = |offset, flags, size| {
        TxSlot::from(TxRequest { gref: abi::GrantRef(1), offset, flags: TxFlags(flags), id: 3, size })
    };
    let gso = |kind, size: u16| {
        let [low, high] = size.to_le_bytes();
        TxSlot::from(Extra { kind: ExtraKind::GSO, flags: 0, body: [low, high, kind, 0, 0, 0] })
    };
    let read = |slots: &[TxSlot]| {
        let memory = WordMemory::new(4096);
        let mut front = Front::<_, Tx>::new(memory.clone()).unwrap();
        let mut back = Back::<_, Tx>::attach(memory).unwrap();
        assert_eq!(front.push_many(slots), slots.len());
        let _ = front.publish();
        match TxReader::new(false).next(&mut back) {
            Ok(TxItem::Packet(packet)) => Ok(packet.fragments.iter().map(|f| f.len).collect()),
            Ok(TxItem::Refused(error)) => {
                assert_eq!(back.room(), 0, "each slot of a refused packet is answered");
                Err(Some(error))
            }
            Err(PopError::Empty) => Err(None),
            other => panic!("{other:?}"),
        }
    };
    let refused = |error| Err::<Vec<_>, _>(Some(error));
    let length = |lengths: Result<Vec<u16>, Option<TxError>>| lengths.unwrap();
    assert_eq!(length(read(&[slot(0, 0, 14)])), [14]);
    assert_eq!(length(read(&[slot(4082, 0, 14)])), [14]);
    assert_eq!(length(read(&[slot(0, 4, 5000), slot(0, 0, 4096)])), [904, 4096]);
    assert_eq!(length(read(&[slot(0, 8, 1000), gso(1, 500)])), [1000]);
    assert_eq!(read(&[slot(0, 0, 13)]), refused(TxError::TooShort));
    assert_eq!(read(&[slot(4083, 0, 14)]), refused(TxError::CrossesPage));
    assert_eq!(read(&[slot(0, 0, 4097)]), refused(TxError::CrossesPage));
    assert_eq!(read(&[slot(0xffff, 0, 14)]), refused(TxError::CrossesPage));
    assert_eq!(read(&[slot(0, 4, 100), slot(0, 0, 100)]), refused(TxError::SizeMismatch));
    assert_eq!(read(&[slot(0, 4, 100), slot(0, 0, 200)]), refused(TxError::SizeMismatch));
    assert_eq!(read(&[slot(0, 4, 100), slot(0, 4, 0), slot(0, 0, 50)]), refused(TxError::EmptySlot));
    assert_eq!(read(&[slot(0, 8, 1000), gso(3, 500)]), refused(TxError::BadExtra));
    assert_eq!(read(&[slot(0, 8, 1000), gso(1, 0)]), refused(TxError::BadExtra));
    assert_eq!(read(&[slot(0, 4, 100)]), Err(None));
    let long = |count: usize| {
        let mut slots = std::vec![slot(0, 4, 1000); count];
        slots[1..].iter_mut().for_each(|s| *s = slot(0, 4, 10));
        slots[count - 1] = slot(0, 0, 10);
        slots
    };
    assert_eq!(length(read(&long(18))).len(), 18);
    assert_eq!(read(&long(19)), refused(TxError::TooManySlots));
    assert_eq!(read(&long(250)), refused(TxError::TooManySlots));
}

#[test]
fn pci_operations_are_checked() {
    let at = Address { domain: 0, bus: 0, devfn: 0x18 };
    let page = WordMemory::new(4096);
    let (mut front, mut back) = (pciif::Front::new(page.clone()), pciif::Back::new(page));
    assert!(back.take().is_none());
    let mut op = WireOp::new(Command::CONF_WRITE, at);
    (op.offset, op.size, op.value) = (6, 2, 0xdead_beef);
    front.submit(&op);
    assert!(front.poll().is_none());
    let mut taken = back.take().unwrap();
    let register = pciif::Register { offset: 6, width: 2 };
    assert_eq!(taken.parse(), Ok((at, Operation::Write(register, 0xbeef))));
    taken.error = PciError::DENIED;
    back.answer(&taken);
    assert!(back.take().is_none());
    assert_eq!(front.poll().unwrap().error, PciError::DENIED);
    for (offset, size) in [(-1, 4), (1, 2), (2, 4), (4096, 1), (4095, 2), (0, 0), (0, 3), (0, 8), (i32::MIN, 4)] {
        (op.offset, op.size) = (offset, size);
        assert_eq!(op.parse(), Err(PciError::BAD_OFFSET), "{size} bytes at {offset}");
    }
    let mut far = WireOp::new(Command::CONF_READ, at);
    far.bus = 256;
    assert_eq!(far.parse(), Err(PciError::NO_DEVICE));
    let mut msix = WireOp::new(Command::ENABLE_MSIX, at);
    for (count, fine) in [(0, false), (1, true), (128, true), (129, false), (u32::MAX, false)] {
        msix.value = count;
        assert_eq!(msix.parse().is_ok(), fine);
    }
    assert_eq!(WireOp::new(Command(99), at).parse(), Err(PciError::NOT_IMPLEMENTED));
}

#[test]
fn pci_hostile_front_hurts_only_itself() {
    for seed in 0..300 {
        let page = WordMemory::new(4096);
        let mut back = pciif::Back::new(page.clone());
        let mut scribbler = Scribbler::new(page, PCI_WORDS, seed);
        for _ in 0..100 {
            scribbler.step();
            let Some(mut op) = back.take() else { continue };
            match op.parse() {
                Ok((_, Operation::Read(register) | Operation::Write(register, _))) => {
                    assert!(register.offset + u16::from(register.width) <= 4096);
                }
                Ok((_, Operation::EnableMsix(count))) => {
                    assert!(usize::from(count) <= op.msix.len())
                }
                Ok(_) => {}
                Err(error) => op.error = error,
            }
            back.answer(&op);
        }
    }
}
