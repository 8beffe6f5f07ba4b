//! A disk with a hostile guest's partition between nothing and a polite guest's, as a fuzz target: each request is
//! answered or refused, and nothing outside the partition is ever written.

use super::{Grants, contents, ram};
use crate::disk::{Disk, Outcome, SessionId};
use crate::medium::Medium;
use crate::ram::Ram;
use crate::session::{Config, Extent, limits};
use abi::{DomId, GrantRef};
use fuzz::{Choices, Tally, Target};
use ring_proto::blk::Blk;
use ring_proto::peers::Pages;
use ring_proto::peers::blk::hostile_request;
use ring_proto::peers::hostile::HostileFront;
use ring_proto::words::WordMemory;
use std::sync::Arc;
use std::vec::Vec;

type Memory = Arc<WordMemory>;
const SECTORS: u64 = 96;
/// The hostile guest's.
const EXTENT: Extent = Extent { start: 32, sectors: 32 };

struct World {
    grants: Grants,
    pages: Pages,
    granted: Vec<GrantRef>,
    disk: Disk<Ram<Grants>, Memory>,
    front: HostileFront<Memory, Blk>,
    id: SessionId,
    read_only: bool,
    scribbles: bool,
    counted: (u64, u64),
}

impl World {
    fn open(
        disk: &mut Disk<Ram<Grants>, Memory>,
        seed: u64,
        read_only: bool,
    ) -> (HostileFront<Memory, Blk>, SessionId) {
        let memory = WordMemory::new(4096);
        let front = HostileFront::new(memory.clone(), seed, seed.is_multiple_of(2));
        let limits = limits(&disk.medium().geometry(), &EXTENT, read_only);
        let config = Config { peer: DomId(2), extent: EXTENT, limits, keep: 0 };
        let id = disk.open(memory, config, false).expect("a session");
        (front, id)
    }

    fn check(&self) {
        let bytes = contents(self.disk.medium().memory());
        let (from, to) = (EXTENT.start as usize * 512, (EXTENT.start + EXTENT.sectors) as usize * 512);
        assert!(bytes[..from].iter().chain(&bytes[to..]).all(|byte| *byte == 0), "written beyond the partition");
        assert!(!self.read_only || bytes.iter().all(|byte| *byte == 0), "written, read-only as it is");
    }
}

impl Target for World {
    const NAME: &'static str = "blkback";
    const EPISODE: u64 = 400;
    const SUCCEED: u64 = 5;
    const REACHED: &'static [(&'static str, &'static str)] =
        &[("request", "ok"), ("request", "error"), ("ring", "corrupt")];

    fn new(c: &mut Choices<'_>) -> Self {
        let (grants, read_only, seed) = (Grants::default(), c.one_in(4), c.word());
        let pages = grants.guest(2);
        let granted: Vec<_> = (0..8).map(|n| pages.grant(n % 4 != 0)).collect();
        granted.iter().for_each(|page| pages.fill(*page, 0, &[0xee; 4096]));
        let mut disk = Disk::new(ram(&grants, SECTORS));
        let (front, id) = Self::open(&mut disk, seed, read_only);
        let scribbles = seed.is_multiple_of(2);
        Self { grants, pages, granted, disk, front, id, read_only, scribbles, counted: (0, 0) }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        // What was read may be a list of segments next time; and so may anything else.
        let page = self.granted[c.below(self.granted.len())];
        self.pages.fill(page, c.below(64) * 8, &c.edgy().to_le_bytes());
        let granted = &self.granted;
        let _ = self.front.step(|rng| hostile_request(rng, granted, EXTENT.sectors));
        let mut broken = false;
        self.disk.run(&mut self.grants, |outcome| broken |= matches!(outcome, Outcome::Corrupt(..)));
        if let Some(counters) = self.disk.counters(self.id) {
            let (requests, errors) = (counters.requests - self.counted.0, counters.errors - self.counted.1);
            (0..errors).for_each(|_| tally.note("request", "error"));
            (0..requests.saturating_sub(errors)).for_each(|_| tally.note("request", Tally::OK));
            self.counted = (counters.requests, counters.errors);
        }
        if broken {
            assert!(self.scribbles, "no index was scribbled over");
            tally.note("ring", "corrupt");
            self.disk.close(self.id);
            let seed = c.word();
            self.scribbles = seed.is_multiple_of(2);
            (self.front, self.id) = Self::open(&mut self.disk, seed, self.read_only);
            self.counted = (0, 0);
        }
        if c.one_in(64) {
            self.check();
        }
    }

    fn end(self) {
        self.check();
    }
}

#[test]
fn a_hostile_guest_and_its_partition() {
    fuzz::slice::<World>(20_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz blkback"]
fn campaign_blkback() {
    fuzz::campaign::<World>();
}
