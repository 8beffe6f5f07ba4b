//! The FIFO layout of event channels: init_control, expand_array, set_priority; what the core does to event words, links
//! and queues, also where the guest has scribbled on them; and back to the 2-level layout.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::fifo::{BUSY, LINK_MASK, LINKED, MASKED, PENDING, WORDS_PER_PAGE};
use conformance_guests::abi::event::*;
use conformance_guests::abi::mmu::MmuextCmd;
use conformance_guests::abi::sched::{Poll, SchedOp};
use conformance_guests::abi::{DomId, Errno, Mfn, Port, Vaddr, VcpuId, Virq};
use conformance_guests::domain_rt::probe::{self, Page};
use conformance_guests::ops::{evtchn, mmuext, sched};
use conformance_guests::{Test, guest};

guest!(run);

/// A queue's bit in `ready`, and its number, where nobody set another.
const USUAL: u32 = fifo::PRIORITY_DEFAULT;

fn control(frame: Mfn, offset: u32, vcpu: u32) -> (i64, u8) {
    let mut arg = InitControl { control_gfn: frame, offset, vcpu: VcpuId(vcpu), ..InitControl::default() };
    (evtchn(EvtchnOp::INIT_CONTROL, &mut arg), arg.link_bits)
}

fn expand(frame: Mfn) -> i64 {
    evtchn(EvtchnOp::EXPAND_ARRAY, &mut ExpandArray { array_gfn: frame })
}

fn priority(port: Port, priority: u32) -> i64 {
    evtchn(EvtchnOp::SET_PRIORITY, &mut SetPriority { port, priority })
}

fn op(op: EvtchnOp, port: Port) -> i64 {
    evtchn(op, &mut PortArg { port })
}

fn send(port: Port) -> i64 {
    op(EvtchnOp::SEND, port)
}

/// A port that sends to itself.
fn ipi(vcpu: u32) -> Port {
    let mut arg = BindIpi { vcpu: VcpuId(vcpu), port: Port(0) };
    let ret = evtchn(EvtchnOp::BIND_IPI, &mut arg);
    if ret == 0 { arg.port } else { Port(0) }
}

fn reset() -> i64 {
    evtchn(EvtchnOp::RESET, &mut Reset { dom: DomId::SELF })
}

/// A page of event words.
#[derive(Clone, Copy)]
struct Array(Page);

impl Array {
    fn at(self, port: Port) -> (u64, u32) {
        let at = u64::from(port.0 % WORDS_PER_PAGE) * 4;
        (self.0.va + (at & !7), at as u32 % 8 * 8)
    }

    fn get(self, port: Port) -> u32 {
        let (at, shift) = self.at(port);
        (probe::peek(at) >> shift) as u32
    }

    fn set(self, port: Port, word: u32) {
        let (at, shift) = self.at(port);
        let rest = probe::peek(at) & !(u64::from(u32::MAX) << shift);
        probe::poke(at, rest | u64::from(word) << shift);
    }
}

/// A control block.
#[derive(Clone, Copy)]
struct Control(u64);

impl Control {
    fn ready(self) -> u32 {
        probe::peek(self.0) as u32
    }

    fn take_ready(self) -> u32 {
        let ready = self.ready();
        probe::poke(self.0, 0);
        ready
    }

    fn head(self, queue: u32) -> u32 {
        let at = self.0 + 8 + u64::from(queue / 2 * 8);
        (probe::peek(at) >> (queue % 2 * 32)) as u32
    }
}

/// What a vCPU was told: its upcall byte and its selector; forgotten with that.
fn told() -> (bool, u64) {
    let info = probe::vcpu_info();
    let told = (probe::peek(info) & 0xff != 0, probe::peek(info + 8));
    probe::modify(info, |_| 0);
    probe::poke(info + 8, 0);
    told
}

fn shared_pending() -> u64 {
    probe::peek(probe::shared_info() + 2048)
}

fn run(t: &mut Test) {
    let (block, array) = (probe::page(), Array(probe::page()));
    before(t, block);
    let early = switch(t, block);
    let control = Control(block.va + 8);
    first_page(t, array, control, early);
    words(t, array, control);
    queues(t, array, control);
    scribbled(t, array, control);
    busy_ports(t, array);
    polls(t, array);
    second_vcpu(t, array);
    more_pages(t, control);
    back(t, block, array);
}

fn before(t: &mut Test, block: Page) {
    let table = Mfn(probe::mfn_of(t.info.pt_base.0).0);
    t.err("expand_array before init_control", expand(block.mfn), Errno::EOPNOTSUPP);
    t.err("set_priority before, no such port", priority(Port(900), 3), Errno::EINVAL);
    t.err("set_priority before, a closed port", priority(Port(1), 3), Errno::ENOSYS);
    let mask = probe::shared_info() + 2560;
    probe::poke(mask, 1 << 40);
    t.ok("unmask a closed port", op(EvtchnOp::UNMASK, Port(40)));
    t.eq("changes nothing", probe::peek(mask), 1 << 40);
    t.err("no such vcpu", control(block.mfn, 0, 1000).0, Errno::ENOENT);
    t.err("not aligned", control(block.mfn, 4, 0).0, Errno::EINVAL);
    t.err("over the end", control(block.mfn, 4096 - 64, 0).0, Errno::EINVAL);
    t.err("the highest offset", control(block.mfn, u32::MAX - 7, 0).0, Errno::EINVAL);
    t.err("no such frame", control(Mfn(u64::MAX), 0, 0).0, Errno::EINVAL);
    t.err("a page table", control(table, 0, 0).0, Errno::EINVAL);
    t.err("no such vcpu goes first", control(Mfn(u64::MAX), 4, 1000).0, Errno::ENOENT);
    t.err("expand_array after a refusal", expand(block.mfn), Errno::EOPNOTSUPP);
}

/// Switches the layout with two events pending, one of them masked. Returns their ports.
fn switch(t: &mut Test, block: Page) -> [Port; 2] {
    let early = [ipi(0), ipi(0)];
    t.eq("ports", early, [Port(1), Port(2)]);
    probe::poke(probe::shared_info() + 2560, 1 << 2);
    early.iter().for_each(|port| t.ok("send before", send(*port)));
    t.eq("pending before", (shared_pending(), told()), (6, (true, 1)));
    (0..512).for_each(|word| block.set(word, u64::MAX));
    t.eq("init_control", control(block.mfn, 8, 0), (0, 17));
    t.eq("leaves the block as it is", (block.get(1), block.get(9)), (u64::MAX, u64::MAX));
    (0..512).for_each(|word| block.set(word, 0));
    t.err("init_control again", control(block.mfn, 8, 0).0, Errno::EINVAL);
    t.eq("tells nothing, takes nothing", (shared_pending(), told()), (6, (false, 0)));
    t.ok("send without a page", send(early[0]));
    t.eq("tells nothing", told(), (false, 0));
    t.ok("unmask without a page", op(EvtchnOp::UNMASK, early[0]));
    t.ok("set_priority without a page", priority(early[1], 2));
    t.ok("and back", priority(early[1], USUAL));
    early
}

fn first_page(t: &mut Test, array: Array, control: Control, early: [Port; 2]) {
    let table = Mfn(probe::mfn_of(t.info.pt_base.0).0);
    t.err("expand_array by no frame", expand(Mfn(u64::MAX)), Errno::EINVAL);
    t.err("expand_array by a page table", expand(table), Errno::EINVAL);
    array.set(Port(1), 0x0800_0000);
    t.ok("expand_array", expand(array.0.mfn));
    t.eq("a frame of it is no table", mmuext(MmuextCmd::PIN_L1_TABLE, array.0.mfn.0, 0) < 0, true);
    // What was pending in either layout is pending again, whatever the old masks.
    t.eq("first word", array.get(early[0]), PENDING | LINKED | 0x0800_0000 | 2);
    t.eq("second word", array.get(early[1]), PENDING | LINKED);
    t.eq("ready, head", (control.take_ready(), control.head(USUAL)), (1 << USUAL, 1));
    t.eq("told", told(), (true, 0));
    early.iter().for_each(|port| {
        array.set(*port, 0);
        t.ok("close", op(EvtchnOp::CLOSE, *port));
    });
}

fn words(t: &mut Test, array: Array, control: Control) {
    let port = ipi(0);
    t.eq("the first port again", port, Port(1));
    let two_level = shared_pending();
    t.ok("send", send(port));
    t.eq("word", array.get(port), PENDING | LINKED);
    t.eq("ready, head, told", (control.ready(), control.head(USUAL), told()), (1 << USUAL, 1, (true, 0)));
    t.eq("nothing of the other layout", shared_pending(), two_level);
    t.ok("send again", send(port));
    t.eq("changes nothing", (array.get(port), told()), (PENDING | LINKED, (false, 0)));
    // Pending but neither masked nor linked: the next event links it.
    array.set(port, PENDING);
    t.ok("send to one that was taken off", send(port));
    t.eq("links it", (array.get(port), told()), (PENDING | LINKED, (false, 0)));
    control.take_ready();
    array.set(port, PENDING);
    t.ok("send with ready cleared", send(port));
    t.eq("tells", (array.get(port), control.take_ready(), told()), (PENDING | LINKED, 1 << USUAL, (true, 0)));
    array.set(port, MASKED);
    t.ok("send to a masked port", send(port));
    t.eq("pending alone", (array.get(port), control.ready(), told()), (PENDING | MASKED, 0, (false, 0)));
    t.ok("unmask", op(EvtchnOp::UNMASK, port));
    t.eq("links", (array.get(port), control.take_ready(), told()), (PENDING | LINKED, 1 << USUAL, (true, 0)));
    array.set(port, MASKED);
    t.ok("unmask without an event", op(EvtchnOp::UNMASK, port));
    t.eq("only unmasks", (array.get(port), control.ready(), told()), (0, 0, (false, 0)));
    array.set(port, PENDING);
    t.ok("unmask one that is not masked", op(EvtchnOp::UNMASK, port));
    t.eq("links too", (array.get(port), control.take_ready(), told()), (PENDING | LINKED, 1 << USUAL, (true, 0)));
    array.set(port, LINKED | 0x0ffe_0000 | 5);
    t.ok("send to a linked port", send(port));
    t.eq("pending, the rest stays", array.get(port), PENDING | LINKED | 0x0ffe_0000 | 5);
    t.eq("not told", (control.ready(), told()), (0, (false, 0)));
    array.set(port, 0x0ffe_0005);
    t.ok("send to a word of garbage", send(port));
    t.eq("garbage stays", array.get(port), PENDING | LINKED | 0x0ffe_0005);
    control.take_ready();
    array.set(port, 0);
    told();
    t.ok("close", op(EvtchnOp::CLOSE, port));
}

fn queues(t: &mut Test, array: Array, control: Control) {
    let ports = [ipi(0), ipi(0), ipi(0)];
    let [a, b, c] = ports;
    let words = || ports.map(|port| array.get(port));
    let clear = || {
        ports.iter().for_each(|port| array.set(*port, 0));
        told();
        control.take_ready()
    };
    ports.iter().for_each(|port| t.ok("send", send(*port)));
    let link = |to: Port| PENDING | LINKED | to.0;
    t.eq("one behind the other", words(), [link(b), link(c), link(Port(0))]);
    t.eq("the first is the head", control.head(USUAL), a.0);
    t.eq("told once", (clear(), told()), (1 << USUAL, (false, 0)));
    // The last one was taken off: the next one is a head again.
    t.ok("send to the middle one", send(b));
    t.eq("is the head", (words(), control.head(USUAL)), ([0, link(Port(0)), 0], b.0));
    t.ok("send to the first", send(a));
    t.eq("is behind it", words(), [link(Port(0)), link(a), 0]);
    array.set(b, 0);
    t.ok("send to one taken off the head", send(b));
    t.eq("is the last", (words(), control.head(USUAL)), ([link(b), link(Port(0)), 0], b.0));
    t.eq("ready all the time", clear(), 1 << USUAL);
    for (what, port, queue, want) in [
        ("priority 16", a, 16, Errno::EINVAL),
        ("the highest", a, u32::MAX, Errno::EINVAL),
        ("of a closed port", Port(40), 3, Errno::EACCES),
        ("of port 0", Port(0), 3, Errno::EACCES),
        ("of a port not made", Port(5000), 3, Errno::EINVAL),
        ("of the highest port", Port(u32::MAX), 16, Errno::EINVAL),
    ] {
        t.err(what, priority(port, queue), want);
    }
    t.ok("priority 0", priority(a, 0));
    t.ok("priority 15", priority(b, 15));
    ports.iter().for_each(|port| t.ok("send by priority", send(*port)));
    t.eq("three queues", words(), [link(Port(0)); 3]);
    t.eq("three heads", [0, 15, USUAL].map(|queue| control.head(queue)), [a.0, b.0, c.0]);
    // A new priority is for the next event: the one that is linked stays where it is.
    t.ok("priority of a linked port", priority(a, USUAL));
    t.ok("send to it", send(a));
    t.eq("nothing moves", (words(), clear()), ([link(Port(0)); 3], 1 | 1 << 15 | 1 << USUAL));
    t.ok("send to the last of the usual queue", send(c));
    t.ok("send to the one that moved", send(a));
    t.eq("it is behind", words(), [link(Port(0)), 0, link(a)]);
    // It goes to another queue while it is still the usual one's last: that one has no last any more.
    array.set(a, 0);
    t.ok("priority", priority(a, 3));
    t.ok("send to the last, elsewhere", send(a));
    array.set(c, 0);
    t.ok("send to the usual queue", send(c));
    t.eq(
        "both are heads",
        (words(), control.head(USUAL), control.head(3)),
        ([link(Port(0)), 0, link(Port(0))], c.0, a.0),
    );
    clear();
    // The priority goes with the port.
    t.ok("close", op(EvtchnOp::CLOSE, a));
    t.eq("open again", ipi(0), a);
    t.ok("send", send(a));
    t.eq("usual again", clear(), 1 << USUAL);
    ports.iter().for_each(|port| t.ok("close", op(EvtchnOp::CLOSE, *port)));
}

fn scribbled(t: &mut Test, array: Array, control: Control) {
    let ports = [ipi(0), ipi(0), ipi(0)];
    let [a, b, c] = ports;
    let words = || ports.map(|port| array.get(port));
    let clear = || {
        ports.iter().for_each(|port| array.set(*port, 0));
        (control.take_ready(), told().0)
    };
    t.ok("send", send(a));
    array.set(a, PENDING | LINKED | BUSY | a.0);
    t.ok("send behind a word that names itself and is busy", send(b));
    t.eq("the link is set, not busy", words(), [PENDING | LINKED | b.0, PENDING | LINKED, 0]);
    array.set(b, LINKED | MASKED | BUSY | LINK_MASK | 0x0ffe_0000);
    t.ok("send behind garbage", send(c));
    t.eq("the rest of the word stays", words()[1], LINKED | MASKED | 0x0ffe_0000 | c.0);
    array.set(c, u32::MAX);
    t.ok("send to all ones", send(c));
    t.eq("stays", words()[2], u32::MAX);
    t.eq("told once", clear(), (1 << USUAL, true));
    // The block's heads and bits are the guest's to lose.
    probe::poke(control.0, u64::MAX);
    (1..9).for_each(|word| probe::poke(control.0 + 8 * word, u64::MAX));
    t.ok("send with all ready", send(a));
    t.eq("a head, the others stay", [6, 7, 8].map(|queue| control.head(queue)), [u32::MAX, a.0, u32::MAX]);
    t.eq("ready stays, not told", (probe::peek(control.0), told()), (u64::MAX, (false, 0)));
    (0..9).for_each(|word| probe::poke(control.0 + 8 * word, 0));
    clear();
    // Port 0 has a word as well, and nothing is to be sent there.
    t.err("send to port 0", send(Port(0)), Errno::EINVAL);
    array.set(Port(0), PENDING | MASKED);
    t.ok("unmask port 0", op(EvtchnOp::UNMASK, Port(0)));
    t.eq("stays", array.get(Port(0)), PENDING | MASKED);
    array.set(Port(40), PENDING | MASKED);
    t.ok("unmask a closed port", op(EvtchnOp::UNMASK, Port(40)));
    t.eq("stays", array.get(Port(40)), PENDING | MASKED);
    array.set(Port(0), 0);
    array.set(Port(40), 0);
    ports.iter().for_each(|port| t.ok("close", op(EvtchnOp::CLOSE, *port)));
}

/// A port that is still on a queue is nobody's next one.
fn busy_ports(t: &mut Test, array: Array) {
    let port = ipi(0);
    t.eq("the first", port, Port(1));
    t.ok("send", send(port));
    t.ok("close", op(EvtchnOp::CLOSE, port));
    t.eq("linked still, not pending", array.get(port), LINKED);
    t.eq("the next port is another", ipi(0), Port(2));
    array.set(port, 0);
    t.eq("taken off, it is free", ipi(0), port);
    array.set(Port(3), PENDING | MASKED | 9);
    t.eq("other bits do not matter", ipi(0), Port(3));
    t.eq("and stay", array.get(Port(3)), PENDING | MASKED | 9);
    for port in 1..4 {
        array.set(Port(port), PENDING | MASKED | 9);
        t.ok("close", op(EvtchnOp::CLOSE, Port(port)));
        t.eq("closing takes the event", array.get(Port(port)), MASKED | 9);
        array.set(Port(port), 0);
    }
    told();
}

fn polls(t: &mut Test, array: Array) {
    let port = ipi(0);
    let poll = |port: Port, timeout| {
        let ports = [port];
        let at = Vaddr(ports.as_ptr() as u64);
        sched(SchedOp::POLL, &mut Poll { ports: at, nr_ports: 1, _pad: 0, timeout })
    };
    array.set(port, MASKED);
    t.ok("send", send(port));
    t.ok("poll of a pending, masked port", poll(port, 0));
    array.set(port, MASKED);
    t.ok("poll with a deadline long gone", poll(port, 1));
    t.err("poll of a port far beyond those made", poll(Port(4096), 1), Errno::EINVAL);
    // The timer's event, masked, ends a poll that has no other end.
    let mut timer = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind timer", evtchn(EvtchnOp::BIND_VIRQ, &mut timer));
    array.set(timer.port, MASKED);
    let now = conformance_guests::ops::system_time(probe::vcpu_info());
    let call = conformance_guests::domain_rt::probe::call;
    call(conformance_guests::abi::hypercall::Hypercall::SET_TIMER_OP, &[now + 5_000_000]);
    t.ok("poll until the timer", poll(timer.port, 0));
    t.eq("is pending", array.get(timer.port), PENDING | MASKED);
    for port in [port, timer.port] {
        array.set(port, 0);
        t.ok("close", op(EvtchnOp::CLOSE, port));
    }
    told();
}

fn second_vcpu(t: &mut Test, array: Array) {
    let port = ipi(1);
    if port.0 == 0 {
        return t.skip("one vCPU");
    }
    let (page, here) = (probe::page(), ipi(0));
    // An event for a vCPU without a control block is lost.
    let told_1 = || probe::peek(probe::shared_info() + 64) & 0xff != 0;
    t.ok("send to a vCPU without a block", send(port));
    t.eq("is lost", (array.get(port), told_1()), (0, false));
    array.set(port, PENDING | MASKED);
    t.ok("unmask it", op(EvtchnOp::UNMASK, port));
    t.eq("and no more", (array.get(port), told_1()), (PENDING, false));
    t.eq("init_control of another vCPU", control(page.mfn, 4096 - 72, 1), (0, 17));
    t.eq("tells nothing there", (array.get(port), told_1()), (PENDING, false));
    let control = Control(page.va + 4096 - 72);
    t.ok("send", send(port));
    t.eq("links", (array.get(port), told_1()), (PENDING | LINKED, true));
    t.eq("its head", (control.take_ready(), control.head(USUAL)), (1 << USUAL, port.0));
    t.ok("send here", send(here));
    t.eq("each vCPU has its own", (array.get(port), array.get(here)), (PENDING | LINKED, PENDING | LINKED));
    // A port that moves takes its next event along.
    array.set(port, 0);
    array.set(here, 0);
    let mut peer = BindInterdomain { remote_dom: DomId::SELF, ..BindInterdomain::default() };
    let mut open = AllocUnbound { dom: DomId::SELF, remote_dom: DomId::SELF, port: Port(0) };
    t.ok("alloc", evtchn(EvtchnOp::ALLOC_UNBOUND, &mut open));
    peer.remote_port = open.port;
    t.ok("bind", evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut peer));
    t.eq("binding raises", array.get(peer.local_port), PENDING | LINKED);
    t.ok("send to the other half", send(peer.local_port));
    t.eq("behind it", array.get(peer.local_port), PENDING | LINKED | open.port.0);
    array.set(peer.local_port, 0);
    array.set(open.port, 0);
    t.ok("bind_vcpu", evtchn(EvtchnOp::BIND_VCPU, &mut BindVcpu { port: open.port, vcpu: VcpuId(1) }));
    t.ok("send", send(peer.local_port));
    t.eq("goes to the other vCPU", (control.take_ready(), control.head(USUAL)), (1 << USUAL, open.port.0));
    // It was the first one's last: there is no last there now.
    t.ok("send here", send(here));
    t.eq("not behind it", (array.get(open.port), array.get(here)), (PENDING | LINKED, PENDING | LINKED));
    for port in [port, here, open.port, peer.local_port] {
        array.set(port, 0);
        t.ok("close", op(EvtchnOp::CLOSE, port));
    }
    told();
}

fn more_pages(t: &mut Test, control: Control) {
    let mut last = Port(0);
    let taken = (0..5000).take_while(|_| {
        let port = ipi(0);
        last = if port.0 == 0 { last } else { port };
        port.0 != 0
    });
    t.eq("5000 ports", (taken.count(), last), (5000, Port(5000)));
    control.take_ready();
    for port in [1023, 1024, 1025, 4095, 4096, 5000] {
        t.ok("send", send(Port(port)));
    }
    t.eq("what has a word is linked", (control.take_ready(), control.head(USUAL), told().0), (1 << USUAL, 1023, true));
    t.ok("priority without a word", priority(Port(1024), 1));
    let page = Array(probe::page());
    let rest = Array(probe::page());
    t.ok("a second page", expand(page.0.mfn));
    t.eq("what waited for it", (page.get(Port(1024)), page.get(Port(1025))), (PENDING | LINKED, PENDING | LINKED));
    t.eq("by its priority", (control.take_ready(), control.head(1)), (2, 1024));
    // The rest of the pages are one and the same, all masked: a port's event marks all that share its word.
    (0..512).for_each(|word| rest.0.set(word, u64::from(MASKED) << 32 | u64::from(MASKED)));
    (2..128).for_each(|_| t.ok("one more page", expand(rest.0.mfn)));
    t.err("one too many", expand(rest.0.mfn), Errno::ENOSPC);
    t.err("one too many that is no frame", expand(Mfn(u64::MAX)), Errno::ENOSPC);
    let marks = [1023, 0, 904].map(|word| rest.get(Port(word)));
    t.eq("events that waited, masked", marks, [PENDING | MASKED; 3]);
    t.eq("words that are nobody's", rest.get(Port(905)), MASKED);
    told();
}

fn back(t: &mut Test, block: Page, array: Array) {
    t.ok("reset", reset());
    t.err("expand_array", expand(array.0.mfn), Errno::EOPNOTSUPP);
    t.err("set_priority", priority(Port(1), 3), Errno::ENOSYS);
    (0..512).for_each(|word| array.0.set(word, 0));
    t.ok("the frame becomes read-only", array.0.protect(false));
    t.ok("and a table", mmuext(MmuextCmd::PIN_L1_TABLE, array.0.mfn.0, 0));
    t.ok("and none", mmuext(MmuextCmd::UNPIN_TABLE, array.0.mfn.0, 0));
    t.ok("and writable", array.0.protect(true));
    probe::poke(probe::shared_info() + 2048, 0);
    probe::poke(probe::shared_info() + 2560, 0);
    let port = ipi(0);
    t.eq("first port", port, Port(1));
    t.ok("send", send(port));
    t.eq("2-level again", (shared_pending(), told()), (2, (true, 1)));
    let taken = (0..5000).take_while(|_| ipi(0).0 != 0).count();
    t.eq("4095 ports", taken, 4094);
    t.ok("reset", reset());
    t.eq("init_control anew", control(block.mfn, 0, 0), (0, 17));
    let ports = [ipi(0), ipi(1), ipi(1)];
    t.ok("send without a page", send(ports[0]));
    t.ok("without a block either", send(ports[1]));
    let other = probe::page();
    let second = control(other.mfn, 0, 1).0 == 0;
    t.ok("without a page", if second { send(ports[2]) } else { 0 });
    t.ok("expand_array anew", expand(array.0.mfn));
    let link = |to: u32| if second { PENDING | LINKED | to } else { 0 };
    t.eq(
        "words",
        ports.map(|port| if port.0 == 0 { 0 } else { array.get(port) }),
        [PENDING | LINKED, link(3), link(0)],
    );
    t.ok("reset", reset());
}
