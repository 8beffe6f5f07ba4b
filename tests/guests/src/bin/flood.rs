//! Floods of events. As the initial domain: storms at oneself, after which all is as before. Among other domains, by its
//! command line: `attack` floods whom it can reach, domain 0 and a sibling; `victim` is that sibling, and says how much
//! work it gets done in a second of system time and how late its timer is.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindVirq, EvtchnOp, PortArg, PortStatus, Reset, Status,
};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::sched::{Poll, SchedOp};
use conformance_guests::abi::{DomId, Port, Vaddr, VcpuId, Virq};
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe::{self, call, work};
use conformance_guests::ops::{evtchn, sched, system_time};
use conformance_guests::{Test, guest};

guest!(run);

const MS: u64 = 1_000_000;
/// How long each storm lasts at other domains' cost.
const STORM: u64 = 20 * MS;
/// How often each storm's operation is done at oneself.
const TIMES: u64 = 5000;
/// Pieces of work between two looks at the clock.
const PIECES: u64 = 20;
/// Ports that are tried for one that waits for us.
const PORTS: u32 = 32;

fn now() -> u64 {
    system_time(probe::vcpu_info())
}

fn run(t: &mut Test) {
    // Not the periodic timer a vCPU may start with.
    call(Hypercall::VCPU_OP, &[7, 0, 0]);
    match t.info.cmdline() {
        b"attack" => attack(t),
        b"victim" => victim(t),
        _ => alone(t),
    }
}

/// Forgets every event, as a guest that serves them does.
fn drain() {
    // From the upcall down: what another CPU sends meanwhile is seen here, or tells this one again.
    probe::modify(probe::vcpu_info(), |_| 0);
    probe::poke(probe::vcpu_info() + 8, 0);
    (0..64).for_each(|word| probe::poke(probe::shared_info() + 2048 + 8 * word, 0));
}

fn send(port: Port) -> i64 {
    evtchn(EvtchnOp::SEND, &mut PortArg { port })
}

fn poll(port: Port, timeout: u64) -> i64 {
    let ports = [port];
    let mut arg = Poll { ports: Vaddr(ports.as_ptr() as u64), nr_ports: 1, _pad: 0, timeout };
    sched(SchedOp::POLL, &mut arg)
}

/// A storm at oneself: a name, and one operation of it.
struct Storm<'a>(&'static str, &'a dyn Fn(u64) -> i64);

/// What a guest can do to its own events, as fast as it can.
fn storms(ipi: Port, each: &mut dyn FnMut(&Storm<'_>)) {
    let masked = |masked: bool| {
        probe::poke(probe::shared_info() + 2560, if masked { u64::MAX } else { 0 });
    };
    masked(false);
    each(&Storm("upcalls", &|_| {
        probe::mask_events(false);
        let sent = send(ipi);
        drain();
        sent
    }));
    probe::mask_events(true);
    each(&Storm("sends of a pending event", &|_| send(ipi)));
    each(&Storm("unmasked again and again", &|_| {
        masked(true);
        drain();
        send(ipi);
        evtchn(EvtchnOp::UNMASK, &mut PortArg { port: ipi })
    }));
    masked(true);
    drain();
    each(&Storm("polls that are over", &|_| poll(ipi, 1)));
    each(&Storm("polls that end soon", &|_| poll(ipi, now() + 1000)));
    masked(false);
    each(&Storm("timers in the past", &|n| {
        let set = call(Hypercall::SET_TIMER_OP, &[1 + n]);
        drain();
        set
    }));
    each(&Storm("timers that are due", &|_| {
        let set = call(Hypercall::SET_TIMER_OP, &[now()]);
        drain();
        set
    }));
    each(&Storm("blocks with a timer", &|_| {
        drain();
        call(Hypercall::SET_TIMER_OP, &[now() + 1000]);
        let slept = call(Hypercall::SCHED_OP, &[1, 0]);
        probe::mask_events(true);
        slept
    }));
    call(Hypercall::SET_TIMER_OP, &[0]);
    drain();
    each(&Storm("yields", &|_| call(Hypercall::SCHED_OP, &[0, 0])));
    each(&Storm("ports bound and closed", &|_| {
        let mut arg = BindIpi { vcpu: VcpuId(0), port: Port(0) };
        let bound = evtchn(EvtchnOp::BIND_IPI, &mut arg);
        bound | evtchn(EvtchnOp::CLOSE, &mut PortArg { port: arg.port })
    }));
}

fn own_ports(t: &mut Test) -> Port {
    let mut ipi = BindIpi { vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind_ipi", evtchn(EvtchnOp::BIND_IPI, &mut ipi));
    let mut timer = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind timer", evtchn(EvtchnOp::BIND_VIRQ, &mut timer));
    ipi.port
}

/// Storms at oneself: each operation succeeds, and afterwards events and timers work as ever.
fn alone(t: &mut Test) {
    let ipi = own_ports(t);
    storms(ipi, &mut |Storm(name, op)| {
        let failed = (0..TIMES).filter(|&n| op(n) != 0).count();
        t.eq(name, failed, 0);
    });
    let ports = every_port();
    t.yes("ports are many, and come to an end", (1000..4096).contains(&ports));
    t.ok("reset", evtchn(EvtchnOp::RESET, &mut Reset { dom: DomId::SELF }));
    let mut status = Status { dom: DomId::SELF, port: Port(ports / 2), ..Status::default() };
    t.ok("status", evtchn(EvtchnOp::STATUS, &mut status));
    t.eq("closed", status.status, PortStatus::CLOSED);
    drain();
    let ipi = own_ports(t);
    let before = probe::upcalls();
    probe::mask_events(false);
    t.ok("send", send(ipi));
    t.eq("an upcall", probe::upcalls() - before, 1);
    drain();
    // Until it blocks: an upcall before that would be the one it waits for.
    probe::mask_events(true);
    let deadline = now() + 2 * MS;
    t.ok("set_timer_op", call(Hypercall::SET_TIMER_OP, &[deadline]));
    t.ok("block", call(Hypercall::SCHED_OP, &[1, 0]));
    t.yes("sleeps until the timer", now() >= deadline && probe::upcalls() - before == 2);
}

/// Takes ports until there are none left; how many there were.
fn every_port() -> u32 {
    let mut arg = AllocUnbound { dom: DomId::SELF, remote_dom: DomId(0), port: Port(0) };
    let taken = (0..5000).take_while(|_| evtchn(EvtchnOp::ALLOC_UNBOUND, &mut arg) == 0);
    taken.count() as u32
}

/// Floods for good, storm after storm.
fn attack(t: &mut Test) {
    let ipi = own_ports(t);
    // Domain 0 waits at the other end of the store's and the console's channel, the sibling for anybody who finds its
    // port: it was made before this domain.
    let sibling = (1..PORTS).find_map(|port| {
        let remote_dom = DomId(1);
        let mut arg = BindInterdomain { remote_dom, remote_port: Port(port), ..BindInterdomain::default() };
        (evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut arg) == 0).then_some(arg.local_port)
    });
    let Some(sibling) = sibling else {
        println!("attack: no sibling");
        return;
    };
    let (store, console) = (Port(t.info.store_evtchn), Port(t.info.console_evtchn));
    let timed = |name: &str, op: &dyn Fn(u64) -> i64| {
        let start = now();
        let (mut done, mut failed) = (0u64, 0u64);
        while now() - start < STORM {
            (0..100).for_each(|n| failed += u64::from(op(done + n) != 0));
            done += 100;
        }
        println!("attack: {name}: {} a second, {failed} failed", done * 1000 * MS / STORM);
    };
    for round in 1u64.. {
        timed("sends to domain 0", &|n| send(if n % 2 == 0 { store } else { console }));
        timed("sends to the sibling", &|_| send(sibling));
        storms(ipi, &mut |Storm(name, op)| timed(name, op));
        println!("attack: {} ports more", every_port());
        // All but those that we need.
        (PORTS..4096).for_each(|port| {
            evtchn(EvtchnOp::CLOSE, &mut PortArg { port: Port(port) });
        });
        println!("attack: round {round}");
    }
}

/// Works and sleeps in turn, with upcalls on and every event served, and says how that goes.
fn victim(t: &mut Test) {
    own_ports(t);
    let mut open = AllocUnbound { dom: DomId::SELF, remote_dom: DomId(2), port: Port(0) };
    t.ok("alloc_unbound", evtchn(EvtchnOp::ALLOC_UNBOUND, &mut open));
    probe::mask_events(false);
    loop {
        let start = now();
        let mut done = 0u64;
        while now() - start < 50 * MS {
            work(PIECES);
            done += PIECES;
            drain();
        }
        let worked = now() - start;
        let late = (0..25).map(|_| lateness(2 * MS)).max().unwrap_or(0);
        println!("victim: {} pieces a second, {} us late", done * 1000 * MS / worked, late / 1000);
    }
}

/// How much too late a sleep ends, at the end of which the guest has something to do.
fn lateness(sleep: u64) -> u64 {
    let deadline = now() + sleep;
    call(Hypercall::SET_TIMER_OP, &[deadline]);
    loop {
        // Until it blocks, which unmasks: an upcall behind the drain would leave its events pending, and what is sent
        // while the selector is set wakes nobody.
        probe::mask_events(true);
        drain();
        if now() >= deadline {
            probe::mask_events(false);
            return now() - deadline;
        }
        call(Hypercall::SCHED_OP, &[1, 0]);
    }
}
