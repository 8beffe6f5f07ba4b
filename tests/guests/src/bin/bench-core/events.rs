//! Events: to oneself, from a timer, and to another domain and back.

use crate::clock::{Clock, TIMES};
use conformance_guests::Test;
use conformance_guests::abi::domctl::DomctlOp;
use conformance_guests::abi::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindVirq, EvtchnOp, ExpandArray, InitControl, PortArg, Reset,
};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::sched::{Poll, SchedOp};
use conformance_guests::abi::{DomId, Port, Vaddr, VcpuId, Virq};
use conformance_guests::child::{self, Child, control};
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::ops::{evtchn, sched};
use zerocopy::IntoBytes;

/// Nothing is pending.
fn clear() {
    probe::poke(probe::shared_info() + 2048, 0);
    probe::poke(probe::vcpu_info() + 8, 0);
    probe::modify(probe::vcpu_info(), |_| 0);
}

pub fn measure(t: &mut Test, clock: &mut Clock) {
    sends(t, clock);
    timer(t, clock);
    pingpong(t, clock);
    fifo(t, clock);
}

fn sends(t: &mut Test, clock: &mut Clock) {
    let mut ipi = BindIpi { vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind_ipi", evtchn(EvtchnOp::BIND_IPI, &mut ipi));
    let mut port = PortArg { port: ipi.port };
    let mut send = || {
        evtchn(EvtchnOp::SEND, &mut port);
    };
    let (mut new, mut pending) = (clock.row("evtchn_send_new"), clock.row("evtchn_send_pending"));
    let mut upcall = clock.row("evtchn_send_upcall");
    let before = probe::upcalls();
    for _ in 0..TIMES {
        probe::mask_events(true);
        clear();
        new.time(&mut send);
        pending.time(&mut send);
        clear();
        probe::mask_events(false);
        upcall.time(&mut send);
    }
    probe::mask_events(true);
    clear();
    new.each_of(1);
    pending.each_of(1);
    upcall.each_of(1);
    t.eq("upcalls", probe::upcalls() - before, TIMES as u64);
}

/// The same by queues: to one that is empty, behind one that waits, and to one that is pending.
fn fifo(t: &mut Test, clock: &mut Clock) {
    let (block, array) = (probe::page(), probe::page());
    let mut control = InitControl { control_gfn: block.mfn, ..InitControl::default() };
    t.ok("init_control", evtchn(EvtchnOp::INIT_CONTROL, &mut control));
    t.ok("expand_array", evtchn(EvtchnOp::EXPAND_ARRAY, &mut ExpandArray { array_gfn: array.mfn }));
    let mut ports = [PortArg { port: Port(0) }; 2];
    for port in &mut ports {
        let mut ipi = BindIpi { vcpu: VcpuId(0), port: Port(0) };
        t.ok("bind_ipi", evtchn(EvtchnOp::BIND_IPI, &mut ipi));
        port.port = ipi.port;
    }
    let [mut first, mut second] = ports;
    let send = |port: &mut PortArg| {
        evtchn(EvtchnOp::SEND, port);
    };
    let (mut new, mut behind) = (clock.row("evtchn_send_fifo_new"), clock.row("evtchn_send_fifo_behind"));
    let mut pending = clock.row("evtchn_send_fifo_pending");
    for _ in 0..TIMES {
        (0..512).for_each(|word| array.set(word, 0));
        block.set(0, 0);
        clear();
        new.time(|| send(&mut first));
        behind.time(|| send(&mut second));
        pending.time(|| send(&mut second));
    }
    let told = (array.get(first.port.0 as usize / 2), probe::peek(probe::vcpu_info()) & 0xff);
    t.yes("one behind the other", told.0 != 0 && told.1 != 0);
    new.each_of(1);
    behind.each_of(1);
    pending.each_of(1);
    clear();
    t.ok("reset", evtchn(EvtchnOp::RESET, &mut Reset { dom: DomId::SELF }));
}

/// From setting the timer to a moment that has passed to the upcall's return.
fn timer(t: &mut Test, clock: &mut Clock) {
    let mut bind = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind timer", evtchn(EvtchnOp::BIND_VIRQ, &mut bind));
    // The periodic timer that a vCPU may start with.
    call(Hypercall::VCPU_OP, &[7, 0, 0]);
    let mut row = clock.row("timer_upcall");
    let before = probe::upcalls();
    for _ in 0..TIMES {
        clear();
        probe::mask_events(false);
        let came = probe::upcalls();
        row.time(|| {
            call(Hypercall::SET_TIMER_OP, &[1]);
            while probe::upcalls() == came {}
        });
        probe::mask_events(true);
    }
    row.each_of(1);
    clear();
    t.eq("timer upcalls", probe::upcalls() - before, TIMES as u64);
    t.ok("close", evtchn(EvtchnOp::CLOSE, &mut PortArg { port: bind.port }));
}

/// Polls the port at rbx + 24, takes its events at r12, sends to it; for ever.
const ECHO: [u8; 50] = [
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0xbf, 3, 0, 0, 0, // mov edi, poll
    0x48, 0x89, 0xde, // mov rsi, rbx
    0x0f, 0x05, // syscall
    0x31, 0xc0, // xor eax, eax
    0x49, 0x89, 0x84, 0x24, 0, 8, 0, 0, // mov [r12 + 2048], rax
    0x49, 0x89, 0x44, 0x24, 8, // mov [r12 + 8], rax
    0xb8, 32, 0, 0, 0, // mov eax, event_channel_op
    0xbf, 4, 0, 0, 0, // mov edi, send
    0x48, 0x8d, 0x73, 24, // lea rsi, [rbx + 24]
    0x0f, 0x05, // syscall
    0x90, 0x90, // nop; nop
    0xeb, 0xce, // jmp to the start
];

/// A domain that sends each event back.
fn echo(t: &mut Test) -> Option<(Child, Port)> {
    let child = Child::build(t)?;
    let mut theirs = AllocUnbound { dom: child.id, remote_dom: DomId::SELF, port: Port(0) };
    t.ok("alloc_unbound", evtchn(EvtchnOp::ALLOC_UNBOUND, &mut theirs));
    let mut ours = BindInterdomain { remote_dom: child.id, remote_port: theirs.port, ..BindInterdomain::default() };
    t.ok("bind_interdomain", evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut ours));
    let request = 0x100;
    let poll = Poll { ports: Vaddr(child::DATA + request + 24), nr_ports: 1, _pad: 0, timeout: 0 };
    let write = |at: u64, bytes: &[u8]| {
        for (at, byte) in (child.data + at..).zip(bytes) {
            probe::modify(at, |_| *byte);
        }
    };
    write(0, &ECHO);
    write(request, poll.as_bytes());
    write(request + 24, theirs.port.as_bytes());
    let mut context = child.context();
    context.user_regs.rip = child::DATA;
    context.user_regs.rbx = child::DATA + request;
    context.user_regs.r12 = child::SHARED;
    t.ok("setvcpucontext", child.set_context(&context));
    // Binding leaves an event behind.
    probe::poke(child.shared + 2048, 0);
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    Some((child, ours.local_port))
}

fn pingpong(t: &mut Test, clock: &mut Clock) {
    let Some((child, port)) = echo(t) else { return };
    probe::mask_events(true);
    let ports = [port];
    let mut poll =
        Poll { ports: Vaddr(core::hint::black_box(&ports).as_ptr() as u64), nr_ports: 1, _pad: 0, timeout: 0 };
    clear();
    let mut row = clock.row("domain_pingpong");
    row.repeat(|| {
        evtchn(EvtchnOp::SEND, &mut PortArg { port });
        sched(SchedOp::POLL, &mut poll);
        clear();
    });
    row.each_of(1);
    t.ok("destroy", child::destroy(child.id));
}
