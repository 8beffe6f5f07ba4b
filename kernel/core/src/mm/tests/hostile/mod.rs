//! Random, hostile operations of several domains on few frames, against the model: what each answers, what it stores,
//! and after each one every count. The operations are real hypercalls; only their arguments lie where no page table
//! decides about them, so that domains may do to theirs whatever they like.

use std::boxed::Box;
use std::vec::Vec;

use abi::memory::{MemoryExchange, MemoryOp, MemoryReservation};
use abi::mmu::uvmf;
use abi::{Mfn, Vaddr};
use alloc::sync::Arc;
use fuzz::{Choices, Tally, Target};

mod aim;
mod judge;

use super::model::{Model, Page, Trial, Use, Whose};
use super::*;
use crate::lifecycle::NewDomain;
use crate::testing::{FIRST_RAM, TestMachine, WINDOW};
use crate::{Core, Domain, Owner, Stage, State, Stop, Vcpu, dispatch};

const GUESTS: usize = 3;
/// Frames of a domain to begin with, and at most.
const PAGES: usize = 8;
const MOST: u64 = 12;
const FRAMES: usize = FIRST_RAM as usize + 38;
/// What lists of frames are at, behind the arguments themselves.
const LIST: u64 = WINDOW.0 + 256;
const OUTPUT: u64 = WINDOW.0 + 320;
const DONE: u64 = WINDOW.0 + 384;

type Machine<const E: usize> = TestMachine<E>;

struct Player<const E: usize> {
    domain: Arc<Domain<Machine<E>>>,
    vcpu: Arc<Vcpu<Machine<E>>>,
}

/// The domains, their frames, and what the model says. Guest 0 is a builder.
pub struct World<const E: usize> {
    core: Box<Core<Machine<E>>>,
    players: Vec<Player<E>>,
    model: Model<E>,
    /// What each frame is used as since the last operation.
    uses: Vec<Use>,
    /// Long work is interrupted now.
    interrupted: bool,
    steps: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Update { tables: usize, frames: Whose, requests: Vec<MmuUpdate> },
    Address { at: [usize; 4], entry: Pte, frames: Whose, flush: u64 },
    Trapped { at: [usize; 4], word: usize, value: u64 },
    Pin { owner: usize, level: u8, mfn: Mfn },
    Unpin { owner: usize, mfn: Mfn },
    Root { user: bool, mfn: Mfn },
    Clear { mfn: Mfn },
    Copy { to: Mfn, from: Mfn },
    Descriptors { frames: Vec<Mfn> },
    Store { at: usize, index: usize, value: u64 },
    More,
    Less { mfn: Mfn },
    Exchange { mfn: Mfn },
    Touch { at: [usize; 4] },
    FlushTlb,
    Interrupt { every: u64 },
    Replace,
}

impl Op {
    /// What a campaign counts it as. Updates are counted by the level of the first table.
    fn name(&self, level: u8) -> &'static str {
        const UPDATES: [&str; 5] = ["update word", "update L1", "update L2", "update L3", "update L4"];
        const PINS: [&str; 5] = ["", "pin L1", "pin L2", "pin L3", "pin L4"];
        match self {
            Self::Update { .. } => UPDATES[usize::from(level)],
            Self::Address { .. } => "update address",
            Self::Trapped { .. } => "trapped write",
            Self::Pin { level, .. } => PINS[usize::from(*level)],
            Self::Unpin { .. } => "unpin",
            Self::Root { user: false, .. } => "kernel root",
            Self::Root { .. } => "user root",
            Self::Clear { .. } => "clear",
            Self::Copy { .. } => "copy",
            Self::Descriptors { .. } => "descriptors",
            Self::Store { .. } => "store",
            Self::More => "get frame",
            Self::Less { .. } => "give frame",
            Self::Exchange { .. } => "exchange",
            Self::Touch { .. } => "use address",
            Self::FlushTlb => "flush",
            Self::Interrupt { .. } => "interrupt",
            Self::Replace => "die",
        }
    }
}

/// What came of an operation.
type Outcome = Result<i64, Stop>;

impl<const E: usize> World<E> {
    fn enter(&self, number: usize) {
        self.core.platform.cpu.store((number % 2) as u32, SeqCst);
    }

    fn id(&self, number: usize) -> DomId {
        self.players[number].domain.id
    }

    /// A new domain: four of its frames are a tree, whose L1 maps two others and shows itself.
    fn build(&mut self, number: usize) -> Player<E> {
        let core = &*self.core;
        let privilege = if number == 0 { Privilege::BUILDER } else { Privilege::empty() };
        let new = NewDomain { privilege, max_pages: MOST, ..NewDomain::ordinary(1) };
        let domain = core.create_domain(&new).expect("memory for a domain");
        domain.dirty_cpus.store(1 << (number % 2), SeqCst);
        let frames: Vec<Frame> = (0..PAGES).map(|_| core.alloc_domain_page(&domain).expect("memory")).collect();
        let put = |table: usize, index, pte: Pte| core.platform.word(frames[table], index).store(pte.0, SeqCst);
        for level in 0..3 {
            put(level, 0, Pte::new(frames[level + 1].mfn(), WRITABLE));
        }
        put(3, 0, Pte::new(frames[4].mfn(), WRITABLE));
        put(3, 1, Pte::new(frames[5].mfn(), READ_ONLY));
        put(3, 2, Pte::new(frames[3].mfn(), READ_ONLY));
        let root = core.take_root(&domain, frames[0].mfn()).expect("a sound root");
        let vcpu = domain.vcpus[0].clone();
        {
            let mut run = vcpu.run.lock();
            (run.kernel_root, run.hardware_root, run.initialised) = (Some(root), Some(root), true);
        }
        for frame in frames.into_iter().chain([domain.shared_info]) {
            let core = frame == domain.shared_info;
            self.model.pages[frame.index()] = Page { owner: Some(domain.id), allocated: true, core, ..Page::FREE };
        }
        Player { domain, vcpu }
    }

    /// Makes a hypercall to its end; or gives it up when it was interrupted, if asked to.
    fn call(&self, who: usize, give_up: bool, number: Hypercall, mut args: [u64; 5]) -> Outcome {
        let player = &self.players[who];
        for _ in 0..10_000 {
            let mut run = player.vcpu.run.lock();
            let cpu = &self.core.cpus[who % 2];
            let mut caller =
                crate::Caller { core: &self.core, cpu, domain: &player.domain, vcpu: &player.vcpu, run: &mut run };
            match dispatch::call(&mut caller, number.0, &mut args) {
                Err(Stop::PREEMPTED) if give_up => return Err(Stop::PREEMPTED),
                Err(Stop::PREEMPTED) => assert!(self.interrupted, "nobody asked for it"),
                Ok(value) => return Errno::check(value).map(|value| value as i64).map_err(Stop::from),
                other => return other,
            }
        }
        panic!("it does not end: {number:?} {args:x?}, state {:?}", player.domain.mm.lock().abandoned);
    }

    fn put(&self, bytes: &[u8], at: u64) {
        let from = (at - WINDOW.0) as usize;
        self.core.platform.window.lock().unwrap()[from..from + bytes.len()].copy_from_slice(bytes);
    }

    fn extended(&self, who: usize, give_up: bool, cmd: MmuextCmd, arg1: u64, arg2: u64, owner: u64) -> Outcome {
        self.put(MmuextOp::new(cmd, arg1, arg2).as_bytes(), WINDOW.0);
        self.call(who, give_up, Hypercall::MMUEXT_OP, [WINDOW.0, 1, 0, owner, 0])
    }

    fn whose(&self, who: usize, whose: Whose) -> u64 {
        u64::from(match whose {
            Whose::Domain(id) if id == self.id(who) => DomId::SELF.0,
            Whose::Domain(id) => id.0,
            Whose::Io => DomId::IO.0,
        })
    }

    fn perform(&mut self, who: usize, op: &Op, give_up: bool) -> Outcome {
        let owned = |owner: usize| self.whose(who, Whose::Domain(self.id(owner)));
        match op {
            Op::Update { tables, frames, requests } => {
                self.put(requests.as_bytes(), WINDOW.0);
                self.put(&0u32.to_le_bytes(), DONE);
                let tables = if *tables == who { 0 } else { u64::from(self.id(*tables).0) + 1 };
                let arg = self.whose(who, *frames) | tables << 16;
                self.call(who, give_up, Hypercall::MMU_UPDATE, [WINDOW.0, requests.len() as u64, DONE, arg, 0])
            }
            Op::Address { at, entry, frames, flush } => {
                let (va, whose) = (address(*at).0, self.whose(who, *frames));
                match *frames == Whose::Domain(self.id(who)) {
                    true => self.call(who, false, Hypercall::UPDATE_VA_MAPPING, [va, entry.0, *flush, 0, 0]),
                    false => {
                        let number = Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN;
                        self.call(who, false, number, [va, entry.0, *flush, whose, 0])
                    }
                }
            }
            Op::Trapped { at, word, value } => {
                let player = &self.players[who];
                let mut run = player.vcpu.run.lock();
                let cpu = &self.core.cpus[who % 2];
                let mut caller =
                    crate::Caller { core: &self.core, cpu, domain: &player.domain, vcpu: &player.vcpu, run: &mut run };
                let va = Vaddr(address(*at).0 + *word as u64 * 8);
                caller.emulate_write(va, 8, None, *value).map(|_| 0).map_err(Stop::from)
            }
            Op::Pin { owner, level, mfn } => {
                self.extended(who, give_up, MmuextCmd(u32::from(*level) - 1), mfn.0, 0, owned(*owner))
            }
            Op::Unpin { owner, mfn } => self.extended(who, give_up, MmuextCmd::UNPIN_TABLE, mfn.0, 0, owned(*owner)),
            Op::Root { user, mfn } => {
                let cmd = if *user { MmuextCmd::NEW_USER_BASEPTR } else { MmuextCmd::NEW_BASEPTR };
                self.extended(who, give_up, cmd, mfn.0, 0, SELF)
            }
            Op::Clear { mfn } => self.extended(who, false, MmuextCmd::CLEAR_PAGE, mfn.0, 0, SELF),
            Op::Copy { to, from } => self.extended(who, false, MmuextCmd::COPY_PAGE, to.0, from.0, SELF),
            Op::FlushTlb => self.extended(who, false, MmuextCmd::TLB_FLUSH_ALL, 0, 0, SELF),
            Op::Descriptors { frames } => {
                self.put(frames.as_bytes(), LIST);
                self.call(who, false, Hypercall::SET_GDT, [LIST, frames.len() as u64 * 512, 0, 0, 0])
            }
            Op::Store { at, index, value } => {
                let frame = self.core.frames.get(Mfn(*at as u64)).expect("RAM");
                self.core.platform.word(frame, *index).store(*value, SeqCst);
                Ok(0)
            }
            Op::More => self.memory(who, MemoryOp::INCREASE_RESERVATION, Mfn(0)),
            Op::Less { mfn } => self.memory(who, MemoryOp::DECREASE_RESERVATION, *mfn),
            Op::Exchange { mfn } => {
                let r = MemoryReservation { nr_extents: 1, domid: DomId::SELF, ..Default::default() };
                let x = MemoryExchange {
                    input: MemoryReservation { extent_start: Vaddr(LIST), ..r },
                    output: MemoryReservation { extent_start: Vaddr(OUTPUT), ..r },
                    nr_exchanged: 0,
                };
                self.put(mfn.as_bytes(), LIST);
                self.put(x.as_bytes(), WINDOW.0);
                self.call(who, false, Hypercall::MEMORY_OP, [u64::from(MemoryOp::EXCHANGE.0), WINDOW.0, 0, 0, 0])
            }
            Op::Touch { at } => {
                let run = self.players[who].vcpu.run.lock();
                for root in [run.kernel_root, run.user_root].into_iter().flatten() {
                    let space = crate::platform::AddressSpace { root };
                    self.core.platform.touch(self.core.platform.this_cpu(), space, address(*at));
                }
                Ok(0)
            }
            Op::Interrupt { every } => {
                self.core.platform.interrupt_every(*every);
                self.interrupted = *every != 0;
                Ok(0)
            }
            Op::Replace => {
                self.replace(who);
                Ok(0)
            }
        }
    }

    fn memory(&self, who: usize, op: MemoryOp, mfn: Mfn) -> Outcome {
        self.put(mfn.as_bytes(), LIST);
        let r =
            MemoryReservation { extent_start: Vaddr(LIST), nr_extents: 1, domid: DomId::SELF, ..Default::default() };
        self.put(r.as_bytes(), WINDOW.0);
        // How many were done: none means refused.
        let done = self.call(who, false, Hypercall::MEMORY_OP, [u64::from(op.0), WINDOW.0, 0, 0, 0])?;
        if done == 1 { Ok(1) } else { Err(Errno::EINVAL.into()) }
    }

    fn look_for_descriptors(&mut self, mfn: Mfn) {
        if let Some(at) = self.model.ram(mfn) {
            let frame = self.core.frames.get(mfn).expect("RAM");
            let fit = |index| crate::segment::admit(self.core.platform.word(frame, index).load(SeqCst)).is_some();
            self.model.pages[at].fit = (0..crate::guest::WORDS).all(fit);
        }
    }

    /// The frame that a list names.
    fn told(&self, at: u64) -> usize {
        let from = (at - WINDOW.0) as usize;
        let window = self.core.platform.window.lock().unwrap();
        u64::from_le_bytes(window[from..from + 8].try_into().unwrap()) as usize
    }

    /// A guest dies, and another takes its place.
    fn replace(&mut self, who: usize) {
        let player = &self.players[who];
        let (core, domain) = (&*self.core, player.domain.clone());
        domain.life.store(Stage::Dying as u32, SeqCst);
        {
            let mut run = player.vcpu.run.lock();
            core.release_gdt(&mut run.gdt);
            run.hardware_root = None;
            let roots = [run.kernel_root.take(), run.user_root.take()];
            drop(run);
            for mut root in roots {
                while core.drop_root(&domain, &mut root).is_err() {}
            }
        }
        while core.relinquish_memory(&domain).is_err() {
            assert_eq!(core.audit(&[]), Ok(Vec::new()));
        }
        core.free_core_page(domain.shared_info);
        domain.life.store(Stage::Zombie as u32, SeqCst);
        core.platform.interrupt_every(0);
        self.interrupted = false;
        self.model.dead.push(domain.id);
        for page in self.model.pages.iter_mut().filter(|page| page.owner == Some(domain.id)) {
            (page.allocated, page.pinned) = (false, None);
        }
        let alive: Vec<DomId> = self.players.iter().map(|player| player.domain.id).collect();
        // A zombie with frames that the builder still maps stays.
        core.domains.table.write().retain(|d| alive.contains(&d.id) && d.id != domain.id || core.frames_left(d) > 0);
        if core_is_short(core) {
            assert_ne!(who, 0, "the builder alone held that much");
            // The builder holds on to too much: it goes first.
            self.replace(0);
        }
        self.players[who] = self.build(who);
    }
}

fn core_is_short<const E: usize>(core: &Core<Machine<E>>) -> bool {
    core.free_frames() < PAGES as u64 + 2
}

/// The address that these entries map, L4 first.
fn address(at: [usize; 4]) -> Vaddr {
    Vaddr(at.iter().fold(0, |va, index| va << 9 | *index as u64) << 12)
}

impl<const E: usize> Target for World<E> {
    const NAME: &'static str = "page-types";
    const EPISODE: u64 = 4000;
    const REACHED: &'static [(&'static str, &'static str)] = REACHED;

    fn new(_: &mut Choices<'_>) -> Self {
        let core = testing::core_with(FRAMES, 2, false);
        *core.platform.window.lock().unwrap() = std::vec![0; 512];
        let model = Model { pages: std::vec![Page::FREE; FRAMES], ..Model::default() };
        let mut world = Self { core, players: Vec::new(), model, uses: Vec::new(), interrupted: false, steps: 0 };
        for number in 0..GUESTS {
            world.enter(number);
            let player = world.build(number);
            world.players.push(player);
        }
        world.refresh();
        world.holders();
        world.uses = world.model.uses();
        world
    }

    fn step(&mut self, choices: &mut Choices<'_>, tally: &mut Tally) {
        let who = choices.below(GUESTS);
        self.enter(who);
        if self.interrupted && choices.one_in(8) {
            self.perform(who, &Op::Interrupt { every: 0 }, false).expect("always done");
        }
        let op = self.next(choices, who);
        let level = match &op {
            Op::Update { requests, .. } => {
                let table = self.model.ram(Mfn(requests[0].ptr >> 12));
                table.map_or(0, |at| Trial::new(&self.model, self.uses.clone()).level(at))
            }
            _ => 0,
        };
        if let Op::Descriptors { frames } = &op {
            frames.iter().for_each(|mfn| self.look_for_descriptors(*mfn));
        }
        let certain = !self.interrupted && !self.is_unfinished();
        let expected = certain.then(|| self.expect(who, &op));
        let outcome = self.perform(who, &op, choices.one_in(3));
        self.settle(who, &op, expected, &outcome);
        assert_eq!(testing::stale_translations(&self.core), Vec::new(), "after {op:?}");
        self.steps += 1;
        if self.steps.is_multiple_of(64) {
            // The core's own idea of what is right is the same.
            assert_eq!(self.core.audit(&[]), Ok(Vec::new()));
        }
        self.core.platform.take_flushes();
        tally.note(
            op.name(level),
            match outcome {
                Ok(_) => Tally::OK,
                Err(Stop::PREEMPTED) => "interrupted",
                Err(stop) => stop.errno().map_or("replaced", testing::name_of),
            },
        );
    }
}

/// Every commit, and every refusal.
const REACHED: &[(&str, &str)] = &[
    ("update word", "ok"),
    ("update word", "EINVAL"),
    ("update word", "EPERM"),
    ("update word", "ESRCH"),
    ("update word", "ENOSYS"),
    ("update L1", "ok"),
    ("update L1", "EINVAL"),
    ("update L1", "EBUSY"),
    ("update L1", "EPERM"),
    ("update L1", "ESRCH"),
    ("update L1", "ENOSYS"),
    ("update L1", "interrupted"),
    ("update L2", "ok"),
    ("update L2", "EINVAL"),
    ("update L2", "EBUSY"),
    ("update L2", "interrupted"),
    ("update L3", "ok"),
    ("update L3", "EINVAL"),
    ("update L3", "EBUSY"),
    ("update L3", "interrupted"),
    ("update L4", "ok"),
    ("update L4", "EINVAL"),
    ("update L4", "EBUSY"),
    ("update L4", "interrupted"),
    ("update address", "ok"),
    ("update address", "EINVAL"),
    ("update address", "EBUSY"),
    ("update address", "EPERM"),
    ("update address", "ESRCH"),
    ("trapped write", "ok"),
    ("trapped write", "EINVAL"),
    ("trapped write", "EBUSY"),
    ("trapped write", "EPERM"),
    ("pin L1", "ok"),
    ("pin L1", "EINVAL"),
    ("pin L1", "EBUSY"),
    ("pin L1", "EPERM"),
    ("pin L1", "interrupted"),
    ("pin L2", "ok"),
    ("pin L2", "EINVAL"),
    ("pin L2", "EBUSY"),
    ("pin L2", "EPERM"),
    ("pin L2", "interrupted"),
    ("pin L3", "ok"),
    ("pin L3", "EINVAL"),
    ("pin L3", "EBUSY"),
    ("pin L3", "EPERM"),
    ("pin L3", "interrupted"),
    ("pin L4", "ok"),
    ("pin L4", "EINVAL"),
    ("pin L4", "EBUSY"),
    ("pin L4", "EPERM"),
    ("pin L4", "interrupted"),
    ("unpin", "ok"),
    ("unpin", "EINVAL"),
    ("unpin", "EPERM"),
    ("unpin", "interrupted"),
    ("kernel root", "ok"),
    ("kernel root", "EINVAL"),
    ("kernel root", "EBUSY"),
    ("kernel root", "interrupted"),
    ("user root", "ok"),
    ("user root", "EINVAL"),
    ("user root", "EBUSY"),
    ("user root", "interrupted"),
    ("clear", "ok"),
    ("clear", "EINVAL"),
    ("copy", "ok"),
    ("copy", "EINVAL"),
    ("descriptors", "ok"),
    ("descriptors", "EINVAL"),
    ("store", "ok"),
    ("get frame", "ok"),
    ("get frame", "EINVAL"),
    ("give frame", "ok"),
    ("give frame", "EINVAL"),
    ("exchange", "ok"),
    ("exchange", "EINVAL"),
    ("exchange", "ENOMEM"),
    ("die", "ok"),
];

#[test]
fn lesson_12_random_operations_keep_the_counts() {
    fuzz::slice::<World<4>>(20_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz page-types"]
fn campaign_page_types() {
    fuzz::campaign::<World<4>>();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]
    /// Tables as large as the hardware's; and what fails shrinks.
    #[test]
    fn whole_tables_keep_the_counts(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..600)) {
        fuzz::run::<World<512>>(&bytes);
    }
}
