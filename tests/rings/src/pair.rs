//! Two pinned threads and the time they take.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::hint::spin_loop;
use std::sync::Barrier;
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

/// Runs both at once, each on a CPU of its own: nanoseconds until both are done, by `count`.
pub fn both<A: Send, B: Send>(count: u64, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (f64, A, B) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(1);
            start.wait();
            b()
        });
        let one = scope.spawn(|| {
            pin(0);
            start.wait();
            let began = Instant::now();
            (a(), began)
        });
        let (a, began) = one.join().expect("the first thread");
        let b = other.join().expect("the second thread");
        (began.elapsed().as_nanos() as f64 / count as f64, a, b)
    })
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
