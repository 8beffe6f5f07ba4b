//! Vifs of several queues, and the multicast addresses that a guest names.

use super::switch::{ALL, Bench, plain};
use super::{frame, ip_packet, mac};
use crate::switch::{Outcome, VifId};
use crate::vif::VifConfig;
use abi::GrantRef;
use ring_proto::net::*;
use ring_proto::peers::hostile::HostileFront;
use ring_proto::peers::net::{PoliteFront, hostile_slot};
use ring_proto::ring::Front;
use ring_proto::words::WordMemory;
use std::sync::Arc;
use std::vec::Vec;

type Memory = Arc<WordMemory>;

/// A guest with a polite frontend on each of its queues.
struct Guest {
    queues: Vec<PoliteFront<Memory>>,
    id: VifId,
}

impl Guest {
    fn new(bench: &mut Bench, dom: u16, queues: usize) -> Self {
        let pages = bench.machine.guest(dom);
        let rings: Vec<_> = (0..queues).map(|_| (WordMemory::new(4096), WordMemory::new(4096))).collect();
        let front = |(tx, rx): &(Memory, Memory)| {
            let mut front = PoliteFront::new(tx.clone(), rx.clone(), pages.clone(), dom.into());
            let _ = front.step();
            front
        };
        let queues = rings.iter().map(front).collect();
        let id = bench.switch.open(rings, Bench::config(dom, ALL)).unwrap();
        Self { queues, id }
    }

    /// What each queue has received: the last byte of every packet.
    fn received(&mut self) -> Vec<Vec<u8>> {
        let take = |front: &mut PoliteFront<Memory>| {
            let _ = front.step();
            front.received.drain(..).map(|packet| *packet.bytes.last().unwrap()).collect()
        };
        self.queues.iter_mut().map(take).collect()
    }
}

/// Packets of one queue stay together and in order; answers and events go to the queue they belong to.
#[test]
fn what_goes_out_by_one_queue_comes_in_by_one() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (Guest::new(&mut bench, 1, 3), Guest::new(&mut bench, 2, 2));
    for (queue, front) in (0..).zip(&mut a.queues) {
        for n in 0..20u8 {
            assert!(front.send(&plain(frame(mac(2), mac(1), 0x0800, &[queue * 20 + n; 60]))));
        }
        let _ = front.step();
    }
    let mut told = Vec::new();
    while bench.switch.run(1, 8, |outcome| {
        if let Outcome::Notify { vif, queue, .. } = outcome {
            told.push((vif == b.id, queue));
        }
    }) {}
    told.sort_unstable();
    told.dedup();
    assert_eq!(told, [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1)]);
    let got = b.received();
    let of = |queue: u8| (queue * 20..queue * 20 + 20).collect::<Vec<u8>>();
    // Queues 0 and 2 share one there, each in its own order.
    let (shared, alone) = if got[0].len() == 40 { (&got[0], &got[1]) } else { (&got[1], &got[0]) };
    assert_eq!(*alone, of(1));
    for queue in [0, 2] {
        let own: Vec<u8> = shared.iter().copied().filter(|byte| byte / 20 == queue).collect();
        assert_eq!(own, of(queue));
    }
    for front in &mut a.queues {
        let _ = front.step();
        assert_eq!((front.in_flight(), front.errors), (0, 0));
    }
    let counters = bench.switch.counters(a.id).unwrap();
    assert_eq!((counters.tx_packets, counters.tx_errors), (60, 0));
}

/// From the NIC, a connection stays on its queue, and many connections use them all.
#[test]
fn connections_from_outside_are_spread_over_the_queues() {
    let mut bench = Bench::new();
    let mut a = Guest::new(&mut bench, 1, 4);
    let mut used = [0; 4];
    for (v6, tcp) in [(false, false), (false, true), (true, true)] {
        for port in 0..40u8 {
            let mut packet = ip_packet(mac(1), mac(99), v6, tcp, &[port; 30]);
            let ports = if v6 { 54 } else { 34 };
            packet[ports + 1] = port;
            for _ in 0..3 {
                bench.wire.borrow_mut().input.push_back(packet.clone());
                bench.run();
            }
            let got = a.received();
            let queue = got.iter().position(|packets| !packets.is_empty()).unwrap();
            assert_eq!(got[queue], [port; 3], "all three on one queue");
            used[queue] += 1;
            bench.run();
        }
    }
    assert!(used.iter().all(|count| *count > 10), "{used:?}");
    // What has no ports goes where it always goes.
    bench.wire.borrow_mut().input.push_back(frame(mac(1), mac(99), 0x0806, &[7; 46]));
    bench.run();
    assert_eq!(a.received()[0], [7]);
}

/// Packets wait on a ring for the NIC, and are answered on the queue they came from.
#[test]
fn the_nic_answers_each_queue_its_own() {
    let mut bench = Bench::new();
    let mut a = Guest::new(&mut bench, 1, 2);
    bench.wire.borrow_mut().hold = true;
    for front in &mut a.queues {
        assert!(front.send(&plain(frame(mac(99), mac(1), 0x0800, &[5; 60]))));
        let _ = front.step();
    }
    bench.run();
    bench.wire.borrow_mut().hold = false;
    bench.run();
    for front in &mut a.queues {
        let _ = front.step();
        assert_eq!((front.in_flight(), front.errors), (0, 0));
    }
}

/// Queues full of nonsense beside a polite guest's: nobody else notices, and one broken ring ends the whole vif.
#[test]
fn a_hostile_guest_of_several_queues_hurts_nobody() {
    for seed in 0..20u64 {
        let mut bench = Bench::new();
        let (mut a, mut b) = (Guest::new(&mut bench, 1, 2), Guest::new(&mut bench, 2, 2));
        let pages = bench.machine.guest(3);
        let grants: Vec<GrantRef> = (0..4).map(|_| pages.grant(false)).collect();
        for (n, page) in grants.iter().enumerate() {
            let to = [mac(1), mac(2), mac(99), Mac::BROADCAST][n];
            pages.fill(*page, 0, &ip_packet(to, mac(3), n % 2 == 0, true, &[3; 1000]));
        }
        let rings: Vec<_> = (0..4).map(|_| (WordMemory::new(4096), WordMemory::new(4096))).collect();
        let hostile =
            |((tx, _), seed): (&(Memory, Memory), u64)| HostileFront::<_, Tx>::new(tx.clone(), seed, seed % 2 == 0);
        let mut hostile: Vec<_> = rings.iter().zip(seed * 4..).map(hostile).collect();
        if seed % 4 == 0 {
            use ring_proto::memory::RingMemory;
            rings[2].1.write(0, &[0x5a; 4096]);
        }
        let config = VifConfig { multicast_control: seed % 3 == 0, ..Bench::config(3, ALL) };
        let bad = bench.switch.open(rings, config).unwrap();
        for n in 0..100u8 {
            for front in &mut hostile {
                let _ = front.step(|rng| hostile_slot(rng, &grants));
            }
            let front = &mut a.queues[usize::from(n % 2)];
            assert!(front.send(&plain(frame(mac(2), mac(1), 0x0800, &[n; 60]))));
            let _ = front.step();
            bench.run();
            let _ = front.step();
            let got: Vec<_> = b
                .queues
                .iter_mut()
                .flat_map(|front| {
                    let _ = front.step();
                    front.received.drain(..).collect::<Vec<_>>()
                })
                .filter(|packet| packet.bytes[6..12] == mac(1).0)
                .collect();
            assert_eq!(got.iter().map(|packet| packet.bytes[14]).collect::<Vec<_>>(), [n], "seed {seed}");
        }
        assert!(bench.broken.iter().all(|id| *id == bad) && bench.broken.len() <= 1);
        assert!(a.queues.iter().all(|front| (front.errors, front.in_flight()) == (0, 0)));
        assert!(bench.switch.close(bad).is_some());
        bench.run();
        assert!(bench.switch.free_units() >= 2048 - 4 - 16, "no memory is lost");
    }
}

fn change(front: &mut Front<Memory, Tx>, kind: ExtraKind, address: Mac, id: u16) {
    let flags = TxFlags::default().with(TxFlags::EXTRA_INFO);
    let request = TxRequest { gref: GrantRef(0), offset: 0, flags, id, size: 0 };
    front.push(&request.into()).unwrap();
    front.push(&Extra { kind, flags: 0, body: address.0 }.into()).unwrap();
    let _ = front.publish();
}

/// Answers to real slots; those to extra slots are of no meaning.
fn answers(front: &mut Front<Memory, Tx>) -> Vec<(u16, Status)> {
    let all = std::iter::from_fn(|| front.pop().ok());
    all.filter(|answer| answer.status != Status::NULL).map(|answer| (answer.id, answer.status)).collect()
}

#[test]
fn a_guest_that_names_groups_gets_no_others() {
    for control in [true, false] {
        let mut bench = Bench::new();
        let mut a = Guest::new(&mut bench, 1, 1);
        let pages = bench.machine.guest(2);
        let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
        let (mut front, mut offers) =
            (Front::<_, Tx>::new(tx.clone()).unwrap(), Front::<_, Rx>::new(rx.clone()).unwrap());
        for id in 0..200 {
            offers.push(&RxRequest { id, pad: 0, gref: pages.grant(true) }).unwrap();
        }
        let _ = offers.publish();
        let config = VifConfig { multicast_control: control, ..Bench::config(2, ALL) };
        let id = bench.switch.open([(tx, rx)], config).unwrap();
        let mut arrives = |bench: &mut Bench, to: Mac| {
            let before = bench.switch.counters(id).unwrap().rx_packets;
            assert!(a.queues[0].send(&plain(frame(to, mac(1), 0x0800, &[1; 60]))));
            let _ = a.queues[0].step();
            bench.run();
            let _ = a.queues[0].step();
            bench.switch.counters(id).unwrap().rx_packets - before
        };
        let (one, two) = (Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 2]));
        let unnamed = u64::from(!control);
        assert_eq!((arrives(&mut bench, one), arrives(&mut bench, Mac::BROADCAST)), (unnamed, 1));
        change(&mut front, ExtraKind::MCAST_ADD, one, 1);
        bench.run();
        let taken = if control { Status::OKAY } else { Status::ERROR };
        assert_eq!(answers(&mut front), [(1, taken)]);
        assert_eq!((arrives(&mut bench, one), arrives(&mut bench, two)), (1, unnamed));
        assert_eq!(arrives(&mut bench, mac(2)), 1, "its own");
        change(&mut front, ExtraKind::MCAST_DEL, one, 2);
        // An address that is no group's, and more of them than there is room for.
        change(&mut front, ExtraKind::MCAST_ADD, mac(7), 3);
        bench.run();
        assert_eq!(answers(&mut front), [(2, taken), (3, Status::ERROR)]);
        assert_eq!(arrives(&mut bench, one), unnamed);
        for n in 0..65 {
            change(&mut front, ExtraKind::MCAST_ADD, Mac([1, 0, 0, 0, 1, n]), n.into());
            bench.run();
            let full = n == 64 || !control;
            assert_eq!(answers(&mut front), [(n.into(), if full { Status::ERROR } else { Status::OKAY })]);
        }
        assert!(bench.broken.is_empty());
    }
}
