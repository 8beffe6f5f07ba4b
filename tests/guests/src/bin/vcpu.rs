//! vcpu_op: is_up, runstate, vcpu_info, timers, a second vCPU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::Pte;
use conformance_guests::abi::event::{BindIpi, BindVirq, EvtchnOp};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::vcpu::*;
use conformance_guests::abi::{Errno, Mfn, Port, Vaddr, VcpuId, Virq};
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::ops::{evtchn, system_time, vcpu};
use conformance_guests::{Test, guest};

guest!(run);

const MS: u64 = 1_000_000;

fn now() -> u64 {
    system_time(probe::vcpu_info())
}

fn run(t: &mut Test) {
    let op = |op: u64, vcpu: u64| call(Hypercall::VCPU_OP, &[op, vcpu, 0x1000]);
    t.err("unknown op", op(14, 0), Errno::ENOSYS);
    t.err("the highest op", op(u32::MAX.into(), 0), Errno::ENOSYS);
    for number in [0, 1, 2, 3, 4, 5, 10, 11] {
        t.err("no such vcpu", op(number, 1 << 20), Errno::ENOENT);
        t.err("the highest vcpu", op(number, u32::MAX.into()), Errno::ENOENT);
    }
    t.returns("is_up", op(3, 0), 1);
    for number in [0, 4, 5, 6, 8, 10, 13] {
        t.err("argument nowhere", op(number, 0), Errno::EFAULT);
    }
    t.err("send_nmi with an argument", op(11, 0), Errno::EINVAL);
    t.err("get_physid of one that is not pinned", op(12, 0), Errno::EINVAL);
    t.err("initialise of oneself", vcpu(VcpuOp::INITIALISE, 0, &mut VcpuGuestContext::default()), Errno::EEXIST);
    runstate(t);
    timers(t);
    second(t);
    vcpu_info(t);
}

fn runstate(t: &mut Test) {
    // The periodic timer that a vCPU may start with would end the sleep below.
    call(Hypercall::VCPU_OP, &[7, 0, 0]);
    let mut info = RunstateInfo::default();
    t.ok("get_runstate_info", vcpu(VcpuOp::GET_RUNSTATE_INFO, 0, &mut info));
    t.eq("running", info.state, RunstateInfo::RUNNING);
    let near = |a: u64, b: u64| a.abs_diff(b) < 200 * MS;
    let sum = |info: &RunstateInfo| info.time.iter().sum::<u64>();
    t.yes("entered before now", info.state_entry_time <= now());
    let first = info;
    let page = probe::page();
    let mut area = RegisterArea { addr: Vaddr(page.va) };
    t.ok("register_runstate", vcpu(VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut area));
    t.eq("written at once", page.get(0) as i32, RunstateInfo::RUNNING);
    t.yes("entry time", page.get(1) >= first.state_entry_time);
    let start = now();
    let mut bind = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind timer", evtchn(EvtchnOp::BIND_VIRQ, &mut bind));
    probe::mask_events(true);
    call(Hypercall::SET_TIMER_OP, &[now() + 200 * MS]);
    t.ok("block", call(Hypercall::SCHED_OP, &[1, 0]));
    probe::mask_events(true);
    t.ok("get again", vcpu(VcpuOp::GET_RUNSTATE_INFO, 0, &mut info));
    t.yes("blocked time grew", info.time.get(2) > first.time.get(2));
    t.yes("the area too", page.get(4) > first.time.get(2).copied().unwrap_or(0));
    t.yes("states add up to time", near(sum(&info) - sum(&first), info.state_entry_time.max(now()) - start));
    t.yes("times before the present state", sum(&info) >= sum(&first));
    let mut none = RegisterArea { addr: Vaddr(0) };
    t.ok("unregister", vcpu(VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut none));
    let mut bad = RegisterArea { addr: Vaddr(0xffff_8300_0000_0000) };
    let got = vcpu(VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut bad);
    t.err("an area in the hypervisor", got, Errno::EFAULT);
    let got = vcpu(VcpuOp::REGISTER_VCPU_TIME_MEMORY_AREA, 0, &mut bad);
    t.err("a time page in the hypervisor", got, Errno::EFAULT);
    // The update flag: off without the assist.
    t.ok("register", vcpu(VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut area));
    t.ok("assist", call(Hypercall::VM_ASSIST, &[0, 5]));
    t.eq("no update runs", page.get(1) >> 63, 0);
    t.ok(
        "time area",
        vcpu(VcpuOp::REGISTER_VCPU_TIME_MEMORY_AREA, 0, &mut RegisterArea { addr: Vaddr(probe::page().va) }),
    );
}

fn timers(t: &mut Test) {
    let info = probe::vcpu_info();
    let drain = || {
        probe::poke(probe::shared_info() + 2048, 0);
        probe::poke(info + 8, 0);
        probe::modify(info, |_| 0);
    };
    // The timer's virq is bound by `runstate`.
    let wait = |ns: u64| {
        let (before, end) = (probe::upcalls(), now() + ns);
        let mut count = 0;
        // Once more after the end: the machine may have stood still meanwhile.
        let mut last = false;
        while !last {
            last = now() >= end;
            probe::mask_events(false);
            call(Hypercall::XEN_VERSION, &[0]);
            probe::mask_events(true);
            if probe::upcalls() - before != count {
                count = probe::upcalls() - before;
                drain();
            }
        }
        count
    };
    let period = |ns| vcpu(VcpuOp::SET_PERIODIC_TIMER, 0, &mut SetPeriodicTimer { period_ns: ns });
    t.ok("stop_periodic", vcpu(VcpuOp::STOP_PERIODIC_TIMER, 0, &mut ()));
    t.ok("stop_periodic again", vcpu(VcpuOp::STOP_PERIODIC_TIMER, 0, &mut ()));
    drain();
    t.eq("silence", wait(30 * MS), 0);
    t.err("period below 1 ms", period(MS - 1), Errno::EINVAL);
    t.ok("period 10 ms", period(10 * MS));
    let began = now();
    let count = wait(105 * MS);
    // The machine may stand still for a while: no more than there were periods, and the one that had begun.
    t.yes("several, at most one a period", count >= 2 && count <= (now() - began) / (10 * MS) + 1);
    t.ok("stop", vcpu(VcpuOp::STOP_PERIODIC_TIMER, 0, &mut ()));
    drain();
    t.eq("silence again", wait(30 * MS), 0);
    let shot = |at, flags| {
        let mut arg = SetSingleshotTimer { timeout_abs_ns: at, flags, _pad: 0 };
        vcpu(VcpuOp::SET_SINGLESHOT_TIMER, 0, &mut arg)
    };
    t.ok("one shot", shot(now() + 10 * MS, 0));
    t.eq("comes once", wait(60 * MS), 1);
    // The header says ETIME; 4.17 ignores the flag.
    t.ok("a past deadline, though it must be future", shot(1, SetSingleshotTimer::FUTURE));
    t.eq("comes at once", wait(10 * MS), 1);
    t.ok("a past deadline else", shot(1, 0));
    t.eq("comes at once", wait(10 * MS), 1);
    // In time: the machine may stand still in between.
    let mut late = true;
    while late {
        drain();
        let end = now() + 10 * MS;
        t.ok("one shot to cancel", shot(end, 0));
        t.ok("cancel", vcpu(VcpuOp::STOP_SINGLESHOT_TIMER, 0, &mut ()));
        late = now() >= end;
    }
    t.eq("does not come", wait(30 * MS), 0);
}

/// A second vCPU, where the machine gives one.
fn second(t: &mut Test) {
    let op = |op| call(Hypercall::VCPU_OP, &[op, 1, 0]);
    if op(3) == Errno::ENOENT.code() {
        t.skip("one vCPU");
        return;
    }
    t.ok("is down", op(3));
    let other = |op| call(Hypercall::VCPU_OP, &[op, 1, 0x1000]);
    t.err("its periodic timer, argument nowhere", other(6), Errno::EFAULT);
    t.ok("its periodic timer stops", other(7));
    t.err("its one-shot timer is its own", other(8), Errno::EINVAL);
    t.err("and stops by itself", other(9), Errno::EINVAL);
    t.err("up before initialise", op(1), Errno::EINVAL);
    let Some((_, l4)) = probe::pte_slot(Vaddr(probe::code_page()), 4) else { return };
    let mut context = VcpuGuestContext::default();
    probe::ap_context(&mut context, 0);
    t.err("initialise without a page table", vcpu(VcpuOp::INITIALISE, 1, &mut context), Errno::EINVAL);
    let cr3 = probe::mfn_of(t.info.pt_base.0).maddr().0;
    t.yes("page table", l4.present());
    probe::ap_context(&mut context, cr3);
    t.ok("initialise", vcpu(VcpuOp::INITIALISE, 1, &mut context));
    t.err("initialise again", vcpu(VcpuOp::INITIALISE, 1, &mut context), Errno::EEXIST);
    t.ok("still down", op(3));
    t.ok("up", op(1));
    t.returns("is up", op(3), 1);
    t.yes("runs", probe::ap_runs(2_000_000_000));
    t.ok("up again", op(1));
    let mut info = RunstateInfo::default();
    t.ok("its runstate", vcpu(VcpuOp::GET_RUNSTATE_INFO, 1, &mut info));
    t.yes("runs or could", info.state == RunstateInfo::RUNNING || info.state == RunstateInfo::RUNNABLE);
    t.ok("an ipi to it", evtchn(EvtchnOp::BIND_IPI, &mut BindIpi { vcpu: VcpuId(1), port: Port(0) }));
    t.ok("down", op(2));
    t.ok("is down again", op(3));
    let stopped = now() + 20 * MS;
    while now() < stopped {
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    t.yes("stands still", !probe::ap_runs(20_000_000));
    t.ok("down again", op(2));
    t.ok("up once more", op(1));
    t.yes("goes on", probe::ap_runs(2_000_000_000));
    t.ok("down for good", op(2));
}

fn vcpu_info(t: &mut Test) {
    let page = probe::page();
    let register = |mfn: Mfn, offset| {
        let mut arg = RegisterVcpuInfo { mfn, offset, _rsvd: 0 };
        vcpu(VcpuOp::REGISTER_VCPU_INFO, 0, &mut arg)
    };
    t.err("past the end of the page", register(page.mfn, 4096 - 63), Errno::ENXIO);
    t.err("offset 4096", register(page.mfn, 4096), Errno::ENXIO);
    t.err("misaligned", register(page.mfn, 4), Errno::ENXIO);
    t.err("no frame", register(Mfn(1 << 40), 0), Errno::EINVAL);
    let table = probe::pte_slot(Vaddr(page.va), 1).map_or(Mfn::INVALID, |(at, _)| at.mfn());
    t.err("a page table", register(table, 0), Errno::EINVAL);
    probe::modify(probe::vcpu_info() + 1, |_| 1);
    t.ok("register", register(page.mfn, 64));
    probe::set_vcpu_info(page.va + 64);
    t.eq("the mask came along", probe::peek(page.va + 64) >> 8 & 0xff, 1);
    t.yes("the clock runs there", probe::peek(page.va + 64 + 48) != 0);
    t.err("register again", register(page.mfn, 128), Errno::EINVAL);
    // Events arrive at the new place.
    let mut ipi = BindIpi { vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind_ipi", evtchn(EvtchnOp::BIND_IPI, &mut ipi));
    let before = probe::upcalls();
    probe::mask_events(false);
    t.ok("send", evtchn(EvtchnOp::SEND, &mut ipi.port));
    t.yes("upcall", probe::upcalls() > before);
    probe::mask_events(true);
    let got = probe::exec(conformance_guests::code::LOAD, &mut probe::Regs { rdi: 0x5000, ..Default::default() });
    t.eq("cr2 at the new place", got.map(|f| f.cr2), Some(0x5000));
    t.ok("a free page keeps its entry", conformance_guests::ops::update_va(probe::spare_va(), Pte::EMPTY, 2));
}
