//! Packets between guests and the NIC.

use super::{FakeNic, Machine, Wire, frame, ip_packet, mac, verify};
use crate::switch::{Outcome, Switch, VifId};
use crate::vif::VifConfig;
use abi::{DomId, GrantRef};
use core::sync::atomic::Ordering::SeqCst;
use ring_proto::memory::RingMemory;
use ring_proto::net::*;
use ring_proto::net_keys::Offloads;
use ring_proto::peers::hostile::HostileFront;
use ring_proto::peers::net::{Packet, PoliteFront, hostile_slot};
use ring_proto::peers::{Pages, Rng};
use ring_proto::words::WordMemory;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::vec::Vec;

type Memory = Arc<WordMemory>;

pub const ALL: Offloads =
    Offloads { scatter_gather: true, gso_tcpv4: true, gso_tcpv6: true, checksum_v4: true, checksum_v6: true };
const NONE: Offloads =
    Offloads { scatter_gather: false, gso_tcpv4: false, gso_tcpv6: false, checksum_v4: false, checksum_v6: false };

pub struct Bench {
    pub machine: Machine,
    pub switch: Switch<Machine, FakeNic, Memory>,
    pub wire: Rc<RefCell<Wire>>,
    now: u64,
    pub broken: Vec<VifId>,
}

struct Guest {
    front: PoliteFront<Memory>,
    pages: Pages,
    rx: Memory,
    id: VifId,
    mac: Mac,
}

impl Bench {
    pub fn new() -> Self {
        let machine = Machine::new(2048);
        let nic = FakeNic::new(&machine, 256);
        let wire = nic.wire.clone();
        let switch = Switch::new(machine.clone(), Some(nic));
        Self { machine, switch, wire, now: 0, broken: Vec::new() }
    }

    pub fn config(dom: u16, offloads: Offloads) -> VifConfig {
        VifConfig { peer: DomId(dom), mac: mac(dom as u8), offloads, multicast_control: false }
    }

    fn guest(&mut self, dom: u16, offloads: Offloads) -> Guest {
        let pages = self.machine.guest(dom);
        let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
        let mut front = PoliteFront::new(tx.clone(), rx.clone(), pages.clone(), dom.into());
        let _ = front.step();
        let id = self.switch.open([(tx, rx.clone())], Self::config(dom, offloads)).unwrap();
        Guest { front, pages, rx, id, mac: mac(dom as u8) }
    }

    pub fn run(&mut self) {
        self.now += 1;
        let broken = &mut self.broken;
        while self.switch.run(self.now, 8, |outcome| {
            if let Outcome::Corrupt(id, _) = outcome {
                broken.push(id);
            }
        }) {}
    }

    fn sent(&mut self) -> Vec<(Vec<u8>, bool)> {
        std::mem::take(&mut self.wire.borrow_mut().out)
    }
}

impl Guest {
    /// Sends one packet and lets the switch move it.
    fn send(&mut self, bench: &mut Bench, packet: &Packet) {
        assert!(self.front.send(packet));
        let _ = self.front.step();
        bench.run();
        let _ = self.front.step();
        bench.run();
    }

    fn receive(&mut self) -> Option<Packet> {
        let _ = self.front.step();
        self.front.received.pop_front()
    }
}

pub fn plain(bytes: Vec<u8>) -> Packet {
    Packet { bytes, checksum: Checksum::Unknown, gso: None }
}

#[test]
fn guest_to_guest_untouched_in_one_copy() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, ALL));
    let mut rng = Rng(5);
    let (mut total, mut packets) = (0, 0);
    for _ in 0..300 {
        let mut packet = Packet::random(&mut rng);
        let shorter = packet.bytes.len().max(60);
        packet.bytes.resize(shorter, 0);
        packet.bytes[..12].copy_from_slice(&[b.mac.0, a.mac.0].concat());
        a.send(&mut bench, &packet);
        total += packet.bytes.len();
        packets += 1;
        assert_eq!(b.receive(), Some(packet));
    }
    assert!(bench.sent().is_empty() && a.front.errors == 0 && a.front.in_flight() == 0);
    assert_eq!(bench.machine.work.borrow().bytes, total + 14 * packets, "once, and the headers to see where they go");
    let (a, b) = (bench.switch.counters(a.id).unwrap(), bench.switch.counters(b.id).unwrap());
    assert_eq!((a.tx_packets, a.tx_bytes as usize, a.tx_errors, a.tx_dropped), (300, total, 0, 0));
    assert_eq!((b.rx_packets, b.rx_bytes as usize, b.rx_dropped), (300, total, 0));
    assert_eq!((a.checksums, a.segments, b.rx_copied as usize), (0, 0, total));
    assert_eq!((a.header_bytes as usize, a.tx_copied, b.tx_copied), (14 * packets, 0, 0));
}

#[test]
fn guest_to_nic_without_a_copy_where_the_guest_did_its_checksums() {
    let mut bench = Bench::new();
    let mut a = bench.guest(1, ALL);
    bench.wire.borrow_mut().input.push_back(frame(a.mac, mac(99), 0x0800, &[1; 50]));
    bench.run();
    for len in [46, 100, 1500] {
        let bytes = frame(mac(99), a.mac, 0x0800, &std::vec![7; len]);
        a.send(&mut bench, &plain(bytes.clone()));
        assert_eq!(bench.sent(), [(bytes, true)]);
    }
    let counters = bench.switch.counters(a.id).unwrap();
    assert_eq!((counters.tx_copied, counters.header_bytes, counters.rx_copied), (0, 3 * 14, 64), "no payload sent");
    assert_eq!(bench.machine.work.borrow().bytes, 3 * 14 + 64);
    assert!(bench.machine.work.borrow().mapped >= 3);
    assert_eq!((a.front.errors, a.front.in_flight()), (0, 0));
}

#[test]
fn pages_are_answered_only_when_the_nic_is_done() {
    let mut bench = Bench::new();
    let mut a = bench.guest(1, ALL);
    bench.wire.borrow_mut().hold = true;
    a.send(&mut bench, &plain(frame(mac(99), a.mac, 0x0800, &[7; 100])));
    assert!(a.front.in_flight() > 0);
    bench.wire.borrow_mut().hold = false;
    bench.run();
    let _ = a.front.step();
    assert_eq!(a.front.in_flight(), 0);
}

#[test]
fn guest_to_nic_blank_checksums_are_completed() {
    let mut bench = Bench::new();
    let mut a = bench.guest(1, ALL);
    let units = bench.switch.free_units();
    for v6 in [false, true] {
        for tcp in [false, true] {
            let payload: Vec<u8> = (0..1200).map(|n| n as u8).collect();
            let bytes = ip_packet(mac(99), a.mac, v6, tcp, &payload);
            a.send(&mut bench, &Packet { bytes, checksum: Checksum::Blank, gso: None });
            let sent = bench.sent();
            assert_eq!(sent.len(), 1);
            assert!(verify(&sent[0].0).0 == payload && !sent[0].1);
        }
    }
    let odd = Packet { bytes: frame(mac(99), a.mac, 0x1234, &[1; 60]), checksum: Checksum::Blank, gso: None };
    a.send(&mut bench, &odd);
    assert!(bench.sent().is_empty(), "nothing known to complete");
    let counters = bench.switch.counters(a.id).unwrap();
    assert_eq!((counters.checksums, counters.tx_errors), (4, 1));
    assert!(bench.switch.free_units() >= units - 16, "all but the NIC's buffers came back");
}

#[test]
fn guest_to_nic_large_packets_are_segmented() {
    let mut bench = Bench::new();
    let mut a = bench.guest(1, ALL);
    bench.run();
    let units = bench.switch.free_units();
    for _ in 0..20 {
        let payload: Vec<u8> = (0..60_000).map(|n| (n % 253) as u8).collect();
        let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1448 });
        let bytes = ip_packet(mac(99), a.mac, false, true, &payload);
        a.send(&mut bench, &Packet { bytes, checksum: Checksum::Blank, gso });
        let sent = bench.sent();
        let joined: Vec<u8> = sent.iter().flat_map(|(segment, _)| verify(segment).0).collect();
        assert!(joined == payload && sent.iter().all(|(segment, _)| segment.len() <= 1514));
    }
    let counters = bench.switch.counters(a.id).unwrap();
    assert_eq!((counters.segments, counters.tx_dropped, a.front.in_flight()), (20 * 42, 0, 0));
    assert_eq!(bench.switch.free_units(), units);
}

#[test]
fn a_guest_that_takes_nothing_gets_plain_packets() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, NONE));
    let payload: Vec<u8> = (0..30_000).map(|n| (n % 253) as u8).collect();
    let gso = Some(Gso { kind: GsoKind::TcpV6, size: 1400 });
    let bytes = ip_packet(b.mac, a.mac, true, true, &payload);
    a.send(&mut bench, &Packet { bytes, checksum: Checksum::Blank, gso });
    let mut joined = Vec::new();
    while let Some(packet) = b.receive() {
        assert_eq!((packet.checksum, packet.gso), (Checksum::Validated, None));
        joined.extend(verify(&packet.bytes).0);
    }
    assert!(joined == payload);
    let blank = Packet { bytes: ip_packet(b.mac, a.mac, false, false, &[9; 99]), checksum: Checksum::Blank, gso: None };
    a.send(&mut bench, &blank);
    assert_eq!(verify(&b.receive().unwrap().bytes).0, [9; 99]);
    a.send(&mut bench, &plain(frame(b.mac, a.mac, 0x0800, &[1; 5000])));
    assert!(b.receive().is_none(), "too large for one page");
}

#[test]
fn nic_to_guest_in_one_copy() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, NONE));
    let mut total = 0;
    for n in 0..500 {
        let bytes = frame(a.mac, mac(99), 0x0800, &std::vec![n as u8; 46 + n]);
        total += bytes.len();
        bench.wire.borrow_mut().input.push_back(bytes.clone());
        bench.run();
        assert_eq!(a.receive().unwrap().bytes, bytes);
        bench.run();
    }
    assert_eq!(b.receive(), None);
    assert_eq!(bench.machine.work.borrow().bytes, total);
    assert_eq!(bench.switch.counters(a.id).unwrap().rx_copied as usize, total);
    assert_eq!(bench.switch.totals().nic_dropped, 0);
}

#[test]
fn groups_and_strangers_go_everywhere_but_back() {
    let mut bench = Bench::new();
    let (mut a, mut b, mut c) = (bench.guest(1, ALL), bench.guest(2, NONE), bench.guest(3, ALL));
    for dst in [Mac::BROADCAST, mac(77), Mac([1, 0, 0x5e, 0, 0, 1])] {
        let bytes = frame(dst, a.mac, 0x0806, &[5; 46]);
        a.send(&mut bench, &plain(bytes.clone()));
        assert_eq!(bench.sent(), [(bytes.clone(), true)]);
        assert_eq!((b.receive().unwrap().bytes, c.receive().unwrap().bytes), (bytes.clone(), bytes));
        assert_eq!(a.receive(), None);
    }
    // The stranger answers from outside: from now on packets to it go there alone.
    bench.wire.borrow_mut().input.push_back(frame(a.mac, mac(77), 0x0806, &[6; 46]));
    bench.run();
    assert!(a.receive().is_some() && b.receive().is_none());
    a.send(&mut bench, &plain(frame(mac(77), a.mac, 0x0806, &[7; 46])));
    assert_eq!((bench.sent().len(), b.receive(), c.receive()), (1, None, None));
}

#[test]
fn nobody_sends_under_anothers_address() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, ALL));
    for forged in [b.mac, Mac::BROADCAST] {
        a.send(&mut bench, &plain(frame(Mac::BROADCAST, forged, 0x0806, &[5; 46])));
    }
    assert_eq!((bench.sent().len(), b.receive(), a.front.in_flight()), (0, None, 0));
    assert_eq!(bench.switch.counters(a.id).unwrap().tx_errors, 2);
    let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
    bench.machine.guest(3);
    let config = VifConfig { mac: mac(1), ..Bench::config(3, ALL) };
    assert!(bench.switch.open([(tx, rx)], config).is_err(), "two vifs of one address");
}

#[test]
fn a_hostile_guest_hurts_nobody() {
    for seed in 0..30u64 {
        let mut bench = Bench::new();
        let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, if seed % 3 == 0 { NONE } else { ALL }));
        let pages = bench.machine.guest(3);
        let grants: Vec<GrantRef> = (0..4).map(|_| pages.grant(false)).collect();
        // Packets that look like something: from its own address, to the others, to be segmented or completed.
        for (n, page) in grants.iter().enumerate() {
            let to = [a.mac, b.mac, mac(99), Mac::BROADCAST][n];
            pages.fill(*page, 0, &ip_packet(to, mac(3), n % 2 == 0, true, &[3; 1000]));
        }
        let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
        let mut hostile = HostileFront::<_, Tx>::new(tx.clone(), seed, seed % 2 == 0);
        // Its receive ring is garbage from the start, or empty.
        if seed % 4 == 0 {
            use ring_proto::memory::RingMemory;
            rx.write(0, &[0x5a; 4096]);
        }
        let bad = bench.switch.open([(tx, rx)], Bench::config(3, ALL)).unwrap();
        for n in 0..200u32 {
            let _ = hostile.step(|rng| hostile_slot(rng, &grants));
            let payload: Vec<u8> = (0..20 + n).map(|byte| byte as u8).collect();
            let packet = plain(frame(b.mac, a.mac, 0x0800, &payload));
            a.send(&mut bench, &packet);
            let mut got = Vec::new();
            while let Some(packet) = b.receive() {
                got.push(packet);
            }
            // It may send b what it likes from its own address.
            got.retain(|packet| packet.bytes[6..12] == a.mac.0);
            assert_eq!(got, [packet], "packet {n} of seed {seed}");
        }
        assert!(bench.broken.iter().all(|id| *id == bad) && bench.broken.len() <= 1);
        assert_eq!((a.front.errors, a.front.in_flight()), (0, 0));
        let counters = bench.switch.close(bad).unwrap();
        assert!(!bench.broken.is_empty() || counters.tx_errors > 0);
        bench.run();
        assert!(bench.switch.free_units() >= 2048 - 4 - 16, "no memory is lost");
    }
}

#[test]
fn a_guest_that_leaves_is_not_missed() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, ALL));
    bench.wire.borrow_mut().hold = true;
    b.send(&mut bench, &plain(frame(mac(99), b.mac, 0x0800, &[7; 100])));
    assert!(bench.switch.close(b.id).is_some() && bench.switch.close(b.id).is_none());
    let mut again = Bench::config(2, ALL);
    again.peer = DomId(4);
    bench.machine.guest(4);
    let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
    let successor = bench.switch.open([(tx, rx)], again).unwrap();
    bench.wire.borrow_mut().hold = false;
    bench.run();
    assert_eq!(bench.switch.counters(successor).unwrap().tx_packets, 0);
    a.send(&mut bench, &plain(frame(mac(2), a.mac, 0x0800, &[7; 100])));
    assert_eq!(bench.switch.counters(successor).unwrap().rx_dropped, 1, "it offers no pages");
    assert!(bench.broken.is_empty() && b.pages.count() > 0);
}

#[test]
fn a_slow_nic_leaves_packets_on_the_rings() {
    let mut bench = Bench::new();
    let mut a = bench.guest(1, ALL);
    bench.wire.borrow_mut().hold = true;
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1448 });
    let payload = std::vec![1; 60_000];
    for _ in 0..10 {
        let bytes = ip_packet(mac(99), a.mac, false, true, &payload);
        a.send(&mut bench, &Packet { bytes, checksum: Checksum::Blank, gso });
    }
    let early = bench.sent().len();
    assert!((100..256).contains(&early), "{early} segments");
    while a.front.in_flight() > 0 {
        bench.wire.borrow_mut().hold = false;
        bench.run();
        let _ = a.front.step();
    }
    assert_eq!(early + bench.sent().len(), 10 * 42);
    assert_eq!(bench.switch.counters(a.id).unwrap().tx_dropped, 0);
}

/// What is copied for a packet that needs work: into our memory, and from there to each guest that gets it.
#[test]
fn mended_packets_are_copied_once_more_and_counted() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, NONE));
    bench.wire.borrow_mut().input.push_back(frame(a.mac, mac(99), 0x0800, &[1; 50]));
    bench.run();
    let before = bench.machine.work.borrow().bytes;
    let bytes = ip_packet(b.mac, a.mac, false, true, &[9; 1000]);
    let len = bytes.len();
    a.send(&mut bench, &Packet { bytes, checksum: Checksum::Blank, gso: None });
    assert!(b.receive().is_some());
    let (sender, receiver) = (*bench.switch.counters(a.id).unwrap(), *bench.switch.counters(b.id).unwrap());
    assert_eq!((sender.header_bytes, sender.tx_copied as usize, receiver.rx_copied as usize), (14, len - 14, len));
    assert_eq!(bench.machine.work.borrow().bytes - before, 2 * len);
    a.send(
        &mut bench,
        &Packet { bytes: ip_packet(mac(99), a.mac, false, true, &[9; 1000]), checksum: Checksum::Blank, gso: None },
    );
    assert_eq!(bench.machine.work.borrow().bytes - before, 3 * len);
    assert_eq!(bench.sent().len(), 1);
}

/// A batch costs as many hypercalls as one packet does.
#[test]
fn a_batch_takes_two_copy_calls() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, ALL));
    for n in 0..20u8 {
        assert!(a.front.send(&plain(frame(b.mac, a.mac, 0x0800, &[n; 100]))));
    }
    let _ = a.front.step();
    bench.run();
    assert_eq!(std::iter::from_fn(|| b.receive()).count(), 20);
    assert_eq!(bench.machine.work.borrow().calls, 2);
    assert_eq!(bench.switch.totals().copy_calls, 2);
}

/// A guest that rewrites its packet while it is being moved: what was checked is what arrives.
#[test]
fn a_header_that_changes_after_the_check_changes_nothing() {
    for to_nic in [false, true] {
        let mut bench = Bench::new();
        let mut b = bench.guest(2, ALL);
        let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
        let pages = bench.machine.guest(1);
        let page = pages.grant(false);
        let to = if to_nic { mac(99) } else { b.mac };
        let honest = frame(to, mac(1), 0x0800, &[1; 100]);
        pages.fill(page, 0, &honest);
        let mut front = ring_proto::ring::Front::<_, Tx>::new(tx.clone()).unwrap();
        bench.switch.open([(tx, rx)], Bench::config(1, ALL)).unwrap();
        bench.wire.borrow_mut().input.push_back(frame(mac(2), mac(99), 0x0800, &[1; 50]));
        bench.run();
        assert!(b.receive().is_some());
        let forged = frame(b.mac, b.mac, 0x0806, &[]);
        let (scribbled, forged_to) = (pages.clone(), forged.clone());
        *bench.machine.meanwhile.borrow_mut() = Some(std::boxed::Box::new(move || scribbled.fill(page, 0, &forged_to)));
        let request = TxRequest { gref: page, offset: 0, flags: TxFlags::default(), id: 0, size: honest.len() as u16 };
        front.push(&request.into()).unwrap();
        let _ = front.publish();
        bench.run();
        let mut check = [0; 14];
        pages.copy_from(page, 0, &mut check).unwrap();
        assert_eq!(check[..], forged[..], "the guest did change it");
        let arrived = if to_nic { bench.sent()[0].0.clone() } else { b.receive().unwrap().bytes };
        assert_eq!(arrived, honest);
    }
}

/// A small packet with a number.
fn numbered(to: Mac, from: Mac, number: u32) -> Packet {
    let mut payload = [0; 46];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    plain(frame(to, from, 0x88b5, &payload))
}

#[test]
fn a_sender_waits_for_a_receiver_that_takes_its_time() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.guest(1, ALL), bench.guest(2, ALL));
    a.send(&mut bench, &numbered(b.mac, a.mac, 0));
    assert_eq!(b.receive(), Some(numbered(b.mac, a.mac, 0)));
    let (mut sent, mut received, mut waits) = (1, 1, 0);
    while received < 2000 {
        // Two rings full.
        for _ in 0..2 {
            while sent < 2000 && a.front.send(&numbered(b.mac, a.mac, sent)) {
                sent += 1;
            }
            let _ = a.front.step();
            bench.run();
            let _ = a.front.step();
        }
        // All that is on its way is on the rings: only now does the receiver look.
        waits += usize::from(bench.switch.held_until().is_some());
        while let Some(packet) = b.receive() {
            assert_eq!(packet, numbered(b.mac, a.mac, received));
            received += 1;
        }
        bench.run();
    }
    assert!(waits > 3, "its ring was full {waits} times");
    let (a, b) = (bench.switch.counters(a.id).unwrap(), bench.switch.counters(b.id).unwrap());
    assert_eq!((a.tx_packets, a.tx_dropped, b.rx_packets, b.rx_dropped), (2000, 0, 2000, 0));
}

#[test]
fn a_receiver_that_takes_nothing_holds_up_its_senders_once_and_nobody_else() {
    let mut bench = Bench::new();
    let (mut a, mut b, mut c) = (bench.guest(1, ALL), bench.guest(2, ALL), bench.guest(3, ALL));
    let fill = |bench: &mut Bench, a: &mut Guest| {
        for number in 0..400 {
            a.front.send(&numbered(mac(2), a.mac, number));
            let _ = a.front.step();
            bench.run();
        }
    };
    fill(&mut bench, &mut a);
    let until = bench.switch.held_until().expect("it waits");
    assert!(a.front.in_flight() > 0);
    // Others are not held up, nor is what others send to the one that waits.
    c.send(&mut bench, &numbered(a.mac, c.mac, 7));
    assert_eq!(a.receive(), Some(numbered(a.mac, c.mac, 7)));
    assert_eq!((bench.switch.held_until(), bench.switch.counters(b.id).unwrap().rx_dropped), (Some(until), 0));
    // The time is over: what waited is dropped, and so is what follows, at once.
    bench.now = until;
    bench.run();
    let _ = a.front.step();
    assert_eq!((a.front.in_flight(), bench.switch.held_until()), (0, None));
    let dropped = bench.switch.counters(b.id).unwrap().rx_dropped;
    assert!(dropped > 0);
    fill(&mut bench, &mut a);
    assert_eq!(bench.switch.counters(b.id).unwrap().rx_dropped, dropped + 400);
    // It takes something again, and is waited for again.
    while b.receive().is_some() {}
    fill(&mut bench, &mut a);
    assert!(bench.switch.held_until().is_some());
    assert_eq!(bench.switch.counters(b.id).unwrap().rx_dropped, dropped + 400);
}

#[test]
fn two_senders_to_one_receiver_lose_nothing_either() {
    let mut bench = Bench::new();
    let (mut a, mut b, mut c) = (bench.guest(1, ALL), bench.guest(2, ALL), bench.guest(3, ALL));
    let (mut sent, mut received) = ([0; 2], 0);
    while received < 6000 {
        for (sender, sent) in [&mut a, &mut c].into_iter().zip(&mut sent) {
            while *sent < 3000 && sender.front.send(&numbered(b.mac, sender.mac, *sent)) {
                *sent += 1;
            }
            let _ = sender.front.step();
        }
        bench.run();
        while b.receive().is_some() {
            received += 1;
        }
        bench.run();
        assert_eq!(bench.switch.counters(b.id).unwrap().rx_dropped, 0, "after {received} of 6000");
    }
}

#[test]
fn a_receiver_may_take_back_what_it_offered() {
    let mut bench = Bench::new();
    let (mut a, b, mut c) = (bench.guest(1, ALL), bench.guest(2, ALL), bench.guest(3, ALL));
    for number in 0..125 {
        a.send(&mut bench, &numbered(b.mac, a.mac, number));
        c.send(&mut bench, &numbered(b.mac, c.mac, number));
    }
    b.rx.word(0).store(250, SeqCst);
    for sender in [&mut a, &mut c] {
        assert!(sender.front.send(&numbered(b.mac, sender.mac, 0)));
        let _ = sender.front.step();
    }
    bench.run();
    let counters = bench.switch.counters(b.id).unwrap();
    assert_eq!((counters.rx_packets, counters.rx_dropped), (250, 0));
    assert!(bench.broken.is_empty() && bench.switch.held_until().is_some());
}
