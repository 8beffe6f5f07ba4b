//! Values and edges that random peers do not meet by chance: what is on the wire, and each bound from both sides.

use crate::blk::*;
use crate::blk_keys;
use crate::keys::BadKey;
use crate::memory::RingMemory;
use crate::net::{self, Checksum, Extra, ExtraKind, Gso, GsoKind, Mac, Rx, RxFlags, Tx, TxFlags, TxRequest, TxSlot};
use crate::net_rx::{self, RxReader};
use crate::net_tx::{Fragment, Multicast, TxError, TxItem, TxReader, push_packet};
use crate::pciif::{Address, Command, Operation, PciError, Register, WireOp};
use crate::ring::*;
use crate::store::{self, PAYLOAD_MAX, Receiver, StoreError};
use crate::stream::{Consumer, Producer, StreamLayout, Wake};
use crate::sync::{AtomicU32, Ordering::*};
use crate::words::WordMemory;
use crate::xenbus::{BackStep, FrontStep, State, back_step, front_step};
use abi::{GrantRef, Port};
use std::cell::RefCell;
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;
use zerocopy::FromZeros;

type Memory = Arc<WordMemory>;

/// The public headers' numbers.
#[test]
fn statuses_are_those_of_the_headers() {
    assert_eq!([BlkStatus::OKAY, BlkStatus::ERROR, BlkStatus::EOPNOTSUPP].map(|s| s.0), [0, -1, -2]);
    use net::Status;
    assert_eq!([Status::DROPPED, Status::ERROR, Status::OKAY, Status::NULL].map(|s| s.0), [-2, -1, 0, 1]);
    let answers = [PciError::NO_DEVICE, PciError::BAD_OFFSET, PciError::DENIED, PciError::NOT_IMPLEMENTED];
    assert_eq!(answers.map(|e| e.0), [-1, -2, -3, -4]);
    assert_eq!((PciError::SUCCESS.0, PciError::FAILED.0), (0, -5));
}

#[test]
fn what_people_read() {
    assert_eq!(BadKey("sectors").to_string(), "key sectors is missing or wrong");
    assert_eq!(StoreError::Enoent.to_string(), "ENOENT");
    assert_eq!(Address { domain: 1, bus: 0x2a, devfn: 0x1b }.to_string(), "0001:2a:03.3");
    assert_eq!(std::format!("{:?}", Receiver::default()), "Receiver(0 of 16 bytes)");
}

const LIMITS: Limits = Limits { sectors: 1 << 20, read_only: false, flush: true, discard: true, indirect_segments: 64 };

#[test]
fn discards_say_whether_they_are_secure() {
    for flags in 0..4 {
        let mut wire = WireDiscard::new_zeroed();
        (wire.op, wire.flags, wire.sector, wire.count) = (BlkOp::DISCARD, flags, 8, 16);
        let request: WireRequest = zerocopy::transmute!(wire);
        let secure = matches!(flags, 1 | 3);
        assert_eq!(request.parse(&LIMITS), Ok(Request::Discard { sector: 8, count: 16, secure }));
        assert_eq!(request.parse(&Limits { read_only: true, ..LIMITS }), Err(BlkStatus::ERROR));
    }
}

#[test]
fn indirect_requests_read_and_write_and_nothing_else() {
    let parse = |op, limits: &Limits| {
        let mut wire = WireIndirect::new_zeroed();
        (wire.op, wire.indirect_op, wire.nr_segments) = (BlkOp::INDIRECT, op, 3);
        let request: WireRequest = zerocopy::transmute!(wire);
        match request.parse(limits)? {
            Request::Transfer { direction, source: Source::Indirect { count: 3, .. }, .. } => Ok(direction),
            other => panic!("{other:?}"),
        }
    };
    let read_only = Limits { read_only: true, ..LIMITS };
    assert_eq!(parse(BlkOp::READ, &LIMITS), Ok(Direction::Read));
    assert_eq!(parse(BlkOp::READ, &read_only), Ok(Direction::Read));
    assert_eq!(parse(BlkOp::WRITE, &LIMITS), Ok(Direction::Write));
    assert_eq!(parse(BlkOp::WRITE, &read_only), Err(BlkStatus::ERROR));
    assert_eq!(parse(BlkOp::DISCARD, &LIMITS), Err(BlkStatus::EOPNOTSUPP));
}

fn written(publish: impl Fn(crate::keys::Put<'_>)) -> Vec<(String, String)> {
    let mut keys = Vec::new();
    publish(&mut |key, value| keys.push((key.to_string(), value.to_string())));
    keys
}

fn borrowed(keys: &[(String, String)]) -> Vec<(&str, &str)> {
    keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn blk_keys_that_are_absent_and_present() {
    let features = blk_keys::Features {
        flush: true,
        discard: true,
        persistent: false,
        indirect_segments: 0,
        max_ring_order: 3,
        max_queues: 2,
    };
    let keys = written(|put| features.publish(put));
    assert!(borrowed(&keys).contains(&("max-ring-pages", "8")));
    assert!(!keys.iter().any(|(key, _)| key == "feature-max-indirect-segments"));
    let queue = blk_keys::QueueKeys { ring: [GrantRef(8)].into_iter().collect(), event: Port(3) };
    let front = blk_keys::FrontKeys { queues: [queue].into_iter().collect(), persistent: true };
    let keys = written(|put| front.publish(put));
    let names: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["ring-ref", "event-channel", "protocol", "feature-persistent"]);
    let read = blk_keys::FrontKeys::parse(&borrowed(&keys)[..], &features).unwrap();
    assert!(!read.persistent, "that was not offered");
    // One page may be named either way; of two, the numbered ones count.
    let ring = |keys: &[(&str, &str)]| {
        blk_keys::FrontKeys::parse(keys, &features)
            .map(|keys| keys.queues[0].ring.iter().map(|g| g.0).collect::<Vec<_>>())
    };
    let event = ("event-channel", "3");
    assert_eq!(ring(&[("ring-ref0", "9"), event]), Ok(std::vec![9]));
    let two = ("ring-page-order", "1");
    assert_eq!(ring(&[("ring-ref", "7"), ("ring-ref0", "8"), ("ring-ref1", "9"), event, two]), Ok(std::vec![8, 9]));
}

/// Memory that keeps what it was told to fetch, and counts.
struct Counting(Memory, RefCell<Vec<(usize, usize)>>);

impl RingMemory for Counting {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn word(&self, offset: usize) -> &AtomicU32 {
        self.0.word(offset)
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.0.read(offset, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }
    fn claim(&self, offset: usize, len: usize) {
        self.1.borrow_mut().push((offset, len));
    }
}

enum Class {}
impl RingClass for Class {
    type Request = [u32; 3];
    type Response = u32;
}

/// Responses larger than requests.
enum Answers {}
impl RingClass for Answers {
    type Request = u16;
    type Response = [u64; 2];
}

/// The one larger, the other aligned more strictly.
enum Mixed {}
impl RingClass for Mixed {
    type Request = [u8; 9];
    type Response = u64;
}

/// The other way round.
enum Contrary {}
impl RingClass for Contrary {
    type Request = u64;
    type Response = [u8; 9];
}

#[test]
fn slots_are_as_large_and_aligned_as_either_needs() {
    assert_eq!((Class::SLOT, Answers::SLOT, Mixed::SLOT, Contrary::SLOT), (12, 16, 16, 16));
    assert_eq!(slots::<Answers>(64 + 16 * 4), 4);
    assert_eq!(slots::<Class>(64 + (12 << 30)), 1 << 30);
    assert_eq!(slots::<Class>(64 + (12 << 31)), 1 << 31);
    assert_eq!(slots::<Class>(64 + (12 << 32)), 1 << 31, "indices have 32 bits");
}

#[test]
fn a_reference_to_memory_is_that_memory() {
    fn through<M: RingMemory>(memory: M) -> (usize, bool, u32) {
        memory.write(8, &7u32.to_ne_bytes());
        memory.write_value(12, &9u32);
        memory.write_each(80, 12, &[3u32, 5]);
        let mut each = [0u32; 2];
        memory.read_each(80, 12, &mut each);
        assert_eq!((each, memory.word(92).load(Relaxed), memory.word(84).load(Relaxed)), ([3, 5], 5, 0));
        let mut out = [0; 4];
        memory.read(8, &mut out);
        memory.claim(64, 5);
        let words = memory.word(8).load(Relaxed) + memory.word(12).load(Relaxed);
        (memory.len(), memory.is_empty(), words + memory.read_value::<u32>(12) + u32::from_ne_bytes(out))
    }
    let counting = Counting(WordMemory::new(128), RefCell::default());
    assert_eq!(through(&counting), (128, false, 32));
    assert_eq!(*counting.1.borrow(), [(64, 5)]);
    assert_eq!(counting.0.word(12).load(Relaxed), 9);
    assert!(WordMemory::new(0).is_empty());
    assert!((&&Counting(WordMemory::new(0), RefCell::default())).is_empty());
}

#[test]
fn what_is_taken_is_claimed_for_the_answers() {
    let memory = WordMemory::new(64 + 4 * Class::SLOT);
    let mut front = Front::<_, Class>::new(memory.clone()).unwrap();
    let counting = Counting(memory, RefCell::default());
    let mut back = Back::<_, Class>::attach(&counting).unwrap();
    for _ in 0..2 {
        assert_eq!(front.push_many(&[[1; 3]; 3]), 3);
        let mut out = [[0; 3]; 3];
        assert_eq!(back.pop_many(&mut out), Ok(3));
        assert_eq!(back.push_many(&[2; 3]), 3);
        while front.pop().is_ok() {}
    }
    // Three slots from the first; then one at the end and two at the beginning.
    assert_eq!(*counting.1.borrow(), [(64, 36), (64 + 36, 12), (64, 24)]);
}

#[test]
fn entries_smaller_than_their_slots_are_taken_one_by_one() {
    let memory = WordMemory::new(64 + 4 * Class::SLOT);
    let mut front = Front::<_, Class>::new(memory.clone()).unwrap();
    let mut back = Back::<_, Class>::attach(memory).unwrap();
    front.push_many(&[[1; 3], [2; 3], [3; 3]]);
    back.pop_many(&mut [[0; 3]; 3]).unwrap();
    back.push_many(&[11, 12, 13]);
    let mut out = [0; 3];
    assert_eq!(front.pop_many(&mut out), Ok(3));
    assert_eq!(out, [11, 12, 13]);
}

#[test]
fn what_is_known_is_taken_without_another_look() {
    let memory = WordMemory::new(64 + 4 * Class::SLOT);
    let mut front = Front::<_, Class>::new(memory.clone()).unwrap();
    let mut back = Back::<_, Class>::attach(memory).unwrap();
    front.push_many(&[[1; 3], [2; 3]]);
    assert_eq!(back.refresh(), Ok(2));
    front.push_many(&[[3; 3]]);
    assert_eq!(back.pop_many(&mut [[0; 3]; 2]), Ok(2));
    assert_eq!(back.known(), 0, "the third was not looked for");
    assert_eq!(back.pop_many(&mut [[0; 3]; 2]), Ok(1));
}

#[test]
fn a_closed_half_publishes_nothing() {
    let memory = WordMemory::new(64 + 4 * Class::SLOT);
    let mut front = Front::<_, Class>::new(memory.clone()).unwrap();
    front.push(&[1; 3]).unwrap();
    front.close(Corrupt::Protocol("for a test"));
    assert_eq!(front.publish(), Notify::Hold);
    assert_eq!(memory.word(0).load(Relaxed), 0);
}

const LAYOUT: StreamLayout = StreamLayout { data: 0, size: 16, cons: 16, prod: 20 };

#[test]
fn streams_end_with_what_is_last() {
    let end = |data, cons, prod| StreamLayout { data, size: 16, cons, prod }.end();
    assert_eq!([end(0, 16, 20), end(0, 20, 16), end(64, 0, 4), end(64, 4, 0), end(8, 0, 4)], [24, 24, 80, 80, 24]);
}

#[test]
fn before_sleeping_both_ends_look_once_more() {
    let memory = WordMemory::new(24);
    let mut producer = Producer::new(memory.clone(), LAYOUT, Wake::WhenIdle);
    let mut consumer = Consumer::new(memory, LAYOUT, Wake::WhenIdle);
    assert_eq!((producer.final_check(), consumer.final_check()), (Ok(true), Ok(false)));
    assert_eq!(producer.write(&[7; 20]), Ok(16));
    assert!(producer.publish().needed());
    assert_eq!((producer.final_check(), consumer.final_check()), (Ok(false), Ok(true)));
    assert_eq!(consumer.read(&mut [0; 2]), Ok(2));
    assert!(consumer.publish().needed(), "it was full");
    assert_eq!((producer.final_check(), consumer.final_check()), (Ok(true), Ok(true)));
}

#[test]
fn a_reconnection_needs_a_server_that_can() {
    for (features, can) in [(0, false), (store::FEATURE_ERROR, false), (store::FEATURE_RECONNECTION, true), (3, true)] {
        let page = WordMemory::new(4096);
        let server = store::Back::new(page.clone(), features);
        let client = store::Front::new(page);
        assert!(!server.reconnect_requested());
        assert_eq!(client.request_reconnect(), can, "{features}");
        assert_eq!((server.reconnect_requested(), client.reconnecting()), (can, can));
    }
}

#[test]
fn the_longest_message_is_taken_and_a_longer_one_is_not() {
    for (len, fine) in [(PAYLOAD_MAX, true), (PAYLOAD_MAX + 1, false)] {
        let page = WordMemory::new(4096);
        let mut client = store::Front::new(page.clone());
        let mut server = store::Back::new(page, 0);
        let mut receiver = Receiver::default();
        let mut bytes: Vec<u8> = [2u32, 1, 0, len as u32].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(16 + len, 7);
        let mut at = 0;
        let got = loop {
            at += client.requests.write(&bytes[at..]).unwrap();
            let _ = client.requests.publish();
            match receiver.receive(&mut server.requests) {
                Ok(None) => assert!(at < bytes.len()),
                Ok(Some(message)) => break Ok(message.payload.len()),
                Err(corrupt) => break Err(corrupt),
            }
            let _ = server.requests.publish();
        };
        assert_eq!(got.is_ok(), fine);
        assert_eq!((got.unwrap_or(len), server.requests.poison().is_some()), (len, !fine));
    }
}

#[test]
fn pci_operations_by_their_numbers() {
    let at = Address { domain: 0, bus: 1, devfn: 8 };
    let parse = |command, value| {
        let mut op = WireOp::new(command, at);
        (op.offset, op.size, op.value) = (4, 2, value);
        op.parse().map(|(address, operation)| {
            assert_eq!(address, at);
            operation
        })
    };
    let register = Register { offset: 4, width: 2 };
    assert_eq!(parse(Command(0), 5), Ok(Operation::Read(register)));
    assert_eq!(parse(Command(1), 5), Ok(Operation::Write(register, 5)));
    assert_eq!(parse(Command(2), 5), Ok(Operation::EnableMsi));
    assert_eq!(parse(Command(3), 5), Ok(Operation::DisableMsi));
    assert_eq!(parse(Command(4), 5), Ok(Operation::EnableMsix(5)));
    assert_eq!(parse(Command(4), 0), Err(PciError::FAILED));
    assert_eq!(parse(Command(5), 5), Ok(Operation::DisableMsix));
    assert_eq!(parse(Command(6), 5), Err(PciError::NOT_IMPLEMENTED));
}

/// A row for each state of the other side; the columns are one's own.
#[test]
fn steps_by_table() {
    use State::*;
    const ALL: [State; 9] =
        [Unknown, Initialising, InitWait, Initialised, Connected, Closing, Closed, Reconfiguring, Reconfigured];
    let back = |peer| ALL.map(|own| back_step(own, peer));
    let front = |peer| ALL.map(|own| front_step(own, peer));
    use BackStep::{Close, Connect, Offer, Shut, Stay};
    assert_eq!(back(Initialising), [Offer, Offer, Stay, Offer, Offer, Offer, Offer, Offer, Offer]);
    assert_eq!(back(Initialised), [Offer, Offer, Connect, Connect, Stay, Stay, Stay, Stay, Stay]);
    assert_eq!(back(Closing), [Offer, Offer, Close, Close, Close, Stay, Stay, Close, Close]);
    assert_eq!(back(Closed), [Offer, Offer, Shut, Shut, Shut, Shut, Stay, Shut, Shut]);
    assert_eq!(back(Unknown), back(Closed));
    assert_eq!(back(InitWait), [Offer, Offer, Stay, Stay, Stay, Stay, Stay, Stay, Stay]);
    use FrontStep::{Close as Down, Finish, Restart, Setup, Stay as Wait};
    assert_eq!(front(Unknown), [Restart, Wait, Restart, Restart, Restart, Wait, Wait, Restart, Restart]);
    assert_eq!(front(Initialising), [Restart, Wait, Restart, Restart, Restart, Restart, Restart, Restart, Restart]);
    assert_eq!(front(InitWait), [Restart, Setup, Restart, Wait, Wait, Restart, Restart, Restart, Restart]);
    assert_eq!(front(Connected), [Restart, Wait, Restart, Finish, Wait, Wait, Wait, Restart, Restart]);
    assert_eq!(front(Closing), [Restart, Wait, Restart, Down, Down, Down, Wait, Restart, Restart]);
}

#[test]
fn groups_and_segmentation() {
    assert_eq!(
        [0, 1, 2, 3, 0xfe, 0xff].map(|first| Mac([first, 0, 0, 0, 0, 0]).is_group()),
        [false, true, false, true, false, true]
    );
    for (kind, number) in [(GsoKind::TcpV4, 1), (GsoKind::TcpV6, 2)] {
        let gso = Gso { kind, size: 1448 };
        let body = [0xa8, 5, number, 0, 0, 0];
        assert_eq!((gso.extra().body, Gso::parse(&Extra { kind: ExtraKind::GSO, flags: 0, body })), (body, Some(gso)));
    }
}

fn transmit(slots: &[TxSlot], allow_multicast: bool, look: impl FnOnce(TxItem<'_>)) -> Front<Memory, Tx> {
    let memory = WordMemory::new(4096);
    let mut front = Front::<_, Tx>::new(memory.clone()).unwrap();
    let mut back = Back::<_, Tx>::attach(memory).unwrap();
    assert_eq!(front.push_many(slots), slots.len());
    look(TxReader::new(allow_multicast).next(&mut back).unwrap());
    let multicast = slots.iter().any(|slot| slot.extra().kind == ExtraKind::MCAST_ADD);
    if allow_multicast && multicast && back.room() > 0 {
        TxReader::answer_multicast(&mut back, 3, false);
    }
    let _ = back.publish();
    front
}

#[test]
fn multicast_changes_are_taken_once_where_they_were_offered() {
    let first = TxRequest { gref: GrantRef(1), offset: 0, flags: TxFlags::EXTRA_INFO, id: 3, size: 60 };
    let extra = |kind, flags| TxSlot::from(Extra { kind, flags, body: [1, 2, 3, 4, 5, 6] });
    let address = Mac([1, 2, 3, 4, 5, 6]);
    let add = [first.into(), extra(ExtraKind::MCAST_ADD, 0)];
    let remove = [first.into(), extra(ExtraKind::MCAST_DEL, 0)];
    let twice = [first.into(), extra(ExtraKind::MCAST_ADD, 1), extra(ExtraKind::MCAST_DEL, 0)];
    let refused = TxItem::Refused(TxError::BadExtra);
    let mut front = transmit(&add, true, |item| assert_eq!(item, TxItem::Multicast(Multicast::Add(address), 3)));
    // The extra slot's answer, and the change's.
    let statuses = [front.pop().unwrap(), front.pop().unwrap()].map(|answer| (answer.id, answer.status));
    assert_eq!(statuses, [(0, net::Status::NULL), (3, net::Status::ERROR)]);
    transmit(&remove, true, |item| assert_eq!(item, TxItem::Multicast(Multicast::Remove(address), 3)));
    transmit(&twice, true, |item| assert_eq!(item, refused));
    transmit(&add, false, |item| assert_eq!(item, refused));
    transmit(&remove, false, |item| assert_eq!(item, refused));
    let mut memory = Front::<_, Tx>::new(WordMemory::new(4096)).unwrap();
    assert!(memory.pop().is_err());
    let answered = |done| {
        let memory = WordMemory::new(4096);
        let mut front = Front::<_, Tx>::new(memory.clone()).unwrap();
        let mut back = Back::<_, Tx>::attach(memory).unwrap();
        front.push(&first.into()).unwrap();
        let _ = front.publish();
        back.pop().unwrap();
        TxReader::answer_multicast(&mut back, 3, done);
        let _ = back.publish();
        front.pop().unwrap().status
    };
    assert_eq!([answered(true), answered(false)], [net::Status::OKAY, net::Status::ERROR]);
}

#[test]
fn a_second_segmentation_is_refused() {
    let first = TxRequest { gref: GrantRef(1), offset: 0, flags: TxFlags::EXTRA_INFO, id: 3, size: 60 };
    let gso = |flags| TxSlot::from(Extra { flags, ..Gso { kind: GsoKind::TcpV4, size: 500 }.extra() });
    transmit(&[first.into(), gso(1), gso(0)], false, |item| assert_eq!(item, TxItem::Refused(TxError::BadExtra)));
}

#[test]
fn a_packet_is_pushed_whole_or_not_at_all() {
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 500 });
    let fragment = Fragment { grant: GrantRef(1), offset: 0, len: 60, id: 3 };
    let ring = || Front::<_, Tx>::new(WordMemory::new(64 + 4 * Tx::SLOT)).unwrap();
    let push = |ring: &mut Front<_, Tx>, pieces: usize, gso| {
        push_packet(ring, &std::vec![fragment; pieces], Checksum::Unknown, gso).map(|()| ring.sent())
    };
    assert_eq!(push(&mut ring(), 4, None), Ok(4));
    assert_eq!(push(&mut ring(), 3, gso), Ok(4));
    assert_eq!(push(&mut ring(), 4, gso), Err(Full));
    assert_eq!(push(&mut ring(), 5, None), Err(Full));
    let mut closed = ring();
    closed.close(Corrupt::Protocol("for a test"));
    assert_eq!(push(&mut closed, 1, None), Err(Full));
    let mut full = ring();
    assert_eq!((push(&mut full, 2, None), push(&mut full, 2, gso), full.sent()), (Ok(2), Err(Full), 2));
}

/// Both ends of a receive ring whose back has taken requests 0 to `requests`.
fn receiving(requests: u16) -> (Front<Memory, Rx>, Back<Memory, Rx>) {
    let memory = WordMemory::new(4096);
    let mut front = Front::new(memory.clone()).unwrap();
    let mut back = Back::attach(memory).unwrap();
    for id in 0..requests {
        front.push(&net::RxRequest { id, pad: 0, gref: GrantRef(1) }).unwrap();
    }
    let _ = front.publish();
    while back.pop().is_ok() {}
    (front, back)
}

/// Extra-info slots on a receive ring: four of a packet are taken and their slots are free again, a fifth is too many.
#[test]
fn extras_of_a_received_packet_are_bounded() {
    for (extras, fine) in [(1u8, true), (4, true), (5, false)] {
        let (mut front, mut back) = receiving(8);
        let flags = RxFlags::EXTRA_INFO;
        net_rx::answer(&mut back, 0, 0, 60, flags);
        for n in 1..=extras {
            // Of a kind that nobody knows: it is skipped.
            back.push(&Extra { kind: ExtraKind(9), flags: u8::from(n < extras), body: [0; 6] }.into()).unwrap();
        }
        let _ = back.publish();
        let mut reader = RxReader::default();
        let packet = reader.next(&mut front);
        assert_eq!(packet.is_ok(), fine, "{extras}");
        if let Ok(packet) = packet {
            assert_eq!((packet.len(), packet.is_empty()), (60, false));
            assert_eq!(packet.spare.iter().copied().collect::<Vec<_>>(), (1..=u16::from(extras)).collect::<Vec<_>>());
        }
    }
    let (mut front, mut back) = receiving(1);
    net_rx::answer(&mut back, 0, 0, 0, RxFlags::default());
    let _ = back.publish();
    assert!(RxReader::default().next(&mut front).unwrap().is_empty(), "dropped");
    // The longest packet that there is, which failed: all of its slots are free again.
    let slots = net::MAX_SLOTS as u16;
    let (mut front, mut back) = receiving(slots + 4);
    net_rx::answer(&mut back, 0, 0, 60, RxFlags::EXTRA_INFO.with(RxFlags::MORE_DATA));
    for n in 1..=4 {
        back.push(&Extra { kind: ExtraKind(9), flags: u8::from(n < 4), body: [0; 6] }.into()).unwrap();
    }
    for id in 5..slots + 4 {
        let (last, len) = (id + 1 == slots + 4, 60u16);
        let flags = if last { RxFlags::default() } else { RxFlags::MORE_DATA };
        net_rx::answer(&mut back, id, 0, if last { u16::MAX } else { len }, flags);
    }
    let _ = back.publish();
    let mut reader = RxReader::default();
    let failed = reader.next(&mut front).unwrap();
    let mut spare = failed.spare.to_vec();
    spare.sort_unstable();
    assert_eq!((failed.parts.len(), spare), (0, (0..slots + 4).collect::<Vec<_>>()));
}

#[test]
fn a_received_packet_has_nothing_of_the_one_before() {
    let (mut front, mut back) = receiving(5);
    let gso = Gso { kind: GsoKind::TcpV6, size: 500 };
    let flags = RxFlags::EXTRA_INFO.with(RxFlags::CSUM_BLANK).with(RxFlags::MORE_DATA);
    net_rx::answer(&mut back, 0, 0, 60, flags);
    back.push(&gso.extra().into()).unwrap();
    net_rx::answer(&mut back, 2, 0, u16::MAX, RxFlags::default());
    net_rx::answer(&mut back, 3, 8, 70, RxFlags::MORE_DATA);
    let _ = back.publish();
    let mut reader = RxReader::default();
    let failed = reader.next(&mut front).unwrap();
    assert_eq!((failed.parts.len(), failed.spare.len(), failed.gso), (0, 3, Some(gso)));
    assert_eq!(failed.checksum, Checksum::Blank);
    assert_eq!(reader.next(&mut front), Err(PopError::Empty), "its rest is to come");
    net_rx::answer(&mut back, 4, 0, 80, RxFlags::default());
    let _ = back.publish();
    let next = reader.next(&mut front).unwrap();
    let parts = [(3, 8, 70), (4, 0, 80)].map(|(slot, offset, len)| net_rx::RxPart { slot, offset, len });
    assert_eq!((next.parts.as_slice(), next.spare.len(), next.gso), (&parts[..], 0, None));
    assert_eq!(next.checksum, Checksum::Unknown);
}
