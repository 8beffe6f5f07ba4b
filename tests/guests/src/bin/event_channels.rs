//! event_channel_op: every operation, its errors, states, pending and mask bits, upcalls.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::*;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::{DomId, Errno, Port, VcpuId, Virq};
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::ops::evtchn;
use conformance_guests::{Test, guest};

guest!(run);

const DOM0: DomId = DomId(0);
const NOBODY: DomId = DomId(77);

fn run(t: &mut Test) {
    let argument = |op: u64| call(Hypercall::EVENT_CHANNEL_OP, &[op, 0x1000]);
    for op in 0..=10 {
        t.err("argument nowhere", argument(op), Errno::EFAULT);
    }
    t.err("unknown op", argument(15), Errno::ENOSYS);
    t.err("the highest op", argument(u32::MAX.into()), Errno::ENOSYS);
    unbound(t);
    interdomain(t);
    virqs(t);
    ipis(t);
    ports(t);
    delivery(t);
    reset(t);
}

fn alloc(dom: DomId, remote_dom: DomId) -> (i64, Port) {
    let mut arg = AllocUnbound { dom, remote_dom, port: Port(0) };
    (evtchn(EvtchnOp::ALLOC_UNBOUND, &mut arg), arg.port)
}

fn bind(remote_dom: DomId, remote_port: Port) -> (i64, Port) {
    let mut arg = BindInterdomain { remote_dom, remote_port, ..BindInterdomain::default() };
    (evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut arg), arg.local_port)
}

fn ipi(vcpu: u32) -> (i64, Port) {
    let mut arg = BindIpi { vcpu: VcpuId(vcpu), port: Port(0) };
    (evtchn(EvtchnOp::BIND_IPI, &mut arg), arg.port)
}

fn virq(virq: Virq, vcpu: u32) -> (i64, Port) {
    let mut arg = BindVirq { virq, vcpu: VcpuId(vcpu), port: Port(0) };
    (evtchn(EvtchnOp::BIND_VIRQ, &mut arg), arg.port)
}

fn one(op: EvtchnOp, port: Port) -> i64 {
    evtchn(op, &mut PortArg { port })
}

fn status(dom: DomId, port: Port) -> (i64, Status) {
    let mut arg = Status { dom, port, ..Status::default() };
    let ret = evtchn(EvtchnOp::STATUS, &mut arg);
    (ret, arg)
}

fn state(port: Port) -> PortStatus {
    status(DomId::SELF, port).1.status
}

/// Word of the shared page's pending (256) or mask (320) bitmap, and the port's bit in it.
fn bit(first_word: u64, port: Port) -> (u64, u64) {
    let at = probe::shared_info() + 8 * (first_word + u64::from(port.0 / 64));
    (at, 1 << (port.0 % 64))
}

fn pending(port: Port) -> bool {
    let (at, bit) = bit(256, port);
    probe::peek(at) & bit != 0
}

fn clear(port: Port) {
    let (at, bit) = bit(256, port);
    probe::poke(at, probe::peek(at) & !bit);
}

fn set_mask(port: Port, masked: bool) {
    let (at, bit) = bit(320, port);
    let word = probe::peek(at) & !bit;
    probe::poke(at, if masked { word | bit } else { word });
}

fn unbound(t: &mut Test) {
    let (ret, port) = alloc(DomId::SELF, DOM0);
    t.ok("alloc_unbound", ret);
    t.eq("first port", port, Port(1));
    let (ret, got) = status(DomId::SELF, port);
    t.ok("status", ret);
    t.eq("unbound", (got.status, got.vcpu, got.detail & 0xffff), (PortStatus::UNBOUND, VcpuId(0), 0));
    t.eq("mask bit is set at boot", probe::peek(bit(320, port).0) & bit(320, port).1 != 0, false);
    t.ok("send to unbound", one(EvtchnOp::SEND, port));
    t.ok("alloc by number", alloc(DOM0, DomId::SELF).0);
    t.err("alloc in no domain", alloc(NOBODY, DOM0).0, Errno::ESRCH);
    t.err("alloc in a reserved domain", alloc(DomId::IO, DOM0).0, Errno::ESRCH);
    t.ok("alloc for a domain yet to come", alloc(DomId::SELF, NOBODY).0);
    t.ok("close", one(EvtchnOp::CLOSE, port));
    t.eq("closed", state(port), PortStatus::CLOSED);
    t.err("close again", one(EvtchnOp::CLOSE, port), Errno::EINVAL);
    t.eq("lowest free port is next", alloc(DomId::SELF, DOM0).1, port);
}

fn interdomain(t: &mut Test) {
    let (_, far) = alloc(DomId::SELF, DomId::SELF);
    let (ret, near) = bind(DomId::SELF, far);
    t.ok("bind to self", ret);
    let (_, a) = status(DomId::SELF, near);
    let (_, b) = status(DomId::SELF, far);
    t.eq("near end", (a.status, a.detail & 0xffff, a.remote_port), (PortStatus::INTERDOMAIN, 0, far));
    t.eq("far end", (b.status, b.detail & 0xffff, b.remote_port), (PortStatus::INTERDOMAIN, 0, near));
    t.eq("binding makes the near end pending", pending(near), true);
    t.eq("and not the far end", pending(far), false);
    clear(near);
    t.ok("send from near", one(EvtchnOp::SEND, near));
    t.eq("arrives at far", (pending(far), pending(near)), (true, false));
    clear(far);
    t.ok("send from far", one(EvtchnOp::SEND, far));
    t.eq("arrives at near", (pending(far), pending(near)), (false, true));
    clear(near);
    t.err("bind a bound port", bind(DomId::SELF, far).0, Errno::EINVAL);
    t.err("bind a closed port", bind(DomId::SELF, Port(60)).0, Errno::EINVAL);
    t.err("bind port 0", bind(DomId::SELF, Port(0)).0, Errno::EINVAL);
    t.err("bind past the last port", bind(DomId::SELF, Port(u32::MAX)).0, Errno::EINVAL);
    t.err("bind to nobody", bind(NOBODY, Port(1)).0, Errno::ESRCH);
    let (_, other) = alloc(DomId::SELF, NOBODY);
    t.err("bind a port for another", bind(DomId::SELF, other).0, Errno::EINVAL);
    t.ok("close near", one(EvtchnOp::CLOSE, near));
    t.eq("far is unbound again", state(far), PortStatus::UNBOUND);
    t.ok("close far", one(EvtchnOp::CLOSE, far));
    t.ok("close other", one(EvtchnOp::CLOSE, other));
}

fn virqs(t: &mut Test) {
    let (ret, timer) = virq(Virq::TIMER, 0);
    t.ok("bind_virq timer", ret);
    let (_, got) = status(DomId::SELF, timer);
    t.eq("virq", (got.status, got.detail, got.vcpu), (PortStatus::VIRQ, 0, VcpuId(0)));
    t.err("bind it twice", virq(Virq::TIMER, 0).0, Errno::EEXIST);
    t.err("no such vcpu", virq(Virq::TIMER, 1000).0, Errno::ENOENT);
    t.err("a domain's virq on vcpu 1", virq(Virq::DOM_EXC, 1).0, Errno::EINVAL);
    t.err("no such virq", virq(Virq(24), 0).0, Errno::EINVAL);
    t.err("the highest virq", virq(Virq(u32::MAX), 0).0, Errno::EINVAL);
    let (ret, global) = virq(Virq::DOM_EXC, 0);
    t.ok("bind_virq dom_exc", ret);
    t.err("bind it twice", virq(Virq::DOM_EXC, 0).0, Errno::EEXIST);
    t.err("send to a virq", one(EvtchnOp::SEND, timer), Errno::EINVAL);
    t.ok("close dom_exc", one(EvtchnOp::CLOSE, global));
    t.ok("bind it anew", virq(Virq::DOM_EXC, 0).0);
    t.ok("close timer", one(EvtchnOp::CLOSE, timer));
    let mut pirq = BindPirq { pirq: u32::MAX, flags: 0, port: Port(0) };
    t.err("no such pirq", evtchn(EvtchnOp::BIND_PIRQ, &mut pirq), Errno::EINVAL);
}

fn ipis(t: &mut Test) {
    let (ret, port) = ipi(0);
    t.ok("bind_ipi", ret);
    t.eq("ipi", state(port), PortStatus::IPI);
    t.err("no such vcpu", ipi(1000).0, Errno::ENOENT);
    t.ok("send", one(EvtchnOp::SEND, port));
    t.eq("pending", pending(port), true);
    clear(port);
    let move_to = |port, vcpu| evtchn(EvtchnOp::BIND_VCPU, &mut BindVcpu { port, vcpu: VcpuId(vcpu) });
    t.err("an ipi does not move", move_to(port, 0), Errno::EINVAL);
    t.err("no such vcpu to move to", move_to(port, 1000), Errno::ENOENT);
    let (_, free) = alloc(DomId::SELF, DOM0);
    t.ok("an unbound port moves", move_to(free, 0));
    t.err("a closed port does not", move_to(Port(900), 0), Errno::EINVAL);
    let (_, timer) = virq(Virq::TIMER, 0);
    t.err("a vcpu's virq does not", move_to(timer, 0), Errno::EINVAL);
    for port in [port, free, timer] {
        t.ok("close", one(EvtchnOp::CLOSE, port));
    }
}

fn ports(t: &mut Test) {
    for port in [0, 900, 4096, 1 << 17, u32::MAX] {
        t.err("send to no port", one(EvtchnOp::SEND, Port(port)), Errno::EINVAL);
        t.err("close no port", one(EvtchnOp::CLOSE, Port(port)), Errno::EINVAL);
    }
    t.err("unmask no port", one(EvtchnOp::UNMASK, Port(u32::MAX)), Errno::EINVAL);
    t.err("unmask a closed port", one(EvtchnOp::UNMASK, Port(900)), Errno::EINVAL);
    t.err("status of no port", status(DomId::SELF, Port(u32::MAX)).0, Errno::EINVAL);
    t.err("status of nobody", status(NOBODY, Port(1)).0, Errno::ESRCH);
    t.ok("status of port 0", status(DomId::SELF, Port(0)).0);
    t.eq("port 0 is closed", state(Port(0)), PortStatus::CLOSED);
}

fn delivery(t: &mut Test) {
    let (_, port) = ipi(0);
    let info = probe::vcpu_info();
    let upcall_pending = || probe::peek(info) & 0xff != 0;
    let drain = |port| {
        clear(port);
        probe::poke(info + 8, 0);
        probe::modify(info, |_| 0);
    };
    drain(port);
    set_mask(port, true);
    t.ok("send to a masked port", one(EvtchnOp::SEND, port));
    t.eq("pending, no upcall", (pending(port), upcall_pending()), (true, false));
    t.ok("unmask", one(EvtchnOp::UNMASK, port));
    t.eq("unmasking raises it", (upcall_pending(), probe::peek(info + 8)), (true, 1));
    drain(port);
    t.ok("send", one(EvtchnOp::SEND, port));
    t.eq("selector", (upcall_pending(), probe::peek(info + 8)), (true, 1));
    // The upcall comes when the mask goes and a hypercall passes by.
    let before = probe::upcalls();
    probe::mask_events(false);
    call(Hypercall::XEN_VERSION, &[0]);
    t.eq("one upcall", probe::upcalls() - before, 1);
    probe::mask_events(true);
    let frame = probe::upcall_frame();
    t.eq("upcall's cs and saved mask", frame.get(3).map(|cs| cs & 0xff_0000_ffff), Some(0xe030));
    t.eq("IF", frame.get(4).map(|f| f & 0x200), Some(0x200));
    // Pending still: nothing new is raised.
    t.ok("send while pending", one(EvtchnOp::SEND, port));
    t.eq("no second edge", upcall_pending(), false);
    drain(port);
    probe::mask_events(false);
    let before = probe::upcalls();
    t.ok("send to self", one(EvtchnOp::SEND, port));
    t.eq("at once", probe::upcalls() - before, 1);
    probe::mask_events(true);
    drain(port);
    t.ok("close", one(EvtchnOp::CLOSE, port));
    t.eq("closing clears pending", pending(port), false);
}

fn reset(t: &mut Test) {
    let (_, port) = alloc(DomId::SELF, DOM0);
    t.ok("send", one(EvtchnOp::SEND, port));
    t.err("reset of nobody", evtchn(EvtchnOp::RESET, &mut Reset { dom: NOBODY }), Errno::ESRCH);
    t.ok("reset", evtchn(EvtchnOp::RESET, &mut Reset { dom: DomId::SELF }));
    t.eq("all closed", (1..64).all(|p| state(Port(p)) == PortStatus::CLOSED), true);
    t.eq("first port again", alloc(DomId::SELF, DOM0).1, Port(1));
}
