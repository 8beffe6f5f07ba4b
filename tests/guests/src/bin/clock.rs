//! The clock: vcpu_info's time page, wall clock, system time against TSC and timers.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::domain_rt::arch::rdtsc;
use conformance_guests::domain_rt::probe::{self, peek};
use conformance_guests::ops::system_time;
use conformance_guests::{Test, guest};

guest!(run);

fn run(t: &mut Test) {
    let info = probe::vcpu_info();
    let version = peek(info + 32) as u32;
    t.yes("version is even and not 0", version != 0 && version & 1 == 0);
    let scale = peek(info + 56);
    t.yes("scale is not 0", scale as u32 != 0);
    t.yes("stamp is past", peek(info + 40) <= rdtsc());
    t.yes("time runs", peek(info + 48) != 0);
    // Monotonic, and at the rate the scale says.
    let mut last = system_time(info);
    let mut back = 0;
    for _ in 0..100_000 {
        let now = system_time(info);
        back += u32::from(now < last);
        last = now;
    }
    t.eq("steps back", back, 0);
    let (ns, ticks) = (system_time(info), rdtsc());
    while system_time(info) < ns + 50_000_000 {}
    let (ns, ticks) = (system_time(info) - ns, rdtsc() - ticks);
    let shift = (scale >> 32) as i8;
    let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
    let want = ((u128::from(shifted) * u128::from(scale as u32)) >> 32) as u64;
    t.yes("rate within 0.5 %", want.abs_diff(ns) < ns / 200);
    let wall = probe::shared_info() + 3072;
    let (version, sec) = (peek(wall) as u32, peek(wall) >> 32);
    t.yes("wall clock's version", version != 0 && version & 1 == 0);
    // 2020 to 2100.
    t.yes("wall clock's seconds", (1_577_836_800..4_102_444_800).contains(&sec));
    t.yes("wall clock's nanoseconds", (peek(wall + 8) as u32) < 1_000_000_000);
    t.eq("seconds' high half", peek(wall + 8) >> 32, 0);
}
