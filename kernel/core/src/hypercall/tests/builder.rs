//! `domctl` and `sysctl`: what a builder is told of domains and of the machine.

use std::sync::atomic::Ordering::SeqCst;

use abi::domctl::*;
use abi::hypercall::Hypercall;
use abi::sched::ShutdownReason;
use abi::sysctl::*;
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, VcpuId};
use zerocopy::{Immutable, IntoBytes};

use super::{Setup, setup};
use crate::lifecycle::NewDomain;
use crate::{Platform, Privilege, testing};

impl Setup {
    fn domctl<T: IntoBytes + Immutable>(&self, cmd: DomctlOp, domain: DomId, payload: &T) -> Result<Domctl, Errno> {
        self.guest.poke(&self.core, 0, 0, Domctl::new(cmd, domain, payload).as_bytes());
        self.call(Hypercall::DOMCTL, &[self.guest.va(0).0])?;
        Ok(self.peek())
    }

    fn sysctl<T: IntoBytes + Immutable>(&self, cmd: SysctlOp, payload: &T) -> Result<Sysctl, Errno> {
        self.guest.poke(&self.core, 0, 0, Sysctl::new(cmd, payload).as_bytes());
        self.call(Hypercall::SYSCTL, &[self.guest.va(0).0])?;
        Ok(self.peek())
    }

    fn info(&self, domain: DomId) -> Result<GetDomainInfo, Errno> {
        self.domctl(DomctlOp::GETDOMAININFO, domain, &0u64).map(|op| op.payload.get())
    }
}

fn done<T>(result: Result<T, Errno>) -> Result<(), Errno> {
    result.map(|_| ())
}

#[test]
fn information_is_of_the_domain_that_is_asked_for_or_the_next() {
    let s = setup(Privilege::BUILDER);
    let new = NewDomain {
        id: Some(DomId(50)),
        vcpus: 3,
        handle: [9; 16],
        privilege: Privilege::STORE,
        ..NewDomain::ordinary(3)
    };
    let domain = s.core.create_domain(&NewDomain { max_pages: 77, ..new }).unwrap();
    s.core.alloc_domain_page(&domain).unwrap();
    let info = s.info(DomId(50)).unwrap();
    assert_eq!((info.tot_pages, info.max_pages, info.shared_info_frame), (1, 77, domain.shared_info.mfn()));
    assert_eq!((info.nr_online_vcpus, info.max_vcpu_id, info.handle, info.cpu_time), (0, 2, [9; 16], 0));
    let (paused, blocked, store) =
        (GetDomainInfo::DOMINF_PAUSED, GetDomainInfo::DOMINF_BLOCKED, GetDomainInfo::DOMINF_XS_DOMAIN);
    assert_eq!(info.flags, paused | blocked | store, "all of its vCPUs are down");
    // Two vCPUs come up; the first of them runs for a while.
    s.core.unpause_from_outside(&domain).unwrap();
    s.core.bring_up(&domain.vcpus[0]);
    s.core.bring_up(&domain.vcpus[2]);
    let info = s.info(DomId(50)).unwrap();
    assert_eq!((info.nr_online_vcpus, info.flags), (2, store));
    assert!(matches!(s.core.schedule(&s.core.cpus[0], None), crate::sched::Next::Switch(_)));
    s.core.platform.clock.fetch_add(5_000_000, SeqCst);
    let info = s.info(DomId(50)).unwrap();
    assert_eq!((info.flags, info.cpu_time), (store | GetDomainInfo::DOMINF_RUNNING, 5_000_000));
    s.core.shutdown(&domain, ShutdownReason::REBOOT);
    let shutdown = GetDomainInfo::DOMINF_SHUTDOWN | ShutdownReason::REBOOT.0 << GetDomainInfo::SHUTDOWN_SHIFT;
    assert_eq!(s.info(DomId(50)).unwrap().flags, store | GetDomainInfo::DOMINF_RUNNING | shutdown);
    // No domain of this number: the next; none: ESRCH. A number that no domain has is no question.
    let own = s.guest.domain.id;
    assert_eq!(s.info(DomId(own.0 + 1)).map(|info| info.domain), Ok(DomId(50)));
    assert_eq!(s.info(DomId(51)).map(|info| info.domain), Err(Errno::ESRCH));
    assert_eq!(s.info(DomId::SELF).map(|info| info.domain), Err(Errno::EINVAL));
    assert_eq!(done(s.domctl(DomctlOp::PAUSEDOMAIN, DomId(51), &0u64)), Err(Errno::ESRCH));
}

#[test]
fn vcpus_that_wait_make_a_domain_blocked() {
    let s = setup(Privilege::BUILDER);
    let domain = s.core.create_domain(&NewDomain::ordinary(2)).unwrap();
    domain.vcpus.iter().for_each(|vcpu| s.core.bring_up(vcpu));
    let blocked = || s.info(domain.id).unwrap().flags & GetDomainInfo::DOMINF_BLOCKED != 0;
    assert!(!blocked());
    assert!(s.core.block(&domain.vcpus[0]) && !blocked());
    assert!(s.core.block(&domain.vcpus[1]) && blocked());
}

#[test]
fn what_is_set_of_a_domain() {
    let s = setup(Privilege::all() - Privilege::INITIAL);
    let domain = s.core.create_domain(&NewDomain::ordinary(2)).unwrap();
    let id = domain.id;
    // KiB become pages.
    for (max_memkb, pages) in [(64 * 4, 64), (7, 1), (u64::MAX, u64::MAX >> 2)] {
        s.domctl(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb }).unwrap();
        assert_eq!(domain.memory.lock().max_pages, pages);
    }
    s.domctl(DomctlOp::SETTIMEOFFSET, id, &SetTimeOffset { time_offset_seconds: -5 }).unwrap();
    // The wall clock's seconds, behind its version.
    let word = core::mem::offset_of!(abi::shared_info::SharedInfo, wc_version) / 8;
    let seconds = crate::guest::load(&s.core.platform, domain.shared_info, word) >> 32;
    assert_eq!(seconds, s.core.platform.wall_clock() - 5);
    // As many vCPUs as it has; one's own domain is as it is.
    let max = |id, max| done(s.domctl(DomctlOp::MAX_VCPUS, id, &MaxVcpus { max }));
    assert_eq!([max(id, 2), max(id, 1), max(s.guest.domain.id, 1)], [Ok(()), Err(Errno::EINVAL), Err(Errno::EINVAL)]);
    for op in [DomctlOp::DESTROYDOMAIN, DomctlOp::PAUSEDOMAIN, DomctlOp::RESUMEDOMAIN] {
        assert_eq!(done(s.domctl(op, s.guest.domain.id, &0u64)), Err(Errno::EINVAL), "oneself");
    }
}

#[test]
fn kinds_of_domains_that_may_be_created() {
    let s = setup(Privilege::BUILDER);
    let config =
        CreateDomain { max_vcpus: 1, max_evtchn_port: 1023, grant_opts: 1, max_grant_frames: -1, ..Default::default() };
    let create = |config: CreateDomain| s.domctl(DomctlOp::CREATEDOMAIN, DomId(0), &config).map(|op| op.domain);
    let privilege = |id| s.core.domains.get(id).unwrap().privilege;
    assert_eq!(privilege(create(config).unwrap()), Privilege::empty());
    assert_eq!(
        privilege(create(CreateDomain { flags: CreateDomain::CDF_XS_DOMAIN, ..config }).unwrap()),
        Privilege::STORE
    );
    let small = create(CreateDomain { max_evtchn_port: 7, max_grant_frames: 2, ..config }).unwrap();
    let small = s.core.domains.get(small).unwrap();
    let ports = core::iter::from_fn(|| s.core.alloc_unbound(&small, DomId(1)).ok());
    assert_eq!((ports.count(), s.core.grow_grant_table(&small, 2)), (7, Ok(())));
    assert!(s.core.grow_grant_table(&small, 3).is_err());
    let relaxed = ArchDomainConfig { emulation_flags: 0, misc_flags: ArchDomainConfig::MSR_RELAXED };
    assert!(create(CreateDomain { arch: relaxed, ..config }).is_ok());
    let strange = ArchDomainConfig { emulation_flags: 1, misc_flags: 0 };
    for bad in [
        CreateDomain { arch: strange, vmtrace_size: 1, ..config },
        CreateDomain { flags: 1 << 31, arch: strange, ..config },
        CreateDomain { flags: CreateDomain::CDF_HVM, ..config },
    ] {
        assert_eq!(create(bad).map(|_| ()), Err(Errno::EINVAL));
    }
}

#[test]
fn affinity_is_read_and_set_where_it_is_hard() {
    let s = setup(Privilege::BUILDER);
    let domain = s.core.create_domain(&NewDomain::ordinary(1)).unwrap();
    let map = CtlBitmap { bitmap: s.guest.va(1), nr_bits: 8, _pad: 0 };
    let op = |cmd, flags, hard| {
        let which = VcpuAffinity { vcpu: VcpuId(0), flags, hard, soft: map };
        done(s.domctl(cmd, domain.id, &which))
    };
    let (get, set) = (DomctlOp::GETVCPUAFFINITY, DomctlOp::SETVCPUAFFINITY);
    s.guest.poke(&s.core, 1, 0, &[1; 16]);
    assert_eq!(op(set, 0, map), Err(Errno::EINVAL), "neither");
    assert_eq!(op(set, 1 << 31, map), Err(Errno::EINVAL));
    assert_eq!(op(set, VcpuAffinity::SOFT, CtlBitmap { nr_bits: 0, ..map }), Ok(()), "taken, and means nothing");
    assert_eq!(domain.vcpus[0].sched.affinity().0, u64::MAX);
    assert_eq!(op(set, VcpuAffinity::HARD | VcpuAffinity::SOFT, map), Ok(()));
    assert_eq!(domain.vcpus[0].sched.affinity().0, 1);
    assert_eq!(op(set, VcpuAffinity::HARD, CtlBitmap { nr_bits: 9, ..map }), Ok(()), "two bytes");
    assert_eq!(domain.vcpus[0].sched.affinity().0, 0x101);
    s.guest.poke(&s.core, 1, 0, &[0xee; 16]);
    assert_eq!(op(get, VcpuAffinity::HARD, CtlBitmap { nr_bits: 640, ..map }), Ok(()), "64 CPUs at most");
    let told: u128 = s.guest.peek(&s.core, 1);
    assert_eq!(told, 0xeeee_eeee_eeee_eeee_0000_0000_0000_0101);
}

#[test]
fn a_vcpu_is_online_in_the_context_that_it_has() {
    let s = setup(Privilege::BUILDER);
    let domain = testing::guest(&s.core, Privilege::empty(), 4).domain;
    let which = VcpuContext { vcpu: VcpuId(0), _pad: 0, ctxt: s.guest.va(2) };
    for (up, online) in [(false, 0), (true, VcpuGuestContext::VGCF_ONLINE)] {
        if up {
            s.core.bring_up(&domain.vcpus[0]);
        }
        s.domctl(DomctlOp::GETVCPUCONTEXT, domain.id, &which).unwrap();
        let context: VcpuGuestContext = s.guest.peek(&s.core, 2);
        assert_eq!(context.flags & VcpuGuestContext::VGCF_ONLINE, online);
    }
}

#[test]
fn the_machine_its_cpus_and_what_is_free() {
    let s = setup(Privilege::BUILDER);
    let about: PhysInfo = s.sysctl(SysctlOp::PHYSINFO, &0u64).unwrap().payload.get();
    assert_eq!((about.threads_per_core, about.cores_per_socket, about.nr_cpus, about.nr_nodes), (1, 1, 1, 1));
    assert_eq!((about.max_cpu_id, about.total_pages, about.max_mfn), (0, 1024 - testing::FIRST_RAM, 1023));
    let all = u32::MAX;
    assert_eq!(about.hw_cap, [all, all, all, all, 0, all, 0, 0], "a CPU that has everything");
    let two = testing::core(1024, 2);
    let guest = testing::guest(&two, Privilege::BUILDER, 8);
    let two = Setup { core: two, guest };
    let about: PhysInfo = two.sysctl(SysctlOp::PHYSINFO, &0u64).unwrap().payload.get();
    assert_eq!((about.nr_cpus, about.max_cpu_id, about.cores_per_socket), (2, 1, 2));
    let scheduler: SchedId = s.sysctl(SysctlOp::SCHED_ID, &0u64).unwrap().payload.get();
    assert_eq!(scheduler.sched_id, 0xf0, "none of Xen's");
    let heap: AvailHeap = s.sysctl(SysctlOp::AVAILHEAP, &AvailHeap::default()).unwrap().payload.get();
    assert_eq!(heap.avail_bytes, s.core.free_frames() * 4096);
    two.core.cpus[1].idle.store(77, SeqCst);
    for (max_cpus, idle) in [(1, std::vec![0]), (2, std::vec![0, 77]), (9, std::vec![0, 77])] {
        let ask = GetCpuInfo { max_cpus, info: two.guest.va(1), ..Default::default() };
        let got: GetCpuInfo = two.sysctl(SysctlOp::GETCPUINFO, &ask).unwrap().payload.get();
        assert_eq!(got.nr_cpus as usize, idle.len());
        let told: [u64; 2] = two.guest.peek(&two.core, 1);
        assert_eq!(told[..idle.len()], idle);
    }
}

#[test]
fn the_log_is_read_as_far_as_there_is_room_and_cleared_when_asked() {
    let s = setup(Privilege::BUILDER);
    for n in 0..10 {
        s.core.log(format_args!("{n} {}", "x".repeat(30)));
    }
    let read = |count, clear| {
        let ask = ReadConsole { buffer: s.guest.va(1), count, clear, ..Default::default() };
        s.guest.poke(&s.core, 1, 0, &[0; 512]);
        let got: ReadConsole = s.sysctl(SysctlOp::READCONSOLE, &ask).unwrap().payload.get();
        let text: [u8; 512] = s.guest.peek(&s.core, 1);
        (got.count, text.iter().filter(|byte| **byte != 0).count())
    };
    let all = 10 * "(core) 0 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".len() as u32;
    for count in [0, 1, 128, 200, all - 1] {
        assert_eq!(read(count, 0), (count, count as usize), "not a byte beyond");
    }
    assert_eq!(read(512, 1), (all, all as usize));
    assert_eq!(read(512, 0), (0, 0));
}
