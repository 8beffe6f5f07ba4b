use std::boxed::Box;
use std::vec::Vec;

use abi::domctl::*;
use abi::hypercall::Hypercall;
use abi::sched::ShutdownReason;
use abi::sysctl::{DebugKeys, GetDomainInfoList, PhysInfo, ReadConsole, Sysctl, SysctlOp};
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Mfn, Vaddr, VcpuId};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::NewDomain;
use crate::irq::Line;
use crate::platform::Halt;
use crate::testing::{self, Guest, LineEvent, TestCore};
use crate::{PageType, Platform, Privilege, Stage, Stop};

/// A toolstack's domain: it has a page for arguments, and one for buffers.
struct Builder {
    core: Box<TestCore>,
    guest: Guest,
}

fn builder() -> Builder {
    let core = testing::core(2048, 2);
    let guest = testing::guest(&core, Privilege::all() - Privilege::INITIAL, 8);
    Builder { core, guest }
}

impl Builder {
    fn call<T: IntoBytes + Immutable>(&self, cmd: DomctlOp, domain: DomId, payload: &T) -> Result<Domctl, Errno> {
        let op = Domctl::new(cmd, domain, payload);
        self.guest.poke(&self.core, 0, 0, op.as_bytes());
        let rax = self.guest.hypercall(&self.core, Hypercall::DOMCTL.0, [self.guest.va(0).0, 0, 0, 0, 0]);
        Errno::check(rax)?;
        Ok(self.peek(0))
    }

    fn system<T: IntoBytes + Immutable>(&self, cmd: SysctlOp, payload: &T) -> Result<Sysctl, Errno> {
        self.guest.poke(&self.core, 0, 0, Sysctl::new(cmd, payload).as_bytes());
        let rax = self.guest.hypercall(&self.core, Hypercall::SYSCTL.0, [self.guest.va(0).0, 0, 0, 0, 0]);
        Errno::check(rax)?;
        Ok(self.peek(0))
    }

    fn peek<T: FromBytes + IntoBytes>(&self, page: usize) -> T {
        self.guest.peek(&self.core, page)
    }

    fn create(&self, wanted: DomId) -> Result<DomId, Errno> {
        self.call(DomctlOp::CREATEDOMAIN, wanted, &config()).map(|op| op.domain)
    }
}

fn config() -> CreateDomain {
    CreateDomain {
        max_vcpus: 2,
        max_evtchn_port: 1023,
        grant_opts: 1,
        max_grant_frames: -1,
        handle: [7; 16],
        ..Default::default()
    }
}

#[test]
fn create_says_what_is_wrong() {
    let b = builder();
    let first = b.create(DomId(0)).unwrap();
    assert_eq!(b.create(first), Err(Errno::EEXIST));
    assert_eq!(b.create(DomId(77)), Ok(DomId(77)));
    let most = CreateDomain { max_vcpus: 32, ..config() };
    assert!(b.call(DomctlOp::CREATEDOMAIN, DomId(78), &most).is_ok());
    let most = b.core.domains.get(DomId(78)).unwrap();
    assert!(most.vcpus.iter().all(|vcpu| b.core.upcall_mask(vcpu)), "events wait until the guest is ready for them");
    assert_ne!(b.create(DomId::FIRST_RESERVED).unwrap(), first, "another number");
    for bad in [
        CreateDomain { max_vcpus: 0, ..config() },
        CreateDomain { max_vcpus: 33, ..config() },
        CreateDomain { flags: CreateDomain::CDF_HVM, ..config() },
        CreateDomain { flags: CreateDomain::CDF_IOMMU, ..config() },
        CreateDomain { grant_opts: 2, ..config() },
        CreateDomain { vmtrace_size: 1, ..config() },
        CreateDomain { iommu_opts: 1, ..config() },
        CreateDomain { arch: ArchDomainConfig { emulation_flags: 1, misc_flags: 0 }, ..config() },
        CreateDomain { arch: ArchDomainConfig { emulation_flags: 0, misc_flags: 2 }, ..config() },
    ] {
        assert_eq!(b.call(DomctlOp::CREATEDOMAIN, DomId(0), &bad).map(|_| ()), Err(Errno::EINVAL), "{bad:?}");
    }
    let mut old = Domctl::new(DomctlOp::GETDOMAININFO, first, &0u64);
    old.interface_version -= 1;
    b.guest.poke(&b.core, 0, 0, old.as_bytes());
    let rax = b.guest.hypercall(&b.core, Hypercall::DOMCTL.0, [b.guest.va(0).0, 0, 0, 0, 0]);
    assert_eq!(Errno::check(rax), Err(Errno::EACCES));
    assert_eq!(b.guest.hypercall(&b.core, Hypercall::DOMCTL.0, [0x10, 0, 0, 0, 0]), Errno::EFAULT.code());
}

#[test]
fn a_domain_without_the_privilege_controls_nobody() {
    let mut b = builder();
    let victim = b.create(DomId(0)).unwrap();
    b.guest = testing::guest(&b.core, Privilege::empty(), 4);
    assert_eq!(b.create(DomId(0)), Err(Errno::EPERM));
    for op in 1..90 {
        let done = b.call(DomctlOp(op), victim, &[0u64; 4]).map(|_| ());
        assert!(matches!(done, Err(Errno::EPERM)), "{op}: {done:?}");
        let own = b.call(DomctlOp(op), b.guest.domain.id, &[0u64; 4]).map(|_| ());
        assert!(matches!(own, Err(Errno::EPERM)), "{op}: {own:?}");
        assert_eq!(b.system(SysctlOp(op), &[0u64; 4]).map(|_| ()), Err(Errno::EPERM));
    }
    assert_eq!(b.call(DomctlOp::PAUSEDOMAIN, DomId(1234), &0u64).map(|_| ()), Err(Errno::ESRCH));
    assert_eq!(b.core.domains.get(victim).unwrap().stage(), Stage::Alive);
}

/// A domain built by hand: pages, tables, a context, and set running. Returns its frames.
fn populate(b: &Builder, id: DomId) -> Vec<crate::frame::Frame> {
    b.call(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb: 64 * 4 }).unwrap();
    b.call(DomctlOp::MAX_VCPUS, id, &MaxVcpus { max: 2 }).unwrap();
    let domain = b.core.domains.get(id).unwrap();
    let frames: Vec<_> = (0..16).map(|_| b.core.alloc_domain_page(&domain).unwrap()).collect();
    let entry = |to: usize, flags: u64| frames[to].mfn().0 << 12 | flags;
    let store = |table: usize, index, value| {
        b.core.platform.word(frames[table], index).store(value, std::sync::atomic::Ordering::SeqCst)
    };
    for level in 1..4 {
        store(level, 0, entry(level - 1, 7));
    }
    for page in 4..16 {
        store(0, page, entry(page, 7));
    }
    frames
}

fn context(frames: &[crate::frame::Frame]) -> Box<VcpuGuestContext> {
    let mut context: Box<VcpuGuestContext> = VcpuGuestContext::new_box_zeroed().unwrap();
    context.flags = VcpuGuestContext::VGCF_IN_KERNEL | VcpuGuestContext::VGCF_ONLINE;
    (context.user_regs.rip, context.user_regs.rsp) = (0x4000, 0x6000);
    context.user_regs.rflags = 0x200;
    context.ctrlreg[3] = frames[3].mfn().0 << 12;
    context.gdt_frames[0] = frames[5].mfn();
    context.gdt_ents = 8;
    context
}

fn set_context(b: &Builder, id: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Errno> {
    // It is longer than a page.
    let at = b.guest.va(2);
    b.core.platform.copy_to_guest(b.guest.space(), at, context.as_bytes()).unwrap();
    let which = VcpuContext { vcpu: VcpuId(vcpu), _pad: 0, ctxt: at };
    b.call(DomctlOp::SETVCPUCONTEXT, id, &which).map(|_| ())
}

fn get_context(b: &Builder, id: DomId, vcpu: u32) -> Result<VcpuGuestContext, Errno> {
    let which = VcpuContext { vcpu: VcpuId(vcpu), _pad: 0, ctxt: b.guest.va(4) };
    b.call(DomctlOp::GETVCPUCONTEXT, id, &which)?;
    Ok(b.peek(4))
}

fn destroy(b: &Builder, id: DomId) {
    b.call(DomctlOp::DESTROYDOMAIN, id, &0u64).unwrap();
}

#[test]
fn create_and_destroy_give_everything_back() {
    let b = builder();
    b.create(DomId(50)).unwrap();
    destroy(&b, DomId(50));
    let free = b.core.free_frames();
    for (round, interrupted) in [(1u16, 0), (2, 1), (3, 3), (4, 7)] {
        b.core.platform.interrupt_every(0);
        let id = b.create(DomId(0)).unwrap();
        let frames = populate(&b, id);
        // The page of descriptors is mapped writable: it has to go first.
        b.core.platform.word(frames[0], 5).store(0, std::sync::atomic::Ordering::SeqCst);
        b.core.platform.interrupt_every(interrupted);
        set_context(&b, id, 0, &context(&frames)).unwrap();
        b.call(DomctlOp::UNPAUSEDOMAIN, id, &0u64).unwrap();
        let domain = b.core.domains.get(id).unwrap();
        b.core.bind_ipi(&domain, VcpuId(0)).unwrap();
        b.core.alloc_unbound(&domain, DomId(0)).unwrap();
        let weak = std::sync::Arc::downgrade(&domain);
        drop(domain);
        destroy(&b, id);
        assert!(b.core.domains.get(id).is_none(), "round {round}");
        assert_eq!(b.core.free_frames(), free, "round {round}");
        assert_eq!(weak.strong_count(), 0, "round {round}: nobody remembers it");
    }
    b.core.platform.interrupt_every(0);
    assert_eq!(b.core.audit(&[]), Ok(Vec::new()));
}

#[test]
fn a_zombie_keeps_what_others_map_and_goes_when_they_let_go() {
    let b = builder();
    let id = b.create(DomId(0)).unwrap();
    let frames = populate(&b, id);
    let domain = b.core.domains.get(id).unwrap();
    let held = b.core.get_page_and_type(frames[9].mfn(), &domain, PageType::Writable).unwrap();
    b.core.shutdown(&domain, ShutdownReason::CRASH);
    b.core.platform.interrupt_every(1);
    destroy(&b, id);
    b.core.platform.interrupt_every(0);
    let pauses = domain.vcpus[0].sched.state.view().pauses();
    assert_eq!(pauses, 3, "by its builder, by its crash and by its end, in however many steps");
    let info: GetDomainInfo = b.call(DomctlOp::GETDOMAININFO, id, &0u64).unwrap().payload.get();
    assert_eq!((info.domain, info.tot_pages, info.flags & GetDomainInfo::DOMINF_DYING), (id, 1, 1));
    assert_eq!(info.flags >> GetDomainInfo::SHUTDOWN_SHIFT, ShutdownReason::CRASH.0, "why it died is still known");
    assert_eq!(b.create(id), Err(Errno::EEXIST));
    b.core.put_page_and_type(held);
    let next = b.call(DomctlOp::GETDOMAININFO, id, &0u64);
    assert!(next.is_err() || next.unwrap().domain != id);
    assert_eq!(b.create(id), Ok(id));
}

#[test]
fn contexts_are_checked_and_come_back_as_they_were_set() {
    let b = builder();
    let id = b.create(DomId(0)).unwrap();
    let frames = populate(&b, id);
    b.core.platform.word(frames[0], 5).store(0, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(get_context(&b, id, 0).map(|_| ()), Err(Errno::ENODATA));
    assert_eq!(get_context(&b, id, 2).map(|_| ()), Err(Errno::EINVAL));
    let own = b.guest.domain.id;
    assert_eq!(get_context(&b, own, 0).map(|_| ()), Err(Errno::EINVAL), "one's own");
    type Spoil = fn(&mut VcpuGuestContext);
    let spoilt: [Spoil; 12] = [
        |c| c.user_regs.rip = 1 << 47,
        |c| c.user_regs.rsp = 1 << 63,
        |c| c.kernel_sp = Vaddr(1 << 50),
        |c| c.event_callback_eip = Vaddr(1 << 50),
        |c| c.trap_ctxt[200].address = Vaddr(1 << 50),
        |c| c.gs_base_kernel = 1 << 50,
        |c| c.ldt_base = Vaddr(0x1234),
        |c| c.ldt_ents = 8193,
        |c| c.gdt_ents = 7169,
        |c| c.gdt_frames[0] = Mfn(0),
        |c| c.ctrlreg[3] = 0,
        |c| c.flags = 0, // user mode without a user page table
    ];
    for (n, spoil) in spoilt.into_iter().enumerate() {
        let mut bad = context(&frames);
        spoil(&mut bad);
        assert_eq!(set_context(&b, id, 0, &bad), Err(Errno::EINVAL), "{n}");
    }
    let mut good = context(&frames);
    good.user_regs.rbx = 0x1234;
    good.trap_ctxt[14] =
        abi::trap::TrapInfo { vector: 99, flags: 4, cs: 0xe033, address: Vaddr(0x5000), ..Default::default() };
    good.debugreg = [0x1000, 0, 0, 0, 0, 0, 0, 0x401];
    good.ctrlreg[4] = 1 << 18;
    good.fs_base = 0x7000;
    good.vm_assist = 1 << 4;
    set_context(&b, id, 0, &good).unwrap();
    let back = get_context(&b, id, 0).unwrap();
    assert_eq!((back.user_regs.rbx, back.user_regs.rip, back.user_regs.cs), (0x1234, 0x4000, 3));
    assert_eq!((back.trap_ctxt[14].address, back.trap_ctxt[14].vector), (Vaddr(0x5000), 14));
    assert_eq!((back.debugreg[0], back.debugreg[7], back.debugreg[6]), (0x1000, 0x401, 0xffff_0ff0));
    assert_eq!((back.ctrlreg[3], back.gdt_frames[0], back.gdt_ents), (frames[3].mfn().0 << 12, frames[5].mfn(), 8));
    assert_eq!((back.ctrlreg[4] >> 18 & 1, back.fs_base, back.vm_assist), (1, 0x7000, 1 << 4));
    // A second context for the same vCPU keeps the tables.
    let again = VcpuGuestContext { user_regs: abi::regs::CpuUserRegs { rip: 0x9000, ..good.user_regs }, ..*good };
    set_context(&b, id, 0, &again).unwrap();
    assert_eq!(get_context(&b, id, 0).unwrap().user_regs.rip, 0x9000);
    destroy(&b, id);
    assert_eq!(b.core.audit(&[]), Ok(Vec::new()));
}

#[test]
fn a_context_is_made_fit_for_ring_3_and_is_otherwise_what_was_set() {
    use abi::regs::rflags::{CF, IF, IOPL, RESERVED1, VM};
    const MASKS: [u64; 2] =
        [VcpuGuestContext::VGCF_FAILSAFE_DISABLES_EVENTS, VcpuGuestContext::VGCF_SYSCALL_DISABLES_EVENTS];
    let b = builder();
    let id = b.create(DomId(0)).unwrap();
    let frames = populate(&b, id);
    b.core.platform.word(frames[0], 5).store(0, std::sync::atomic::Ordering::SeqCst);
    let domain = b.core.domains.get(id).unwrap();
    for (which, valid) in [(0, true), (1, false)] {
        let mut new = context(&frames);
        new.flags |= MASKS[which] | if valid { VcpuGuestContext::VGCF_I387_VALID } else { 0 };
        (new.user_regs.cs, new.user_regs.ss, new.kernel_ss) = (0x12, 0x19, 0x2a);
        new.user_regs.rflags = VM | CF | 2 << 12 | if valid { 0 } else { IF | RESERVED1 };
        new.user_regs.entry_vector = 0x100;
        new.trap_ctxt[3].cs = 0x31;
        // TS is the guest's own; write protection is not.
        new.ctrlreg[0] = if valid { 8 | 1 << 16 } else { 0 };
        // What is not valid leaves the FPU as it is.
        new.fpu_ctxt[0] = if valid { 0x77 } else { 0x55 };
        (new.failsafe_callback_eip, new.syscall_callback_eip) = (Vaddr(0x7000), Vaddr(0x8000));
        set_context(&b, id, 0, &new).unwrap();
        {
            let run = domain.vcpus[0].run.lock();
            assert_eq!((run.regs.cs, run.regs.ss, run.kernel_ss, run.traps.get(3).cs), (0x13, 0x1b, 0x2b, 0x33));
            assert_eq!((run.regs.rflags, run.iopl, run.regs.entry_vector), (CF | IF | RESERVED1, 2, 0));
            assert_eq!([run.callbacks.failsafe.masks, run.callbacks.syscall.masks], [which == 0, which == 1]);
            assert_eq!((run.cr0, run.fpu.area[0]), (if valid { 8 } else { 0 }, 0x77));
        }
        let back = get_context(&b, id, 0).unwrap();
        assert_eq!(back.user_regs.rflags, CF | IF | RESERVED1 | IOPL & 2 << 12);
        assert_eq!(back.flags, context(&frames).flags | MASKS[which] | VcpuGuestContext::VGCF_I387_VALID);
        assert_eq!(back.ctrlreg[0], crate::emulate::CR0 | if valid { 8 } else { 0 });
        assert_eq!(back.ctrlreg[4], crate::emulate::CR4_SHOWN);
        assert_eq!((back.kernel_ss, back.fpu_ctxt[0]), (0x2b, 0x77));
    }
    assert!(!domain.vcpus[0].sched.state.view().down());
    assert!(domain.vcpus[0].run.lock().kernel_mode);
    let mut down = context(&frames);
    (down.flags, down.ctrlreg[1]) = (0, down.ctrlreg[3]);
    set_context(&b, id, 0, &down).unwrap();
    assert!(domain.vcpus[0].sched.state.view().down() && !domain.vcpus[0].run.lock().kernel_mode);
}

#[test]
fn pauses_count_and_shutdown_and_resume_are_seen() {
    let b = builder();
    let id = b.create(DomId(0)).unwrap();
    let domain = b.core.domains.get(id).unwrap();
    let flags = || b.call(DomctlOp::GETDOMAININFO, id, &0u64).unwrap().payload.get::<GetDomainInfo>().flags;
    assert_eq!(flags() & GetDomainInfo::DOMINF_PAUSED, GetDomainInfo::DOMINF_PAUSED);
    let paused = || domain.vcpus.iter().all(|vcpu| vcpu.sched.state.view().pauses() == 1);
    b.call(DomctlOp::PAUSEDOMAIN, id, &0u64).unwrap();
    assert!(paused(), "once, however often its builder says so");
    b.call(DomctlOp::UNPAUSEDOMAIN, id, &0u64).unwrap();
    assert_ne!(flags() & GetDomainInfo::DOMINF_PAUSED, 0);
    b.call(DomctlOp::UNPAUSEDOMAIN, id, &0u64).unwrap();
    assert_eq!(flags() & GetDomainInfo::DOMINF_PAUSED, 0);
    assert_eq!(b.call(DomctlOp::UNPAUSEDOMAIN, id, &0u64).map(|_| ()), Err(Errno::EINVAL));
    assert!(!paused());
    b.call(DomctlOp::PAUSEDOMAIN, id, &0u64).unwrap();
    assert!(paused());
    b.call(DomctlOp::RESUMEDOMAIN, id, &0u64).unwrap();
    assert_ne!(flags() & GetDomainInfo::DOMINF_PAUSED, 0, "nothing to resume is no error, and no unpause");
    b.call(DomctlOp::UNPAUSEDOMAIN, id, &0u64).unwrap();
    b.core.shutdown(&domain, ShutdownReason::SUSPEND);
    b.core.shutdown(&domain, ShutdownReason::CRASH);
    assert_eq!(flags() >> GetDomainInfo::SHUTDOWN_SHIFT, ShutdownReason::SUSPEND.0, "the first counts");
    assert_ne!(flags() & GetDomainInfo::DOMINF_SHUTDOWN, 0);
    b.call(DomctlOp::RESUMEDOMAIN, id, &0u64).unwrap();
    assert_eq!(flags() & GetDomainInfo::DOMINF_SHUTDOWN, 0);
    for (reason, halt) in [(ShutdownReason::POWEROFF, Halt::PowerOff), (ShutdownReason::REBOOT, Halt::Reboot)] {
        let core = testing::core(64, 1);
        let first = core.create_domain(&NewDomain::initial(1)).unwrap();
        core.shutdown(&first, reason);
        assert_eq!(*core.platform.halted.lock().unwrap(), Some(halt));
    }
}

#[test]
fn small_commands() {
    let b = builder();
    let id = b.create(DomId(0)).unwrap();
    let domain = b.core.domains.get(id).unwrap();
    let fails = |cmd, payload: u64| b.call(cmd, id, &payload).map(|_| ()).unwrap_err();
    b.call(DomctlOp::SETDOMAINHANDLE, id, &[9u8; 16]).unwrap();
    assert_eq!(*domain.handle.lock(), [9; 16]);
    assert_eq!(fails(DomctlOp::MAX_VCPUS, 3), Errno::EINVAL);
    assert_eq!(fails(DomctlOp(9999), 0), Errno::ENOSYS);
    let map = CtlBitmap { bitmap: b.guest.va(1), nr_bits: 8, _pad: 0 };
    let affinity = VcpuAffinity { vcpu: VcpuId(1), flags: VcpuAffinity::HARD, hard: map, soft: map };
    b.guest.poke(&b.core, 1, 0, &[2]);
    b.call(DomctlOp::SETVCPUAFFINITY, id, &affinity).unwrap();
    b.guest.poke(&b.core, 1, 0, &[0]);
    b.call(DomctlOp::GETVCPUAFFINITY, id, &affinity).unwrap();
    assert_eq!(b.peek::<u8>(1), 2);
    let info: GetVcpuInfo = b
        .call(DomctlOp::GETVCPUINFO, id, &GetVcpuInfo { vcpu: VcpuId(1), ..Default::default() })
        .unwrap()
        .payload
        .get();
    assert_eq!((info.online, info.running), (0, 0));
    // The hypercall page.
    b.call(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb: 16 }).unwrap();
    let page = b.core.alloc_domain_page(&domain).unwrap();
    b.call(DomctlOp::HYPERCALL_INIT, id, &HypercallInit { gmfn: page.mfn() }).unwrap();
    let mut stub = [0; 4];
    b.core.platform.read(page, 17 * 32, &mut stub);
    assert_eq!(stub, [0x51, 0x41, 0x53, 0xb8]);
    assert_eq!(fails(DomctlOp::HYPERCALL_INIT, b.guest.frames[0].mfn().0), Errno::EINVAL, "another's page");
}

#[test]
fn devices_are_given_and_taken() {
    let b = builder();
    let id = b.create(DomId(0)).unwrap();
    let domain = b.core.domains.get(id).unwrap();
    let ports = |first_port, nr_ports, allow| {
        b.call(
            DomctlOp::IOPORT_PERMISSION,
            id,
            &IoportPermission { first_port, nr_ports, allow_access: allow, ..Default::default() },
        )
        .map(|_| ())
    };
    ports(0x100, 16, 1).unwrap();
    ports(0x104, 4, 0).unwrap();
    assert!(b.core.may_use_ports(&domain, 0x100, 4) && b.core.may_use_ports(&domain, 0x10c, 4));
    assert!(!b.core.may_use_ports(&domain, 0x102, 4) && !b.core.may_use_ports(&domain, 0x107, 1));
    assert_eq!(ports(0xffff, 2, 1), Err(Errno::EINVAL));
    assert_eq!(ports(0, 0, 1), Err(Errno::EINVAL));
    let frames = IomemPermission { first_mfn: Mfn(0xfeb00), nr_mfns: 2, allow_access: 1, ..Default::default() };
    b.call(DomctlOp::IOMEM_PERMISSION, id, &frames).unwrap();
    assert_eq!(b.core.may_map(&domain, Mfn(0xfeb01)), Ok(true));
    assert_eq!(b.core.may_map(&domain, Mfn(0xfeb02)), Err(Errno::EPERM));
    b.call(DomctlOp::IOMEM_PERMISSION, id, &IomemPermission { first_mfn: Mfn(0xfee00), ..frames }).unwrap();
    assert_eq!(b.core.may_map(&domain, Mfn(0xfee00)), Err(Errno::EPERM), "the local APIC is nobody's");
    b.call(DomctlOp::IRQ_PERMISSION, id, &IrqPermission { pirq: 11, allow_access: 1, ..Default::default() }).unwrap();
    assert_eq!(b.core.map_gsi(&domain, 11, None), Ok(11));
    assert_eq!(b.core.map_gsi(&domain, 10, None), Ok(10), "on the caller's authority");
    assert_eq!(b.core.bind_pirq(&domain, 10, false), Err(Errno::EPERM), "but it is not the domain's to hear");
    b.core.bind_pirq(&domain, 11, false).unwrap();
    assert_eq!(b.core.platform.lines.lock().unwrap().last(), Some(&(Line(11), LineEvent::Unmasked)));
    destroy(&b, id);
    // Only what it had is masked: line 10 may be somebody else's.
    assert_eq!(b.core.platform.lines.lock().unwrap()[1..], [(Line(11), LineEvent::Masked)]);
}

#[test]
fn the_machine_as_a_whole() {
    let b = builder();
    let ids = [b.create(DomId(20)).unwrap(), b.create(DomId(10)).unwrap()];
    let list =
        GetDomainInfoList { first_domain: DomId(2), max_domains: 10, buffer: b.guest.va(1), ..Default::default() };
    let got: GetDomainInfoList = b.system(SysctlOp::GETDOMAININFOLIST, &list).unwrap().payload.get();
    assert_eq!(got.num_domains, 2);
    let infos: [GetDomainInfo; 2] = b.peek(1);
    assert_eq!(infos.map(|i| i.domain), [ids[1], ids[0]]);
    assert_eq!((infos[0].handle, infos[0].max_vcpu_id), ([7; 16], 1));
    let one = GetDomainInfoList { max_domains: 1, ..list };
    let got: GetDomainInfoList = b.system(SysctlOp::GETDOMAININFOLIST, &one).unwrap().payload.get();
    assert_eq!(got.num_domains, 1);
    let about: PhysInfo = b.system(SysctlOp::PHYSINFO, &0u64).unwrap().payload.get();
    assert_eq!((about.nr_cpus, about.free_pages, about.cpu_khz), (2, b.core.free_frames(), 1_000_000));
    assert_eq!(about.capabilities, PhysInfo::CAP_PV | PhysInfo::CAP_GNTTAB_V1);
    b.core.log(format_args!("hello"));
    let read = ReadConsole { buffer: b.guest.va(1), count: 4096, ..Default::default() };
    let got: ReadConsole = b.system(SysctlOp::READCONSOLE, &read).unwrap().payload.get();
    assert_eq!(got.count, 13);
    assert_eq!(&b.peek::<[u8; 13]>(1), b"(core) hello\n");
    let more = ReadConsole { incremental: 1, index: got.index, ..read };
    let got: ReadConsole = b.system(SysctlOp::READCONSOLE, &more).unwrap().payload.get();
    assert_eq!(got.count, 0);
    b.system(SysctlOp::DEBUG_KEYS, &DebugKeys { keys: b.guest.va(1), nr_keys: 1, _pad: 0 }).unwrap();
    assert_eq!(b.system(SysctlOp(999), &0u64).map(|_| ()), Err(Errno::ENOSYS));
}

#[test]
fn the_log_keeps_the_last_of_what_was_printed() {
    let mut ring = crate::log::Ring::default();
    for n in 0..5000u32 {
        ring.write(&n.to_le_bytes());
    }
    let mut all = [0; 20_000];
    let (end, count) = ring.read(0, &mut all);
    assert_eq!((count, end), (16_384, 20_000));
    assert_eq!(all[..4], 904u32.to_le_bytes());
    assert_eq!(all[16_380..16_384], 4999u32.to_le_bytes());
    assert_eq!(ring.read(end, &mut all).1, 0);
    assert_eq!(ring.read(end - 4, &mut all).1, 4);
    ring.clear();
    assert_eq!(ring.read(0, &mut all).1, 0);
}

#[test]
fn a_root_that_takes_long_to_validate_is_taken_in_slices() {
    let b = builder();
    let id = b.create(DomId(0)).unwrap();
    let frames = populate(&b, id);
    b.core.platform.word(frames[0], 5).store(0, std::sync::atomic::Ordering::SeqCst);
    let domain = b.core.domains.get(id).unwrap();
    let context = context(&frames);
    b.core.platform.interrupt_every(1);
    let mut slices = 0;
    while let Err(stop) = b.core.set_context(&domain, &domain.vcpus[0], &context) {
        assert_eq!(stop, Stop::PREEMPTED);
        slices += 1;
        assert!(slices < 5000, "no progress");
    }
    b.core.platform.interrupt_every(0);
    assert!(slices > 1);
    assert_eq!(b.core.audit(&[]), Ok(Vec::new()));
}
