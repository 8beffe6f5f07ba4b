//! The FIFO layout: against a model of ideal queues, and against guests that scribble on them.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use std::boxed::Box;
use std::collections::{BTreeSet, VecDeque};
use std::vec;
use std::vec::Vec;

use abi::event::fifo::{BUSY, LINK_MASK, LINKED, MASKED, PENDING, PRIORITY_DEFAULT};
use abi::{Errno, Mfn, Port, VcpuId};
use fuzz::{Choices, Tally, Target};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

use crate::event::layout;
use crate::lifecycle::NewDomain;
use crate::testing::{self, Guest, TestCore};
use crate::{Frame, Platform, Privilege};

const VCPUS: usize = 2;
const QUEUES: usize = 16;
/// Ports of the model: 1 to this.
const PORTS: u32 = 6;

/// A domain in the FIFO layout. Its pages: 0 and 1 the control blocks, 2 and 3 for the array.
fn guest(core: &TestCore) -> Guest {
    let guest =
        testing::guest_of(core, NewDomain { privilege: Privilege::empty(), ..NewDomain::ordinary(VCPUS as u32) }, 8);
    core.unpause_from_outside(&guest.domain).unwrap();
    for vcpu in 0..VCPUS {
        core.init_control(&guest.domain, VcpuId(vcpu as u32), guest.frames[vcpu].mfn(), 8).unwrap();
    }
    guest
}

/// A 32-bit word of a frame.
fn half(core: &TestCore, frame: Frame, at: usize) -> u32 {
    (core.platform.word(frame, at / 2).load(SeqCst) >> (at % 2 * 32)) as u32
}

fn set_half(core: &TestCore, frame: Frame, at: usize, value: u32) {
    let word = core.platform.word(frame, at / 2);
    let rest = word.load(SeqCst) & !(u64::from(u32::MAX) << (at % 2 * 32));
    word.store(rest | u64::from(value) << (at % 2 * 32), SeqCst);
}

fn word(core: &TestCore, guest: &Guest, port: u32) -> u32 {
    half(core, guest.frames[2], port as usize)
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send(u32),
    Mask(u32),
    Unmask(u32),
    Priority(u32, u32),
    Move(u32, u32),
    Take(usize),
    Reopen(u32),
}

impl Op {
    fn next(c: &mut Choices<'_>) -> Self {
        let (port, vcpu) = (1 + c.below(PORTS as usize) as u32, c.below(VCPUS));
        match c.weighted(&[8, 2, 2, 2, 2, 6, 1]) {
            0 => Self::Send(port),
            1 => Self::Mask(port),
            2 => Self::Unmask(port),
            3 => Self::Priority(port, [0, 1, 7, 15][c.below(4)]),
            4 => Self::Move(port, vcpu as u32),
            5 => Self::Take(vcpu),
            _ => Self::Reopen(port),
        }
    }

    /// What a campaign counts it as.
    fn name(self) -> &'static str {
        match self {
            Self::Send(_) => "send",
            Self::Mask(_) => "mask",
            Self::Unmask(_) => "unmask",
            Self::Priority(..) => "priority",
            Self::Move(..) => "move",
            Self::Take(_) => "take",
            Self::Reopen(_) => "reopen",
        }
    }
}

/// Ideal queues, by vCPU and priority.
struct Model {
    queues: Vec<Vec<VecDeque<u32>>>,
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
    /// Each port's queue: vCPU, priority.
    goes: Vec<(usize, usize)>,
}

impl Model {
    fn linked(&self, port: u32) -> bool {
        self.queues.iter().flatten().any(|queue| queue.contains(&port))
    }

    fn link(&mut self, port: u32) {
        if self.pending.contains(&port) && !self.masked.contains(&port) && !self.linked(port) {
            let (vcpu, priority) = self.goes[port as usize];
            self.queues[vcpu][priority].push_back(port);
        }
    }

    fn first(&self, vcpu: usize) -> Option<(usize, u32)> {
        let queues = self.queues[vcpu].iter().enumerate();
        queues.filter_map(|(priority, queue)| Some((priority, *queue.front()?))).next()
    }
}

/// What a guest's upcall handler remembers between two events: which queues had one, and how far it came in each.
#[derive(Default)]
struct Handler {
    ready: u32,
    next: [u32; QUEUES],
}

/// Takes the first event off a vCPU's queues, as a guest does: its priority and port.
fn take(core: &TestCore, guest: &Guest, vcpu: usize, handler: &mut Handler) -> Option<(usize, u32)> {
    let block = guest.frames[vcpu];
    handler.ready |= half(core, block, 2);
    set_half(core, block, 2, 0);
    let queue = (0..QUEUES).find(|queue| handler.ready & 1 << queue != 0)?;
    let port = match handler.next[queue] {
        0 => half(core, block, 4 + queue),
        port => port,
    };
    let now = word(core, guest, port);
    set_half(core, guest.frames[2], port as usize, now & !(LINKED | LINK_MASK));
    handler.next[queue] = now & LINK_MASK;
    if handler.next[queue] == 0 {
        handler.ready &= !(1 << queue);
    }
    Some((queue, port))
}

fn open(core: &TestCore, guest: &Guest) -> u32 {
    core.alloc_unbound(&guest.domain, guest.domain.id).unwrap().0
}

fn apply(core: &TestCore, guest: &Guest, handlers: &mut [Handler], model: &mut Model, op: Op) {
    let d = &guest.domain;
    let array = guest.frames[2];
    match op {
        Op::Send(port) => {
            core.send_event(d, Port(port));
            model.pending.insert(port);
            model.link(port);
        }
        Op::Mask(port) => {
            set_half(core, array, port as usize, word(core, guest, port) | MASKED);
            model.masked.insert(port);
        }
        Op::Unmask(port) => {
            core.unmask_port(d, Port(port)).unwrap();
            model.masked.remove(&port);
            model.link(port);
        }
        Op::Priority(port, priority) => {
            core.set_priority(d, Port(port), priority).unwrap();
            model.goes[port as usize].1 = priority as usize;
        }
        Op::Move(port, vcpu) => {
            core.bind_vcpu(d, Port(port), VcpuId(vcpu)).unwrap();
            model.goes[port as usize].0 = vcpu as usize;
        }
        Op::Take(vcpu) => {
            let taken = take(core, guest, vcpu, &mut handlers[vcpu]);
            assert_eq!(taken, model.first(vcpu), "vCPU {vcpu}");
            if let Some((priority, port)) = taken {
                model.queues[vcpu][priority].pop_front();
                if !model.masked.contains(&port) {
                    model.pending.remove(&port);
                    set_half(core, array, port as usize, word(core, guest, port) & !PENDING);
                }
            }
        }
        Op::Reopen(port) => {
            core.close(d, Port(port)).unwrap();
            model.pending.remove(&port);
            if model.linked(port) {
                let other = open(core, guest);
                assert!(other > PORTS, "{other}: nobody's while it is on a queue");
                core.close(d, Port(other)).unwrap();
            }
            for vcpu in 0..VCPUS {
                while model.linked(port) && model.first(vcpu).is_some() {
                    apply(core, guest, handlers, model, Op::Take(vcpu));
                }
            }
            assert_eq!(open(core, guest), port);
            model.goes[port as usize] = (0, PRIORITY_DEFAULT as usize);
        }
    }
}

fn compare(core: &TestCore, guest: &Guest, model: &Model) {
    for port in 1..=PORTS {
        let bits = [(PENDING, model.pending.contains(&port)), (MASKED, model.masked.contains(&port))];
        let wanted =
            bits.into_iter().chain([(LINKED, model.linked(port))]).map(|(bit, set)| bit * u32::from(set)).sum();
        assert_eq!(word(core, guest, port) & !LINK_MASK, wanted, "port {port}");
        let pending = core.port_is(&guest.domain, Port(port), PENDING);
        assert_eq!(pending, model.pending.contains(&port));
    }
}

const OPS: &[(&str, &str)] = &[
    ("send", "ok"),
    ("mask", "ok"),
    ("unmask", "ok"),
    ("priority", "ok"),
    ("move", "ok"),
    ("take", "ok"),
    ("reopen", "ok"),
];

/// A guest that keeps the rules, beside ideal queues.
struct Ideal {
    core: Box<TestCore>,
    guest: Guest,
    handlers: [Handler; VCPUS],
    model: Model,
}

impl Target for Ideal {
    const NAME: &'static str = "fifo";
    const EPISODE: u64 = 1000;
    const REACHED: &'static [(&'static str, &'static str)] = OPS;

    fn new(_: &mut Choices<'_>) -> Self {
        let core = testing::core(128, 1);
        let guest = guest(&core);
        core.expand_array(&guest.domain, guest.frames[2].mfn()).unwrap();
        (1..=PORTS).for_each(|port| assert_eq!(open(&core, &guest), port));
        let model = Model {
            queues: vec![vec![VecDeque::new(); QUEUES]; VCPUS],
            pending: BTreeSet::new(),
            masked: BTreeSet::new(),
            goes: vec![(0, PRIORITY_DEFAULT as usize); PORTS as usize + 1],
        };
        Self { core, guest, handlers: Default::default(), model }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let op = Op::next(c);
        apply(&self.core, &self.guest, &mut self.handlers, &mut self.model, op);
        compare(&self.core, &self.guest, &self.model);
        tally.note(op.name(), Tally::OK);
    }

    fn end(self) {
        assert_eq!(self.core.audit(&[]), Ok(Vec::new()));
    }
}

/// A guest that writes whatever it likes over its words and blocks, and a good one.
struct Scribbled {
    core: Box<TestCore>,
    bad: Guest,
    good: Guest,
}

impl Target for Scribbled {
    const NAME: &'static str = "fifo-scribbled";
    const EPISODE: u64 = 1000;
    const REACHED: &'static [(&'static str, &'static str)] = OPS;

    fn new(_: &mut Choices<'_>) -> Self {
        let core = testing::core(128, 1);
        let (bad, good) = (guest(&core), guest(&core));
        for guest in [&bad, &good] {
            core.expand_array(&guest.domain, guest.frames[2].mfn()).unwrap();
            (1..=PORTS).for_each(|port| assert_eq!(open(&core, guest), port));
        }
        Self { core, bad, good }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let (core, d, op) = (&self.core, &self.bad.domain, Op::next(c));
        let (page, at, value) = (c.below(3), c.below(24), c.word() as u32);
        // Likely ports and bits, or anything.
        let value = if c.one_in(3) { value } else { value & (7 | PENDING | MASKED | LINKED | BUSY) };
        set_half(core, self.bad.frames[page], at, value);
        match op {
            Op::Send(port) | Op::Mask(port) => core.send_event(d, Port(port)),
            Op::Unmask(port) => core.unmask_port(d, Port(port)).unwrap(),
            Op::Priority(port, priority) => core.set_priority(d, Port(port), priority).unwrap(),
            Op::Move(port, vcpu) => core.bind_vcpu(d, Port(port), VcpuId(vcpu)).unwrap(),
            Op::Take(_) => {}
            Op::Reopen(port) => {
                core.close(d, Port(port)).unwrap();
                // It may get another, or the same.
                while core.port_info(d, Port(port)).unwrap().status == abi::event::PortStatus::CLOSED {
                    set_half(core, self.bad.frames[2], port as usize, 0);
                    open(core, &self.bad);
                }
            }
        }
        tally.note(op.name(), Tally::OK);
    }

    fn end(self) {
        let Self { core, bad, good } = self;
        core.send_event(&good.domain, Port(1));
        assert_eq!(take(&core, &good, 0, &mut Handler::default()), Some((7, 1)));
        assert_eq!(core.audit(&[]), Ok(Vec::new()));
        for guest in [bad, good] {
            core.reset_ports(&guest.domain, false).unwrap();
            assert_eq!(open(&core, &guest), 1);
        }
        assert_eq!(core.audit(&[]), Ok(Vec::new()));
    }
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz fifo"]
fn campaign_fifo() {
    fuzz::campaign::<Ideal>();
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz fifo-scribbled"]
fn campaign_fifo_scribbled() {
    fuzz::campaign::<Scribbled>();
}

#[test]
fn committed_inputs() {
    fuzz::replay::<Ideal>();
    fuzz::replay::<Scribbled>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn queues_are_first_in_first_out_by_priority(bytes in prop::collection::vec(any::<u8>(), 1..800)) {
        fuzz::run::<Ideal>(&bytes);
    }

    #[test]
    fn whatever_the_words_hold_events_hurt_nobody_else(bytes in prop::collection::vec(any::<u8>(), 1..1600)) {
        fuzz::run::<Scribbled>(&bytes);
    }
}

#[test]
fn frames_of_the_layout_are_held_until_reset_or_the_end() {
    let core = testing::core(1024, 1);
    let guest = guest(&core);
    let d = &guest.domain;
    let writable = |at: usize| core.frames.info(guest.frames[at]).state().type_refs();
    let before = [0, 1, 2].map(writable);
    core.expand_array(d, guest.frames[2].mfn()).unwrap();
    assert_eq!(writable(2), before[2] + 1);
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    // Taken out of the guest's hands it is still there for events.
    core.reset_ports(d, false).unwrap();
    assert_eq!([0, 1, 2].map(writable), [before[0] - 1, before[1] - 1, before[2]]);
    assert_eq!(core.expand_array(d, guest.frames[2].mfn()), Err(Errno::EOPNOTSUPP));
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    core.init_control(d, VcpuId(0), guest.frames[0].mfn(), 4024).unwrap();
    core.expand_array(d, guest.frames[2].mfn()).unwrap();
    let port = core.alloc_unbound(d, d.id).unwrap();
    core.send_event(d, port);
    while core.destroy(d).is_err() {}
    assert_eq!(core.init_control(d, VcpuId(1), guest.frames[1].mfn(), 0), Err(Errno::EINVAL));
    assert_eq!(core.expand_array(d, guest.frames[3].mfn()), Err(Errno::EOPNOTSUPP));
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
}

#[test]
fn a_refused_first_block_leaves_the_layout_as_it_was() {
    let core = testing::core(512, 1);
    let guest = testing::guest(&core, Privilege::empty(), 8);
    let d = &guest.domain;
    let init = |vcpu, mfn, offset| core.init_control(d, VcpuId(vcpu), mfn, offset);
    let good = guest.frames[0].mfn();
    assert_eq!(init(1, good, 0), Err(Errno::ENOENT));
    for (mfn, offset) in [(good, 4), (good, 4032), (good, u32::MAX - 7), (Mfn(u64::MAX), 0), (guest.tables[0].mfn(), 0)]
    {
        assert_eq!(init(0, mfn, offset), Err(Errno::EINVAL), "{mfn:?} {offset}");
    }
    let port = core.alloc_unbound(d, d.id).unwrap();
    assert_eq!(core.set_priority(d, port, 3), Err(Errno::ENOSYS));
    core.send_event(d, port);
    assert_eq!(super::pending(&core, d), 1 << port.0);
    assert_eq!(init(0, good, 0), Ok(()));
    assert_eq!(init(0, good, 0), Err(Errno::EINVAL), "once only");
    // What was pending before waits for its word.
    core.expand_array(d, guest.frames[2].mfn()).unwrap();
    assert_eq!(word(&core, &guest, port.0), PENDING | LINKED);
    assert_eq!(half(&core, guest.frames[0], 2 + 7), port.0);
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
}

#[test]
fn ports_up_to_131071_and_each_page_once_its_turn_comes() {
    let core = testing::core(1024, 1);
    let guest = guest(&core);
    let d = &guest.domain;
    let mut first = [Port(0); 2];
    // Not all of them: a look-up of the lowest free one looks at each.
    for port in 1..=4200 {
        first[0] = core.alloc_unbound(d, d.id).unwrap();
        assert_eq!(first[0], Port(port));
    }
    core.set_priority(d, Port(1030), 2).unwrap();
    core.send_event(d, Port(1030));
    core.expand_array(d, guest.frames[2].mfn()).unwrap();
    assert_eq!(half(&core, guest.frames[0], 2), 0, "its page is not there");
    core.expand_array(d, guest.frames[3].mfn()).unwrap();
    assert_eq!(half(&core, guest.frames[3], 6), PENDING | LINKED);
    assert_eq!((half(&core, guest.frames[0], 2), half(&core, guest.frames[0], 4 + 2)), (1 << 2, 1030));
    for _ in 2..128 {
        core.expand_array(d, guest.frames[4].mfn()).unwrap();
    }
    assert_eq!(core.expand_array(d, guest.frames[4].mfn()), Err(Errno::ENOSPC));
    assert!(core.footprint(d) > 5 * 4096);
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
}

/// Each bucket of ports takes as much as another; and with the first port of a page of the array comes what is kept of all
/// of that page's, before there can be an event.
#[test]
fn what_is_kept_of_ports_grows_with_them() {
    let core = testing::core(1024, 1);
    let guest = guest(&core);
    let d = &guest.domain;
    let mut grown = Vec::new();
    for port in 1..1100 {
        let before = (core.valid_ports(d), d.events.bytes());
        assert_eq!(core.alloc_unbound(d, d.id), Ok(Port(port)));
        if core.valid_ports(d) > before.0 {
            grown.push((port, d.events.bytes() - before.1));
        }
        if port == 1024 {
            [2, 3].iter().for_each(|page| core.expand_array(d, guest.frames[*page].mfn()).unwrap());
            core.send_event(d, Port(1024));
            assert_eq!(half(&core, guest.frames[3], 0), PENDING | LINKED);
        }
    }
    let (_, bucket) = grown[0];
    assert!(bucket > 64 && grown.iter().all(|(port, bytes)| (*bytes > bucket + 1024) == (*port == 1024)), "{grown:?}");
    // And each vCPU has its queues.
    let layout = |vcpus| {
        let guest = testing::guest_of(&core, NewDomain::ordinary(vcpus), 2);
        let before = guest.domain.events.bytes();
        core.init_control(&guest.domain, VcpuId(0), guest.frames[0].mfn(), 0).unwrap();
        guest.domain.events.bytes() - before
    };
    assert!((4 * QUEUES..8 * QUEUES).contains(&(layout(2) - layout(1))));
}

#[test]
fn who_polls_hears_of_masked_events_once() {
    let core = testing::core(512, 1);
    let guest = guest(&core);
    let (d, vcpu) = (&guest.domain, &guest.vcpu);
    core.expand_array(d, guest.frames[2].mfn()).unwrap();
    let [port, other] = [open(&core, &guest), open(&core, &guest)].map(Port);
    set_half(&core, guest.frames[2], port.0 as usize, MASKED);
    let polls = || vcpu.sched.state.view().polling();
    for only in [Some(port), None] {
        core.begin_poll(d, vcpu, only);
        core.send_event(d, port);
        assert!(!polls(), "{only:?}");
        core.begin_poll(d, vcpu, None);
        core.send_event(d, port);
        assert!(polls(), "it was pending: no news");
        core.wake(vcpu);
        set_half(&core, guest.frames[2], port.0 as usize, MASKED);
    }
    // One that is not masked goes on its queue as well; the selector is the other layout's.
    core.begin_poll(d, vcpu, Some(other));
    core.send_event(d, other);
    let (frame, at) = vcpu.info.get();
    assert!(!polls() && half(&core, guest.frames[0], 4 + 7) == other.0);
    assert_eq!(core.platform.word(frame, at + layout::SELECTOR).load(SeqCst), 0);
}

#[test]
fn senders_on_several_threads_lose_no_event() {
    const EACH: u32 = 3000;
    let core = testing::core(1024, 1);
    let (receiver, senders) = (guest(&core), [guest(&core), guest(&core)]);
    let d = &receiver.domain;
    core.expand_array(d, receiver.frames[2].mfn()).unwrap();
    let ports = [0, 1].map(|at| {
        let near: &Arc<_> = &senders[at].domain;
        let port = core.alloc_unbound(d, near.id).unwrap();
        core.set_priority(d, port, 3).unwrap();
        (port.0, core.bind_interdomain(near, d, port).unwrap())
    });
    let (core, receiver) = (&*core, &receiver);
    let served = std::thread::scope(|scope| {
        let threads = [0, 1].map(|at| {
            let (near, port) = (&senders[at].domain, ports[at].1);
            scope.spawn(move || (0..EACH).for_each(|_| core.send(near, port).unwrap()))
        });
        let (array, block) = (receiver.frames[2], receiver.frames[0]);
        let (mut served, mut next, mut over) = (0, 0, false);
        // The last round begins when nobody sends any more.
        while !over {
            over = threads.iter().all(|thread| thread.is_finished());
            if core.platform.word(block, 1).swap(0, SeqCst) == 0 {
                continue;
            }
            loop {
                let port = if next == 0 { half(core, block, 4 + 3) } else { next };
                let (word, shift) = (core.platform.word(array, port as usize / 2), port % 2 * 32);
                let taken = u64::from(LINKED | LINK_MASK) << shift;
                next = (word.fetch_and(!taken, SeqCst) >> shift) as u32 & LINK_MASK;
                let pending = u64::from(PENDING) << shift;
                served += u32::from(word.fetch_and(!pending, SeqCst) & pending != 0);
                if next == 0 {
                    break;
                }
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        served
    });
    assert!(served >= 2, "{served}");
    let left = ports.map(|(port, _)| word(core, receiver, port));
    assert_eq!(left, [0, 0], "an event that nobody was told of");
    let (frame, at) = receiver.domain.vcpus[0].info.get();
    assert_eq!(core.platform.word(frame, at + layout::UPCALL).load(SeqCst) & 0xff, 1);
}
