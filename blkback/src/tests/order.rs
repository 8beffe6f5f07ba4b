//! What may pass what, step by step, on a disk that the test completes by hand.

use super::Grants;
use crate::medium::{Busy, Done, Geometry, Io, Medium, Token};
use crate::session::{Config, Extent, Session, limits};
use abi::{DomId, GrantRef};
use ring_proto::blk::*;
use ring_proto::ring::Front;
use ring_proto::words::WordMemory;
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

const GEOMETRY: Geometry =
    Geometry { sectors: 1000, physical_sector: 512, read_only: false, discard: true, maps: true, max_segments: 32 };

/// Holds what it is given until the test completes it.
struct Manual {
    started: Vec<(Token, String)>,
    room: usize,
}

impl Medium for Manual {
    fn geometry(&self) -> Geometry {
        GEOMETRY
    }
    fn submit(&mut self, token: Token, io: Io<'_>) -> Result<(), Busy> {
        let what = match io {
            Io::Transfer { direction: Direction::Read, sector, .. } => std::format!("read {sector}"),
            Io::Transfer { direction: Direction::Write, sector, .. } => std::format!("write {sector}"),
            Io::Flush => "flush".to_string(),
            Io::Discard { sector, .. } => std::format!("discard {sector}"),
        };
        self.room = self.room.checked_sub(1).ok_or(Busy)?;
        self.started.push((token, what));
        Ok(())
    }
    fn kick(&mut self) {}
    fn completed(&mut self) -> Option<Done> {
        None
    }
}

struct Bench {
    front: Front<Arc<WordMemory>, Blk>,
    session: Session<Arc<WordMemory>>,
    disk: Manual,
}

impl Bench {
    fn new() -> Self {
        let memory = WordMemory::new(4096);
        let front = Front::new(memory.clone()).unwrap();
        let extent = Extent { start: 100, sectors: 500 };
        let config = Config { peer: DomId(1), extent, limits: limits(&GEOMETRY, &extent, false), keep: 0 };
        let session = Session::new(memory, config, (0, 1)).unwrap();
        Self { front, session, disk: Manual { started: Vec::new(), room: 100 } }
    }

    fn ask(&mut self, id: u64, op: BlkOp) {
        let segment = Segment { grant: GrantRef(1), offset: 0, len: 512 };
        let data = !matches!(op, BlkOp::FLUSH_DISKCACHE | BlkOp::DISCARD);
        let request = match op {
            BlkOp::DISCARD => WireRequest::discard_of(id, id, 1),
            _ => WireRequest::transfer_of(op, id, id, if data { std::slice::from_ref(&segment) } else { &[] }).unwrap(),
        };
        self.front.push(&request).unwrap();
        let _ = self.front.publish();
        self.take();
    }

    fn take(&mut self) {
        self.session.take(&mut self.disk, &mut Grants::default()).unwrap();
    }

    /// What is with the disk, in the order it came there.
    fn started(&self) -> Vec<&str> {
        self.disk.started.iter().map(|(_, what)| what.as_str()).collect()
    }

    fn complete(&mut self, what: &str, success: bool) {
        let index = self.disk.started.iter().position(|(_, other)| other == what).expect("with the disk");
        let (token, _) = self.disk.started.remove(index);
        self.disk.room += 1;
        self.session.complete(Done { success, ..Done::of(token) });
        self.take();
        let _ = self.session.publish();
    }

    fn answers(&mut self) -> Vec<(u64, BlkStatus)> {
        std::iter::from_fn(|| self.front.pop().ok()).map(|answer| (answer.id, answer.status)).collect()
    }
}

const OKAY: BlkStatus = BlkStatus::OKAY;

#[test]
fn reads_and_writes_pass_each_other_and_are_offset() {
    let mut bench = Bench::new();
    bench.ask(1, BlkOp::WRITE);
    bench.ask(2, BlkOp::READ);
    bench.ask(3, BlkOp::DISCARD);
    assert_eq!(bench.started(), ["write 101", "read 102", "discard 103"]);
    bench.complete("read 102", true);
    bench.complete("discard 103", true);
    bench.complete("write 101", true);
    assert_eq!(bench.answers(), [(2, OKAY), (3, OKAY), (1, OKAY)]);
    assert_eq!(bench.session.in_flight(), 0);
}

#[test]
fn a_flush_waits_for_writes_and_holds_up_nobody_once_started() {
    let mut bench = Bench::new();
    bench.ask(1, BlkOp::WRITE);
    bench.ask(2, BlkOp::READ);
    bench.ask(3, BlkOp::FLUSH_DISKCACHE);
    bench.ask(4, BlkOp::WRITE);
    assert_eq!(bench.started(), ["write 101", "read 102"]);
    bench.complete("write 101", true);
    assert_eq!(bench.started(), ["read 102", "flush", "write 104"]);
    bench.complete("write 104", true);
    bench.complete("flush", true);
    bench.complete("read 102", true);
    assert_eq!(bench.answers(), [(1, OKAY), (4, OKAY), (3, OKAY), (2, OKAY)]);
}

#[test]
fn a_barrier_is_alone_and_durable() {
    let mut bench = Bench::new();
    bench.ask(1, BlkOp::WRITE);
    bench.ask(2, BlkOp::WRITE_BARRIER);
    bench.ask(3, BlkOp::WRITE);
    assert_eq!(bench.started(), ["write 101"]);
    bench.complete("write 101", true);
    assert_eq!(bench.started(), ["flush"]);
    bench.complete("flush", true);
    assert_eq!(bench.started(), ["write 102"]);
    bench.complete("write 102", true);
    assert_eq!(bench.started(), ["flush"]);
    assert_eq!(bench.answers(), [(1, OKAY)]);
    bench.complete("flush", true);
    assert_eq!(bench.started(), ["write 103"]);
    assert_eq!(bench.answers(), [(2, OKAY)]);
}

#[test]
fn a_barrier_that_fails_is_answered_so_and_lets_go() {
    for stage in 0..3 {
        let mut bench = Bench::new();
        bench.ask(2, BlkOp::WRITE_BARRIER);
        bench.ask(3, BlkOp::READ);
        for (index, what) in ["flush", "write 102", "flush"].into_iter().enumerate().take(stage + 1) {
            bench.complete(what, index != stage);
        }
        assert_eq!(bench.answers(), [(2, BlkStatus::ERROR)], "failed at stage {stage}");
        assert_eq!(bench.started(), ["read 103"]);
    }
}

#[test]
fn a_barrier_goes_on_when_the_disk_has_room_again() {
    let mut bench = Bench::new();
    bench.ask(2, BlkOp::WRITE_BARRIER);
    bench.ask(3, BlkOp::READ);
    bench.disk.room = 0;
    let (token, _) = bench.disk.started.remove(0);
    bench.session.complete(Done { success: true, ..Done::of(token) });
    bench.take();
    assert_eq!(bench.started(), [""; 0]);
    bench.disk.room = 1;
    bench.take();
    assert_eq!(bench.started(), ["write 102"]);
}

#[test]
fn a_full_disk_leaves_requests_on_the_ring() {
    let mut bench = Bench::new();
    bench.disk.room = 2;
    for id in 0..30 {
        bench.ask(id, BlkOp::READ);
    }
    assert_eq!((bench.started().len(), bench.session.in_flight()), (2, 3));
    for id in 0..30 {
        bench.complete(&std::format!("read {}", 100 + id), true);
    }
    assert_eq!(bench.answers().len(), 30);
}

#[test]
fn bad_requests_are_answered_at_once() {
    let mut bench = Bench::new();
    bench.ask(499, BlkOp::READ);
    bench.ask(500, BlkOp::READ);
    bench.ask(500, BlkOp::DISCARD);
    bench.ask(7, BlkOp(77));
    assert_eq!(bench.started(), ["read 599"]);
    let _ = bench.session.publish();
    let error = BlkStatus::ERROR;
    assert_eq!(bench.answers(), [(500, error), (500, error), (7, BlkStatus::EOPNOTSUPP)]);
    assert_eq!(bench.session.counters().errors, 3);
}
