//! Time: the TSC, calibrated once against ACPI's timer, and the local APIC's timer with it.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicI8, AtomicU32, AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use crate::apic;

/// ACPI's timer runs at this many Hz.
const PM_HZ: u64 = 3_579_545;
/// How long calibration takes, as a part of a second: 1/100.
const PART: u64 = 100;

/// The TSC when the core started; system time 0.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a tick, as guests compute it: `((ticks << shift) * mul) >> 32`.
static MUL: AtomicU32 = AtomicU32::new(0);
static SHIFT: AtomicI8 = AtomicI8::new(0);
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// APIC timer ticks a nanosecond, times 2^32.
static APIC_RATE: AtomicU64 = AtomicU64::new(0);
/// Wall-clock time at system time 0, in seconds since 1970.
static WALL: AtomicU64 = AtomicU64::new(0);

/// The TSC.
pub fn tsc() -> u64 {
    // SAFETY: reading the TSC has no effect on memory; CR4.TSD is clear.
    unsafe { _rdtsc() }
}

/// Notes when the core started.
pub fn start() {
    START.store(tsc(), Ordering::Relaxed);
}

/// Nanoseconds since the core started.
pub fn now() -> u64 {
    scale(tsc().wrapping_sub(START.load(Ordering::Relaxed)))
}

fn scale(ticks: u64) -> u64 {
    let shift = SHIFT.load(Ordering::Relaxed);
    let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
    ((u128::from(shifted) * u128::from(MUL.load(Ordering::Relaxed))) >> 32) as u64
}

/// `(tsc_to_system_mul, tsc_shift)` of `vcpu_time_info`.
pub fn guest_scale() -> (u32, i8) {
    (MUL.load(Ordering::Relaxed), SHIFT.load(Ordering::Relaxed))
}

/// The TSC's rate in Hz.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Wall-clock time at system time 0: seconds since 1970.
pub fn wall_clock() -> u64 {
    WALL.load(Ordering::Relaxed)
}

/// Measures the TSC and the APIC's timer against the reference for 10 ms, and reads the wall clock.
pub fn calibrate(pm_timer: Option<u16>) {
    apic::start_count();
    let Some(port) = pm_timer else { panic!("the machine has no ACPI timer") };
    let (tsc_hz, apic_hz) = against_pm_timer(port);
    apic::start_timer(0);
    TSC_HZ.store(tsc_hz, Ordering::Relaxed);
    // Nanoseconds a tick in 64 fractional bits, of which the multiplier is the first 32 from the highest that is set.
    let exact = (1_000_000_000u128 << 64) / u128::from(tsc_hz.max(1));
    let bits = exact.ilog2() + 1;
    MUL.store((exact >> (bits - 32)) as u32, Ordering::Relaxed);
    SHIFT.store(bits as i8 - 64, Ordering::Relaxed);
    APIC_RATE.store((u128::from(apic_hz) << 32).div_euclid(1_000_000_000) as u64, Ordering::Relaxed);
    WALL.store(cmos_time().saturating_sub(now() / 1_000_000_000), Ordering::Relaxed);
}

/// Counts TSC and APIC ticks a second while ACPI's timer, 24 bits wide, runs a part of one from edge to edge.
fn against_pm_timer(port: u16) -> (u64, u64) {
    const MASK: u64 = (1 << 24) - 1;
    // SAFETY: FADT names this port as the timer's; reading it has no effect.
    let reference = || u64::from(unsafe { Port::<u32>::new(port).read() }) & MASK;
    let edge = |from: u64| loop {
        let (now, tsc, apic) = (reference(), tsc(), apic::counted());
        if now != from {
            return (now, tsc, apic);
        }
    };
    let start = edge(edge(reference()).0);
    let (mut ticks, mut last) = (0, start);
    while ticks < PM_HZ / PART {
        let next = edge(last.0);
        ticks += next.0.wrapping_sub(last.0) & MASK;
        last = next;
    }
    let per_second = |counted: u64| (u128::from(counted) * u128::from(PM_HZ) / u128::from(ticks)) as u64;
    (per_second(last.1 - start.1), per_second(u64::from(last.2 - start.2)))
}

/// Asks this CPU's APIC for an interrupt at system time `deadline`; `u64::MAX` for none. Too far ahead for its counter,
/// it comes early, and is asked for again.
pub fn set_timer(deadline: u64) {
    if deadline == u64::MAX {
        return apic::start_timer(0);
    }
    let ahead = deadline.saturating_sub(now());
    let ticks = (u128::from(ahead) * u128::from(APIC_RATE.load(Ordering::Relaxed))) >> 32;
    apic::start_timer((ticks.min(u128::from(u32::MAX)) as u32).max(1));
}

/// The CMOS clock as seconds since 1970. The century is taken to be the 21st.
fn cmos_time() -> u64 {
    let register = |index: u8| {
        // SAFETY: index and data port of the CMOS clock; no domain is given them. Bit 7 clear leaves NMI on.
        unsafe {
            Port::<u8>::new(0x70).write(index);
            Port::<u8>::new(0x71).read()
        }
    };
    let fields = || [0, 2, 4, 7, 8, 9].map(register);
    let mut now = fields();
    loop {
        while register(0xa) & 0x80 != 0 {
            core::hint::spin_loop();
        }
        let again = fields();
        if again == now {
            break;
        }
        now = again;
    }
    let binary = register(0xb) & 4 != 0;
    let [second, minute, hour, day, month, year] =
        now.map(|v| u64::from(if binary { v } else { (v >> 4) * 10 + (v & 15) }));
    // Days since 1970-01-01, years counted from March (the usual civil-calendar formula).
    let (year, month) = if month > 2 { (2000 + year, month - 3) } else { (1999 + year, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}
