//! sched_op: yield, block, poll, shutdown codes, watchdog; set_timer_op.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::{BindIpi, BindVirq, EvtchnOp, PortArg};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::sched::{Poll, RemoteShutdown, SchedOp, Shutdown, ShutdownReason, Watchdog};
use conformance_guests::abi::{DomId, Errno, Port, Vaddr, VcpuId, Virq};
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::ops::{evtchn, sched, system_time};
use conformance_guests::{Test, guest};

guest!(run);

const MS: u64 = 1_000_000;

fn run(t: &mut Test) {
    t.ok("yield", call(Hypercall::SCHED_OP, &[0, 0]));
    for op in [2, 3, 4, 5, 6] {
        t.err("argument nowhere", call(Hypercall::SCHED_OP, &[op, 0x1000]), Errno::EFAULT);
    }
    for op in [8, 9, u32::MAX.into()] {
        t.err("unknown op", call(Hypercall::SCHED_OP, &[op, 0]), Errno::ENOSYS);
    }
    let now = || system_time(probe::vcpu_info());
    let timer = {
        let mut arg = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
        t.ok("bind timer", evtchn(EvtchnOp::BIND_VIRQ, &mut arg));
        arg.port
    };
    let info = probe::vcpu_info();
    let drain = || {
        probe::poke(probe::shared_info() + 2048, 0);
        probe::poke(info + 8, 0);
        probe::modify(info, |_| 0);
    };
    call(Hypercall::VCPU_OP, &[7, 0, 0]); // the periodic timer a vCPU may start with
    drain();
    block(t, now, drain);
    poll(t, timer, now, drain);
    errors(t);
}

fn block(t: &mut Test, now: impl Fn() -> u64, drain: impl Fn()) {
    let deadline = now() + 20 * MS;
    let before = probe::upcalls();
    probe::mask_events(true);
    t.ok("set_timer_op", call(Hypercall::SET_TIMER_OP, &[deadline]));
    t.ok("block", call(Hypercall::SCHED_OP, &[1, 0]));
    t.eq("the upcall came", probe::upcalls() - before, 1);
    t.yes("not before the deadline", now() >= deadline);
    t.eq("block unmasked events", probe::peek(probe::vcpu_info()) >> 8 & 0xff, 0);
    drain();
    // A deadline that has passed comes at once.
    probe::mask_events(true);
    t.ok("set_timer_op in the past", call(Hypercall::SET_TIMER_OP, &[1]));
    t.ok("block on it", call(Hypercall::SCHED_OP, &[1, 0]));
    t.eq("comes", probe::upcalls() - before, 2);
    drain();
    // Cancelled, long before: a busy host may hold us up in between.
    let deadline = now() + 200 * MS;
    t.ok("set", call(Hypercall::SET_TIMER_OP, &[deadline]));
    t.ok("cancel", call(Hypercall::SET_TIMER_OP, &[0]));
    let end = deadline + 20 * MS;
    while now() < end {
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    t.eq("nothing came", probe::upcalls() - before, 2);
    probe::mask_events(true);
    drain();
    // Pending already: block returns at once.
    let ipi = ipi_port(t);
    t.ok("send", evtchn(EvtchnOp::SEND, &mut PortArg { port: ipi }));
    t.ok("block with an event pending", call(Hypercall::SCHED_OP, &[1, 0]));
    t.eq("upcall", probe::upcalls() - before, 3);
    drain();
    probe::mask_events(true);
    t.ok("close", evtchn(EvtchnOp::CLOSE, &mut PortArg { port: ipi }));
}

fn ipi_port(t: &mut Test) -> Port {
    let mut arg = BindIpi { vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind_ipi", evtchn(EvtchnOp::BIND_IPI, &mut arg));
    arg.port
}

fn poll(t: &mut Test, timer: Port, now: impl Fn() -> u64, drain: impl Fn()) {
    let poll = |ports: &[Port], timeout| {
        let mut arg = Poll { ports: Vaddr(ports.as_ptr() as u64), nr_ports: ports.len() as u32, _pad: 0, timeout };
        sched(SchedOp::POLL, &mut arg)
    };
    let mask_all = |word| probe::poke(probe::shared_info() + 2560, word);
    let ipi = ipi_port(t);
    mask_all(u64::MAX);
    t.ok("send", evtchn(EvtchnOp::SEND, &mut PortArg { port: ipi }));
    t.ok("poll of a pending, masked port", poll(&[ipi], 0));
    drain();
    let deadline = now() + 10 * MS;
    t.ok("poll until a deadline", poll(&[ipi], deadline));
    t.yes("it has passed", now() >= deadline);
    t.ok("poll with a deadline long gone", poll(&[ipi], 1));
    // Another port's event does not end it, this one's does.
    call(Hypercall::SET_TIMER_OP, &[now() + 5 * MS]);
    let deadline = now() + 30 * MS;
    t.ok("poll of another port", poll(&[ipi], deadline));
    t.yes("lasts until its deadline", now() >= deadline);
    drain();
    call(Hypercall::SET_TIMER_OP, &[now() + 5 * MS]);
    let deadline = now() + 500 * MS;
    t.ok("poll of two ports", poll(&[ipi, timer], deadline));
    t.yes("ends with the second's event", now() < deadline);
    drain();
    mask_all(0);
    let reach = |nr_ports, ports| {
        let mut arg = Poll { ports: Vaddr(ports), nr_ports, _pad: 0, timeout: 1 };
        sched(SchedOp::POLL, &mut arg)
    };
    t.err("poll of port 2^32-1", poll(&[Port(u32::MAX)], 1), Errno::EINVAL);
    t.err("poll of port 4096", poll(&[Port(4096)], 1), Errno::EINVAL);
    t.err("poll of a port far beyond those made", poll(&[Port(4000)], 1), Errno::EINVAL);
    t.err("ports nowhere", reach(2, 0x1000), Errno::EFAULT);
    t.err("129 ports", reach(129, 0x1000), Errno::EINVAL);
    t.err("2^32-1 ports", reach(u32::MAX, 0x1000), Errno::EINVAL);
    t.ok("no ports", reach(0, 0x1000));
    t.ok("close", evtchn(EvtchnOp::CLOSE, &mut PortArg { port: ipi }));
}

fn errors(t: &mut Test) {
    let code = |reason| sched(SchedOp::SHUTDOWN_CODE, &mut Shutdown { reason });
    t.ok("shutdown code", code(ShutdownReason::POWEROFF));
    let remote = |domain_id, reason| {
        let reason = ShutdownReason(reason);
        sched(SchedOp::REMOTE_SHUTDOWN, &mut RemoteShutdown { domain_id: DomId(domain_id), _pad: 0, reason })
    };
    t.err("remote_shutdown of nobody", remote(77, 0), Errno::ESRCH);
    t.err("remote_shutdown of oneself by SELF", remote(0x7ff0, 0), Errno::ESRCH);
    let watchdog = |id, timeout| sched(SchedOp::WATCHDOG, &mut Watchdog { id, timeout });
    t.err("watchdog that was not set", watchdog(1, 10), Errno::EINVAL);
    t.err("watchdog past the last", watchdog(3, 10), Errno::EINVAL);
    t.returns("watchdog", watchdog(0, 30), 1);
    t.returns("another", watchdog(0, 30), 2);
    // The error of a call that returns 32 bits.
    t.returns("a third", watchdog(0, 30), i64::from(Errno::ENOSPC.code() as u32));
    t.ok("set anew", watchdog(1, 60));
    t.ok("ended", watchdog(1, 0));
    t.err("ended twice", watchdog(1, 0), Errno::EINVAL);
    t.ok("the other", watchdog(2, 0));
}
