//! Tests of timers, time pages and runstates.

use core::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;

use abi::hypercall::Hypercall;
use abi::sched::{SchedOp, Watchdog};
use abi::vcpu::{RegisterArea, RunstateInfo, SetPeriodicTimer, SetSingleshotTimer, VcpuOp, VcpuTimeInfo};
use abi::{Errno, Port, VcpuId, Virq};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::NEVER;
use crate::cpu::pending;
use crate::event::layout;
use crate::sched::sim::Sim;
use crate::testing::{self, Guest, TestCore, TestMachine};
use crate::{Platform, Privilege, Stage, Vcpu, guest};

const MS: u64 = 1_000_000;

/// Takes VIRQ_TIMER's pending bit, and all that announces it.
fn ticked(core: &TestCore, vcpu: &Vcpu<TestMachine>, port: Port) -> bool {
    let domain = vcpu.domain.upgrade().unwrap();
    let bit = 1 << port.0;
    let (frame, at) = vcpu.info.get();
    let clear = |frame, at, bits: u64| guest::shared_word(&core.platform, frame, at).fetch_and(!bits, SeqCst);
    clear(frame, at + layout::SELECTOR, u64::MAX);
    clear(frame, at + layout::UPCALL, layout::UPCALL_PENDING);
    clear(domain.shared_info, layout::PENDING, bit) & bit != 0
}

fn now(core: &TestCore) -> u64 {
    core.platform.clock.load(SeqCst)
}

#[test]
fn a_single_shot_timer_fires_once_whether_its_vcpu_runs_waits_or_moved() {
    let mut sim = Sim::new(2);
    let domain = sim.domain(1);
    let vcpu = domain.vcpus[0].clone();
    let port = sim.core.bind_virq(&domain, Virq::TIMER, VcpuId(0)).unwrap();
    sim.settle();
    for round in 0..3 {
        let cpu = sim.runs_on(&vcpu).unwrap().0 as usize;
        let start = now(&sim.core);
        sim.on(cpu).core.set_timer(&sim.core.cpus[cpu], &vcpu.time.singleshot, start + 5 * MS);
        assert_eq!(sim.core.platform.deadline.load(SeqCst), start + 5 * MS);
        match round {
            0 => {}
            1 => sim.block(&vcpu),
            _ => {
                sim.core.set_affinity(&vcpu, crate::CpuSet::of(crate::CpuId(1 - cpu as u32))).unwrap();
                sim.settle();
                assert_eq!(sim.runs_on(&vcpu).unwrap().0 as usize, 1 - cpu);
            }
        }
        sim.pass(4 * MS, MS);
        assert!(!ticked(&sim.core, &vcpu, port), "round {round}: too early");
        sim.pass(2 * MS, MS);
        assert!(ticked(&sim.core, &vcpu, port), "round {round}: lost");
        assert!(sim.runs_on(&vcpu).is_some());
        sim.pass(20 * MS, MS);
        assert!(!ticked(&sim.core, &vcpu, port), "round {round}: twice");
    }
    assert!(sim.core.cpus.iter().all(|cpu| cpu.timers.is_empty()));
}

#[test]
fn a_vcpu_is_on_one_timer_queue_at_most_and_on_none_while_it_runs() {
    let mut sim = Sim::new(2);
    let domain = sim.domain(1);
    let vcpu = domain.vcpus[0].clone();
    sim.settle();
    let cpu = sim.runs_on(&vcpu).unwrap().0 as usize;
    sim.on(cpu).core.set_timer(&sim.core.cpus[cpu], &vcpu.time.singleshot, now(&sim.core) + 1000 * MS);
    let parked = |sim: &Sim| sim.core.cpus.iter().filter(|cpu| !cpu.timers.is_empty()).count();
    for round in 0..4 {
        sim.block(&vcpu);
        assert_eq!(parked(&sim), 1);
        sim.core.set_affinity(&vcpu, crate::CpuSet::of(crate::CpuId(round % 2))).unwrap();
        sim.core.wake(&vcpu);
        sim.settle();
        assert_eq!((sim.runs_on(&vcpu), parked(&sim)), (Some(crate::CpuId(round % 2)), 0));
    }
}

#[test]
fn a_timer_that_does_not_wake_its_vcpu_leaves_the_others_set() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(1);
    let vcpu = domain.vcpus[0].clone();
    let port = sim.core.bind_virq(&domain, Virq::TIMER, VcpuId(0)).unwrap();
    sim.core.platform.word(domain.shared_info, layout::MASK).store(u64::MAX, SeqCst);
    sim.settle();
    let start = now(&sim.core);
    sim.core.set_timer(&sim.core.cpus[0], &vcpu.time.singleshot, start + 5 * MS);
    sim.core.begin_poll(&domain, &vcpu, Some(Port(port.0 + 1)));
    sim.core.set_timer(&sim.core.cpus[0], &vcpu.time.poll, start + 30 * MS);
    sim.core.cpus[0].post(pending::RESCHEDULE);
    sim.settle();
    sim.pass(10 * MS, MS);
    assert!(ticked(&sim.core, &vcpu, port) && sim.runs_on(&vcpu).is_none());
    assert_eq!(sim.core.platform.deadline.load(SeqCst), start + 30 * MS);
    sim.pass(25 * MS, MS);
    assert!(sim.runs_on(&vcpu).is_some());
}

#[test]
fn a_deadline_that_has_passed_is_served_on_the_way_back() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(1);
    let port = sim.core.bind_virq(&domain, Virq::TIMER, VcpuId(0)).unwrap();
    sim.settle();
    sim.core.set_timer(&sim.core.cpus[0], &domain.vcpus[0].time.singleshot, 1);
    sim.settle();
    assert!(ticked(&sim.core, &domain.vcpus[0], port));
}

#[test]
fn an_idle_machine_asks_for_no_timer() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(1);
    sim.settle();
    sim.core.set_periodic(&domain.vcpus[0], 10 * MS);
    assert_ne!(sim.core.platform.deadline.load(SeqCst), NEVER);
    sim.block(&domain.vcpus[0]);
    assert_eq!(sim.core.platform.deadline.load(SeqCst), NEVER, "a periodic timer does not tick while its vCPU waits");
}

#[test]
fn a_vcpu_alone_has_no_quantum() {
    let mut sim = Sim::new(1);
    let _domain = sim.domain(1);
    sim.settle();
    assert_eq!(sim.core.platform.deadline.load(SeqCst), NEVER);
    let _second = sim.domain(1);
    sim.settle();
    assert_ne!(sim.core.platform.deadline.load(SeqCst), NEVER);
}

#[test]
fn a_periodic_timer_ticks_while_its_vcpu_runs() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(1);
    let vcpu = domain.vcpus[0].clone();
    let port = sim.core.bind_virq(&domain, Virq::TIMER, VcpuId(0)).unwrap();
    sim.settle();
    sim.core.set_periodic(&vcpu, 10 * MS);
    let mut ticks = 0;
    for _ in 0..100 {
        sim.pass(MS, MS);
        ticks += u32::from(ticked(&sim.core, &vcpu, port));
    }
    assert_eq!(ticks, 10);
    // One that became due while it waited comes when it runs again.
    sim.block(&vcpu);
    sim.pass(50 * MS, MS);
    assert!(!ticked(&sim.core, &vcpu, port));
    sim.core.wake(&vcpu);
    sim.settle();
    assert!(ticked(&sim.core, &vcpu, port));
}

#[test]
fn the_end_of_a_domain_takes_its_timers_off_the_queues() {
    let mut sim = Sim::new(2);
    let domain = sim.domain(1);
    let vcpu = domain.vcpus[0].clone();
    sim.settle();
    let cpu = sim.runs_on(&vcpu).unwrap().0 as usize;
    sim.on(cpu).core.set_timer(&sim.core.cpus[cpu], &vcpu.time.singleshot, u64::MAX / 2);
    sim.core.watch_by(&sim.core.cpus[cpu], &domain, u64::MAX / 2);
    sim.block(&vcpu);
    assert!(!sim.core.cpus[cpu].timers.is_empty());
    sim.core.pause_domain(&domain);
    sim.settle();
    sim.core.discharge(&domain);
    assert!(sim.core.cpus.iter().all(|cpu| cpu.timers.is_empty()));
}

/// A guest whose vCPU runs on CPU 0.
fn guest() -> (std::boxed::Box<TestCore>, Guest) {
    let core = testing::core(512, 1);
    let guest = testing::guest(&core, Privilege::empty(), 8);
    core.unpause_from_outside(&guest.domain).unwrap();
    core.bring_up(&guest.vcpu);
    assert!(matches!(core.schedule(&core.cpus[0], None), crate::sched::Next::Switch(_)));
    core.cpus[0].pending.store(0, SeqCst);
    (core, guest)
}

fn vcpu_op(core: &TestCore, guest: &Guest, op: VcpuOp, arg: &[u8]) -> i64 {
    guest.poke(core, 0, 0, arg);
    let at = if arg.is_empty() { 0 } else { guest.va(0).0 };
    guest.hypercall(core, Hypercall::VCPU_OP.0, [u64::from(op.0), 0, at, 0, 0])
}

fn read<T: FromBytes + IntoBytes>(core: &TestCore, guest: &Guest, page: usize, offset: u64) -> T {
    let mut value = T::new_zeroed();
    let from = abi::Vaddr(guest.va(page).0 + offset);
    core.platform.copy_from_guest(guest.space(), from, value.as_mut_bytes()).unwrap();
    value
}

#[test]
fn timer_operations_answer_as_the_interface_says() {
    let (core, guest) = guest();
    let (past, future) = (now(&core) - 1, now(&core) + MS);
    let shot = |at, flags| SetSingleshotTimer { timeout_abs_ns: at, flags, _pad: 0 };
    let set = |it: SetSingleshotTimer| vcpu_op(&core, &guest, VcpuOp::SET_SINGLESHOT_TIMER, it.as_bytes());
    assert_eq!(set(shot(past, SetSingleshotTimer::FUTURE)), 0, "Xen 4.17 ignores the flag");
    assert_eq!(set(shot(past, 0)), 0);
    assert_eq!(set(shot(future, SetSingleshotTimer::FUTURE)), 0);
    assert_eq!(guest.vcpu.time.singleshot.load(SeqCst), future);
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::STOP_SINGLESHOT_TIMER, &[]), 0);
    assert_eq!(guest.vcpu.time.singleshot.load(SeqCst), NEVER);
    let period =
        |period_ns| vcpu_op(&core, &guest, VcpuOp::SET_PERIODIC_TIMER, SetPeriodicTimer { period_ns }.as_bytes());
    assert_eq!(period(MS - 1), Errno::EINVAL.code());
    assert_eq!(period(1 << 63), Errno::EINVAL.code());
    assert_eq!(period(MS), 0);
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::STOP_PERIODIC_TIMER, &[]), 0);
    assert_eq!(vcpu_op(&core, &guest, VcpuOp(99), &[]), Errno::ENOSYS.code());
    assert_eq!(guest.hypercall(&core, Hypercall::VCPU_OP.0, [3, 1, 0, 0, 0]), Errno::ENOENT.code());
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::IS_UP, &[]), 1);
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::SEND_NMI, &[0]), Errno::EINVAL.code());
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::SEND_NMI, &[]), 0);
    assert!(guest.vcpu.sched.nmi.load(SeqCst));
}

#[test]
fn set_timer_op_believes_no_wrapped_time() {
    let (core, guest) = guest();
    let set = |at: u64| {
        assert_eq!(guest.hypercall(&core, Hypercall::SET_TIMER_OP.0, [at, 0, 0, 0, 0]), 0);
        guest.vcpu.time.singleshot.load(SeqCst)
    };
    let in_100_ms = now(&core) + 100 * MS;
    assert_eq!(set(5), 5);
    assert_eq!(set(0), NEVER);
    assert_eq!(set(u64::MAX), in_100_ms);
    assert_eq!(set(1 << 63), in_100_ms);
    assert_eq!(set(now(&core) + (1 << 50)), in_100_ms);
    assert_eq!(set(now(&core) + (1 << 50) - 1), now(&core) + (1 << 50) - 1);
    // What is far only because the clock has come far.
    core.platform.clock.store(1 << 50, SeqCst);
    assert_eq!(set((1 << 50) + 5), (1 << 50) + 5);
    assert_eq!(set(1 << 50), 1 << 50);
}

#[test]
fn time_pages_and_the_wall_clock_keep_the_version_protocol() {
    let (core, guest) = guest();
    core.platform.clock.store(7_777_777_777, SeqCst);
    let area = RegisterArea { addr: abi::Vaddr(guest.va(1).0 + 64) };
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::REGISTER_VCPU_TIME_MEMORY_AREA, area.as_bytes()), 0);
    core.update_time_page(&guest.domain, &guest.vcpu);
    let (frame, at) = guest.vcpu.info.get();
    let mut first = VcpuTimeInfo::new_zeroed();
    core.platform.read(frame, (at + layout::TIME) * 8, first.as_mut_bytes());
    let second: VcpuTimeInfo = read(&core, &guest, 1, 64);
    for info in [first, second] {
        assert!(info.version % 2 == 0 && info.version > 0);
        let ticks = (core.platform.tsc() - info.tsc_timestamp) << info.tsc_shift;
        let scaled = ((u128::from(ticks) * u128::from(info.tsc_to_system_mul)) >> 32) as u64;
        assert_eq!(info.system_time + scaled, now(&core), "what the guest computes");
        assert_eq!(info.flags, VcpuTimeInfo::TSC_STABLE);
    }
    core.update_time_page(&guest.domain, &guest.vcpu);
    let mut again = VcpuTimeInfo::new_zeroed();
    core.platform.read(frame, (at + layout::TIME) * 8, again.as_mut_bytes());
    assert_eq!(again.version, first.version + 2);
    let words = |at| core.platform.word(guest.domain.shared_info, at).load(SeqCst);
    let before = words(layout::WALL_CLOCK) as u32;
    core.set_time_offset(&guest.domain, -800_000_000_000);
    let [first, second] = [words(layout::WALL_CLOCK), words(layout::WALL_CLOCK + 1)];
    assert_eq!(first as u32, before + 2);
    let seconds = (first >> 32 | second >> 32 << 32) as i64;
    assert_eq!(seconds, core.platform.wall_clock() as i64 - 800_000_000_000);
}

#[test]
fn a_runstate_area_is_written_with_and_without_the_update_flag() {
    let (core, guest) = guest();
    let area = RegisterArea { addr: guest.va(2) };
    core.platform.clock.fetch_add(3 * MS, SeqCst);
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, area.as_bytes()), 0);
    let seen: RunstateInfo = read(&core, &guest, 2, 0);
    assert_eq!((seen.state, seen.time[0]), (RunstateInfo::RUNNING, 3 * MS));
    for assist in [0, 1 << 5] {
        guest.domain.assist.store(assist, SeqCst);
        core.platform.clock.fetch_add(MS, SeqCst);
        let run = guest.vcpu.run.lock();
        core.write_runstate(&guest.domain, &guest.vcpu, &run);
        drop(run);
        let seen: RunstateInfo = read(&core, &guest, 2, 0);
        assert_eq!(seen.state_entry_time & RunstateInfo::UPDATE, 0);
        assert_eq!(seen.time.iter().sum::<u64>(), now(&core));
    }
    // An area that is not mapped is the guest's own affair.
    let nowhere = RegisterArea { addr: abi::Vaddr(0x1000) };
    assert_eq!(vcpu_op(&core, &guest, VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, nowhere.as_bytes()), 0);
    let ours = RegisterArea { addr: abi::Vaddr(0xffff_8300_0000_0000) };
    let got = vcpu_op(&core, &guest, VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, ours.as_bytes());
    assert_eq!(got, Errno::EFAULT.code());
    let info = vcpu_op(&core, &guest, VcpuOp::GET_RUNSTATE_INFO, RunstateInfo::new_zeroed().as_bytes());
    assert_eq!(info, 0);
    assert_eq!(read::<RunstateInfo>(&core, &guest, 0, 0).time.iter().sum::<u64>(), now(&core));
}

#[test]
fn a_poll_that_an_event_ends_has_no_limit_any_more() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(1);
    let vcpu = domain.vcpus[0].clone();
    sim.settle();
    sim.core.begin_poll(&domain, &vcpu, None);
    sim.core.set_timer(&sim.core.cpus[0], &vcpu.time.poll, now(&sim.core) + 30 * MS);
    sim.core.cpus[0].post(pending::RESCHEDULE);
    sim.settle();
    assert!(sim.runs_on(&vcpu).is_none());
    sim.core.wake(&vcpu);
    sim.settle();
    assert_eq!((sim.runs_on(&vcpu), vcpu.time.poll.load(SeqCst)), (Some(crate::CpuId(0)), NEVER));
}

#[test]
fn a_domains_watchdogs_are_one_entry_that_comes_and_goes() {
    let (core, guest) = guest();
    let (d, cpu) = (&guest.domain, &core.cpus[0]);
    let start = now(&core);
    let set = |which: usize, deadline| {
        d.clock.watchdogs[which].store(deadline, SeqCst);
        core.watch_by(cpu, d, deadline);
    };
    set(0, NEVER);
    assert!(cpu.timers.is_empty() && cpu.timers.pop(NEVER).is_none());
    set(0, start + MS);
    assert!(!cpu.timers.is_empty());
    set(1, start + MS);
    assert!(cpu.timers.pop(start + MS).is_some() && cpu.timers.pop(NEVER).is_none());
    // One that was ended is forgotten when its time comes; the next one bites.
    d.clock.watched.store(false, SeqCst);
    set(0, start + MS);
    set(0, NEVER);
    set(1, NEVER);
    for (after, stage) in [(2, Stage::Alive), (3, Stage::Alive), (4, Stage::Shutdown)] {
        core.platform.clock.store(start + after * MS, SeqCst);
        core.run_timers(cpu, Some(&guest.vcpu));
        assert_eq!(d.stage(), stage);
        set(0, start + 4 * MS);
    }
}

/// The page behind takes nothing: what was written up to there says that it is not whole.
#[test]
fn who_reads_half_of_a_page_sees_that_it_is_being_written() {
    let (core, guest) = guest();
    let end = guest.va(8).0;
    let before = |bytes: u64| -> [u64; 2] { [0, 8].map(|at| read(&core, &guest, 7, 4096 - bytes + at)) };
    guest.run(&core, |c| core.set_time_area(c, &guest.vcpu, end - 16));
    assert_eq!(before(16)[0], 1, "odd");
    core.platform.clock.fetch_add(7, SeqCst);
    for (assist, update) in [(0, 0), (1 << 5, RunstateInfo::UPDATE)] {
        guest.domain.assist.store(assist, SeqCst);
        guest.run(&core, |c| core.set_runstate_area(c, &guest.vcpu, end - 16));
        let since = core.run_times(&guest.vcpu, now(&core)).state_entry_time;
        assert_eq!(before(16)[1], since | update);
    }
}

#[test]
fn watchdogs_are_two_can_be_poked_and_bite() {
    let (core, guest) = guest();
    let dog = |id, timeout| {
        guest.poke(&core, 0, 0, Watchdog { id, timeout }.as_bytes());
        guest.hypercall(&core, Hypercall::SCHED_OP.0, [u64::from(SchedOp::WATCHDOG.0), guest.va(0).0, 0, 0, 0])
    };
    assert_eq!(dog(1, 5), Errno::EINVAL.code(), "none yet");
    assert_eq!([dog(0, 5), dog(0, 9), dog(0, 1)], [1, 2, i64::from(Errno::ENOSPC.code() as u32)]);
    assert_eq!(dog(3, 1), Errno::EINVAL.code());
    let pass = |seconds: u64| {
        core.platform.clock.fetch_add(seconds * 1000 * MS, SeqCst);
        core.run_timers(&core.cpus[0], Some(&guest.vcpu));
        guest.domain.stage()
    };
    assert_eq!(pass(4), Stage::Alive);
    assert_eq!([dog(1, 5), dog(2, 0)], [0, 0]);
    assert_eq!(dog(2, 3), Errno::EINVAL.code(), "it was ended");
    assert_eq!(pass(4), Stage::Alive, "poked");
    assert_eq!(pass(2), Stage::Shutdown);
    assert_eq!(guest.domain.life.load(SeqCst) >> 8 & 0xff, abi::sched::ShutdownReason::WATCHDOG.0);
    // One that bit stays in use, and bites again when it is set again.
    core.resume(&guest.domain);
    assert_eq!([dog(0, 1), dog(2, 0)], [2, 0]);
    assert_eq!(pass(2), Stage::Alive);
    assert_eq!([dog(1, 1), i64::from(pass(2) == Stage::Shutdown)], [0, 1]);
}

#[test]
fn the_timer_queue_is_in_order() {
    let sim = Sim::new(1);
    let domain = sim.domain(8);
    let cpu = &sim.core.cpus[0];
    let mut left: Vec<u64> = [50, 10, 40, 30, 80, 20, 70, 60].into();
    left.iter_mut().for_each(|at| *at += now(&sim.core));
    for (vcpu, at) in domain.vcpus.iter().zip(&left) {
        vcpu.time.singleshot.store(*at, SeqCst);
        sim.core.park(cpu, vcpu);
        assert!(sim.core.platform.deadline.load(SeqCst) <= *at);
    }
    left.sort_unstable();
    for at in left {
        assert!(cpu.timers.pop(at - 1).is_none());
        assert!(cpu.timers.pop(at).is_some());
    }
    assert_eq!(cpu.pending.load(SeqCst) & pending::TIMER, 0);
}
