//! physdev_op, and interrupts of the machine by event channel: the keyboard's.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::{BindPirq, EvtchnOp, PortArg, PortStatus, Status};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::physdev::*;
use conformance_guests::abi::{DomId, Errno, Port};
use conformance_guests::domain_rt::probe::{self, Regs, call, exec};
use conformance_guests::ops::{evtchn, physdev};
use conformance_guests::{Test, code, guest};

guest!(run);

/// The keyboard's line, the mouse's, and their controller's ports.
const LINE: i32 = 1;
const LINE_OF_MOUSE: i32 = 12;
const DATA: u64 = 0x60;
const COMMAND: u64 = 0x64;

fn run(t: &mut Test) {
    arguments(t);
    ports(t);
    devices(t);
    mapping(t);
    binding(t);
}

fn arguments(t: &mut Test) {
    for op in [5, 6, 12, 13, 14, 21, 23, 25, 30] {
        t.err("argument nowhere", call(Hypercall::PHYSDEV_OP, &[op, 0x1000]), Errno::EFAULT);
    }
    for op in [1, 3, 32, 99, u32::MAX.into()] {
        t.err("unknown op", call(Hypercall::PHYSDEV_OP, &[op, 0x1000]), Errno::ENOSYS);
    }
}

fn ports(t: &mut Test) {
    for level in [4, 255, u32::MAX] {
        t.err("an IOPL there is not", physdev(PhysdevOp::SET_IOPL, &mut SetIopl { iopl: level }), Errno::EINVAL);
    }
    for level in [3, 1] {
        t.ok("set_iopl", physdev(PhysdevOp::SET_IOPL, &mut SetIopl { iopl: level }));
    }
}

/// What dom0 says of PCI devices that it found: the host bridge, as each call names it.
fn devices(t: &mut Test) {
    for op in [PhysdevOp::MANAGE_PCI_ADD, PhysdevOp::MANAGE_PCI_ADD_EXT, PhysdevOp::RESTORE_MSI] {
        t.ok("a device by bus and number", physdev(op, &mut [0u64; 4]));
    }
    for op in [PhysdevOp::PCI_DEVICE_ADD, PhysdevOp::RESTORE_MSI_EXT, PhysdevOp::PCI_DEVICE_REMOVE] {
        t.ok("a device by segment too", physdev(op, &mut [0u64; 4]));
    }
    t.ok("and there again", physdev(PhysdevOp::PCI_DEVICE_ADD, &mut [0u64; 4]));
    let mut gsi = SetupGsi { gsi: LINE, ..SetupGsi::default() };
    t.ok("setup_gsi", physdev(PhysdevOp::SETUP_GSI, &mut gsi));
    t.ok("IRQ_UNMASK_NOTIFY takes no argument", call(Hypercall::PHYSDEV_OP, &[4, 0x1000]));
}

fn map(kind: MapPirqType, index: i32, pirq: i32, domid: DomId) -> (i64, i32) {
    let mut arg = MapPirq { domid, kind, index, pirq, ..MapPirq::default() };
    (physdev(PhysdevOp::MAP_PIRQ, &mut arg), arg.pirq)
}

fn mapping(t: &mut Test) {
    let (own, gsi) = (DomId::SELF, MapPirqType::GSI);
    t.err("of nobody", map(gsi, LINE, -1, DomId(77)).0, Errno::ESRCH);
    t.err("of no kind", map(MapPirqType(99), LINE, -1, own).0, Errno::EINVAL);
    t.err("no such line", map(gsi, -1, -1, own).0, Errno::EINVAL);
    t.err("no such line", map(gsi, i32::MAX, -1, own).0, Errno::EINVAL);
    t.eq("map_pirq", map(gsi, LINE, LINE, own), (0, LINE));
    t.eq("again, any number", map(gsi, LINE, -1, own), (0, LINE));
    let query = |irq| {
        let mut arg = IrqStatusQuery { irq, flags: 0 };
        (physdev(PhysdevOp::IRQ_STATUS_QUERY, &mut arg), arg.flags & IrqStatusQuery::SHARED)
    };
    t.eq("irq_status_query", query(LINE as u32), (0, 0));
    t.err("of none", query(u32::MAX).0, Errno::EINVAL);
    t.err("eoi of none", physdev(PhysdevOp::EOI, &mut Eoi { irq: u32::MAX }), Errno::EINVAL);
    let mut free = GetFreePirq { kind: MapPirqType::MSI, pirq: 0 };
    t.ok("get_free_pirq", physdev(PhysdevOp::GET_FREE_PIRQ, &mut free));
    t.yes("is one", free.pirq >= 16);
    t.eq("map another", map(gsi, LINE_OF_MOUSE, LINE_OF_MOUSE, own), (0, LINE_OF_MOUSE));
    t.err("one that stands for another", map(gsi, LINE, LINE_OF_MOUSE, own).0, Errno::EEXIST);
    let unmap = |pirq| physdev(PhysdevOp::UNMAP_PIRQ, &mut UnmapPirq { domid: own, _pad: 0, pirq });
    t.ok("unmap_pirq", unmap(LINE_OF_MOUSE));
    t.err("twice", unmap(LINE_OF_MOUSE), Errno::EINVAL);
    t.err("none", unmap(-1), Errno::EINVAL);
    t.err(
        "of nobody",
        physdev(PhysdevOp::UNMAP_PIRQ, &mut UnmapPirq { domid: DomId(77), _pad: 0, pirq: LINE }),
        Errno::ESRCH,
    );
}

fn out(port: u64, value: u64) -> bool {
    exec(code::OUT_AL, &mut Regs { rax: value, rdx: port, ..Regs::default() }).is_none()
}

fn input(port: u64) -> u64 {
    let mut regs = Regs { rdx: port, ..Regs::default() };
    exec(code::IN_AL, &mut regs);
    regs.rax & 0xff
}

/// Has the controller say that a key was pressed: the line goes up.
fn press(t: &mut Test, key: u64) {
    for (port, value) in [(COMMAND, 0x60), (DATA, 0x41), (COMMAND, 0xd2), (DATA, key)] {
        t.yes("out", out(port, value));
    }
}

fn bind(pirq: u32, flags: u32) -> (i64, Port) {
    let mut arg = BindPirq { pirq, flags, port: Port(0) };
    (evtchn(EvtchnOp::BIND_PIRQ, &mut arg), arg.port)
}

fn binding(t: &mut Test) {
    let line = LINE as u32;
    while input(COMMAND) & 1 != 0 {
        input(DATA);
    }
    let (ret, port) = bind(line, 0);
    t.ok("bind_pirq", ret);
    t.err("twice", bind(line, 0).0, Errno::EEXIST);
    t.err("none", bind(u32::MAX, 0).0, Errno::EINVAL);
    let mut status = Status { dom: DomId::SELF, port, ..Status::default() };
    t.ok("status", evtchn(EvtchnOp::STATUS, &mut status));
    t.eq("is the line's", (status.status, status.detail), (PortStatus::PIRQ, line));
    t.err("nothing is sent through it", evtchn(EvtchnOp::SEND, &mut PortArg { port }), Errno::EINVAL);
    let pending = || probe::peek(probe::shared_info() + 2048) >> port.0 & 1 != 0;
    let clear = || probe::poke(probe::shared_info() + 2048, 0);
    clear();
    for key in [0x1e, 0x30] {
        press(t, key);
        for _ in 0..1000 {
            if pending() {
                break;
            }
            call(Hypercall::SCHED_OP, &[0, 0]);
        }
        t.yes("the line's event", pending());
        clear();
        t.eq("the key", input(DATA), key);
        t.ok("eoi", physdev(PhysdevOp::EOI, &mut Eoi { irq: line }));
        t.yes("only one", !pending());
    }
    t.ok("close", evtchn(EvtchnOp::CLOSE, &mut PortArg { port }));
    t.ok("bind it anew", bind(line, 0).0);
}
