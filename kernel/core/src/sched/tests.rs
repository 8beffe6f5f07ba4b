//! Tests of the scheduler: turns, wake-ups, affinity, and random operations against what must always hold.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;

use fuzz::{Choices, Tally, Target};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

use super::sim::Sim;
use super::*;
use crate::testing::TestMachine;

const MS: u64 = 1_000_000;

#[test]
fn compute_bound_vcpus_share_a_cpu_evenly_and_virtual_time_adds_up() {
    let mut sim = Sim::new(1);
    let (one, two) = (sim.domain(2), sim.domain(1));
    sim.settle();
    let start: Vec<_> = one.vcpus.iter().chain(&two.vcpus).map(|v| (v.clone(), sim.times(v))).collect();
    sim.pass(300 * MS, MS / 10);
    let ran: Vec<u64> = start.iter().map(|(v, before)| sim.times(v)[0] - before[0]).collect();
    assert_eq!(ran.iter().sum::<u64>(), 300 * MS, "the CPU was never idle");
    assert!(ran.iter().all(|t| t.abs_diff(100 * MS) <= 2 * InUse::SLICE), "{ran:?}");
    for (vcpu, before) in &start {
        let now = sim.times(vcpu);
        assert_eq!(now[0] - before[0] + now[1] - before[1], 300 * MS, "virtual and real time");
    }
    assert!(sim.core.virtual_time(&two) >= ran[2] && ran[2] > 0);
    assert!(sim.core.virtual_time(&one).abs_diff(2 * sim.core.virtual_time(&two)) <= 4 * InUse::SLICE);
}

#[test]
fn a_woken_vcpu_goes_to_an_idle_cpu_which_is_kicked() {
    let mut sim = Sim::new(2);
    let domain = sim.domain(2);
    sim.settle();
    let [a, b] = [&domain.vcpus[0], &domain.vcpus[1]];
    assert!(sim.runs_on(a).is_some() && sim.runs_on(b).is_some(), "two CPUs, two vCPUs");
    sim.block(b);
    let busy = sim.runs_on(a).unwrap();
    sim.core.platform.kicks.lock().unwrap().clear();
    sim.on(busy.0 as usize).core.wake(b);
    assert_eq!(*sim.core.platform.kicks.lock().unwrap(), [CpuId(1 - busy.0)]);
    sim.settle();
    assert_eq!(sim.runs_on(b), Some(CpuId(1 - busy.0)));
}

#[test]
fn a_preempted_vcpu_is_nobody_elses_before_its_state_is_stored() {
    let mut sim = Sim::new(2);
    let domain = sim.domain(1);
    sim.settle();
    let vcpu = domain.vcpus[0].clone();
    let cpu = sim.runs_on(&vcpu).unwrap().0 as usize;
    let other = 1 - cpu;
    // Its CPU has to give it up, and has not stored its state yet.
    sim.core.set_affinity(&vcpu, CpuSet::of(CpuId(other as u32))).unwrap();
    sim.on(cpu);
    assert!(matches!(sim.core.schedule(&sim.core.cpus[cpu], Some(&vcpu)), Next::Idle));
    sim.core.cpus[other].post(pending::RESCHEDULE);
    sim.leave(other);
    assert_eq!(sim.runs_on(&vcpu), Some(CpuId(cpu as u32)), "still in the hands of its CPU");
    let left = sim.running[cpu].take().unwrap();
    sim.on(cpu).core.descheduled(&sim.core.cpus[cpu], left);
    sim.leave(other);
    assert_eq!(sim.runs_on(&vcpu), Some(CpuId(other as u32)));
}

#[test]
fn a_vcpu_that_answers_quickly_goes_before_one_that_computes_and_starves_it_not() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(2);
    sim.settle();
    let [quick, slow] = [domain.vcpus[0].clone(), domain.vcpus[1].clone()];
    let before = sim.times(&slow)[0];
    let (mut waits, mut rounds) = (Vec::new(), 0);
    while rounds < 200 {
        if sim.runs_on(&quick).is_some() {
            sim.pass(MS / 20, MS / 100);
            if sim.runs_on(&quick).is_some() {
                sim.block(&quick);
            }
            sim.pass(MS / 2, MS / 100);
            let woken = sim.core.platform.clock.load(SeqCst);
            sim.core.wake(&quick);
            sim.settle();
            while sim.runs_on(&quick).is_none() {
                sim.pass(MS / 100, MS / 100);
            }
            waits.push(sim.core.platform.clock.load(SeqCst) - woken);
            rounds += 1;
        } else {
            sim.pass(MS / 100, MS / 100);
        }
    }
    assert!(waits.iter().all(|w| *w <= InUse::LEAST + MS / 100), "it waited {waits:?}");
    assert!(sim.times(&slow)[0] - before > 100 * MS, "the other ran when it could");
}

#[test]
fn a_vcpu_that_is_looked_at_all_the_time_stays_no_longer_for_it() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(2);
    sim.settle();
    let running = sim.running[0].clone().unwrap();
    let other = domain.vcpus.iter().find(|v| !Arc::ptr_eq(v, &running)).unwrap().clone();
    let since = sim.core.platform.clock.load(SeqCst);
    while sim.runs_on(&other).is_none() {
        sim.pass(MS / 100, MS / 100);
        sim.core.cpus[0].post(pending::RESCHEDULE);
        sim.settle();
        assert!(sim.core.platform.clock.load(SeqCst) - since <= InUse::SLICE + MS / 50, "its turn does not end");
    }
    assert!(sim.core.platform.clock.load(SeqCst) - since >= InUse::SLICE, "nor any shorter");
    // The same with one that was woken.
    sim.block(&other);
    sim.pass(MS / 50, MS / 100);
    let woken = sim.core.platform.clock.load(SeqCst);
    sim.core.wake(&other);
    while sim.runs_on(&other).is_none() {
        sim.pass(MS / 100, MS / 100);
        sim.core.cpus[0].post(pending::RESCHEDULE);
        sim.settle();
        let waits = sim.core.platform.clock.load(SeqCst) - woken;
        assert!(waits <= InUse::LEAST + MS / 50, "{waits} ns");
    }
}

#[test]
fn short_sleeps_earn_no_more_than_a_share() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(2);
    sim.settle();
    let [sly, fair] = [domain.vcpus[0].clone(), domain.vcpus[1].clone()];
    let start = sim.core.platform.clock.load(SeqCst);
    let before = [&sly, &fair].map(|v| sim.times(v)[0]);
    for _ in 0..100 {
        while sim.runs_on(&sly).is_none() {
            sim.pass(MS / 10, MS / 10);
        }
        // Nearly a slice, and a nap.
        sim.pass(InUse::SLICE - MS / 2, MS / 10);
        if sim.runs_on(&sly).is_some() {
            sim.block(&sly);
        }
        sim.pass(MS / 5, MS / 10);
        sim.core.wake(&sly);
        sim.settle();
    }
    let passed = sim.core.platform.clock.load(SeqCst) - start;
    let ran = [&sly, &fair].map(|v| sim.times(v)[0]);
    let share = |n: usize| (ran[n] - before[n]) * 100 / passed;
    assert!(share(0) <= 60 && share(1) >= 40, "{} and {} per cent", share(0), share(1));
}

#[test]
fn yielding_lets_the_other_run_and_costs_nothing_alone() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(2);
    sim.settle();
    let first = sim.running[0].clone().unwrap();
    sim.core.yield_now(&sim.core.cpus[0], &first);
    sim.settle();
    let second = sim.running[0].clone().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    sim.core.pause(&first);
    sim.settle();
    // The queue still names the paused one: it is found out, and dropped.
    sim.core.yield_now(&sim.core.cpus[0], &second);
    sim.settle();
    assert!(Arc::ptr_eq(sim.running[0].as_ref().unwrap(), &second));
    assert!(sim.core.cpus[0].queue.is_empty());
    sim.core.yield_now(&sim.core.cpus[0], &second);
    assert_eq!(sim.core.cpus[0].pending.load(SeqCst), 0, "alone: nothing to do");
    assert_eq!(domain.vcpus.len(), 2);
}

/// A vCPU that waits is told of at once only where it goes ahead of the one that runs.
#[test]
fn who_is_woken_with_time_left_goes_ahead_and_who_has_none_lines_up() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(3);
    sim.settle();
    let sleeper = sim.running[0].clone().unwrap();
    for (left, ahead) in [(InUse::SLICE / 2, true), (0, false)] {
        while sim.runs_on(&sleeper).is_none() {
            sim.pass(MS, MS);
        }
        sim.block(&sleeper);
        sleeper.sched.slice.store(left, SeqCst);
        sleeper.sched.left.store(sim.core.platform.clock.load(SeqCst), SeqCst);
        sim.core.wake(&sleeper);
        assert_eq!(sim.core.cpus[0].pending.load(SeqCst) & pending::RESCHEDULE != 0, ahead, "{left} ns left");
        sim.settle();
    }
    assert_eq!(domain.vcpus.len(), 3);
}

#[test]
fn sleep_is_shared_with_those_that_run_and_a_slice_used_alone_is_made_good() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(1);
    sim.settle();
    let vcpu = &domain.vcpus[0];
    // Alone it used up its slice, and took nothing from anybody.
    sim.pass(2 * InUse::SLICE, MS);
    sim.block(vcpu);
    assert_eq!(vcpu.sched.slice.load(SeqCst), InUse::SLICE);
    vcpu.sched.slice.store(0, SeqCst);
    sim.core.platform.clock.fetch_add(2 * MS, SeqCst);
    sim.core.wake(vcpu);
    assert_eq!(vcpu.sched.slice.load(SeqCst), MS, "one that runs, perhaps, and itself");
}

#[test]
fn who_was_woken_lets_the_other_run_for_a_moment() {
    let mut sim = Sim::new(1);
    let domain = sim.domain(2);
    sim.settle();
    let woken = sim.running[0].clone().unwrap();
    sim.block(&woken);
    let other = domain.vcpus.iter().find(|v| !Arc::ptr_eq(v, &woken)).unwrap();
    woken.sched.slice.store(InUse::SLICE, SeqCst);
    sim.core.wake(&woken);
    sim.settle();
    sim.pass(MS / 10, MS / 100);
    assert!(sim.runs_on(other).is_some(), "0.2 ms are its own");
    sim.pass(MS / 8, MS / 100);
    assert!(sim.runs_on(&woken).is_some());
}

#[test]
fn a_cpu_is_not_told_of_what_it_may_not_run() {
    let mut sim = Sim::new(2);
    let domain = sim.domain(3);
    domain.vcpus.iter().for_each(|vcpu| sim.core.set_affinity(vcpu, CpuSet(1)).unwrap());
    sim.settle();
    sim.core.platform.kicks.lock().unwrap().clear();
    sim.on(0).core.yield_now(&sim.core.cpus[0], sim.running[0].as_ref().unwrap());
    sim.leave(0);
    assert_eq!(sim.core.cpus[1].pending.load(SeqCst), 0);
    assert_eq!(*sim.core.platform.kicks.lock().unwrap(), []);
}

#[test]
fn one_idle_cpu_is_told_of_one_vcpu() {
    let mut sim = Sim::new(4);
    let domain = sim.domain(1);
    sim.settle();
    sim.block(&domain.vcpus[0]);
    sim.core.platform.kicks.lock().unwrap().clear();
    sim.on(3).core.wake(&domain.vcpus[0]);
    let told = sim.core.cpus.iter().filter(|cpu| cpu.pending.load(SeqCst) != 0).count();
    assert_eq!((told, sim.core.platform.kicks.lock().unwrap().len()), (1, 1));
    sim.settle();
    let idle = sim.running.iter().position(Option::is_none).unwrap();
    assert!(matches!(sim.core.schedule(&sim.core.cpus[idle], None), Next::Stay), "it idles already");
}

#[test]
fn a_domain_is_paused_with_all_its_vcpus_and_stands_still_once_they_left() {
    let mut sim = Sim::new(2);
    let domain = sim.domain(2);
    sim.settle();
    let each = |sim: &Sim| [0, 1].map(|v| (sim.core.is_running(&domain.vcpus[v]), domain.vcpus[v].sched.state.view()));
    assert!(each(&sim).iter().all(|(runs, view)| *runs && view.runnable()));
    sim.core.pause_domain(&domain);
    assert!(each(&sim).iter().all(|(runs, view)| *runs && !view.runnable()), "still in the hands of their CPUs");
    assert_eq!(sim.core.destroy(&domain), Err(crate::Stop::PREEMPTED));
    sim.settle();
    assert!(each(&sim).iter().all(|(runs, _)| !runs));
    sim.core.unpause_domain(&domain);
    assert_eq!(each(&sim)[1].1.pauses(), 1, "its end has begun");
    assert_eq!(sim.core.destroy(&domain), Ok(()));
}

#[test]
fn affinity_without_an_online_cpu_is_refused() {
    let sim = Sim::new(2);
    let domain = sim.domain(1);
    assert_eq!(sim.core.set_affinity(&domain.vcpus[0], CpuSet(0b100)), Err(Errno::EINVAL));
    assert_eq!(sim.core.set_affinity(&domain.vcpus[0], CpuSet(0b110)), Ok(()));
}

#[test]
fn enrolling_fails_as_a_whole_and_discharging_empties_the_queues() {
    let mut sim = Sim::new(2);
    assert_eq!(sim.core.make_room(&sim.core.domains.table.read(), usize::MAX / 64), Err(Errno::ENOMEM));
    let domain = sim.domain(3);
    sim.core.pause_domain(&domain);
    sim.settle();
    sim.core.discharge(&domain);
    assert!(sim.core.cpus.iter().all(|cpu| cpu.queue.is_empty()));
    assert_eq!(Arc::strong_count(&domain.vcpus[0]), 1);
}

/// An operation on one vCPU, or on time.
#[derive(Clone, Debug)]
enum Op {
    Pause(usize),
    Unpause(usize),
    Block(usize),
    Wake(usize),
    Down(usize),
    Up(usize),
    Yield(usize),
    Affinity(usize, u64),
    Leave(usize),
    Pass(u64),
    Settle,
}

const VCPUS: usize = 5;
const CPUS: usize = 3;

impl Op {
    fn next(c: &mut Choices<'_>) -> Self {
        let vcpu = c.below(VCPUS);
        match c.weighted(&[4, 8, 8, 12, 4, 8, 4, 4, 16, 4, 1]) {
            0 => Self::Pause(vcpu),
            1 => Self::Unpause(vcpu),
            2 => Self::Block(vcpu),
            3 => Self::Wake(vcpu),
            4 => Self::Down(vcpu),
            5 => Self::Up(vcpu),
            6 => Self::Yield(vcpu),
            7 => Self::Affinity(vcpu, 1 + c.below((1 << CPUS) - 1) as u64),
            8 => Self::Leave(c.below(CPUS)),
            9 => Self::Pass(1 + c.below(6_000_000) as u64),
            _ => Self::Settle,
        }
    }
}

/// What the test knows of a vCPU, without looking.
#[derive(Clone, Copy)]
struct Known {
    pauses: u32,
    blocked: bool,
    down: bool,
    affinity: u64,
}

impl Known {
    fn runnable(&self) -> bool {
        self.pauses == 0 && !self.blocked && !self.down
    }
}

#[test]
fn an_idle_cpu_that_finds_work_of_its_own_leaves_word_for_what_it_was_to_take() {
    let mut sim = Sim::new(3);
    let domain = sim.domain(4);
    domain.vcpus.iter().for_each(|vcpu| sim.core.take_down(vcpu));
    sim.settle();
    let [first, second, bound, third] = [0, 1, 2, 3].map(|v| &domain.vcpus[v]);
    sim.core.set_affinity(bound, CpuSet(1 << second.sched.cpu().0)).unwrap();
    sim.settle();
    // Both wait for one CPU; it runs the one that is bound to it, and tells an idle CPU to take the other.
    sim.core.bring_up(second);
    sim.core.bring_up(bound);
    sim.leave(second.sched.cpu().0 as usize);
    // That one gets work of its own first.
    sim.core.bring_up(first);
    sim.settle();
    assert!([first, second, bound].iter().all(|vcpu| sim.runs_on(vcpu).is_some()), "the third CPU idles");
    assert_eq!(sim.runs_on(third), None);
}

fn queued(sim: &Sim, vcpu: &Arc<Vcpu<TestMachine>>) -> usize {
    let mut found = 0;
    for cpu in &sim.core.cpus {
        cpu.queue.each(|v| found += usize::from(Arc::ptr_eq(v, vcpu)));
    }
    found
}

/// Vcpus and what is known of them.
struct World {
    sim: Sim,
    domain: Arc<crate::Domain<TestMachine>>,
    known: [Known; VCPUS],
}

impl World {
    /// Does it; its name, and whether there was anything to do.
    fn apply(&mut self, op: Op) -> (&'static str, bool) {
        let Self { sim, domain, known } = self;
        match op {
            Op::Pause(v) => {
                sim.core.pause(&domain.vcpus[v]);
                known[v].pauses += 1;
                ("pause", true)
            }
            Op::Unpause(v) => {
                let paused = known[v].pauses > 0;
                sim.core.unpause(&domain.vcpus[v]);
                known[v].pauses = known[v].pauses.saturating_sub(1);
                ("unpause", paused)
            }
            Op::Block(v) => {
                let on = sim.runs_on(&domain.vcpus[v]);
                if let Some(cpu) = on {
                    assert!(sim.on(cpu.0 as usize).core.block(&domain.vcpus[v]));
                    sim.core.cpus[cpu.0 as usize].post(pending::RESCHEDULE);
                    known[v].blocked = true;
                }
                ("block", on.is_some())
            }
            Op::Wake(v) => {
                sim.core.wake(&domain.vcpus[v]);
                ("wake", core::mem::replace(&mut known[v].blocked, false))
            }
            Op::Down(v) => {
                sim.core.take_down(&domain.vcpus[v]);
                ("down", !core::mem::replace(&mut known[v].down, true))
            }
            Op::Up(v) => {
                sim.core.bring_up(&domain.vcpus[v]);
                ("up", core::mem::replace(&mut known[v].down, false))
            }
            Op::Yield(v) => {
                let on = sim.runs_on(&domain.vcpus[v]);
                if let Some(cpu) = on {
                    sim.on(cpu.0 as usize).core.yield_now(&sim.core.cpus[cpu.0 as usize], &domain.vcpus[v]);
                }
                ("yield", on.is_some())
            }
            Op::Affinity(v, set) => {
                sim.core.set_affinity(&domain.vcpus[v], CpuSet(set)).unwrap();
                known[v].affinity = set;
                ("affinity", true)
            }
            Op::Leave(cpu) => {
                let had = sim.core.cpus[cpu].pending.load(SeqCst) != 0;
                sim.leave(cpu);
                ("leave", had)
            }
            Op::Pass(time) => {
                sim.core.platform.clock.fetch_add(time, SeqCst);
                ("pass", true)
            }
            Op::Settle => {
                sim.settle();
                self.rest();
                ("settle", true)
            }
        }
    }

    /// At any moment: on at most one CPU, and then on no queue; on one queue at most.
    fn check(&self) {
        for vcpu in &self.domain.vcpus {
            let on = self.sim.running.iter().flatten().filter(|r| Arc::ptr_eq(r, vcpu)).count();
            assert!(on + queued(&self.sim, vcpu) <= 1);
            assert_eq!(vcpu.sched.state.view().running(), on == 1);
        }
    }

    /// At rest: a vCPU runs or waits if and only if it may; an idle CPU could run none of those that wait.
    fn rest(&self) {
        let sim = &self.sim;
        let now = sim.core.platform.clock.load(SeqCst);
        for (vcpu, known) in self.domain.vcpus.iter().zip(&self.known) {
            let on = sim.runs_on(vcpu);
            assert_eq!(vcpu.sched.state.view().pauses(), known.pauses);
            if known.runnable() {
                assert_eq!(usize::from(on.is_some()) + queued(sim, vcpu), 1);
            } else {
                assert_eq!(on, None);
            }
            if let Some(cpu) = on {
                assert!(CpuSet(known.affinity).has(cpu), "affinity is a hard mask");
            } else if known.runnable() {
                for (cpu, runs) in sim.running.iter().enumerate() {
                    let could = runs.is_none() && CpuSet(known.affinity).has(CpuId(cpu as u32));
                    assert!(!could, "CPU {cpu} idles while a vCPU waits for it");
                }
            }
            let times = sim.core.run_times(vcpu, now);
            assert_eq!(times.time.iter().sum::<u64>(), now);
            let state = match (on.is_some(), known.runnable(), known.blocked) {
                (true, ..) => 0,
                (_, true, _) => 1,
                (.., true) => 2,
                _ => 3,
            };
            assert_eq!(times.state as u32, state);
        }
    }
}

impl Target for World {
    const NAME: &'static str = "scheduler";
    const EPISODE: u64 = 2000;
    const REACHED: &'static [(&'static str, &'static str)] = &[
        ("pause", "ok"),
        ("unpause", "ok"),
        ("unpause", "nothing"),
        ("block", "ok"),
        ("block", "nothing"),
        ("wake", "ok"),
        ("wake", "nothing"),
        ("down", "ok"),
        ("down", "nothing"),
        ("up", "ok"),
        ("up", "nothing"),
        ("yield", "ok"),
        ("yield", "nothing"),
        ("affinity", "ok"),
        ("leave", "ok"),
        ("leave", "nothing"),
        ("pass", "ok"),
        ("settle", "ok"),
    ];

    fn new(_: &mut Choices<'_>) -> Self {
        let mut sim = Sim::new(CPUS as u32);
        let domain = sim.domain(VCPUS as u32);
        sim.settle();
        Self { sim, domain, known: [Known { pauses: 0, blocked: false, down: false, affinity: 7 }; VCPUS] }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let (name, done) = self.apply(Op::next(c));
        self.check();
        tally.note(name, if done { Tally::OK } else { "nothing" });
    }

    fn end(mut self) {
        self.apply(Op::Settle);
    }
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz scheduler"]
fn campaign_scheduler() {
    fuzz::campaign::<World>();
}

#[test]
fn random_turns_do_what_the_model_does() {
    fuzz::slice::<World>(10_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_each_vcpu_is_in_one_place_and_no_cpu_idles_for_nothing(
        bytes in prop::collection::vec(any::<u8>(), 1..500)
    ) {
        fuzz::run::<World>(&bytes);
    }
}
