//! Any hypercall with any arguments, by several domains, privileged or not: each comes to an end with a value or an error
//! that has a name, every count is right afterwards, and a domain that does nothing notices nothing.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;

use abi::hypercall::Hypercall;
use abi::{DomId, Errno};
use fuzz::{Choices, Tally, Target};
use zerocopy::IntoBytes;

use crate::cpu::pending;
use crate::lifecycle::NewDomain;
use crate::sched::sim::Sim;
use crate::testing::{self, Guest, TestMachine, WINDOW};
use crate::{Caller, Platform, Privilege, State, Stop, Vcpu, dispatch};

const FRAMES: usize = 256;
const PAGES: usize = 6;
const CPUS: usize = 2;
/// Words of arguments.
const WORDS: usize = 64;

/// Hypercalls by number: what campaigns count them as.
const NAMES: [&str; 37] = [
    "set_trap_table",
    "mmu_update",
    "set_gdt",
    "stack_switch",
    "set_callbacks",
    "fpu_taskswitch",
    "none",
    "none",
    "set_debugreg",
    "get_debugreg",
    "update_descriptor",
    "none",
    "memory_op",
    "multicall",
    "update_va_mapping",
    "set_timer_op",
    "none",
    "xen_version",
    "console_io",
    "none",
    "grant_table_op",
    "vm_assist",
    "update_va_mapping_otherdomain",
    "iret",
    "vcpu_op",
    "set_segment_base",
    "mmuext_op",
    "none",
    "nmi_op",
    "sched_op",
    "callback_op",
    "none",
    "event_channel_op",
    "physdev_op",
    "none",
    "sysctl",
    "domctl",
];

/// Guests that do what they can, and one that does nothing.
struct World {
    sim: Sim,
    guests: Vec<Guest>,
    innocent: Guest,
    /// What the innocent one's frames hold, and how they are used.
    untouched: Vec<(State, Vec<u64>)>,
    /// Is one of the guests privileged? Then it may well do something to the innocent one.
    privileged: bool,
    steps: u64,
}

/// The version of domctl's and sysctl's interface, behind the command.
const INTERFACE: u64 = 0x15 << 32;

impl World {
    fn look(&self) -> Vec<(State, Vec<u64>)> {
        let core = &self.sim.core;
        let frames = self.innocent.frames.iter().chain(&self.innocent.tables);
        let words = |frame| (0..8).map(|at| core.platform.word(frame, at).load(SeqCst)).collect();
        frames.map(|frame| (core.frames.info(*frame).state(), words(*frame))).collect()
    }

    fn frame(&self, c: &mut Choices<'_>, guest: &Guest) -> u64 {
        match c.below(8) {
            0 => c.below(FRAMES + 4) as u64,
            1 => guest.tables[c.below(4)].mfn().0,
            2 => self.innocent.frames[c.below(PAGES)].mfn().0,
            _ => guest.frames[c.below(PAGES)].mfn().0,
        }
    }

    fn domain(&self, c: &mut Choices<'_>) -> u64 {
        u64::from(match c.below(6) {
            0 => self.innocent.domain.id.0,
            1 => self.guests[c.below(self.guests.len())].domain.id.0,
            2 => DomId::IO.0,
            3 => c.word() as u16,
            _ => DomId::SELF.0,
        })
    }

    /// A word of a structure, or an argument, as it might well be.
    fn value(&self, c: &mut Choices<'_>, guest: &Guest) -> u64 {
        let small = |c: &mut Choices<'_>| c.below(10) as u64;
        match c.weighted(&[8, 2, 3, 3, 3, 4, 2, 3, 4, 3]) {
            0 => small(c),
            1 => c.edgy(),
            2 => self.frame(c, guest),
            3 => self.frame(c, guest) << 12 | small(c) << 3,
            4 => self.domain(c),
            5 => WINDOW.0 + 8 * c.below(WORDS) as u64,
            6 => guest.va(c.below(PAGES + 5)).0 + small(c) * 8,
            7 => self.frame(c, guest) << 12 | [0, 1, 3, 5, 7, 0xff][c.below(6)],
            8 => small(c) | small(c) << 32,
            _ => self.domain(c) | self.domain(c) << 16 | small(c) << 32,
        }
    }

    /// The words that structures are made of, and the arguments.
    fn arguments(&self, c: &mut Choices<'_>, guest: &Guest, number: u32) -> [u64; 5] {
        let mut words: Vec<u64> = (0..WORDS).map(|_| self.value(c, guest)).collect();
        let mut args: [u64; 5] = core::array::from_fn(|_| self.value(c, guest));
        let at = WINDOW.0 + 8 * c.below(4) as u64;
        match Hypercall(number) {
            _ if c.one_in(8) => {}
            Hypercall::SYSCTL | Hypercall::DOMCTL => {
                let command = c.below(if number == Hypercall::DOMCTL.0 { 84 } else { 30 }) as u64;
                let domain = match c.one_in(3) {
                    true => self.domain(c),
                    false => u64::from(self.guests[c.below(self.guests.len())].domain.id.0),
                };
                (words[0], words[1]) = (INTERFACE | command, domain);
                args[0] = WINDOW.0;
            }
            Hypercall::MULTICALL => {
                // Each: operation, result, six arguments.
                for entry in words.chunks_mut(8) {
                    entry[0] = c.below(37) as u64;
                    entry[3] = if c.one_in(2) { WINDOW.0 + 256 } else { entry[3] };
                }
                (args[0], args[1]) = (WINDOW.0, c.below(9) as u64);
            }
            Hypercall::MMU_UPDATE | Hypercall::MMUEXT_OP => {
                args = [at, c.below(4) as u64, [0, WINDOW.0 + 500][c.below(2)], self.domain(c), 0];
            }
            Hypercall::UPDATE_VA_MAPPING | Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN => {
                args = [
                    guest.va(c.below(PAGES + 5)).0,
                    self.frame(c, guest) << 12 | 5,
                    c.below(8) as u64,
                    self.domain(c),
                    0,
                ];
            }
            Hypercall::SET_TRAP_TABLE | Hypercall::SET_GDT => (args[0], args[1]) = (at, c.below(4) as u64 * 512),
            Hypercall::CONSOLE_IO => args = [c.below(3) as u64, c.below(64) as u64, at, 0, 0],
            Hypercall::SET_DEBUGREG | Hypercall::GET_DEBUGREG | Hypercall::SET_SEGMENT_BASE => {
                args[0] = c.below(9) as u64
            }
            Hypercall::VCPU_OP => args = [c.below(16) as u64, c.below(3) as u64, at, 0, 0],
            _ => {
                let operations = match Hypercall(number) {
                    Hypercall::CALLBACK_OP | Hypercall::NMI_OP | Hypercall::VM_ASSIST => 4,
                    Hypercall::SCHED_OP => 8,
                    Hypercall::GRANT_TABLE_OP | Hypercall::EVENT_CHANNEL_OP | Hypercall::XEN_VERSION => 15,
                    _ => 34,
                };
                (args[0], args[1], args[2]) = (c.below(operations) as u64, at, c.below(4) as u64);
            }
        }
        let mut window = self.sim.core.platform.window.lock().unwrap();
        window.clear();
        window.extend_from_slice(words.as_bytes());
        args
    }

    /// A vCPU that runs: somebody is woken if all have blocked.
    fn runner(&mut self, cpu: usize) -> Option<Arc<Vcpu<TestMachine>>> {
        if self.sim.running[cpu].is_none() {
            for guest in &self.guests {
                self.sim.core.bring_up(&guest.vcpu);
                self.sim.core.wake(&guest.vcpu);
            }
            self.sim.core.platform.clock.fetch_add(1_000_000, SeqCst);
            self.sim.core.cpus.iter().for_each(|cpu| cpu.post(pending::TIMER | pending::RESCHEDULE));
            self.sim.settle();
        }
        self.sim.running[cpu].clone()
    }

    fn call(
        sim: &mut Sim,
        cpu: usize,
        guest: &Guest,
        vcpu: &Arc<Vcpu<TestMachine>>,
        number: u32,
        mut args: [u64; 5],
    ) -> Result<i64, Stop> {
        for _ in 0..20_000 {
            let core = &sim.on(cpu).core;
            let mut run = vcpu.run.lock();
            // Only kernel mode makes hypercalls; what an iret is from lies where arguments do.
            (run.kernel_mode, run.hardware_root) = (true, run.kernel_root);
            run.regs.rsp = WINDOW.0;
            let mut c = Caller { core, cpu: &core.cpus[cpu], domain: &guest.domain, vcpu, run: &mut run };
            match dispatch::call(&mut c, number, &mut args) {
                Err(Stop::PREEMPTED) => {}
                done => return done,
            }
            drop(run);
            // As on the way back to a guest: who is to end here, ends.
            if core.cpus[cpu].pending.load(SeqCst) & pending::RESCHEDULE != 0 {
                return Err(Stop::PREEMPTED);
            }
            (0..CPUS).filter(|other| *other != cpu).for_each(|other| sim.leave(other));
        }
        panic!("hypercall {number} does not end");
    }
}

impl Target for World {
    const NAME: &'static str = "dispatch";
    const EPISODE: u64 = 400;
    const SUCCEED: u64 = 10;
    const REACHED: &'static [(&'static str, &'static str)] = REACHED;

    fn new(c: &mut Choices<'_>) -> Self {
        let sim = Sim { core: testing::core(FRAMES, CPUS as u32), running: (0..CPUS).map(|_| None).collect() };
        let core = &sim.core;
        let privileged = c.one_in(2);
        let guest = |privilege| {
            let guest = testing::guest_of(core, NewDomain { privilege, ..NewDomain::ordinary(2) }, PAGES);
            core.grow_grant_table(&guest.domain, 1).unwrap();
            guest
        };
        let powers = [Privilege::empty(), Privilege::all() - Privilege::INITIAL];
        let guests: Vec<Guest> = [powers[0], powers[usize::from(privileged)]].map(guest).into_iter().collect();
        let innocent = guest(Privilege::empty());
        for guest in &guests {
            core.unpause_from_outside(&guest.domain).unwrap();
            core.set_periodic(&guest.vcpu, 0);
            core.bring_up(&guest.vcpu);
        }
        core.platform.interrupt_every(c.below(4) as u64);
        let mut world = Self { sim, guests, innocent, untouched: Vec::new(), privileged, steps: 0 };
        world.sim.settle();
        world.untouched = world.look();
        world
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let mut cpu = c.below(CPUS);
        let mut vcpu = self.runner(cpu);
        if vcpu.is_none() {
            cpu = (cpu + 1) % CPUS;
            vcpu = self.runner(cpu);
        }
        if vcpu.is_none() {
            // All have ended: others begin.
            *self = Self::new(c);
            vcpu = self.runner(cpu);
        }
        let by =
            |guest: &&Guest| vcpu.as_ref().is_some_and(|v| guest.domain.vcpus.iter().any(|own| Arc::ptr_eq(own, v)));
        let (Some(vcpu), Some(guest)) = (&vcpu, self.guests.iter().find(by)) else { return };
        let number = if c.one_in(30) { c.edgy() as u32 } else { c.below(37) as u32 };
        let args = self.arguments(c, guest, number);
        let done = Self::call(&mut self.sim, cpu, guest, vcpu, number, args);
        let name = NAMES.get(number as usize).copied().unwrap_or("none");
        let outcome = match done {
            Ok(value) => {
                // A debug register may hold anything.
                let any = number == Hypercall::GET_DEBUGREG.0;
                assert!(any || Errno::check(value).is_ok(), "{name} {args:x?} returned {value} as a value");
                // These return nothing but errors (XSA-316).
                let nothing =
                    [Hypercall::GRANT_TABLE_OP, Hypercall::MMU_UPDATE, Hypercall::MMUEXT_OP, Hypercall::SET_GDT];
                assert!(value == 0 || !nothing.contains(&Hypercall(number)), "{name} {args:x?} returned {value}");
                Tally::OK
            }
            Err(Stop::REPLACED) => Tally::OK,
            Err(Stop::PREEMPTED) => "preempted",
            Err(stop) => stop.errno().map_or("replaced", testing::name_of),
        };
        assert_ne!(outcome, "another", "{name} {args:x?}: {done:?}");
        tally.note(name, outcome);
        self.sim.core.cpus[cpu].post(pending::RESCHEDULE);
        self.sim.settle();
        self.steps += 1;
        if self.steps.is_multiple_of(32) {
            self.check();
        }
    }

    fn end(self) {
        self.check();
    }
}

impl World {
    fn check(&self) {
        assert_eq!(self.sim.core.audit(&[]), Ok(Vec::new()));
        assert_eq!(testing::stale_translations(&self.sim.core), Vec::new());
        assert!(self.privileged || self.look() == self.untouched, "the innocent domain noticed");
    }
}

/// Each call succeeds, and each refusal that it documents is given.
const REACHED: &[(&str, &str)] = &[
    ("set_trap_table", "ok"),
    ("mmu_update", "ok"),
    ("set_gdt", "ok"),
    ("stack_switch", "ok"),
    ("set_callbacks", "ok"),
    ("fpu_taskswitch", "ok"),
    ("set_debugreg", "ok"),
    ("get_debugreg", "ok"),
    ("update_descriptor", "ok"),
    ("memory_op", "ok"),
    ("multicall", "ok"),
    ("update_va_mapping", "ok"),
    ("set_timer_op", "ok"),
    ("xen_version", "ok"),
    ("console_io", "ok"),
    ("grant_table_op", "ok"),
    ("vm_assist", "ok"),
    ("update_va_mapping_otherdomain", "ok"),
    ("iret", "ok"),
    ("vcpu_op", "ok"),
    ("set_segment_base", "ok"),
    ("mmuext_op", "ok"),
    ("nmi_op", "ok"),
    ("sched_op", "ok"),
    ("callback_op", "ok"),
    ("event_channel_op", "ok"),
    ("physdev_op", "ok"),
    ("sysctl", "ok"),
    ("domctl", "ok"),
];

#[test]
fn any_hypercall_with_any_arguments_ends_well() {
    fuzz::slice::<World>(15_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz dispatch"]
fn campaign_dispatch() {
    fuzz::campaign::<World>();
}
