//! `vcpu_op` and `sched_op`: vCPUs of a domain of three, of which the first calls.

use std::sync::atomic::Ordering::SeqCst;

use abi::hypercall::Hypercall;
use abi::mmu::{MmuextCmd, MmuextOp};
use abi::physdev::{MapPirq, MapPirqType, PhysdevOp, UnmapPirq};
use abi::sched::{Poll, RemoteShutdown, SchedOp, Shutdown, ShutdownReason, Watchdog};
use abi::vcpu::{RegisterVcpuInfo, SetSingleshotTimer, VcpuInfo, VcpuOp};
use abi::{DomId, Errno, PAGE_SIZE};
use zerocopy::{Immutable, IntoBytes};

use super::Setup;
use crate::cpu::pending;
use crate::lifecycle::NewDomain;
use crate::time::NEVER;
use crate::{CpuSet, Flush, Privilege, Stage, testing};

fn three(privilege: Privilege) -> Setup {
    let core = testing::core(1024, 1);
    let guest = testing::guest_of(&core, NewDomain { privilege, ..NewDomain::ordinary(3) }, 8);
    core.unpause_from_outside(&guest.domain).unwrap();
    core.bring_up(&guest.vcpu);
    assert!(matches!(core.schedule(&core.cpus[0], None), crate::sched::Next::Switch(_)));
    core.cpus[0].pending.store(0, SeqCst);
    Setup { core, guest }
}

impl Setup {
    /// A vCPU operation, whose argument is on page 0 if there is one.
    fn vcpu_op(&self, op: VcpuOp, vcpu: u64, argument: &[u8]) -> Result<i64, Errno> {
        self.guest.poke(&self.core, 0, 0, argument);
        let at = if argument.is_empty() { 0 } else { self.guest.va(0).0 };
        self.call(Hypercall::VCPU_OP, &[op.0.into(), vcpu, at])
    }

    fn sched_op<T: IntoBytes + Immutable>(&self, op: SchedOp, argument: &T) -> Result<i64, Errno> {
        self.with(Hypercall::SCHED_OP, op.0, argument)
    }
}

#[test]
fn a_vcpu_comes_up_with_a_context_goes_down_and_the_last_ends_its_domain() {
    let s = three(Privilege::empty());
    let op = |op, vcpu| s.vcpu_op(op, vcpu, &[]);
    let up = |vcpu| op(VcpuOp::IS_UP, vcpu).unwrap();
    assert_eq!([up(0), up(1), up(2)], [1, 0, 0]);
    assert_eq!(op(VcpuOp::UP, 1), Err(Errno::EINVAL), "without a context");
    assert_eq!(op(VcpuOp::UP, 0), Ok(0), "itself: it has one");
    for vcpu in [1, 2] {
        s.guest.domain.vcpus[vcpu as usize].run.lock().initialised = true;
        assert_eq!((op(VcpuOp::UP, vcpu), up(vcpu)), (Ok(0), 1));
    }
    // One that runs elsewhere has its state locked, and so has a context.
    let held = s.guest.domain.vcpus[1].run.lock();
    std::thread::scope(|scope| scope.spawn(|| assert_eq!(op(VcpuOp::UP, 1), Ok(0))).join()).expect("no failure");
    drop(held);
    assert_eq!((op(VcpuOp::DOWN, 1), up(1)), (Ok(0), 0));
    assert_eq!((op(VcpuOp::DOWN, 0), up(0)), (Ok(0), 0));
    assert_eq!(s.guest.domain.stage(), Stage::Alive);
    assert_eq!(op(VcpuOp::DOWN, 2), Ok(0));
    assert_eq!(s.guest.domain.stage(), Stage::Shutdown);
    assert_eq!(s.guest.domain.life.load(SeqCst) >> 8, ShutdownReason::POWEROFF.0);
    assert_eq!(op(VcpuOp::GET_PHYSID, 0), Err(Errno::EINVAL));
    assert_eq!(op(VcpuOp::IS_UP, 3), Err(Errno::ENOENT));
}

#[test]
fn a_single_shot_timer_is_set_by_its_own_vcpu() {
    let s = three(Privilege::empty());
    let at = s.core.platform.clock.load(SeqCst) + 1_000_000;
    let shot = SetSingleshotTimer { timeout_abs_ns: at, flags: 0, _pad: 0 };
    let programmed = || s.core.platform.deadline.load(SeqCst);
    assert_eq!(s.vcpu_op(VcpuOp::SET_SINGLESHOT_TIMER, 0, shot.as_bytes()), Ok(0));
    assert_eq!(s.vcpu_op(VcpuOp::SET_SINGLESHOT_TIMER, 1, shot.as_bytes()), Err(Errno::EINVAL));
    assert_eq!(programmed(), at);
    assert_eq!(s.vcpu_op(VcpuOp::STOP_SINGLESHOT_TIMER, 1, &[]), Err(Errno::EINVAL));
}

#[test]
fn an_nmi_kicks_its_vcpu_once() {
    let core = testing::core(1024, 2);
    let guest = testing::guest_of(&core, NewDomain::ordinary(2), 8);
    core.unpause_from_outside(&guest.domain).unwrap();
    core.bring_up(&guest.vcpu);
    assert!(matches!(core.schedule(&core.cpus[0], None), crate::sched::Next::Switch(_)));
    // Another vCPU of its domain sends it, from another CPU.
    core.platform.cpu.store(1, SeqCst);
    core.platform.kicks.lock().unwrap().clear();
    let send = || guest.hypercall(&core, Hypercall::VCPU_OP.0, [VcpuOp::SEND_NMI.0.into(), 0, 0, 0, 0]);
    let kicks = || core.platform.kicks.lock().unwrap().len();
    assert_eq!([(send(), kicks()), (send(), kicks())], [(0, 1); 2]);
}

#[test]
fn vcpu_info_moves_to_where_it_fits() {
    let s = three(Privilege::empty());
    let last = (PAGE_SIZE - size_of::<VcpuInfo>()) as u32;
    let register = |vcpu, offset| {
        let to = RegisterVcpuInfo { mfn: s.guest.frames[3].mfn(), offset, _rsvd: 0 };
        s.vcpu_op(VcpuOp::REGISTER_VCPU_INFO, vcpu, to.as_bytes())
    };
    for bad in [4, 12, last + 1, last + 4, last + 8, u32::MAX] {
        assert_eq!(register(0, bad), Err(Errno::ENXIO), "{bad}");
    }
    assert_eq!(register(0, last), Ok(0));
    assert_eq!(register(0, 0), Err(Errno::EINVAL), "once only");
    let cr2 = || {
        let (frame, at) = s.guest.domain.vcpus[1].info.get();
        crate::guest::shared_word(&s.core.platform, frame, at + crate::event::layout::CR2)
    };
    cr2().store(0x1234, SeqCst);
    assert_eq!(register(1, 0), Ok(0), "one that is down");
    assert_eq!(cr2().load(SeqCst), 0x1234, "it has come along");
    s.core.bring_up(&s.guest.domain.vcpus[2]);
    assert_eq!(register(2, 128), Err(Errno::EINVAL), "another that is up");
}

#[test]
fn yielding_makes_way_for_who_waits() {
    let s = three(Privilege::empty());
    assert_eq!(s.sched_op(SchedOp::YIELD, &0u64), Ok(0));
    assert_eq!(s.core.cpus[0].pending.load(SeqCst), 0, "nobody waits");
    s.guest.domain.vcpus[1].run.lock().initialised = true;
    s.core.bring_up(&s.guest.domain.vcpus[1]);
    s.core.cpus[0].pending.store(0, SeqCst);
    assert_eq!(s.sched_op(SchedOp::YIELD, &0u64), Ok(0));
    assert_ne!(s.core.cpus[0].pending.load(SeqCst) & pending::RESCHEDULE, 0);
}

#[test]
fn a_domain_is_ended_by_itself_and_by_a_builder() {
    let (crash, poweroff) = (ShutdownReason::CRASH, ShutdownReason::POWEROFF);
    let s = three(Privilege::empty());
    // The reason that is told first counts.
    assert_eq!(s.sched_op(SchedOp::SHUTDOWN_CODE, &Shutdown { reason: crash }), Ok(0));
    assert_eq!(s.guest.domain.stage(), Stage::Alive);
    assert_eq!(s.sched_op(SchedOp::SHUTDOWN, &Shutdown { reason: poweroff }), Ok(0));
    assert_eq!((s.guest.domain.stage(), s.guest.domain.life.load(SeqCst) >> 8), (Stage::Shutdown, crash.0));
    for (privilege, done) in [(Privilege::empty(), Err(Errno::EPERM)), (Privilege::BUILDER, Ok(0))] {
        let s = three(privilege);
        let other = testing::guest(&s.core, Privilege::empty(), 4);
        let end =
            |domain_id| s.sched_op(SchedOp::REMOTE_SHUTDOWN, &RemoteShutdown { domain_id, _pad: 0, reason: poweroff });
        assert_eq!(end(DomId(999)), Err(Errno::ESRCH));
        assert_eq!(end(other.domain.id), done);
        assert_eq!(other.domain.stage() == Stage::Shutdown, done.is_ok());
    }
}

#[test]
fn a_poll_takes_128_ports_and_a_limit() {
    let s = three(Privilege::empty());
    let port = s.core.alloc_unbound(&s.guest.domain, DomId(0)).unwrap();
    s.guest.poke(&s.core, 1, 0, [port; 129].as_bytes());
    let poll = |nr_ports, timeout| {
        s.core.platform.deadline.store(u64::MAX, SeqCst);
        let done = s.sched_op(SchedOp::POLL, &Poll { ports: s.guest.va(1), nr_ports, _pad: 0, timeout });
        let waited = s.guest.vcpu.sched.state.view().blocked();
        s.core.wake(&s.guest.vcpu);
        (done, waited, s.core.platform.deadline.load(SeqCst))
    };
    let far = s.core.platform.clock.load(SeqCst) + 5_000;
    assert_eq!(poll(129, far), (Err(Errno::EINVAL), false, u64::MAX));
    assert_eq!(poll(130, far), (Err(Errno::EINVAL), false, u64::MAX));
    assert_eq!(poll(128, far), (Ok(0), true, far));
    assert_eq!(poll(1, 0), (Ok(0), true, u64::MAX), "without a limit none is set");
}

#[test]
fn each_watchdog_has_a_time_of_its_own() {
    let s = three(Privilege::empty());
    let dog = |id, timeout| s.sched_op(SchedOp::WATCHDOG, &Watchdog { id, timeout });
    let ends = |n: usize| s.guest.domain.clock.watchdogs[n].load(SeqCst);
    let after = |seconds: u64| s.core.platform.clock.load(SeqCst) + seconds * 1_000_000_000;
    assert_eq!((dog(0, 5), ends(0), ends(1)), (Ok(1), after(5), NEVER));
    assert_eq!((dog(0, 9), ends(0), ends(1)), (Ok(2), after(5), after(9)));
    assert_eq!((dog(2, 20), ends(0), ends(1)), (Ok(0), after(5), after(20)));
    assert_eq!((dog(1, 0), ends(0), ends(1)), (Ok(0), NEVER, after(20)));
}

/// What concerns interrupts is asked with the hardware's privilege, for oneself or another.
#[test]
fn interrupts_of_another_domain_are_the_hardware_domains_to_map() {
    let map = |s: &Setup, domid, kind, bus| {
        let map = MapPirq { domid, kind, index: 9, pirq: -1, bus, devfn: 8, ..Default::default() };
        s.with(Hypercall::PHYSDEV_OP, PhysdevOp::MAP_PIRQ.0, &map)?;
        Ok(s.peek::<MapPirq>().pirq)
    };
    let s = three(Privilege::BUILDER);
    let other = testing::guest(&s.core, Privilege::empty(), 4).domain.id;
    let unmap = UnmapPirq { domid: other, pirq: 9, _pad: 0 };
    assert_eq!(map(&s, other, MapPirqType::GSI, 0), Err(Errno::EPERM));
    assert_eq!(map(&s, other, MapPirqType::MSI, 0), Err(Errno::EPERM));
    assert_eq!(s.with(Hypercall::PHYSDEV_OP, PhysdevOp::UNMAP_PIRQ.0, &unmap), Err(Errno::EPERM));
    let s = three(Privilege::BUILDER | Privilege::HARDWARE);
    let other = testing::guest(&s.core, Privilege::empty(), 4).domain.id;
    assert_eq!(map(&s, other, MapPirqType::GSI, 0), Ok(9));
    assert_eq!(s.with(Hypercall::PHYSDEV_OP, PhysdevOp::UNMAP_PIRQ.0, &unmap), Ok(0));
    // The upper half of the bus is the segment, where it is said that there is one.
    let first = map(&s, other, MapPirqType::MSI, 1).unwrap();
    assert_eq!(map(&s, other, MapPirqType::MSI, 5 << 16 | 1), Ok(first), "the same device");
    assert_eq!(map(&s, other, MapPirqType::MSI_SEG, 1), Ok(first));
    let second = map(&s, other, MapPirqType::MSI_SEG, 5 << 16 | 1).unwrap();
    let third = map(&s, other, MapPirqType::MSI_SEG, 6 << 16 | 1).unwrap();
    assert!(first != second && second != third && first != third);
}

/// Flushes for some of a domain's vCPUs, named by a bitmap.
#[test]
fn a_flush_for_a_vcpu_is_one_for_the_cpus_that_it_may_have_been_on() {
    let s = three(Privilege::empty());
    let flushed = |bitmap: u8| {
        s.guest.poke(&s.core, 1, 0, &[bitmap]);
        s.guest.poke(&s.core, 0, 0, MmuextOp::new(MmuextCmd::TLB_FLUSH_MULTI, 0, s.guest.va(1).0).as_bytes());
        s.core.platform.take_flushes();
        s.call(Hypercall::MMUEXT_OP, &[s.guest.va(0).0, 1, 0, DomId::SELF.0.into()]).unwrap();
        s.core.platform.take_flushes()
    };
    for (bitmap, all) in [(0, false), (1, true), (2, true), (4, true), (8, false), (0xf8, false)] {
        let expected: &[_] = if all { &[(CpuSet(1), Flush::All)] } else { &[] };
        assert_eq!(flushed(bitmap), expected, "{bitmap:#b}");
    }
}
