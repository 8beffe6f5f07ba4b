//! Grants that stay mapped, and several queues of one vbd.

use super::{FakeDevice, Grants};
use crate::counters::Counters;
use crate::disk::{Disk, Outcome, SessionId};
use crate::kept::{Kept, MOST, Page};
use crate::session::{Config, Extent, limits};
use crate::virtio::VirtioDisk;
use abi::{DomId, GrantRef};
use ring_proto::blk::Blk;
use ring_proto::peers::blk::{PoliteFront, hostile_request};
use ring_proto::peers::hostile::HostileFront;
use ring_proto::words::WordMemory;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::vec::Vec;

const SECTORS: u64 = 8192;

struct Bench {
    grants: Grants,
    disk: Disk<VirtioDisk<FakeDevice>, Arc<WordMemory>>,
    contents: Rc<RefCell<Vec<u8>>>,
    /// Pages mapped for the device now.
    mapped: Rc<RefCell<usize>>,
    broken: Vec<SessionId>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let grants = Grants::default();
        let device = FakeDevice::new(grants.clone(), std::vec![0; SECTORS as usize * 512], 64, seed);
        let (contents, mapped, geometry) = (device.disk.clone(), device.mapped.clone(), device.geometry());
        let disk = Disk::new(VirtioDisk::new(device, geometry, true, 16));
        Self { grants, disk, contents, mapped, broken: Vec::new() }
    }

    fn config(&self, peer: u16, extent: Extent, keep: u16) -> Config {
        let geometry = crate::medium::Medium::geometry(self.disk.medium());
        Config { peer: DomId(peer), extent, limits: limits(&geometry, &extent, false), keep }
    }

    /// A vbd with so many queues.
    fn open(&mut self, config: Config, queues: usize) -> (Vec<Arc<WordMemory>>, Vec<SessionId>) {
        let rings: Vec<_> = (0..queues).map(|_| WordMemory::new(4096)).collect();
        let mut ids = std::vec![self.disk.open(rings[0].clone(), config, false).unwrap()];
        for ring in &rings[1..] {
            ids.push(self.disk.open_queue(ring.clone(), ids[0]).unwrap());
        }
        (rings, ids)
    }

    /// Lets a polite guest have `count` answers.
    fn serve(&mut self, front: &mut PoliteFront<Arc<WordMemory>>, count: u64, mut meanwhile: impl FnMut()) {
        let until = front.answered + count;
        while front.answered < until || front.in_flight() > 0 {
            let _ = front.step(front.answered < until);
            meanwhile();
            self.run();
        }
    }

    fn run(&mut self) {
        self.disk.medium_mut().device_mut().budget += 5;
        let broken = &mut self.broken;
        self.disk.run(&mut self.grants, |outcome| {
            if let Outcome::Corrupt(id, _) = outcome {
                broken.push(id);
            }
        });
    }

    fn counters(&self, ids: &[SessionId]) -> Counters {
        ids.iter().map(|id| *self.disk.counters(*id).unwrap()).sum()
    }
}

const WHOLE: Extent = Extent { start: 0, sectors: SECTORS };

#[test]
fn a_guest_finds_its_data_by_every_way_there_is() {
    for (queues, keep) in [(1, 0), (1, MOST), (4, 0), (4, MOST), (2, 7)] {
        let mut bench = Bench::new(9);
        let pages = bench.grants.guest(1);
        let config = bench.config(1, WHOLE, keep);
        let (rings, ids) = bench.open(config, queues);
        let empty = std::vec![0; SECTORS as usize * 512];
        let front = PoliteFront::with_queues(rings, pages, empty, config.limits, 3);
        let mut front = if keep > 0 { front.persistent() } else { front };
        bench.serve(&mut front, 3000, || {});
        assert!(*bench.contents.borrow() == front.disk(), "{queues} queues, {keep} kept");
        let done = bench.counters(&ids);
        assert_eq!((done.requests, done.errors), (front.answered, 0));
        assert_eq!(done.pages_mapped, bench.grants.1.borrow().mapped, "what was counted was done");
        for id in &ids {
            assert!(bench.disk.counters(*id).unwrap().requests > 300, "every queue is served");
        }
        let left = *bench.mapped.borrow();
        match keep {
            0 => assert_eq!((left, done.pages_kept), (0, 0)),
            7 => assert!(left <= 14 && done.pages_kept < done.pages_mapped, "a small bound is kept: {left}"),
            _ => assert!(left > 0 && done.pages_kept > 10 * done.pages_mapped, "{done:?}"),
        }
        assert!(left <= usize::from(keep) * queues);
        for id in ids {
            assert!(bench.disk.close(id).is_some());
        }
        assert_eq!(*bench.mapped.borrow(), 0, "nothing stays mapped for a guest that is gone");
    }
}

/// Three queues of a guest that says its grants stay, and does with them what it likes, beside a polite guest.
#[test]
fn a_hostile_guest_keeps_no_more_than_its_bound_and_hurts_nobody() {
    for seed in 0..12 {
        let mut bench = Bench::new(seed);
        let (pages, bad_pages) = (bench.grants.guest(1), bench.grants.guest(2));
        let good = bench.config(1, Extent { start: 0, sectors: 2048 }, MOST);
        let bad = bench.config(2, Extent { start: 2048, sectors: 2048 }, 10);
        let (rings, _) = bench.open(good, 2);
        let mut front = PoliteFront::with_queues(rings, pages.clone(), std::vec![0; 2048 * 512], good.limits, seed);
        front = front.persistent();
        let (rings, ids) = bench.open(bad, 3);
        let scribbles = seed % 2 == 0;
        let mut hostile: Vec<_> = rings
            .into_iter()
            .zip(seed * 3..)
            .map(|(ring, seed)| HostileFront::<_, Blk>::new(ring, seed, scribbles))
            .collect();
        // More grants than may stay; some are read-only, and every few requests one ends or is another page.
        let mut grants: Vec<GrantRef> = (0..40).map(|n| bad_pages.grant(n % 4 != 0)).collect();
        let mut turn = 0;
        for _ in 0..30 {
            bench.serve(&mut front, 20, || {
                for queue in &mut hostile {
                    let _ = queue.step(|rng| hostile_request(rng, &grants, 2048));
                }
                turn += 1;
                let index = turn % grants.len();
                bad_pages.revoke(grants[index]);
                grants[index] = bad_pages.grant(turn % 3 != 0);
            });
            let (all, polite) = (*bench.mapped.borrow(), pages.count());
            // Its bound on each queue, and what is in flight: 16 requests of 62 pages at most.
            assert!(all <= polite + 3 * 10 + 16 * 62, "{all} mapped");
        }
        assert!(bench.broken.iter().all(|id| ids.contains(id)), "{:?}", bench.broken);
        for id in ids {
            bench.disk.close(id);
        }
        (0..50).for_each(|_| bench.run());
        assert!(*bench.mapped.borrow() <= pages.count(), "all of the hostile guest's are gone");
        assert!(bench.contents.borrow()[..2048 * 512] == *front.disk());
    }
}

#[test]
fn the_longest_unused_go_first_and_none_in_use() {
    let (mut kept, mut released) = (Kept::default(), Vec::new());
    let mut in_use = Vec::new();
    for number in 0..32 {
        let page = kept.keep(GrantRef(number), number, 32, &mut released);
        assert!(matches!(page, Page::Kept(_)));
        if number < 4 {
            in_use.push(page);
        }
    }
    assert!(kept.find(GrantRef(4)).is_some_and(|page| *page == 4) && released.is_empty());
    // 0 to 3 are in use, 4 was just used: two of 32 go at a time.
    assert!(kept.keep(GrantRef(100), 100, 32, &mut released).release().is_none());
    assert_eq!(released, [5, 6]);
    assert!(kept.find(GrantRef(5)).is_none() && kept.len() == 31);
    // One grant twice in a batch is mapped twice, and once only for good.
    assert_eq!(kept.keep(GrantRef(100), 101, 32, &mut released).release(), Some(101));
    released.clear();
    kept.clear(&mut released);
    assert_eq!((released.len(), kept.len()), (31 - 4, 0));
    assert_eq!(in_use.into_iter().filter_map(Page::release).collect::<Vec<_>>(), [0, 1, 2, 3]);
    // All in use: what is new is the request's alone.
    let busy: Vec<_> = (0..8).map(|number| kept.keep(GrantRef(number), number, 8, &mut released)).collect();
    assert!(matches!(kept.keep(GrantRef(9), 9, 8, &mut released), Page::Own(9)));
    assert_eq!((busy.len(), kept.len()), (8, 8));
}
