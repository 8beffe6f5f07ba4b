//! FIFO event channels between two domains: one on the FIFO layout and one on the 2-level layout, then both, and back; each
//! sends to the other, polls, sets priorities. The second domain is built by domctl and switches by its own calls.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::domctl::DomctlOp;
use conformance_guests::abi::event::fifo::{LINKED, MASKED, PENDING, PRIORITY_DEFAULT};
use conformance_guests::abi::event::*;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::sched::{Poll, SchedOp};
use conformance_guests::abi::{DomId, Errno, Mfn, Port, Vaddr, VcpuId};
use conformance_guests::child::{self, Child, control};
use conformance_guests::domain_rt::probe::{self, Page};
use conformance_guests::ops::evtchn;
use conformance_guests::{Test, guest};

guest!(run);

const DOM0: DomId = DomId(0);
/// Where its control block is in its page for arguments, and the list of ports that it polls.
const BLOCK: u64 = 0x800;
const PORTS: u64 = 0x400;

/// A domain on the FIFO layout, as we see it: its event words, its control block, its `vcpu_info`.
#[derive(Clone, Copy)]
struct Fifo {
    words: u64,
    block: u64,
    info: u64,
}

impl Fifo {
    fn word(self, port: Port) -> u32 {
        let at = u64::from(port.0) * 4;
        (probe::peek(self.words + (at & !7)) >> (at % 8 * 8)) as u32
    }

    fn set(self, port: Port, word: u32) {
        let at = u64::from(port.0) * 4;
        let (at, shift) = (self.words + (at & !7), at % 8 * 8);
        probe::poke(at, probe::peek(at) & !(u64::from(u32::MAX) << shift) | u64::from(word) << shift);
    }

    fn head(self, queue: u32) -> u32 {
        let at = self.block + 8 + u64::from(queue) * 4;
        (probe::peek(at & !7) >> (at % 8 * 8)) as u32
    }

    /// Queues that are ready, whether it was told, and its selector; forgotten with that.
    fn take(self) -> (u32, bool, u64) {
        let seen = (probe::peek(self.block) as u32, probe::peek(self.info) & 0xff != 0, probe::peek(self.info + 8));
        probe::poke(self.block, 0);
        probe::modify(self.info, |_| 0);
        probe::poke(self.info + 8, 0);
        seen
    }
}

fn run(t: &mut Test) {
    let Some(child) = Child::build(t) else { return };
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    let (theirs, ours) = connect(t, &child);
    let its = switch(t, &child);
    mixed(t, &child, its, theirs, ours);
    polls(t, &child, its, theirs, ours);
    let mine = both(t, &child, its, theirs, ours);
    back(t, &child, its, mine, ours);
    end(t, &child, mine);
}

fn its_call<T>(child: &Child, op: EvtchnOp, argument: &mut T) -> i64
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    child.call_with(Hypercall::EVENT_CHANNEL_OP, &[op.0.into()], argument)
}

fn its_port(child: &Child, op: EvtchnOp, port: Port) -> i64 {
    its_call(child, op, &mut PortArg { port })
}

fn one(op: EvtchnOp, port: Port) -> i64 {
    evtchn(op, &mut PortArg { port })
}

/// Whether a port is pending for us, in the 2-level layout; forgotten with that.
fn pending(port: Port) -> bool {
    let at = probe::shared_info() + 2048;
    let seen = probe::peek(at) >> port.0 & 1 != 0;
    probe::poke(at, 0);
    seen
}

fn connect(t: &mut Test, child: &Child) -> (Port, Port) {
    let mut alloc = AllocUnbound { dom: DomId::SELF, remote_dom: DOM0, port: Port(0) };
    t.ok("its port for us", its_call(child, EvtchnOp::ALLOC_UNBOUND, &mut alloc));
    let mut bind = BindInterdomain { remote_dom: child.id, remote_port: alloc.port, ..BindInterdomain::default() };
    t.ok("bind to it", evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut bind));
    pending(bind.local_port);
    (alloc.port, bind.local_port)
}

/// It switches, with an event of ours pending; and may not use what is not its own.
fn switch(t: &mut Test, child: &Child) -> Fifo {
    let init = |gfn: Mfn, offset| {
        let mut arg = InitControl { control_gfn: gfn, offset, vcpu: VcpuId(0), ..InitControl::default() };
        (its_call(child, EvtchnOp::INIT_CONTROL, &mut arg), arg.link_bits)
    };
    let expand = |gfn: Mfn| its_call(child, EvtchnOp::EXPAND_ARRAY, &mut ExpandArray { array_gfn: gfn });
    probe::poke(child.shared + 2048, 0);
    t.ok("send before", one(EvtchnOp::SEND, Port(1)));
    t.eq("pending before", probe::peek(child.shared + 2048), 1 << 1);
    t.err("expand_array before init_control", expand(child.gift_frame()), Errno::EOPNOTSUPP);
    t.err("a control block of ours", init(probe::page().mfn, 0).0, Errno::EINVAL);
    t.err("in its root", init(child.root_frame(), 0).0, Errno::EINVAL);
    t.eq("init_control", init(child.data_frame(), BLOCK as u32), (0, 17));
    t.err("an array of ours", expand(probe::page().mfn), Errno::EINVAL);
    t.err("its root as an array", expand(child.root_frame()), Errno::EINVAL);
    let its = Fifo { words: child.gift, block: child.data + BLOCK, info: child.shared };
    (0..512).for_each(|word| probe::poke(child.gift + 8 * word, 0));
    its.take();
    t.ok("expand_array", expand(child.gift_frame()));
    t.eq("what was pending is", (its.word(Port(1)), its.head(PRIORITY_DEFAULT)), (PENDING | LINKED, 1));
    t.eq("it is told", its.take(), (1 << PRIORITY_DEFAULT, true, 0));
    its.set(Port(1), 0);
    its
}

/// It is on the FIFO layout, we are not.
fn mixed(t: &mut Test, child: &Child, its: Fifo, theirs: Port, ours: Port) {
    t.eq("ports", (theirs, ours), (Port(1), Port(1)));
    probe::poke(child.shared + 2048, 0);
    t.ok("we send", one(EvtchnOp::SEND, ours));
    t.eq("its word", its.word(theirs), PENDING | LINKED);
    t.eq("its queue", (its.head(PRIORITY_DEFAULT), its.take()), (1, (1 << PRIORITY_DEFAULT, true, 0)));
    t.eq("nothing of the other layout", probe::peek(child.shared + 2048), 0);
    t.ok("again", one(EvtchnOp::SEND, ours));
    t.eq("it was told", its.take(), (0, false, 0));
    its.set(theirs, MASKED);
    t.ok("while it is masked", one(EvtchnOp::SEND, ours));
    t.eq("pending, on no queue", (its.word(theirs), its.take()), (PENDING | MASKED, (0, false, 0)));
    t.ok("it unmasks", its_port(child, EvtchnOp::UNMASK, theirs));
    t.eq("is on one", (its.word(theirs), its.take().0), (PENDING | LINKED, 1 << PRIORITY_DEFAULT));
    its.set(theirs, 0);
    let mut raise = SetPriority { port: theirs, priority: 2 };
    t.ok("it sets the priority", its_call(child, EvtchnOp::SET_PRIORITY, &mut raise));
    t.ok("we send", one(EvtchnOp::SEND, ours));
    t.eq("by priority", (its.head(2), its.take()), (1, (1 << 2, true, 0)));
    its.set(theirs, 0);
    raise.priority = 16;
    t.err("of which there is none", its_call(child, EvtchnOp::SET_PRIORITY, &mut raise), Errno::EINVAL);
    t.ok("it sends", its_port(child, EvtchnOp::SEND, theirs));
    t.yes("to our bits", pending(ours));
    t.eq("and not to itself", its.word(theirs), 0);
    // Two of its ports: one behind the other.
    let (second, _) = connect(t, child);
    its.take();
    its.set(second, 0);
    raise = SetPriority { port: theirs, priority: PRIORITY_DEFAULT };
    t.ok("the usual priority", its_call(child, EvtchnOp::SET_PRIORITY, &mut raise));
    t.ok("to the first", one(EvtchnOp::SEND, ours));
    t.ok("to the second", one(EvtchnOp::SEND, Port(2)));
    t.eq("one behind the other", its.word(theirs), PENDING | LINKED | second.0);
    t.eq("the second is the last", its.word(second), PENDING | LINKED);
    its.take();
    its.set(theirs, 0);
    its.set(second, 0);
    t.ok("it closes the second", its_port(child, EvtchnOp::CLOSE, second));
    t.ok("we close ours", one(EvtchnOp::CLOSE, Port(2)));
    pending(ours);
}

/// It polls for a port: one that is pending already, and one that comes to be.
fn polls(t: &mut Test, child: &Child, its: Fifo, theirs: Port, ours: Port) {
    let mut poll = Poll { ports: Vaddr(child::DATA + PORTS), nr_ports: 1, _pad: 0, timeout: 0 };
    probe::poke(child.data + PORTS, theirs.0.into());
    its.set(theirs, PENDING | MASKED);
    let op = [u64::from(SchedOp::POLL.0)];
    t.ok("pending, though masked", child.call_with(Hypercall::SCHED_OP, &op, &mut poll));
    its.set(theirs, MASKED);
    child.ask(Hypercall::SCHED_OP, &[op[0], child::DATA]);
    t.eq("it waits", child.wait(20_000_000), None);
    t.ok("send", one(EvtchnOp::SEND, ours));
    t.eq("it comes back", child.wait(2_000_000_000), Some(0));
    t.eq("nothing else", (its.word(theirs), its.take().0), (PENDING | MASKED, 0));
    its.set(theirs, 0);
}

/// We switch too.
fn both(t: &mut Test, child: &Child, its: Fifo, theirs: Port, ours: Port) -> Fifo {
    let (block, words): (Page, Page) = (probe::page(), probe::page());
    let mine = Fifo { words: words.va, block: block.va, info: probe::vcpu_info() };
    let mut init = InitControl { control_gfn: block.mfn, vcpu: VcpuId(0), ..InitControl::default() };
    t.ok("our init_control", evtchn(EvtchnOp::INIT_CONTROL, &mut init));
    t.ok("our expand_array", evtchn(EvtchnOp::EXPAND_ARRAY, &mut ExpandArray { array_gfn: words.mfn }));
    mine.take();
    mine.set(ours, 0);
    t.ok("it sends", its_port(child, EvtchnOp::SEND, theirs));
    t.eq("our word", mine.word(ours), PENDING | LINKED);
    t.eq("our queue", (mine.head(PRIORITY_DEFAULT), mine.take()), (ours.0, (1 << PRIORITY_DEFAULT, true, 0)));
    mine.set(ours, 0);
    t.ok("we send", one(EvtchnOp::SEND, ours));
    t.eq("its word", (its.word(theirs), its.take().0), (PENDING | LINKED, 1 << PRIORITY_DEFAULT));
    its.set(theirs, 0);
    mine
}

/// A reset from outside takes it back to the 2-level layout; our half waits for another.
fn back(t: &mut Test, child: &Child, its: Fifo, mine: Fifo, ours: Port) {
    t.ok("pause", control(DomctlOp::PAUSEDOMAIN, child.id));
    t.ok("reset", evtchn(EvtchnOp::RESET, &mut Reset { dom: child.id }));
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    let mut status = Status { dom: DomId::SELF, port: ours, ..Status::default() };
    t.ok("status", evtchn(EvtchnOp::STATUS, &mut status));
    t.eq("ours waits", (status.status, status.detail & 0xffff), (PortStatus::UNBOUND, child.id.0.into()));
    t.ok("sending is no error", one(EvtchnOp::SEND, ours));
    t.eq("and arrives nowhere", (its.word(Port(1)), mine.word(ours)), (0, 0));
    let mut expand = ExpandArray { array_gfn: child.gift_frame() };
    t.err("it has no array any more", its_call(child, EvtchnOp::EXPAND_ARRAY, &mut expand), Errno::EOPNOTSUPP);
    probe::poke(child.shared + 2048, 0);
    let mut bind = BindInterdomain { remote_dom: DOM0, remote_port: ours, ..BindInterdomain::default() };
    t.ok("it binds to ours", its_call(child, EvtchnOp::BIND_INTERDOMAIN, &mut bind));
    t.eq("pending by its bits", probe::peek(child.shared + 2048), 1 << bind.local_port.0);
    t.eq("not by a word", its.word(bind.local_port), 0);
    mine.take();
    mine.set(ours, 0);
    t.ok("it sends", its_port(child, EvtchnOp::SEND, bind.local_port));
    t.eq("our word", (mine.word(ours), mine.take().0), (PENDING | LINKED, 1 << PRIORITY_DEFAULT));
    mine.set(ours, 0);
}

/// It switches again and is destroyed with an event on its queue.
fn end(t: &mut Test, child: &Child, mine: Fifo) {
    let mut init = InitControl { control_gfn: child.data_frame(), offset: BLOCK as u32, ..InitControl::default() };
    t.ok("init_control again", its_call(child, EvtchnOp::INIT_CONTROL, &mut init));
    let mut expand = ExpandArray { array_gfn: child.gift_frame() };
    t.ok("expand_array again", its_call(child, EvtchnOp::EXPAND_ARRAY, &mut expand));
    t.ok("send", one(EvtchnOp::SEND, Port(1)));
    t.ok("destroydomain", child::destroy(child.id));
    let mut status = Status { dom: DomId::SELF, port: Port(1), ..Status::default() };
    t.ok("status", evtchn(EvtchnOp::STATUS, &mut status));
    t.eq("ours waits", status.status, PortStatus::UNBOUND);
    t.ok("our own goes on", one(EvtchnOp::SEND, Port(1)));
    t.eq("and nothing comes of it", mine.word(Port(1)), 0);
    t.ok("close", one(EvtchnOp::CLOSE, Port(1)));
}
