//! Chaos: two hostile domains that make calls by seed, each on two vCPUs, with one another and with whoever there is; an
//! innocent one beside them that must not notice; and this one, which builds them, meddles, ends them, and looks.
//!
//! A round is one life of both hostile domains. On the command line: `seed=N`, `seconds=S` of system time, `rounds=N` at
//! most, `calls=N` of a vCPU a round, `harm=1` to see that what happens to the innocent one is found. Not a conformance guest: its verdict is of Ferrule alone. `cargo xtask chaos`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

mod brain;
mod dice;
mod domain;
mod innocent;

use conformance_guests::abi::domctl::{DomctlOp, MaxMem};
use conformance_guests::abi::event::{BindInterdomain, EvtchnOp};
use conformance_guests::abi::grant::{
    Copy, CopyPtr, GrantHandle, GrantOp, GrantStatus, MapGrantRef, UnmapGrantRef, gntmap,
};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::mmu::{MmuextCmd, MmuextOp};
use conformance_guests::abi::sysctl::{DebugKeys, PhysInfo, Sysctl, SysctlOp};
use conformance_guests::abi::{DomId, GrantRef, Port, Pte, Vaddr};
use conformance_guests::child::{control, domctl, map_foreign};
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe::{self, call, call_with};
use conformance_guests::ops::{MAP, READ, evtchn, grant, system_time, update_va};
use conformance_guests::{Test, guest};

use dice::Dice;
use domain::{Domain, VCPUS, Views, word};

guest!(run);

const MS: u64 = 1_000_000;
/// Without a call for so long, the hostile domains are ended: they wait for what does not come, or lost their memory.
const STUCK: u64 = 300 * MS;
/// How long the innocent domain may go without a round of its own.
const PATIENCE: u64 = 20_000 * MS;

fn now() -> u64 {
    system_time(probe::vcpu_info())
}

/// A number of the command line.
fn option(line: &[u8], name: &str, default: u64) -> u64 {
    let text = core::str::from_utf8(line).unwrap_or("");
    let value = text.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn run(t: &mut Test) {
    let line = t.info.cmdline();
    let (seed, calls) = (option(line, "seed", 1), option(line, "calls", 20_000));
    let (seconds, rounds) = (option(line, "seconds", 5), option(line, "rounds", u64::MAX));
    let (window, reach, views) = (probe::spare_va(), probe::spare_va(), [Views::new(), Views::new()]);
    let Some(mut watch) = Watch::begin(t, window) else { return };
    let harm = option(line, "harm", 0) != 0;
    let end = now() + seconds * 1000 * MS;
    let (mut all, mut good, mut hash) = (0, 0, 0u64);
    let mut round = 0;
    while round < rounds && now() < end {
        let mut meddler = Meddler { dice: Dice::new(seed ^ round << 32), window: reach, held: None };
        let Some(life) = live(t, seed + round, calls, views, window, &mut watch, &mut meddler) else { return };
        all += life.calls;
        good += life.good;
        hash = (hash ^ life.hash).wrapping_mul(0x100_0000_01b3);
        round += 1;
        if harm {
            probe::poke(watch.shared + 8, u64::MAX);
        }
        let Life { calls, good, hash, ends } = life;
        println!("chaos: seed {} calls {calls} good {good} hash {hash:016x} ends {ends:?}", seed + round - 1);
    }
    watch.end(t);
    println!("chaos: {round} rounds {all} calls {good} good hash {hash:016x}");
    t.yes("a fifth of the calls succeed", good * 5 >= all);
}

/// What a round came to.
#[derive(Default)]
struct Life {
    calls: u64,
    good: u64,
    hash: u64,
    ends: [End; 2],
}

/// How a hostile domain came to its end.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    /// It made all its calls.
    #[default]
    Through,
    /// It ended itself, or crashed.
    Dead,
    /// It waited for what does not come, or its memory was of no use any more.
    Stuck,
}

/// A round: both hostile domains from their making to their end.
fn live(
    t: &mut Test,
    seed: u64,
    calls: u64,
    views: [Views; 2],
    window: u64,
    watch: &mut Watch,
    meddler: &mut Meddler,
) -> Option<Life> {
    let mut build = |views| {
        let built = Domain::build(views, window, VCPUS, brain::main);
        t.ok("build a hostile domain", built.as_ref().err().copied().unwrap_or(0));
        built.ok()
    };
    let pair = [build(views[0])?, build(views[1])?];
    for (domain, peer) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
        domain.set(word::SEED, seed);
        domain.set(word::PEER, peer.id.0.into());
        domain.set(word::INNOCENT, watch.innocent.id.0.into());
        domain.set(word::BUDGET, calls);
        let foreign = [
            peer.play(0),
            peer.play(1),
            peer.frame(0),
            watch.innocent.play(0),
            watch.innocent.play(2),
            watch.innocent.frame(0),
            probe::mfn_of(views[0].play),
            Pte(probe::peek(conformance_guests::l4() + 8 * 256)).mfn(),
        ];
        foreign.into_iter().zip(word::OTHERS..).for_each(|(mfn, at)| domain.set(at, mfn.0));
    }
    pair.iter().for_each(|domain| t.ok("start", domain.start()));
    let through = |domain: &Domain| (0..VCPUS as u64).all(|vcpu| domain.get(word::COUNTS + 8 * vcpu + 3) == 1);
    let made = || pair.iter().map(|domain| domain.calls()).sum::<u64>();
    let (mut last, mut end) = (0, now() + STUCK);
    while now() < end && !pair.iter().all(|domain| through(domain) || !domain.lives()) {
        if made() != last {
            (last, end) = (made(), now() + STUCK);
        }
        watch.look(t);
        meddler.meddle(&pair);
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    audit();
    let mut life = Life::default();
    for (domain, end) in pair.iter().zip(&mut life.ends) {
        *end = if through(domain) {
            End::Through
        } else if domain.lives() {
            End::Stuck
        } else {
            End::Dead
        };
        for vcpu in 0..VCPUS as u64 {
            let count = |index| domain.get(word::COUNTS + 8 * vcpu + index);
            life.calls += count(0);
            life.good += count(1);
            life.hash = (life.hash ^ count(2)).wrapping_mul(0x100_0000_01b3);
        }
    }
    let [a, b] = pair;
    t.ok("end the first", a.end());
    // What is held of the second outlives it for a while: it goes when this is let go of.
    t.ok("end the second", b.end());
    meddler.let_go(t);
    watch.look(t);
    audit();
    Some(life)
}

/// Has the core prove its counts; what it finds is on the console.
fn audit() {
    let key = [b'a'];
    let keys = DebugKeys { keys: Vaddr(key.as_ptr() as u64), nr_keys: 1, _pad: 0 };
    call_with(Hypercall::SYSCTL, &[], &mut Sysctl::new(SysctlOp::DEBUG_KEYS, &keys));
}

fn free_pages() -> u64 {
    let mut op = Sysctl::new(SysctlOp::PHYSINFO, &PhysInfo::default());
    call_with(Hypercall::SYSCTL, &[], &mut op);
    op.payload.get::<PhysInfo>().free_pages
}

/// Who looks after the innocent domain.
struct Watch {
    innocent: Domain,
    /// Where its granted page is mapped, and where copies of the other go.
    shared: u64,
    handle: GrantHandle,
    copy: probe::Page,
    port: Port,
    rounds: u64,
    since: u64,
    free: u64,
}

impl Watch {
    fn begin(t: &mut Test, window: u64) -> Option<Self> {
        let free = free_pages();
        let built = Domain::build(Views::new(), window, 1, innocent::main);
        t.ok("build the innocent domain", built.as_ref().err().copied().unwrap_or(0));
        let innocent = built.ok()?;
        t.ok("start", innocent.start());
        let end = now() + PATIENCE;
        while innocent.get(word::ROUNDS) == 0 && now() < end {
            call(Hypercall::SCHED_OP, &[0, 0]);
        }
        t.yes("it runs", innocent.get(word::ROUNDS) != 0);
        let shared = probe::spare_va();
        let mut map = MapGrantRef {
            host_addr: shared,
            flags: gntmap::HOST_MAP,
            gref: GrantRef(innocent::GREF),
            dom: innocent.id,
            ..MapGrantRef::default()
        };
        t.ok("map its grant", grant(GrantOp::MAP_GRANT_REF, &mut map));
        t.eq("okay", map.status, GrantStatus::OKAY);
        let remote_port = Port(innocent.get(word::PORT) as u32);
        let mut bind =
            BindInterdomain { remote_dom: innocent.id, remote_port, local_port: Port(0), ..Default::default() };
        t.ok("bind its port", evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut bind));
        let (port, copy) = (bind.local_port, probe::page());
        (map.status == GrantStatus::OKAY).then(|| Self {
            innocent,
            shared,
            handle: map.handle,
            copy,
            port,
            rounds: 0,
            since: now(),
            free,
        })
    }

    /// It goes on, finds nothing wrong, and its events and grants reach us.
    fn look(&mut self, t: &mut Test) {
        let rounds = self.innocent.get(word::ROUNDS);
        t.eq("what the innocent domain finds wrong", self.innocent.get(word::WRONG), 0);
        if rounds == self.rounds {
            t.yes("the innocent domain goes on", now() - self.since < PATIENCE);
            return;
        }
        (self.rounds, self.since) = (rounds, now());
        let said = probe::peek(self.shared);
        t.yes("its grant shows what it says", said >= rounds);
        probe::poke(self.shared + 8, said);
        let end = CopyPtr { frame: innocent::GREF_READ.into(), domid: self.innocent.id, ..CopyPtr::default() };
        let to = CopyPtr { frame: self.copy.mfn.0, domid: DomId::SELF, ..CopyPtr::default() };
        let mut copy = Copy { source: end, dest: to, len: 8, flags: Copy::SOURCE_GREF, ..Copy::default() };
        t.ok("copy its page", grant(GrantOp::COPY, &mut copy));
        t.eq("okay", copy.status, GrantStatus::OKAY);
        let at = probe::shared_info() + 2048 + 8 * u64::from(self.port.0 / 64);
        t.yes("its event is here", probe::peek(at) >> (self.port.0 % 64) & 1 != 0);
    }

    /// Ends it; everything has to be there again.
    fn end(self, t: &mut Test) {
        let mut unmap = UnmapGrantRef { host_addr: self.shared, handle: self.handle, ..Default::default() };
        t.ok("unmap its grant", grant(GrantOp::UNMAP_GRANT_REF, &mut unmap));
        t.eq("okay", unmap.status, GrantStatus::OKAY);
        t.ok("end the innocent domain", self.innocent.end());
        println!("chaos: {} pages were free, {} are", self.free, free_pages());
    }
}

/// What the builder itself does with the hostile domains while they run.
struct Meddler {
    dice: Dice,
    window: u64,
    /// A grant of theirs that is mapped, and where.
    held: Option<(GrantHandle, u64)>,
}

impl Meddler {
    fn meddle(&mut self, pair: &[Domain; 2]) {
        let Some(domain) = pair.get(self.dice.below(2) as usize) else { return };
        let (id, dice) = (domain.id, &mut self.dice);
        match dice.below(16) {
            0 => {
                control(DomctlOp::PAUSEDOMAIN, id);
                control(DomctlOp::UNPAUSEDOMAIN, id);
            }
            1 | 2 => {
                let flags = if dice.percent(50) { READ } else { MAP };
                let frame = domain.frame(dice.below(96) as usize);
                map_foreign(self.window, Pte::new(frame, flags), id);
            }
            3 => _ = update_va(self.window, Pte::EMPTY, 2),
            4 => _ = domctl(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb: 600 + dice.below(1000) }),
            5 | 6 => {
                let cmd = if dice.percent(50) { MmuextCmd(dice.below(4) as u32) } else { MmuextCmd::UNPIN_TABLE };
                let mut op = MmuextOp::new(cmd, domain.play(dice.below(32)).0, 0);
                call(Hypercall::MMUEXT_OP, &[&raw mut op as u64, 1, 0, id.0.into()]);
            }
            7..10 => {
                if let Some((handle, host_addr)) = self.held.take() {
                    grant(GrantOp::UNMAP_GRANT_REF, &mut UnmapGrantRef { host_addr, handle, ..Default::default() });
                } else {
                    let host_addr = domain.views.grant;
                    let gref = GrantRef(8 + dice.below(24) as u32);
                    let flags = gntmap::HOST_MAP | gntmap::READONLY;
                    let mut map = MapGrantRef { host_addr, flags, gref, dom: id, ..MapGrantRef::default() };
                    grant(GrantOp::MAP_GRANT_REF, &mut map);
                    self.held = (map.status == GrantStatus::OKAY).then_some((map.handle, host_addr));
                }
            }
            _ => {}
        }
    }

    fn let_go(&mut self, t: &mut Test) {
        t.ok("let go of what was mapped", update_va(self.window, Pte::EMPTY, 2));
        if let Some((handle, host_addr)) = self.held.take() {
            let mut unmap = UnmapGrantRef { host_addr, handle, ..Default::default() };
            t.ok("unmap", grant(GrantOp::UNMAP_GRANT_REF, &mut unmap));
            t.eq("okay", unmap.status, GrantStatus::OKAY);
        }
    }
}
