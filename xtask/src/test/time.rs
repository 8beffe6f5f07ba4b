//! Time: virtual against real, the clocks' rates, what two CPUs are worth.

use super::e2e::{Case, Setting, expect_ending, expect_line};
use crate::build::{Part, built};
use crate::qemu::{Ending, Machine, Running};
use crate::run::log::number_before;
use anyhow::{Context, Result, ensure};
use std::hint::black_box;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[("virtual-time", virtual_time), ("clock-rates", clock_rates), ("two-cpus", two_cpus)];

/// What two CPUs may take of the time of one.
const SPEED_UP: f64 = 0.7;

/// A test guest as the initial domain.
fn alone(setting: &Setting<'_>, guest: &str, args: &str) -> Result<Machine> {
    let image = built(setting.place, Part::Guests, guest).with_context(|| format!("no guest {guest}"))?;
    Ok(setting.machine("dom0_max_vcpus=2", &format!("{} {args}", image.display())))
}

fn succeeds(mut running: Running) -> Result<()> {
    expect_line(&mut running, "SUCCESS")?;
    expect_ending(running, Ending::PowerOff)
}

/// A domain's virtual time is its time in RUNSTATE_running, to the last per cent, under contention.
fn virtual_time(setting: &Setting<'_>) -> Result<()> {
    let mut machine = alone(setting, "compute", "exact")?;
    machine.icount = true;
    succeeds(setting.start(&machine)?)
}

/// TSC and APIC timer keep pace with a clock that neither was calibrated against.
fn clock_rates(setting: &Setting<'_>) -> Result<()> {
    let mut machine = alone(setting, "rates", "")?;
    machine.icount = true;
    succeeds(setting.start(&machine)?)
}

/// Two vCPUs that compute end sooner on two CPUs than on one.
fn two_cpus(setting: &Setting<'_>) -> Result<()> {
    let machine = alone(setting, "compute", "speed-up")?;
    if machine.smp < 2 {
        return Ok(());
    }
    let mut running = setting.start(&machine)?;
    expect_line(&mut running, "SUCCESS")?;
    let sitting = |line: &str| {
        let said = line.split_once("compute: alone ")?.1;
        let (one, two) = said.split_once(", both ")?;
        Some(number_before(two, "us")? / number_before(one, "us")?)
    };
    let best = running.lines().iter().filter_map(|line| sitting(&line.text)).fold(f64::MAX, f64::min);
    expect_ending(running, Ending::PowerOff)?;
    if best > SPEED_UP {
        let host = (0..3).map(|_| host_speed_up()).fold(f64::MAX, f64::min);
        ensure!(host > SPEED_UP - 0.1, "two CPUs take {best:.2} of the time of one; two threads of the host {host:.2}");
        println!("       no verdict: this host has no two CPUs to spare, its own threads take {host:.2}");
    }
    Ok(())
}

/// What two threads take of the time of one, here and now.
fn host_speed_up() -> f64 {
    fn work(pieces: u64) {
        let mut state = pieces;
        (0..pieces).for_each(|_| state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
    }
    fn timed(f: impl FnOnce()) -> Duration {
        let start = Instant::now();
        f();
        start.elapsed()
    }
    const PIECES: u64 = 200_000_000;
    let one = timed(|| work(PIECES));
    let two = timed(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| work(PIECES / 2));
            work(PIECES / 2);
        });
    });
    two.as_secs_f64() / one.as_secs_f64()
}
