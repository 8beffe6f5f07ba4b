//! Random operations of three domains on each other, against a model that has nothing in common with the code.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use abi::event::PortStatus;
use abi::{Errno, Port, VcpuId, Virq};
use fuzz::{Choices, Tally, Target};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

use super::domain;
use crate::event::layout;
use crate::testing::{self, TestCore, TestMachine};
use crate::{Domain, Platform, Stop};

const DOMAINS: usize = 3;
const VCPUS: u32 = 2;

#[derive(Clone, Debug)]
enum Op {
    Alloc(usize, usize),
    Bind(usize, usize, u32),
    Virq(usize, u32, u32),
    Ipi(usize, u32),
    Move(usize, u32, u32),
    Close(usize, u32),
    Send(usize, u32),
    RaiseVirq(usize, u32, u32),
    Mask(usize, u32),
    Unmask(usize, u32),
    Serve(usize, u32),
    Reset(usize),
}

impl Op {
    fn next(c: &mut Choices<'_>) -> Self {
        let (a, b, port, vcpu) =
            (c.below(DOMAINS), c.below(DOMAINS), c.below(9) as u32, c.below(VCPUS as usize + 1) as u32);
        let virq = [0, 1, 3, 24][c.below(4)];
        match c.weighted(&[4, 6, 1, 1, 3, 3, 9, 2, 3, 3, 4, 1]) {
            0 => Self::Alloc(a, b),
            1 => Self::Bind(a, b, port),
            2 => Self::Virq(a, virq, vcpu),
            3 => Self::Ipi(a, vcpu),
            4 => Self::Move(a, port, vcpu),
            5 => Self::Close(a, port),
            6 => Self::Send(a, port),
            7 => Self::RaiseVirq(a, virq, vcpu),
            8 => Self::Mask(a, port),
            9 => Self::Unmask(a, port),
            10 => Self::Serve(a, vcpu),
            _ => Self::Reset(a),
        }
    }

    /// What a campaign counts it as.
    fn name(&self) -> &'static str {
        match self {
            Self::Alloc(..) => "alloc",
            Self::Bind(..) => "bind",
            Self::Virq(..) => "bind virq",
            Self::Ipi(..) => "bind ipi",
            Self::Move(..) => "move",
            Self::Close(..) => "close",
            Self::Send(..) => "send",
            Self::RaiseVirq(..) => "raise virq",
            Self::Mask(..) => "mask",
            Self::Unmask(..) => "unmask",
            Self::Serve(..) => "serve",
            Self::Reset(_) => "reset",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Unbound(usize),
    Channel(usize, u32),
    Virq(u32),
    Ipi,
}

/// A domain as the model has it: what is open, and what the guest sees.
#[derive(Default)]
struct Known {
    open: BTreeMap<u32, (Kind, u32)>,
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
    told: BTreeSet<u32>,
}

struct Model([Known; DOMAINS]);

impl Model {
    fn free(&self, d: usize) -> u32 {
        (1..).find(|p| !self.0[d].open.contains_key(p)).unwrap()
    }

    fn raise(&mut self, d: usize, port: u32) {
        let known = &mut self.0[d];
        let vcpu = known.open[&port].1;
        if known.pending.insert(port) && !known.masked.contains(&port) {
            known.told.insert(vcpu);
        }
    }

    fn close(&mut self, d: usize, port: u32) -> Result<(), Errno> {
        let (kind, _) = self.0[d].open.remove(&port).ok_or(Errno::EINVAL)?;
        self.0[d].pending.remove(&port);
        if let Kind::Channel(far, remote) = kind
            && let Some(end) = self.0[far].open.get_mut(&remote)
        {
            end.0 = Kind::Unbound(d);
        }
        Ok(())
    }

    /// The operation with its port made one that it is likely to find something at: most are one of the open ones.
    fn aim(&self, op: &Op) -> Op {
        let open = |d: usize, p: u32, wanted: &dyn Fn(Kind) -> bool| {
            let known = self.0[d].open.iter().filter(|(_, end)| wanted(end.0)).map(|(port, _)| *port);
            let known: Vec<u32> = known.collect();
            if p == 0 || known.is_empty() { p } else { known[p as usize % known.len()] }
        };
        match *op {
            Op::Bind(a, b, p) => Op::Bind(a, b, open(b, p, &|kind| kind == Kind::Unbound(a))),
            Op::Move(a, p, vcpu) => Op::Move(a, open(a, p, &|_| true), vcpu),
            Op::Close(a, p) => Op::Close(a, open(a, p, &|_| true)),
            Op::Send(a, p) => Op::Send(a, open(a, p, &|_| true)),
            _ => op.clone(),
        }
    }

    /// What the operation answers.
    fn apply(&mut self, op: &Op) -> Result<u32, Errno> {
        match *op {
            Op::Alloc(a, b) => {
                let port = self.free(a);
                self.0[a].open.insert(port, (Kind::Unbound(b), 0));
                Ok(port)
            }
            Op::Bind(a, b, remote) => {
                if self.0[b].open.get(&remote).map(|end| end.0) != Some(Kind::Unbound(a)) {
                    return Err(Errno::EINVAL);
                }
                let port = self.free(a);
                self.0[a].open.insert(port, (Kind::Channel(b, remote), 0));
                self.0[b].open.get_mut(&remote).unwrap().0 = Kind::Channel(a, port);
                self.raise(a, port);
                Ok(port)
            }
            Op::Virq(a, virq, vcpu) => {
                if virq == 24 || virq == 3 && vcpu != 0 {
                    return Err(Errno::EINVAL);
                }
                if vcpu >= VCPUS {
                    return Err(Errno::ENOENT);
                }
                // Bound on this vCPU before; where its notifications go by now does not matter.
                let bound = |(_, end): (&u32, &(Kind, u32))| end.0 == Kind::Virq(virq) && (virq == 3 || end.1 == vcpu);
                if self.0[a].open.iter().any(bound) {
                    return Err(Errno::EEXIST);
                }
                let port = self.free(a);
                self.0[a].open.insert(port, (Kind::Virq(virq), vcpu));
                Ok(port)
            }
            Op::Ipi(a, vcpu) => {
                if vcpu >= VCPUS {
                    return Err(Errno::ENOENT);
                }
                let port = self.free(a);
                self.0[a].open.insert(port, (Kind::Ipi, vcpu));
                Ok(port)
            }
            Op::Move(a, port, vcpu) => {
                if vcpu >= VCPUS {
                    return Err(Errno::ENOENT);
                }
                match self.0[a].open.get_mut(&port) {
                    Some((Kind::Unbound(_) | Kind::Channel(..) | Kind::Virq(3), at)) => *at = vcpu,
                    _ => return Err(Errno::EINVAL),
                }
                Ok(0)
            }
            Op::Close(a, port) => self.close(a, port).map(|()| 0),
            Op::Send(a, port) => {
                match self.0[a].open.get(&port).map(|end| end.0) {
                    Some(Kind::Channel(far, remote)) => self.raise(far, remote),
                    Some(Kind::Ipi) => self.raise(a, port),
                    Some(Kind::Unbound(_)) => {}
                    _ => return Err(Errno::EINVAL),
                }
                Ok(0)
            }
            Op::RaiseVirq(a, virq, vcpu) => {
                let wanted =
                    |(_, end): &(&u32, &(Kind, u32))| end.0 == Kind::Virq(virq) && (virq == 3 || end.1 == vcpu);
                let port = self.0[a].open.iter().find(wanted).map(|(port, _)| *port);
                if let Some(port) = port {
                    self.raise(a, port);
                }
                Ok(0)
            }
            Op::Mask(a, port) => {
                self.0[a].masked.insert(port);
                Ok(0)
            }
            Op::Unmask(a, port) => {
                let known = &mut self.0[a];
                let Some((_, vcpu)) = known.open.get(&port) else { return Ok(0) };
                if known.masked.remove(&port) && known.pending.contains(&port) {
                    known.told.insert(*vcpu);
                }
                Ok(0)
            }
            Op::Serve(a, vcpu) => {
                let known = &mut self.0[a];
                if known.told.remove(&vcpu) {
                    let masked = &known.masked;
                    known.pending.retain(|port| masked.contains(port));
                }
                Ok(0)
            }
            Op::Reset(a) => {
                let open: Vec<u32> = self.0[a].open.keys().copied().collect();
                open.into_iter().for_each(|port| self.close(a, port).unwrap());
                Ok(0)
            }
        }
    }
}

type Domains = [Arc<Domain<TestMachine>>; DOMAINS];

fn word(core: &TestCore, d: &Domain<TestMachine>, at: usize) -> u64 {
    core.platform.word(d.shared_info, at).load(SeqCst)
}

/// The same, for real.
fn apply(core: &TestCore, d: &Domains, op: &Op) -> Result<u32, Errno> {
    match *op {
        Op::Alloc(a, b) => core.alloc_unbound(&d[a], d[b].id).map(|p| p.0),
        Op::Bind(a, b, remote) => core.bind_interdomain(&d[a], &d[b], Port(remote)).map(|p| p.0),
        Op::Virq(a, virq, vcpu) => core.bind_virq(&d[a], Virq(virq), VcpuId(vcpu)).map(|p| p.0),
        Op::Ipi(a, vcpu) => core.bind_ipi(&d[a], VcpuId(vcpu)).map(|p| p.0),
        Op::Move(a, port, vcpu) => core.bind_vcpu(&d[a], Port(port), VcpuId(vcpu)).map(|()| 0),
        Op::Close(a, port) => core.close(&d[a], Port(port)).map(|()| 0),
        Op::Send(a, port) => core.send(&d[a], Port(port)).map(|()| 0),
        Op::RaiseVirq(a, virq, vcpu) => {
            core.send_virq(&d[a], (virq != 3).then_some(VcpuId(vcpu)), Virq(virq));
            Ok(0)
        }
        Op::Mask(a, port) => {
            core.platform.word(d[a].shared_info, layout::MASK).fetch_or(1 << port, SeqCst);
            Ok(0)
        }
        Op::Unmask(a, port) => core.unmask_port(&d[a], Port(port)).map(|()| 0),
        Op::Serve(a, vcpu) => {
            // What a guest does in its upcall handler.
            let Some(vcpu) = d[a].vcpus.get(vcpu as usize) else { return Ok(0) };
            let (frame, at) = vcpu.info.get();
            let upcall = core.platform.word(frame, at + layout::UPCALL).fetch_and(!0xff, SeqCst);
            let selector = core.platform.word(frame, at + layout::SELECTOR).swap(0, SeqCst);
            if upcall & 0xff != 0 && selector & 1 != 0 {
                let mask = word(core, &d[a], layout::MASK);
                core.platform.word(d[a].shared_info, layout::PENDING).fetch_and(mask, SeqCst);
            }
            Ok(0)
        }
        Op::Reset(a) => {
            let mut done = core.reset_ports(&d[a], false);
            while done == Err(Stop::PREEMPTED) {
                done = core.reset_ports(&d[a], true);
            }
            assert_eq!(done, Ok(()));
            Ok(0)
        }
    }
}

fn bits(ports: &BTreeSet<u32>) -> u64 {
    ports.iter().map(|p| 1 << p).sum()
}

fn compare(core: &TestCore, d: &Domains, model: &Model) {
    for (domain, known) in d.iter().zip(&model.0) {
        for port in 1..64 {
            let info = core.port_info(domain, Port(port)).unwrap();
            let id = |of: usize| u32::from(d[of].id.0);
            let wanted = match known.open.get(&port) {
                None => (PortStatus::CLOSED, 0, 0, 0),
                Some((Kind::Unbound(who), vcpu)) => (PortStatus::UNBOUND, id(*who), 0, *vcpu),
                Some((Kind::Channel(far, remote), vcpu)) => (PortStatus::INTERDOMAIN, id(*far), *remote, *vcpu),
                Some((Kind::Virq(virq), vcpu)) => (PortStatus::VIRQ, *virq, 0, *vcpu),
                Some((Kind::Ipi, vcpu)) => (PortStatus::IPI, 0, 0, *vcpu),
            };
            assert_eq!((info.status, info.detail, info.remote_port.0, info.vcpu.0), wanted, "port {}", port);
        }
        assert_eq!(word(core, domain, layout::PENDING), bits(&known.pending));
        assert_eq!(word(core, domain, layout::MASK), bits(&known.masked));
        for vcpu in &domain.vcpus {
            let (frame, at) = vcpu.info.get();
            let told = known.told.contains(&vcpu.id.0);
            let upcall = core.platform.word(frame, at + layout::UPCALL).load(SeqCst) & 0xff;
            let selector = core.platform.word(frame, at + layout::SELECTOR).load(SeqCst);
            assert_eq!((upcall, selector), (u64::from(told), u64::from(told)), "vCPU {:?}", vcpu.id);
        }
    }
}

/// The domains, and the model of them.
struct World {
    core: Box<TestCore>,
    d: Domains,
    model: Model,
}

impl Target for World {
    const NAME: &'static str = "events";
    const EPISODE: u64 = 400;
    const REACHED: &'static [(&'static str, &'static str)] = &[
        ("alloc", "ok"),
        ("bind", "ok"),
        ("bind", "EINVAL"),
        ("bind virq", "ok"),
        ("bind virq", "EINVAL"),
        ("bind virq", "ENOENT"),
        ("bind virq", "EEXIST"),
        ("bind ipi", "ok"),
        ("bind ipi", "ENOENT"),
        ("move", "ok"),
        ("move", "EINVAL"),
        ("move", "ENOENT"),
        ("close", "ok"),
        ("close", "EINVAL"),
        ("send", "ok"),
        ("send", "EINVAL"),
        ("raise virq", "ok"),
        ("mask", "ok"),
        ("unmask", "ok"),
        ("serve", "ok"),
        ("reset", "ok"),
    ];

    fn new(c: &mut Choices<'_>) -> Self {
        let core: Box<TestCore> = testing::core(64, 1);
        let d: Domains = core::array::from_fn(|_| domain(&core, VCPUS));
        core.platform.interrupt_every(c.below(4) as u64);
        Self { core, d, model: Model(core::array::from_fn(|_| Known::default())) }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let mut op = self.model.aim(&Op::next(c));
        // The model has the lowest 63 ports only.
        if let Some(full) = self.model.0.iter().position(|known| known.open.len() >= 60) {
            op = Op::Reset(full);
        }
        let done = apply(&self.core, &self.d, &op);
        assert_eq!(done, self.model.apply(&op), "{op:?}");
        compare(&self.core, &self.d, &self.model);
        tally.note_result(op.name(), &done, |errno| testing::name_of(*errno));
    }

    fn end(mut self) {
        for at in 0..DOMAINS {
            assert_eq!(apply(&self.core, &self.d, &Op::Reset(at)), self.model.apply(&Op::Reset(at)));
        }
        compare(&self.core, &self.d, &self.model);
        for domain in &self.d {
            assert_eq!(Arc::strong_count(domain), 2, "a channel still holds it");
        }
    }
}

#[test]
fn random_events_do_what_the_model_does() {
    fuzz::slice::<World>(4_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz events"]
fn campaign_events() {
    fuzz::campaign::<World>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn events_do_what_the_model_does(bytes in prop::collection::vec(any::<u8>(), 1..900)) {
        fuzz::run::<World>(&bytes);
    }
}
