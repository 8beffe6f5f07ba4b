//! The lessons that the field paid for (hostile-guest-lessons.md), and what each operation answers.

use std::vec::Vec;

use abi::event::{AllocUnbound, BindIpi, BindVirq, EvtchnOp, PortArg, PortStatus, Reset, Status};
use abi::hypercall::Hypercall;
use abi::sched::{Poll, SchedOp};
use abi::vcpu::{RegisterVcpuInfo, VcpuOp};
use abi::{DomId, Errno, Port, VcpuId, Virq};
use core::sync::atomic::Ordering::SeqCst;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::{domain, pending, shared};
use crate::event::{Bound, layout};
use crate::testing::{self, Guest, TestCore};
use crate::{Platform, Privilege, Stage, Stop, guest as memory};

const EINVAL: i64 = Errno::EINVAL.code();

/// A guest, and its vCPU up and running on CPU 0.
fn guest(privilege: Privilege) -> (std::boxed::Box<TestCore>, Guest) {
    let core = testing::core(2048, 1);
    let guest = testing::guest(&core, privilege, 8);
    core.unpause_from_outside(&guest.domain).unwrap();
    core.bring_up(&guest.vcpu);
    assert!(matches!(core.schedule(&core.cpus[0], None), crate::sched::Next::Switch(_)));
    core.cpus[0].pending.store(0, SeqCst);
    (core, guest)
}

/// An operation on a structure, which comes back as it is then.
fn op<T: FromBytes + IntoBytes + Immutable>(core: &TestCore, guest: &Guest, op: EvtchnOp, it: &mut T) -> i64 {
    guest.poke(core, 0, 0, it.as_bytes());
    let rax = guest.hypercall(core, Hypercall::EVENT_CHANNEL_OP.0, [u64::from(op.0), guest.va(0).0, 0, 0, 0]);
    core.platform.copy_from_guest(guest.space(), guest.va(0), it.as_mut_bytes()).unwrap();
    rax
}

fn alloc(core: &TestCore, guest: &Guest) -> (i64, Port) {
    let mut it = AllocUnbound { dom: DomId::SELF, remote_dom: DomId::SELF, port: Port(0) };
    (op(core, guest, EvtchnOp::ALLOC_UNBOUND, &mut it), it.port)
}

fn poll(core: &TestCore, guest: &Guest, ports: &[u32], nr_ports: u32, timeout: u64) -> i64 {
    guest.poke(core, 1, 0, ports.as_bytes());
    guest.poke(core, 0, 0, Poll { ports: guest.va(1), nr_ports, _pad: 0, timeout }.as_bytes());
    guest.hypercall(core, Hypercall::SCHED_OP.0, [u64::from(SchedOp::POLL.0), guest.va(0).0, 0, 0, 0])
}

#[test]
fn lesson_26_a_port_to_poll_is_checked_and_a_refused_poll_leaves_nothing_behind() {
    let (core, guest) = guest(Privilege::empty());
    assert_eq!(poll(&core, &guest, &[u32::MAX], 1, 0), EINVAL);
    assert_eq!(poll(&core, &guest, &[1, 64], 2, 0), EINVAL);
    assert_eq!(poll(&core, &guest, &[], 129, 0), EINVAL);
    guest.poke(&core, 0, 0, Poll { ports: abi::Vaddr(8), nr_ports: 1, _pad: 0, timeout: 0 }.as_bytes());
    let rax = guest.hypercall(&core, Hypercall::SCHED_OP.0, [3, guest.va(0).0, 0, 0, 0]);
    assert_eq!(rax, Errno::EFAULT.code());
    assert_eq!(guest.domain.events.pollers.load(SeqCst), 0);
    assert!(!guest.vcpu.sched.state.view().blocked());
    assert_eq!(core.cpus[0].pending.load(SeqCst), 0);
}

#[test]
fn a_poll_ends_by_a_masked_port_by_an_event_before_it_or_by_its_limit() {
    let (core, guest) = guest(Privilege::empty());
    let (_, port) = alloc(&core, &guest);
    let (_, other) = alloc(&core, &guest);
    core.platform.word(guest.domain.shared_info, layout::MASK).store(u64::MAX, SeqCst);
    let waits = || guest.vcpu.sched.state.view().blocked();
    assert_eq!(poll(&core, &guest, &[port.0], 1, 0), 0);
    assert!(waits() && guest.domain.events.pollers.load(SeqCst) == 1);
    core.send_event(&guest.domain, other);
    assert!(waits(), "not the one");
    core.send_event(&guest.domain, port);
    assert!(!waits() && guest.domain.events.pollers.load(SeqCst) == 0);
    assert_eq!(poll(&core, &guest, &[port.0], 1, 0), 0);
    assert!(!waits(), "pending before");
    let limit = core.platform.now() + 5;
    assert_eq!(poll(&core, &guest, &[], 0, limit), 0);
    assert!(waits());
    core.cpus[0].pending.store(0, SeqCst);
    let crate::sched::Next::Idle = core.schedule(&core.cpus[0], Some(&guest.vcpu)) else { panic!("it waits") };
    core.descheduled(&core.cpus[0], guest.vcpu.clone());
    core.platform.clock.store(limit, SeqCst);
    core.run_timers(&core.cpus[0], None);
    assert!(!waits() && guest.domain.events.pollers.load(SeqCst) == 0);
}

#[test]
fn lesson_27_reset_meets_bind_close_and_send() {
    let core = testing::core(2048, 1);
    let [a, b] = [domain(&core, 2), domain(&core, 2)];
    let (core, a, b) = (&*core, &a, &b);
    std::thread::scope(|scope| {
        let threads = [0, 1, 2u32].map(|seed| {
            scope.spawn(move || {
                for round in 0..4000u32 {
                    let (near, far) = if (round + seed) % 2 == 0 { (a, b) } else { (b, a) };
                    let Ok(port) = core.alloc_unbound(near, far.id) else { continue };
                    let bound = core.bind_interdomain(far, near, port);
                    let _ = core.send(near, port);
                    let _ = core.bind_vcpu(near, port, VcpuId(round % 2));
                    if let Ok(remote) = bound {
                        let _ = core.send(far, remote);
                        let _ = core.close(if round % 3 == 0 { near } else { far }, remote);
                    }
                    let _ = core.close(near, port);
                }
            })
        });
        while !threads.iter().any(|thread| thread.is_finished()) {
            for d in [a, b] {
                while core.reset_ports(d, false).is_err() {}
            }
        }
    });
    for d in [a, b] {
        core.reset_ports(d, false).unwrap();
    }
    for d in [a, b] {
        let open =
            (1..core.valid_ports(d)).filter(|p| core.port_info(d, Port(*p)).unwrap().status != PortStatus::CLOSED);
        assert_eq!(open.count(), 0);
        assert_eq!(alloc::sync::Arc::strong_count(d), 2, "no half of a channel holds its peer");
    }
}

#[test]
fn of_two_domains_the_lower_ones_ports_are_locked_first() {
    let core = testing::core(2048, 1);
    let [low, high] = [domain(&core, 1), domain(&core, 1)];
    assert!(low.id < high.id);
    for (near, far) in [(&low, &high), (&high, &low)] {
        let held = high.events.ports.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| core.bind_interdomain(near, far, Port(1)));
            // On a thread of its own, as this one holds the higher one's.
            let watch = scope.spawn(|| {
                (0..10_000_000).any(|_| {
                    std::thread::yield_now();
                    low.events.ports.try_lock().is_none()
                })
            });
            let locked = watch.join().expect("it only looks");
            drop(held);
            assert!(locked, "it waits for the higher one's with nothing in its hands");
        });
    }
}

#[test]
fn lesson_28_a_reset_makes_room_and_goes_on_where_it_was() {
    let (core, guest) = guest(Privilege::empty());
    for _ in 0..1000 {
        assert_eq!(alloc(&core, &guest).0, 0);
    }
    core.platform.interrupt_every(1);
    assert_eq!(core.reset_ports(&guest.domain, true), Err(Errno::EBUSY.into()), "none is under way");
    assert_eq!(core.reset_ports(&guest.domain, false), Err(Stop::PREEMPTED));
    assert_eq!(core.reset_ports(&guest.domain, false), Err(Errno::EBUSY.into()), "one is under way");
    let mut slices = 1;
    while core.reset_ports(&guest.domain, true) == Err(Stop::PREEMPTED) {
        slices += 1;
    }
    assert!(slices >= 15, "{slices}");
    let polls = core.platform.polls();
    assert_eq!(op(&core, &guest, EvtchnOp::RESET, &mut Reset { dom: DomId::SELF }), 0);
    assert!(core.platform.polls() - polls >= 15);
    assert_eq!(alloc(&core, &guest), (0, Port(1)));
}

#[test]
fn lesson_29_4100_ports() {
    let (core, guest) = guest(Privilege::empty());
    for port in 1..4096 {
        assert_eq!(alloc(&core, &guest), (0, Port(port)));
    }
    for _ in 4096..4101 {
        assert_eq!(alloc(&core, &guest).0, Errno::ENOSPC.code());
    }
    assert_eq!(core.send(&guest.domain, Port(4096)), Err(Errno::EINVAL));
    assert_eq!(core.close(&guest.domain, Port(4095)), Ok(()));
    assert_eq!(alloc(&core, &guest), (0, Port(4095)));
}

#[test]
fn ports_above_the_domains_own_limit_are_not_given() {
    let core = testing::core(512, 1);
    let new = crate::lifecycle::NewDomain { highest_port: 5, ..crate::lifecycle::NewDomain::ordinary(1) };
    let d = core.create_domain(&new).unwrap();
    let got: Vec<_> = (0..6).map(|_| core.alloc_unbound(&d, d.id)).collect();
    assert_eq!(got[4], Ok(Port(5)));
    assert_eq!(got[5], Err(Errno::ENOSPC));
}

#[test]
fn operations_answer_as_the_interface_says() {
    let (core, guest) = guest(Privilege::empty());
    let virq = |virq, vcpu| {
        let mut it = BindVirq { virq, vcpu: VcpuId(vcpu), port: Port(0) };
        op(&core, &guest, EvtchnOp::BIND_VIRQ, &mut it)
    };
    assert_eq!(virq(Virq(24), 0), EINVAL);
    assert_eq!(virq(Virq::CONSOLE, 1), EINVAL, "one of the whole domain");
    assert_eq!(virq(Virq::TIMER, 1), Errno::ENOENT.code());
    assert_eq!(virq(Virq::TIMER, 0), 0);
    assert_eq!(virq(Virq::TIMER, 0), Errno::EEXIST.code());
    assert_eq!(core.bind_vcpu(&guest.domain, Port(1), VcpuId(0)), Err(Errno::EINVAL), "bound for good");
    assert_eq!(core.send(&guest.domain, Port(1)), Err(Errno::EINVAL), "not to be sent through");
    let mut ipi = BindIpi { vcpu: VcpuId(1), port: Port(0) };
    assert_eq!(op(&core, &guest, EvtchnOp::BIND_IPI, &mut ipi), Errno::ENOENT.code());
    for port in [0, 2, 63, 64, u32::MAX] {
        let mut it = PortArg { port: Port(port) };
        assert_eq!(op(&core, &guest, EvtchnOp::CLOSE, &mut it), EINVAL);
        assert_eq!(op(&core, &guest, EvtchnOp::SEND, &mut it), EINVAL);
        let valid = if port < 64 { 0 } else { EINVAL };
        assert_eq!(op(&core, &guest, EvtchnOp::UNMASK, &mut it), valid);
        let mut it = Status { dom: DomId::SELF, port: Port(port), ..Status::new_zeroed() };
        assert_eq!(op(&core, &guest, EvtchnOp::STATUS, &mut it), valid);
    }
    for absent in [13, 15, 99] {
        assert_eq!(op(&core, &guest, EvtchnOp(absent), &mut [0u64; 3]), Errno::ENOSYS.code());
    }
    let mut other = AllocUnbound { dom: DomId(77), remote_dom: DomId::SELF, port: Port(0) };
    assert_eq!(op(&core, &guest, EvtchnOp::ALLOC_UNBOUND, &mut other), Errno::ESRCH.code());
    let rax = guest.hypercall(&core, Hypercall::EVENT_CHANNEL_OP.0, [4, 0x1000, 0, 0, 0]);
    assert_eq!(rax, Errno::EFAULT.code());
}

#[test]
fn a_closed_port_forgets_what_was_pending_and_its_virtual_interrupt() {
    let core = testing::core(512, 1);
    let d = domain(&core, 2);
    let port = core.bind_virq(&d, Virq::TIMER, VcpuId(1)).unwrap();
    core.send_virq(&d, Some(VcpuId(1)), Virq::TIMER);
    assert_eq!(pending(&core, &d), 1 << port.0);
    core.close(&d, port).unwrap();
    assert_eq!(pending(&core, &d), 0);
    core.send_virq(&d, Some(VcpuId(1)), Virq::TIMER);
    assert_eq!(pending(&core, &d), 0);
    assert_eq!(core.alloc_unbound(&d, d.id), Ok(port));
    // A stale look-up of the interrupt's port finds another's.
    d.vcpus[1].events.virq(Virq::TIMER).unwrap().store(port.0, SeqCst);
    core.send_virq(&d, Some(VcpuId(1)), Virq::TIMER);
    assert_eq!(pending(&core, &d), 0);
}

#[test]
fn a_port_has_its_own_bit_and_its_vcpu_its_own_words() {
    let core = testing::core(512, 1);
    let d = domain(&core, 2);
    let [first, second] = [0, 1].map(|at| d.vcpus[at].clone());
    let port = (0..100).map(|_| core.bind_ipi(&d, VcpuId(1)).unwrap()).last().unwrap();
    assert_eq!(port, Port(100));
    for vcpu in [&first, &second] {
        core.set_upcall_mask(vcpu, false);
    }
    assert!(!core.set_upcall_mask(&second, true) && core.upcall_mask(&second) && !core.upcall_mask(&first));
    let at = |word| shared(&core, &d, word);
    // Masked it tells nobody; unmasked, the only one that was, it does.
    core.platform.word(d.shared_info, layout::MASK + 1).store(1 << 36, SeqCst);
    core.send(&d, port).unwrap();
    assert_eq!([at(layout::PENDING), at(layout::PENDING + 1), at(8 + layout::SELECTOR)], [0, 1 << 36, 0]);
    core.unmask_port(&d, port).unwrap();
    assert_eq!([at(layout::MASK + 1), at(8 + layout::SELECTOR), at(layout::SELECTOR)], [0, 2, 0]);
    assert!(!core.upcall_due(&second), "its upcalls are masked");
    assert!(core.set_upcall_mask(&second, false) && core.upcall_due(&second) && !core.upcall_due(&first));
    assert_eq!([at(layout::UPCALL), at(8 + layout::UPCALL)], [0, 1]);
    core.unmask_port(&d, Port(99)).unwrap();
    assert_eq!(at(8 + layout::SELECTOR), 2, "nothing came there");
    // Whoever polls hears of it too, and nothing else is different.
    core.begin_poll(&d, &first, Some(Port(99)));
    core.send(&d, Port(1)).unwrap();
    assert!(first.sched.state.view().polling());
    core.send(&d, Port(99)).unwrap();
    assert!(!first.sched.state.view().polling());
    assert_eq!([at(8 + layout::SELECTOR), at(layout::SELECTOR)], [3, 0]);
}

#[test]
fn an_interrupt_of_the_machine_goes_to_whose_business_it_is() {
    let core = testing::core(512, 1);
    let domains = [Privilege::STORE, Privilege::CONSOLE, Privilege::INITIAL, Privilege::empty()].map(|privilege| {
        let new = crate::lifecycle::NewDomain { privilege, ..crate::lifecycle::NewDomain::ordinary(1) };
        core.create_domain(&new).unwrap()
    });
    for (whose, virq) in [Virq::DOM_EXC, Virq::CONSOLE, Virq::DEBUGGER].into_iter().enumerate() {
        let ports = [0, 1, 2, 3].map(|at| core.bind_virq(&domains[at], virq, VcpuId(0)).unwrap());
        core.send_global_virq(domains[whose].privilege, virq);
        for (at, port) in ports.iter().enumerate() {
            assert_eq!(pending(&core, &domains[at]) >> port.0 & 1, u64::from(at == whose), "{virq:?} {at}");
        }
    }
}

#[test]
fn a_dying_domain_gets_no_new_ports() {
    let core = testing::core(512, 1);
    let [a, b] = [domain(&core, 1), domain(&core, 1)];
    let port = core.alloc_unbound(&a, b.id).unwrap();
    a.life.store(Stage::Dying as u32, SeqCst);
    assert_eq!(core.alloc_unbound(&a, b.id), Err(Errno::EINVAL));
    assert_eq!(core.bind_interdomain(&b, &a, port), Err(Errno::EINVAL));
    assert_eq!(core.bind_ipi(&a, VcpuId(0)), Err(Errno::EINVAL));
    assert_eq!(core.destroy_ports(&a), Ok(()));
    assert!(matches!(a.events.ports.lock().get(port).unwrap().bound, Bound::Free));
}

#[test]
fn a_registered_vcpu_info_gets_the_events_and_loses_none() {
    let (core, guest) = guest(Privilege::empty());
    let register = |mfn, offset| {
        guest.poke(&core, 0, 0, RegisterVcpuInfo { mfn, offset, _rsvd: 0 }.as_bytes());
        let number = u64::from(VcpuOp::REGISTER_VCPU_INFO.0);
        guest.hypercall(&core, Hypercall::VCPU_OP.0, [number, 0, guest.va(0).0, 0, 0])
    };
    let mfn = guest.frames[3].mfn();
    core.platform.word(guest.domain.shared_info, layout::CR2).store(0x1234, SeqCst);
    assert_eq!(register(mfn, 4096 - 56), Errno::ENXIO.code(), "crosses the end");
    assert_eq!(register(mfn, 4), Errno::ENXIO.code(), "its words would not be atomic");
    assert_eq!(register(abi::Mfn(1 << 40), 0), EINVAL);
    assert_eq!(register(guest.tables[0].mfn(), 0), EINVAL, "a page table");
    // What is besides belongs to the guest alone.
    let beside = (0..16).chain(24..memory::WORDS).map(|at| core.platform.word(guest.frames[3], at));
    beside.clone().for_each(|word| word.store(0x5a5a, SeqCst));
    assert_eq!(register(mfn, 128), 0);
    assert!(beside.clone().all(|word| word.load(SeqCst) == 0x5a5a));
    assert_eq!(register(guest.frames[4].mfn(), 0), EINVAL, "once only");
    let word = |at| core.platform.word(guest.frames[3], 16 + at).load(SeqCst);
    assert_eq!(word(layout::SELECTOR), u64::MAX, "look at every port");
    assert!(core.upcall_due(&guest.vcpu) || core.upcall_mask(&guest.vcpu));
    assert_eq!(word(layout::UPCALL) & 0xff, 1);
    assert_eq!(word(layout::CR2), 0x1234, "all that was there is here");
    assert_ne!(word(layout::TIME) as u32, 0, "the clock came along");
    core.platform.word(guest.frames[3], 16 + layout::SELECTOR).store(0, SeqCst);
    let (_, port) = alloc(&core, &guest);
    core.send_event(&guest.domain, port);
    assert_eq!(word(layout::SELECTOR), 1);
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    let held = || core.frames.info(guest.frames[3]).state().type_refs();
    assert_eq!(held(), 2, "the guest's mapping, and the core's");
    core.release_vcpu_info(&guest.domain, &guest.vcpu);
    assert_eq!((held(), guest.vcpu.info.get()), (1, (guest.domain.shared_info, 0)));
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    assert_eq!(shared(&core, &guest.domain, layout::PENDING).count_ones(), 1);
}

#[test]
fn block_unmasks_and_returns_at_once_if_an_event_is_there() {
    let (core, guest) = guest(Privilege::empty());
    let block = || guest.hypercall(&core, Hypercall::SCHED_OP.0, [u64::from(SchedOp::BLOCK.0), 0, 0, 0, 0]);
    let (_, port) = alloc(&core, &guest);
    core.send_event(&guest.domain, port);
    core.set_upcall_mask(&guest.vcpu, true);
    assert_eq!(block(), 0);
    assert!(!core.upcall_mask(&guest.vcpu));
    assert!(!guest.vcpu.sched.state.view().blocked());
    assert_eq!(core.cpus[0].pending.load(SeqCst), 0);
    let (frame, at) = guest.vcpu.info.get();
    core.platform.word(frame, at + layout::UPCALL).store(0, SeqCst);
    assert_eq!(block(), 0);
    assert!(guest.vcpu.sched.state.view().blocked());
    assert_ne!(core.cpus[0].pending.load(SeqCst), 0);
}
