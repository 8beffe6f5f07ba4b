//! Two vCPUs that compute. Virtual time is time in RUNSTATE_running: on one CPU two vCPUs share real time, their times in
//! all states add up to it, and as much work is done in a nanosecond of virtual time as by one vCPU alone. On the command
//! line `exact` has the work compared (under icount), and `speed-up` measures instead how much sooner the
//! two end the same work than one alone.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::VcpuId;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::vcpu::{RunstateInfo, VcpuGuestContext, VcpuOp};
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe::{self, ap_progress, call, work};
use conformance_guests::ops::{system_time, vcpu};
use conformance_guests::{Test, guest};

guest!(run);

const MS: u64 = 1_000_000;
/// How long both compute side by side, in system time.
const TOGETHER: u64 = 1000 * MS;
/// Times the speed-up is measured; the best counts.
const SITTINGS: u32 = 3;
/// System time that one vCPU alone needs in such a sitting.
const SITTING: u64 = 3000 * MS;

fn now() -> u64 {
    system_time(probe::vcpu_info())
}

fn second(op: VcpuOp) -> i64 {
    call(Hypercall::VCPU_OP, &[op.0.into(), 1, 0])
}

/// Times of a vCPU: running, runnable, blocked, offline; and when they were read. Again where the machine itself was
/// away between the two.
fn times(t: &mut Test, VcpuId(which): VcpuId) -> ([u64; 4], u64) {
    let mut info = RunstateInfo::default();
    for _ in 0..1000 {
        let before = now();
        t.ok("get_runstate_info", vcpu(VcpuOp::GET_RUNSTATE_INFO, which, &mut info));
        if now() - before < MS {
            break;
        }
    }
    (info.time, now())
}

fn run(t: &mut Test) {
    (0..2).for_each(|v| {
        call(Hypercall::VCPU_OP, &[VcpuOp::STOP_PERIODIC_TIMER.0.into(), v, 0]);
    });
    let mut context = VcpuGuestContext::default();
    probe::ap_context(&mut context, probe::mfn_of(t.info.pt_base.0).maddr().0);
    t.ok("initialise", vcpu(VcpuOp::INITIALISE, 1, &mut context));
    match t.info.cmdline() {
        b"speed-up" => speed_up(t),
        exact => virtual_time(t, exact == b"exact"),
    }
}

/// `exact`: a nanosecond is an instruction, so that work can be compared too.
fn virtual_time(t: &mut Test, exact: bool) {
    // Alone.
    let (before, _) = times(t, VcpuId(0));
    let start = now();
    let mut alone = 0u64;
    while now() - start < TOGETHER / 4 {
        work(10);
        alone += 10;
    }
    let (after, _) = times(t, VcpuId(0));
    let alone_time = after[0] - before[0];
    t.yes("alone it runs nearly always", alone_time > TOGETHER / 4 / 10 * 9);

    // Side by side on one CPU.
    let ((other, _), other_before) = (times(t, VcpuId(1)), ap_progress());
    let (before, began) = times(t, VcpuId(0));
    t.ok("up", second(VcpuOp::UP));
    let mut shared = 0u64;
    while now() - began < TOGETHER {
        work(10);
        shared += 10;
    }
    t.ok("down", second(VcpuOp::DOWN));
    let ((after, ended), (other_after, _)) = (times(t, VcpuId(0)), times(t, VcpuId(1)));
    let (real, virt, others) = (ended - began, after[0] - before[0], other_after[0] - other[0]);
    println!("compute: real {real} ns, virtual {virt} and {others} ns");
    let near = |a: u64, b: u64, permille: u64| a.abs_diff(b) <= b / 1000 * permille;
    t.yes("each runs about half of the time", virt > real / 3 && others > real / 3);
    t.yes("virtual times add up to real time", near(virt + others, real, 50));
    let all: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    t.yes("all states add up to real time", near(all, real, 10));
    t.yes("the rest it was runnable", near(after[1] - before[1], real - virt, 50));
    // Work per virtual time is the same: nothing else is counted as its own.
    let rate = |pieces: u64, time: u64| pieces * 1000 * MS / time.max(1);
    let (alone, shared, second) =
        (rate(alone, alone_time), rate(shared, virt), rate(ap_progress() - other_before, others));
    println!("compute: {alone} pieces a second alone, {shared} and {second} side by side");
    t.yes("as much work per virtual time as alone", !exact || near(shared, alone, 10));
    t.yes("and by the second vCPU", !exact || near(second, alone, 10));
}

/// One vCPU alone does twice what each of two does.
fn speed_up(t: &mut Test) {
    let start = now();
    let mut pieces = 0u64;
    while now() - start < SITTING / 10 {
        work(100);
        pieces += 100;
    }
    let half = pieces * 10 / 2;
    for _ in 0..SITTINGS {
        let start = now();
        work(2 * half);
        let alone = now() - start;
        t.ok("up", second(VcpuOp::UP));
        let ((one, start), (other, _)) = (times(t, VcpuId(0)), times(t, VcpuId(1)));
        let first = ap_progress();
        work(half);
        while ap_progress() - first < half {
            core::hint::spin_loop();
        }
        let ((one_after, end), (other_after, _)) = (times(t, VcpuId(0)), times(t, VcpuId(1)));
        let both = end - start;
        let running = one_after[0] - one[0] + other_after[0] - other[0];
        t.yes("both run all the time", running >= both * 2 / 10 * 9);
        t.ok("down", second(VcpuOp::DOWN));
        println!("compute: alone {} us, both {} us", alone / 1000, both / 1000);
    }
}
