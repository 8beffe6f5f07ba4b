//! Two pinned threads and the time they take.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::thread;
use std::time::Instant;

/// A value on cache lines of its own (two: adjacent ones are fetched together).
#[repr(align(128))]
pub struct Line<T>(pub T);

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Where there is but one CPU, they share it.
    let _ = sched_setaffinity(None, &set);
}

/// Runs both at once, each on a CPU of its own: nanoseconds until both are done, by `count`. Threads start and end outside that
/// time, as waking one takes as long as a thousand entries.
pub fn both<A: Send, B: Send>(count: u64, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (f64, A, B) {
    let ready = AtomicU64::new(0);
    thread::scope(|scope| {
        let other = scope.spawn(|| timed(1, &ready, b));
        let one = scope.spawn(|| timed(0, &ready, a));
        let (a, began, ended) = one.join().expect("the first thread");
        let (b, _, last) = other.join().expect("the second thread");
        (ended.max(last).duration_since(began).as_nanos() as f64 / count as f64, a, b)
    })
}

/// Runs when both are ready, on that CPU: when it began and ended.
fn timed<T>(cpu: usize, ready: &AtomicU64, run: impl FnOnce() -> T) -> (T, Instant, Instant) {
    pin(cpu);
    ready.fetch_add(1, AcqRel);
    while ready.load(Acquire) < 2 {
        spin_loop();
    }
    let began = Instant::now();
    let result = run();
    (result, began, Instant::now())
}

/// The least of several measurements: what interrupts one only adds to it.
pub fn least(measure: impl Fn() -> f64) -> f64 {
    (0..7).map(|_| measure()).fold(f64::INFINITY, f64::min)
}

/// One cache line there and another back.
pub fn ping_pong() -> f64 {
    const TRIPS: u64 = 1000;
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let wait = |line: &Line<AtomicU64>, value| {
        while line.0.load(Acquire) != value {
            spin_loop();
        }
    };
    let there = || {
        for trip in 1..=TRIPS {
            ping.0.store(trip, Release);
            wait(&pong, trip);
        }
    };
    let back = || {
        for trip in 1..=TRIPS {
            wait(&ping, trip);
            pong.0.store(trip, Release);
        }
    };
    both(TRIPS, there, back).0
}
