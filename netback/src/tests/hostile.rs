//! The switch between a hostile guest, a polite one and the NIC, as a fuzz target: what the hostile one sends is taken or
//! refused, nothing leaves its bounds (the test's machine looks), its neighbour's packets arrive, and no memory is lost.

use super::switch::{ALL, Bench, plain};
use super::{frame, mac};
use crate::switch::VifId;
use abi::GrantRef;
use fuzz::{Choices, Tally, Target};
use ring_proto::net::*;
use ring_proto::peers::hostile::HostileFront;
use ring_proto::peers::net::{PoliteFront, hostile_slot};
use ring_proto::peers::{Pages, Rng};
use ring_proto::words::WordMemory;
use std::sync::Arc;
use std::vec::Vec;

type Memory = Arc<WordMemory>;

struct World {
    bench: Bench,
    polite: PoliteFront<Memory>,
    pages: Pages,
    grants: Vec<GrantRef>,
    hostile: HostileFront<Memory, Tx>,
    /// What the hostile guest offers for reception.
    offers: HostileFront<Memory, Rx>,
    id: VifId,
    counted: (u64, u64),
    seed: u64,
}

impl World {
    fn join(bench: &mut Bench, seed: u64) -> (HostileFront<Memory, Tx>, HostileFront<Memory, Rx>, VifId) {
        let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
        let hostile = HostileFront::new(tx.clone(), seed, seed.is_multiple_of(2));
        let offers = HostileFront::new(rx.clone(), seed + 1, seed.is_multiple_of(4));
        let id = bench.switch.open([(tx, rx)], Bench::config(2, ALL)).expect("room for a vif");
        (hostile, offers, id)
    }
}

impl Target for World {
    const NAME: &'static str = "netback";
    const EPISODE: u64 = 400;
    const SUCCEED: u64 = 5;
    const REACHED: &'static [(&'static str, &'static str)] =
        &[("packet", "ok"), ("packet", "refused"), ("ring", "corrupt"), ("neighbour", "ok")];

    fn new(c: &mut Choices<'_>) -> Self {
        let seed = c.word() >> 8;
        let mut bench = Bench::new();
        let (polite_pages, pages) = (bench.machine.guest(1), bench.machine.guest(2));
        let (tx, rx) = (WordMemory::new(4096), WordMemory::new(4096));
        let mut polite = PoliteFront::new(tx.clone(), rx.clone(), polite_pages, seed);
        let _ = polite.step();
        bench.switch.open([(tx, rx)], Bench::config(1, ALL)).unwrap();
        let grants = (0..8).map(|n| pages.grant(n % 2 == 0)).collect();
        let (hostile, offers, id) = Self::join(&mut bench, seed);
        Self { bench, polite, pages, grants, hostile, offers, id, counted: (0, 0), seed }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        // Its pages begin as packets do, to its neighbour or to the NIC.
        let to = [mac(1), mac(99), Mac([0xff; 6])][c.below(3)];
        let page = self.grants[c.below(self.grants.len())];
        let header = frame(to, mac(2), [0x0800, 0x86dd, 0x1234][c.below(3)], &[]);
        self.pages.fill(page, 0, &header);
        self.pages.fill(page, 14 + c.below(60), &[c.byte()]);
        let grants = &self.grants;
        let _ = self.hostile.step(|rng| hostile_slot(rng, grants));
        let offer =
            |rng: &mut Rng| RxRequest { id: rng.edgy(), pad: 0, gref: grants[rng.below(grants.len() as u64) as usize] };
        let _ = self.offers.step(offer);
        self.bench.run();
        self.bench.wire.borrow_mut().out.clear();
        if let Some(counters) = self.bench.switch.counters(self.id) {
            let (sent, refused) = (counters.tx_packets + counters.tx_dropped, counters.tx_errors);
            (0..sent - self.counted.0).for_each(|_| tally.note("packet", Tally::OK));
            (0..refused - self.counted.1).for_each(|_| tally.note("packet", "refused"));
            self.counted = (sent, refused);
        }
        if let Some(broken) = self.bench.broken.pop() {
            assert_eq!(broken, self.id, "who is polite stays whole");
            assert!(self.seed.is_multiple_of(2), "it did not scribble");
            self.bench.switch.close(self.id);
            tally.note("ring", "corrupt");
            self.seed = c.word() >> 8;
            (self.hostile, self.offers, self.id) = Self::join(&mut self.bench, self.seed);
            self.counted = (0, 0);
        }
        if c.one_in(32) {
            // The neighbour sends to everybody, the NIC among them. (To one address it might be the hostile guest that
            // gets it: who sends from an address that the toolstack gave to nobody is where that address is.)
            let packet = plain(frame(Mac([0xff; 6]), mac(1), 0x0800, &[7; 100]));
            assert!(self.polite.send(&packet));
            let _ = self.polite.step();
            self.bench.run();
            assert!(self.bench.wire.borrow().out.iter().any(|(bytes, _)| *bytes == packet.bytes), "its packet is lost");
            let _ = self.polite.step();
            self.polite.received.clear();
            tally.note("neighbour", Tally::OK);
        }
    }

    fn end(mut self) {
        self.bench.run();
        let _ = self.polite.step();
        assert_eq!(self.polite.errors, 0);
    }
}

#[test]
fn a_hostile_guest_beside_a_polite_one() {
    fuzz::slice::<World>(20_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz netback"]
fn campaign_netback() {
    fuzz::campaign::<World>();
}
