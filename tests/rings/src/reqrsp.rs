//! Requests and responses, over rings as device classes have them: so many in flight, by polling or by events, on one
//! ring or several.

use crate::Set;
use crate::pair::{Line, both, least};
use domain_rt::page::HostPages;
use ring_proto::ring::{Back, Front, Half, RingClass, Side};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering::*};

/// Requests of one measurement.
const COUNT: u64 = 4_000;
/// Looks that find nothing before a half asks for an event: it polls while there is load.
const IDLE: u32 = 64;
/// Most that are in flight.
const MOST: usize = 32;
/// Most that are popped at a time.
const PIECE: usize = 8;

/// A class with requests of so many words, and responses of two at most.
struct Class<const REQUEST: usize, const RESPONSE: usize>;
impl<const REQUEST: usize, const RESPONSE: usize> RingClass for Class<REQUEST, RESPONSE> {
    type Request = [u64; REQUEST];
    type Response = [u64; RESPONSE];
}

// On lines of their own: the allocator would put both threads' halves side by side.
type Fronts<const Q: usize, const S: usize> = Vec<Line<Front<HostPages, Class<Q, S>>>>;
type Backs<const Q: usize, const S: usize> = Vec<Line<Back<HostPages, Class<Q, S>>>>;

/// A case: requests in flight on each ring, pages of a ring, rings, by events or not.
#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    pages: usize,
    queues: usize,
    events: bool,
}

impl Case {
    fn name(self, bytes: usize) -> String {
        let Case { batch, pages, queues, events } = self;
        let mut name = format!("rings/reqrsp_{bytes}_batch{batch}");
        if pages > 1 {
            name += &format!("_pages{pages}");
        }
        if queues > 1 {
            name += &format!("_queues{queues}");
        }
        if events {
            name += "_events";
        }
        name
    }
}

/// One case after the other.
pub fn run(set: Set) {
    let plain = |batch| Case { batch, pages: 1, queues: 1, events: false };
    let events = Case { events: true, ..plain(32) };
    match set {
        Set::Short => {
            [plain(1), plain(8), plain(32), events].into_iter().for_each(measure::<14, 2>);
            measure::<8, 2>(plain(32));
            measure::<14, 2>(Case { queues: 4, ..plain(32) });
        }
        Set::Full => {
            for batch in [1, 8, 32] {
                for (pages, queues) in [(1, 1), (4, 1), (16, 1), (1, 4)] {
                    for events in [false, true] {
                        let case = Case { batch, pages, queues, events };
                        measure::<1, 1>(case);
                        measure::<8, 2>(case);
                        measure::<14, 2>(case);
                    }
                }
            }
        }
    }
}

fn measure<const Q: usize, const S: usize>(case: Case) {
    let name = case.name(Q * 8);
    let events = AtomicU64::new(u64::MAX);
    let once = || {
        let (fronts, backs) = rings::<Q, S>(case);
        let [to_back, to_front] = [(); 2].map(|()| Line(AtomicU64::new(0)));
        let front = || front(fronts, case, &to_back.0, &to_front.0);
        let (ns, sent, answered) = both(COUNT, front, || back(backs, case, &to_back.0, &to_front.0));
        events.fetch_min(sent + answered, Relaxed);
        ns
    };
    println!("ROW {name} ring-proto {:.2}", least(once));
    if case.events {
        println!("NOTE {name}/notifications {:.4}", events.into_inner() as f64 / COUNT as f64);
    }
}

fn rings<const Q: usize, const S: usize>(case: Case) -> (Fronts<Q, S>, Backs<Q, S>) {
    let memories = (0..case.queues).map(|_| HostPages::new(case.pages));
    memories
        .map(|memory| {
            let front = Front::new(memory).expect("pages hold slots");
            (Line(front), Line(Back::attach(memory).expect("the same")))
        })
        .unzip()
}

/// Keeps `batch` requests in flight on each ring until all are answered; how many events it sent.
fn front<const Q: usize, const S: usize>(
    mut rings: Fronts<Q, S>,
    case: Case,
    wake: &AtomicU64,
    woken: &AtomicU64,
) -> u64 {
    let requests = [[7u64; Q]; MOST];
    let mut responses = [[0u64; S]; PIECE];
    let (mut left, mut sent, mut events, mut seen) = (COUNT, 0, 0, 0);
    let mut idle = 0;
    while left > 0 {
        idle += 1;
        for Line(ring) in &mut rings {
            loop {
                let flying = ring.sent().wrapping_sub(ring.taken()) as usize;
                let now = (case.batch - flying).min((COUNT - sent) as usize);
                sent += ring.push_many(&black_box(&requests)[..now]) as u64;
                let Ok(taken) = ring.pop_many(&mut responses) else { break };
                black_box(&responses);
                left -= taken as u64;
                idle = 0;
            }
            if ring.publish().needed() && case.events {
                events += 1;
                wake.store(events, Release);
            }
        }
        seen = rest(&mut rings, case, idle, woken, seen);
    }
    events
}

/// Answers until all requests are; how many events it sent.
fn back<const Q: usize, const S: usize>(
    mut rings: Backs<Q, S>,
    case: Case,
    woken: &AtomicU64,
    wake: &AtomicU64,
) -> u64 {
    let mut requests = [[0u64; Q]; PIECE];
    let responses = [[9u64; S]; PIECE];
    let (mut left, mut events, mut seen) = (COUNT, 0, 0);
    let mut idle = 0;
    while left > 0 {
        idle += 1;
        for Line(ring) in &mut rings {
            while let Ok(taken) = ring.pop_many(&mut requests) {
                black_box(&requests);
                ring.push_many(&black_box(&responses)[..taken]);
                left -= taken as u64;
                idle = 0;
            }
            if ring.publish().needed() && case.events {
                events += 1;
                wake.store(events, Release);
            }
        }
        seen = rest(&mut rings, case, idle, woken, seen);
    }
    events
}

/// What a half does when it has looked at every ring, `idle` times in turn without finding anything: polls on, or waits
/// for an event after `seen`; the last event it has seen.
fn rest<S: Side>(rings: &mut [Line<Half<HostPages, S>>], case: Case, idle: u32, woken: &AtomicU64, seen: u64) -> u64 {
    if idle > IDLE && case.events {
        if !rings.iter_mut().any(|ring| ring.0.final_check() == Ok(true)) {
            return next(woken, seen);
        }
    } else if idle > 0 {
        spin_loop();
    }
    seen
}

/// Sleeps, as far as threads of a benchmark do, until there is an event that was not seen yet.
fn next(events: &AtomicU64, seen: u64) -> u64 {
    loop {
        match events.load(Acquire) {
            now if now != seen => return now,
            _ => spin_loop(),
        }
    }
}

/// Without a second thread: batches of requests and responses in turn.
pub fn alone(name: &str, count: usize) -> bool {
    let Some((bytes, batch)) = name.strip_prefix("rings/reqrsp_").and_then(|rest| rest.split_once("_batch")) else {
        return false;
    };
    let batch = batch.parse().expect("a batch");
    match bytes {
        "8" => turns::<1, 1>(batch, count),
        "64" => turns::<8, 2>(batch, count),
        "112" => turns::<14, 2>(batch, count),
        _ => return false,
    }
    true
}

fn turns<const Q: usize, const S: usize>(batch: usize, count: usize) {
    let (mut fronts, mut backs) = rings::<Q, S>(Case { batch, pages: 1, queues: 1, events: false });
    let (Some(Line(front)), Some(Line(back))) = (fronts.first_mut(), backs.first_mut()) else { return };
    let (requests, responses) = ([[7u64; Q]; MOST], [[9u64; S]; MOST]);
    let (mut taken, mut answers) = ([[0u64; Q]; MOST], [[0u64; S]; MOST]);
    for _ in 0..count / batch {
        front.push_many(&black_box(&requests)[..batch]);
        let _ = front.publish();
        let now = back.pop_many(black_box(&mut taken)).expect("requests are there");
        back.push_many(&black_box(&responses)[..now]);
        let _ = back.publish();
        assert_eq!(front.pop_many(&mut black_box(&mut answers)[..batch]), Ok(batch));
    }
}
