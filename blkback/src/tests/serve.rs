//! Whole disks: polite guests find their data, hostile ones hurt nobody.

use super::{FakeDevice, Grants, contents, ram};
use crate::counters::Counters;
use crate::disk::{Disk, OpenError, Outcome, SessionId};
use crate::medium::{Geometry, Medium};
use crate::session::{Config, Extent, limits};
use crate::virtio::VirtioDisk;
use abi::DomId;
use ring_proto::blk::Blk;
use ring_proto::peers::blk::{PoliteFront, hostile_request};
use ring_proto::peers::hostile::HostileFront;
use ring_proto::words::WordMemory;
use std::sync::Arc;
use std::vec::Vec;

const SECTORS: u64 = 8192;

fn config(geometry: &Geometry, peer: u16, extent: Extent, read_only: bool) -> Config {
    Config { peer: DomId(peer), extent, limits: limits(geometry, &extent, read_only), keep: 0 }
}

/// A disk and its only session.
type Served<D> = (Disk<D, Arc<WordMemory>>, SessionId);

/// What the only session of a disk has done.
fn counters_of<D: Medium>((disk, id): &Served<D>) -> Counters {
    *disk.counters(*id).unwrap()
}

/// One polite guest on `medium`, until it has had many answers. Returns its idea of the disk.
fn one_guest<D: Medium>(medium: D, grants: &Grants, mut between: impl FnMut(&mut D)) -> (Vec<u8>, Served<D>) {
    let pages = grants.guest(1);
    let memory = WordMemory::new(4096);
    let extent = Extent { start: 0, sectors: SECTORS };
    let config = config(&medium.geometry(), 1, extent, false);
    let empty = std::vec![0; SECTORS as usize * 512];
    let mut front = PoliteFront::new(memory.clone(), pages.clone(), empty, config.limits, 3);
    let mut disk = Disk::new(medium);
    let id = disk.open(memory, config, false).unwrap();
    let mut notified = true;
    let mut grants = grants.clone();
    while front.answered < 3000 || front.in_flight() > 0 {
        assert!(notified || disk.busy() || front.in_flight() == 0, "an answer was not announced");
        let _ = front.step(front.answered < 3000);
        between(disk.medium_mut());
        notified = false;
        disk.run(&mut grants, |outcome| {
            assert_eq!(outcome, Outcome::Notify(id));
            notified = true;
        });
    }
    let counters = disk.counters(id).unwrap();
    assert_eq!((counters.requests, counters.errors), (front.answered, 0));
    let work = *grants.1.borrow();
    assert_eq!((counters.bytes_copied, counters.list_bytes), (work.copied, work.lists), "what was counted was done");
    assert!(counters.list_bytes > 0, "some of it was indirect");
    assert!(counters.bytes_read > 0 && counters.bytes_written > 0 && counters.flushes > 0);
    assert!(counters.notifications <= counters.requests);
    assert_eq!(pages.count(), 0);
    (front.disk().to_vec(), (disk, id))
}

#[test]
fn a_guest_finds_its_data_on_a_ram_disk() {
    let grants = Grants::default();
    let (expected, disk) = one_guest(ram(&grants, SECTORS), &grants, |_| {});
    assert!(contents(disk.0.medium().memory()) == expected);
    assert!(disk.0.medium().hypercalls() < 2000, "copies go in batches");
    let (work, counters) = (*grants.1.borrow(), counters_of(&disk));
    assert_eq!(work.copied, counters.bytes_read + counters.bytes_written, "each byte once");
    assert_eq!(work.mapped, 0);
}

#[test]
fn a_guest_finds_its_data_on_a_virtio_disk() {
    let grants = Grants::default();
    let device = FakeDevice::new(grants.clone(), std::vec![0; SECTORS as usize * 512], 64, 9);
    let (contents, mapped, geometry) = (device.disk.clone(), device.mapped.clone(), device.geometry());
    let medium = VirtioDisk::new(device, geometry, true, 16);
    // The interrupt: more completions.
    let (expected, disk) = one_guest(medium, &grants, |medium| medium.device_mut().budget += 5);
    assert!(*contents.borrow() == expected);
    assert_eq!(*mapped.borrow(), 0, "nothing of the guest stays mapped");
    assert!(disk.0.medium().hypercalls() < 2 * 3000, "mapped in batches");
    let (work, counters) = (*grants.1.borrow(), counters_of(&disk));
    assert_eq!((work.copied, counters.bytes_copied), (0, 0), "no byte of the data");
    assert!(work.mapped >= (counters.bytes_read + counters.bytes_written) / 4096);
}

/// A hostile guest with a partition between two polite ones: they notice nothing, and their sectors stay theirs.
fn neighbours<D: Medium>(make: impl Fn(&Grants, u64) -> D, mut between: impl FnMut(&mut D)) {
    for seed in 0..12u64 {
        let mut grants = Grants::default();
        let (polite_pages, hostile_pages) = (grants.guest(1), grants.guest(2));
        let hostile_grants: Vec<_> = (0..8).map(|n| hostile_pages.grant(n % 2 == 0)).collect();
        let mut disk = Disk::new(make(&grants, seed));
        let geometry = disk.medium().geometry();
        let polite_extent = Extent { start: 0, sectors: 2048 };
        let hostile_extent = Extent { start: 2048, sectors: 2048 };
        let (a, b) = (WordMemory::new(4096), WordMemory::new(4096));
        let empty = std::vec![0; 2048 * 512];
        let (good, bad) =
            (config(&geometry, 1, polite_extent, false), config(&geometry, 2, hostile_extent, seed % 3 == 0));
        let mut polite = PoliteFront::new(a.clone(), polite_pages, empty, good.limits, seed);
        let mut hostile = HostileFront::<_, Blk>::new(b.clone(), seed, seed % 2 == 0);
        disk.open(a, good, false).unwrap();
        let bad = disk.open(b, bad, false).unwrap();
        let mut broken = false;
        while polite.answered < 300 || polite.in_flight() > 0 {
            let _ = polite.step(polite.answered < 300);
            let _ = hostile.step(|rng| hostile_request(rng, &hostile_grants, 2048));
            between(disk.medium_mut());
            disk.run(&mut grants, |outcome| match outcome {
                Outcome::Notify(_) => {}
                Outcome::Corrupt(id, _) => {
                    assert!(id == bad && seed % 2 == 0 && !broken);
                    broken = true;
                }
            });
            if broken && disk.counters(bad).is_some() {
                assert!(disk.close(bad).is_some() && disk.close(bad).is_none());
            }
        }
    }
}

#[test]
fn a_hostile_guest_hurts_nobody_on_a_ram_disk() {
    neighbours(|grants, _| ram(grants, SECTORS), |_| {});
}

#[test]
fn a_hostile_guest_hurts_nobody_on_a_virtio_disk() {
    let make = |grants: &Grants, seed| {
        let device = FakeDevice::new(grants.clone(), std::vec![0; SECTORS as usize * 512], 64, seed);
        let geometry = device.geometry();
        VirtioDisk::new(device, geometry, true, 16)
    };
    neighbours(make, |medium| medium.device_mut().budget += 5);
}

#[test]
fn a_read_only_vbd_is_never_written_nor_a_partition_left() {
    for read_only in [true, false] {
        let mut grants = Grants::default();
        let pages = grants.guest(2);
        let writable: Vec<_> = (0..8).map(|_| pages.grant(true)).collect();
        let mut disk = Disk::new(ram(&grants, SECTORS));
        let memory = WordMemory::new(4096);
        let mut hostile = HostileFront::<_, Blk>::new(memory.clone(), 77, false);
        let extent = Extent { start: 1000, sectors: 1000 };
        disk.open(memory, config(&disk.medium().geometry(), 2, extent, read_only), false).unwrap();
        for _ in 0..1000 {
            writable.iter().for_each(|page| pages.fill(*page, 0, &[0xee; 4096]));
            let _ = hostile.step(|rng| hostile_request(rng, &writable, 1000));
            disk.run(&mut grants, |_| {});
        }
        let bytes = contents(disk.medium().memory());
        let (inside, outside) = (&bytes[1000 * 512..2000 * 512], [&bytes[..1000 * 512], &bytes[2000 * 512..]]);
        assert!(outside.iter().all(|part| part.iter().all(|byte| *byte == 0)));
        assert_eq!(inside.iter().all(|byte| *byte == 0), read_only);
    }
}

#[test]
fn sectors_are_shared_only_by_readers_or_by_will() {
    let grants = Grants::default();
    let mut disk = Disk::<_, Arc<WordMemory>>::new(ram(&grants, SECTORS));
    let mut open = |start, sectors, read_only, shared| {
        let config = config(&disk.medium().geometry(), 1, Extent { start, sectors }, read_only);
        disk.open(WordMemory::new(4096), config, shared)
    };
    let first = open(0, 100, false, false).unwrap();
    open(200, 100, true, false).unwrap();
    assert_eq!(open(99, 10, true, false), Err(OpenError::InUse));
    assert_eq!(open(299, 10, false, false), Err(OpenError::InUse));
    assert!(open(299, 10, true, false).is_ok());
    assert!(open(100, 100, false, false).is_ok());
    assert!(open(0, 100, false, true).is_ok());
    assert_eq!(open(SECTORS - 1, 2, true, false), Err(OpenError::Beyond));
    assert_eq!(open(u64::MAX, 2, true, false), Err(OpenError::Beyond));
    let one = config(&disk.medium().geometry(), 1, Extent { start: 4000, sectors: 1 }, true);
    let small = disk.open(WordMemory::new(96), one, false);
    assert!(matches!(small, Err(OpenError::Ring(_))));
    assert!(disk.close(first).is_some());
}

#[test]
fn a_closed_session_gets_no_answer_and_its_place_no_stale_ones() {
    let grants = Grants::default();
    let pages = grants.guest(1);
    let device = FakeDevice::new(grants.clone(), std::vec![0; SECTORS as usize * 512], 64, 4);
    let (mapped, geometry) = (device.mapped.clone(), device.geometry());
    let mut disk = Disk::new(VirtioDisk::new(device, geometry, true, 16));
    let extent = Extent { start: 0, sectors: SECTORS };
    let config = config(&geometry, 1, extent, true);
    for round in 0..20 {
        let memory = WordMemory::new(4096);
        let empty = std::vec![0; SECTORS as usize * 512];
        let mut front = PoliteFront::new(memory.clone(), pages.clone(), empty, config.limits, round);
        let id = disk.open(memory, config, false).unwrap();
        for _ in 0..3 {
            let _ = front.step(true);
            disk.run(&mut grants.clone(), |outcome| assert_eq!(outcome, Outcome::Notify(id)));
        }
        assert!(disk.close(id).is_some() && disk.counters(id).is_none());
    }
    for _ in 0..100 {
        disk.medium_mut().device_mut().budget = 5;
        disk.run(&mut grants.clone(), |_| panic!("nobody is left"));
    }
    assert_eq!(*mapped.borrow(), 0);
}
