//! sysctl and domctl: versions, answers, every documented refusal.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::domctl::*;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::sysctl::*;
use conformance_guests::abi::vcpu::VcpuGuestContext;
use conformance_guests::abi::{DomId, Errno, Mfn, Vaddr, VcpuId};
use conformance_guests::child::{control, create, destroy, domctl, info, plain};
use conformance_guests::domain_rt::probe::{self, call, call_with};
use conformance_guests::ops::tsc_khz;
use conformance_guests::{Test, guest};

guest!(run);

const DOM0: DomId = DomId(0);
const NOBODY: DomId = DomId(77);

fn run(t: &mut Test) {
    system(t);
    heads(t);
    itself(t);
    creation(t);
    let Ok(id) = create(DOM0, &plain()) else { return };
    state(t, id);
    vcpus(t, id);
    memory(t, id);
    permissions(t, id);
    end(t, id);
}

fn sysctl<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable>(cmd: SysctlOp, payload: &T) -> (i64, T) {
    let mut op = Sysctl::new(cmd, payload);
    let ret = call_with(Hypercall::SYSCTL, &[], &mut op);
    (ret, op.payload.get())
}

fn system(t: &mut Test) {
    t.err("sysctl nowhere", call(Hypercall::SYSCTL, &[0x1000]), Errno::EFAULT);
    let mut op = Sysctl::new(SysctlOp::PHYSINFO, &0u64);
    for version in [SYSCTL_INTERFACE_VERSION - 1, SYSCTL_INTERFACE_VERSION + 1, 0] {
        op.interface_version = version;
        t.err("another version", call_with(Hypercall::SYSCTL, &[], &mut op), Errno::EACCES);
    }
    for cmd in [0, 999, u32::MAX] {
        t.err("unknown sysctl", sysctl(SysctlOp(cmd), &0u64).0, Errno::ENOSYS);
    }
    let (ret, machine) = sysctl(SysctlOp::PHYSINFO, &PhysInfo::default());
    t.ok("physinfo", ret);
    t.eq("one CPU", (machine.nr_cpus, machine.max_cpu_id, machine.nr_nodes), (1, 0, 1));
    t.yes("pages", machine.total_pages > 0x4000 && machine.free_pages > 0 && machine.free_pages < machine.total_pages);
    t.yes("the highest frame", machine.max_mfn >= machine.total_pages);
    let khz = tsc_khz(probe::vcpu_info());
    t.yes("kHz, about as on the time page", (khz / 2..khz * 2).contains(&machine.cpu_khz));
    t.eq("PV, grants", machine.capabilities & 0x102, 0x102);
    let (ret, heap) = sysctl(SysctlOp::AVAILHEAP, &AvailHeap { node: -1, ..AvailHeap::default() });
    t.ok("availheap", ret);
    t.eq("is what physinfo says", heap.avail_bytes >> 12, machine.free_pages);
    t.ok("sched_id", sysctl(SysctlOp::SCHED_ID, &SchedId::default()).0);
    let mut list = [GetDomainInfo::default(); 2];
    let all = |first: u16, most: u32, at: u64| GetDomainInfoList {
        first_domain: DomId(first),
        max_domains: most,
        buffer: Vaddr(at),
        ..GetDomainInfoList::default()
    };
    let at = list.as_mut_ptr() as u64;
    let (ret, got) = sysctl(SysctlOp::GETDOMAININFOLIST, &all(0, 2, at));
    t.ok("getdomaininfolist", ret);
    let first = core::hint::black_box(&list).first().map(|d| (d.domain, d.tot_pages));
    t.eq("this one", (got.num_domains, first), (1, Some((DOM0, t.info.nr_pages))));
    t.eq("from 1 on", sysctl(SysctlOp::GETDOMAININFOLIST, &all(1, 2, at)).1.num_domains, 0);
    t.eq("room for none", sysctl(SysctlOp::GETDOMAININFOLIST, &all(0, 0, at)).1.num_domains, 0);
    t.err("a list nowhere", sysctl(SysctlOp::GETDOMAININFOLIST, &all(0, 2, 0x1000)).0, Errno::EFAULT);
    let mut text = [0u8; 64];
    let read = |at, count| ReadConsole { buffer: Vaddr(at), count, ..ReadConsole::default() };
    let (ret, got) = sysctl(SysctlOp::READCONSOLE, &read(text.as_mut_ptr() as u64, 64));
    t.ok("readconsole", ret);
    t.eq("so much", got.count, 64);
    t.yes("is text", core::hint::black_box(&text).iter().all(|c| matches!(c, 9 | 10 | 13 | 32..=126)));
    t.err("a log nowhere", sysctl(SysctlOp::READCONSOLE, &read(0x1000, 64)).0, Errno::EFAULT);
    let keys = |at, nr_keys| DebugKeys { keys: Vaddr(at), nr_keys, _pad: 0 };
    t.ok("no debug keys", sysctl(SysctlOp::DEBUG_KEYS, &keys(0x1000, 0)).0);
    t.err("keys nowhere", sysctl(SysctlOp::DEBUG_KEYS, &keys(0x1000, 1)).0, Errno::EFAULT);
}

/// What every command looks at first.
fn heads(t: &mut Test) {
    t.err("domctl nowhere", call(Hypercall::DOMCTL, &[0x1000]), Errno::EFAULT);
    let mut op = Domctl::new(DomctlOp::GETDOMAININFO, DOM0, &0u64);
    for version in [DOMCTL_INTERFACE_VERSION - 1, DOMCTL_INTERFACE_VERSION + 1, 0] {
        op.interface_version = version;
        t.err("another version", call_with(Hypercall::DOMCTL, &[], &mut op), Errno::EACCES);
    }
    for cmd in [0, 999, u32::MAX] {
        t.err("unknown domctl", control(DomctlOp(cmd), DOM0), Errno::ENOSYS);
        t.err("of nobody", control(DomctlOp(cmd), NOBODY), Errno::ESRCH);
    }
    for cmd in [DomctlOp::DESTROYDOMAIN, DomctlOp::PAUSEDOMAIN, DomctlOp::MAX_MEM, DomctlOp::GETVCPUINFO] {
        t.err("of nobody", control(cmd, NOBODY), Errno::ESRCH);
        t.err("of DOMID_SELF", control(cmd, DomId::SELF), Errno::ESRCH);
    }
    let (ret, zero) = info(DOM0);
    t.ok("getdomaininfo", ret);
    t.eq("of this domain", (zero.domain, zero.tot_pages, zero.nr_online_vcpus), (DOM0, t.info.nr_pages, 1));
    t.eq("runs", zero.flags & 0x3f, GetDomainInfo::DOMINF_RUNNING);
    t.err("of none above", info(DomId(1)).0, Errno::ESRCH);
    t.err("of a reserved number", info(DomId::IO).0, Errno::EINVAL);
}

/// What nobody does to himself.
fn itself(t: &mut Test) {
    for cmd in [DomctlOp::DESTROYDOMAIN, DomctlOp::PAUSEDOMAIN, DomctlOp::RESUMEDOMAIN, DomctlOp::UNPAUSEDOMAIN] {
        t.err("oneself", control(cmd, DOM0), Errno::EINVAL);
    }
    let mut context = VcpuGuestContext::default();
    let at = VcpuContext { vcpu: VcpuId(0), _pad: 0, ctxt: Vaddr(&raw mut context as u64) };
    t.err("one's own context", domctl(DomctlOp::GETVCPUCONTEXT, DOM0, &at).0, Errno::EINVAL);
    t.err("to be set", domctl(DomctlOp::SETVCPUCONTEXT, DOM0, &at).0, Errno::EINVAL);
    t.err("one's own vCPUs", domctl(DomctlOp::MAX_VCPUS, DOM0, &1u32).0, Errno::EINVAL);
}

fn creation(t: &mut Test) {
    let mut refused = |what, wanted, change: &dyn Fn(&mut CreateDomain), error: Errno| {
        let mut config = plain();
        change(&mut config);
        match create(wanted, &config) {
            Ok(id) => {
                t.err(what, 0, error);
                destroy(id);
            }
            Err(got) => t.err(what, got, error),
        }
    };
    refused("no vCPUs", DOM0, &|c| c.max_vcpus = 0, Errno::EINVAL);
    refused("too many vCPUs", DOM0, &|c| c.max_vcpus = 1 << 20, Errno::EINVAL);
    refused("an unknown flag", DOM0, &|c| c.flags = 1 << 31, Errno::EINVAL);
    refused("nested virtualization", DOM0, &|c| c.flags = CreateDomain::CDF_NESTED_VIRT, Errno::EINVAL);
    refused("paging by hardware", DOM0, &|c| c.flags = CreateDomain::CDF_HAP, Errno::EINVAL);
    refused("unknown emulation", DOM0, &|c| c.arch.emulation_flags = 1 << 31, Errno::EINVAL);
    refused("an unknown flag of the architecture", DOM0, &|c| c.arch.misc_flags = 1 << 31, Errno::EINVAL);
    refused("grant tables of no version", DOM0, &|c| c.grant_opts = 0, Errno::EINVAL);
    refused("grant tables of version 3", DOM0, &|c| c.grant_opts = 3, Errno::EINVAL);
    refused("IOMMU options without one", DOM0, &|c| c.iommu_opts = 1, Errno::EINVAL);
    let (asked, other) = (DomId(40), create(DOM0, &plain()));
    let got = create(asked, &plain());
    t.eq("a number asked for", got, Ok(asked));
    t.eq("once only", create(asked, &plain()), Err(Errno::EEXIST.code()));
    t.yes("any number", other.is_ok_and(|id| id != asked && id.0 != 0 && id.is_real()));
    for id in [got, other].into_iter().flatten() {
        t.ok("destroy", destroy(id));
        t.err("is gone", control(DomctlOp::PAUSEDOMAIN, id), Errno::ESRCH);
    }
}

fn state(t: &mut Test, id: DomId) {
    let (ret, new) = info(id);
    t.ok("getdomaininfo", ret);
    t.eq("pages", (new.tot_pages, new.max_pages, new.nr_online_vcpus), (0, 0, 0));
    t.eq("is paused", new.flags & 7, 0);
    t.ok("max_vcpus", domctl(DomctlOp::MAX_VCPUS, id, &1u32).0);
    for most in [0, 2, u32::MAX] {
        t.err("not as many as it was made for", domctl(DomctlOp::MAX_VCPUS, id, &most).0, Errno::EINVAL);
    }
    let handle = [0x5a; 16];
    t.ok("setdomainhandle", domctl(DomctlOp::SETDOMAINHANDLE, id, &handle).0);
    t.eq("is told", info(id).1.handle, handle);
    t.ok("settimeoffset", domctl(DomctlOp::SETTIMEOFFSET, id, &3600u64).0);
    t.ok("pause", control(DomctlOp::PAUSEDOMAIN, id));
    t.ok("pause again", control(DomctlOp::PAUSEDOMAIN, id));
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, id));
}

fn vcpus(t: &mut Test, id: DomId) {
    let about = |vcpu| GetVcpuInfo { vcpu: VcpuId(vcpu), ..GetVcpuInfo::default() };
    let (ret, got) = domctl(DomctlOp::GETVCPUINFO, id, &about(0));
    t.ok("getvcpuinfo", ret);
    t.eq("down", (got.online, got.running, got.cpu_time), (0, 0, 0));
    t.err("of none", domctl(DomctlOp::GETVCPUINFO, id, &about(1)).0, Errno::EINVAL);
    t.err("of none", domctl(DomctlOp::GETVCPUINFO, id, &about(u32::MAX)).0, Errno::EINVAL);
    let mut context = VcpuGuestContext::default();
    let at = |vcpu, ctxt| VcpuContext { vcpu: VcpuId(vcpu), _pad: 0, ctxt: Vaddr(ctxt) };
    let own = &raw mut context as u64;
    t.err("a context there is not", domctl(DomctlOp::GETVCPUCONTEXT, id, &at(0, own)).0, Errno::ENODATA);
    t.err("of no vCPU", domctl(DomctlOp::GETVCPUCONTEXT, id, &at(1, own)).0, Errno::EINVAL);
    t.err("for no vCPU", domctl(DomctlOp::SETVCPUCONTEXT, id, &at(1, own)).0, Errno::EINVAL);
    t.err("from nowhere", domctl(DomctlOp::SETVCPUCONTEXT, id, &at(0, 0x1000)).0, Errno::EFAULT);
    t.err("without a root", domctl(DomctlOp::SETVCPUCONTEXT, id, &at(0, own)).0, Errno::EINVAL);
    let mut bits = [0u8; 8];
    let map = |at: u64| CtlBitmap { bitmap: Vaddr(at), nr_bits: 64, _pad: 0 };
    let place = |vcpu, flags, at| VcpuAffinity { vcpu: VcpuId(vcpu), flags, hard: map(at), soft: map(at) };
    let bitmap = bits.as_mut_ptr() as u64;
    t.ok("getvcpuaffinity", domctl(DomctlOp::GETVCPUAFFINITY, id, &place(0, VcpuAffinity::HARD, bitmap)).0);
    t.eq("the one CPU", core::hint::black_box(&bits).first().map(|b| b & 1), Some(1));
    t.ok("setvcpuaffinity", domctl(DomctlOp::SETVCPUAFFINITY, id, &place(0, VcpuAffinity::HARD, bitmap)).0);
    t.err("of no kind", domctl(DomctlOp::SETVCPUAFFINITY, id, &place(0, 0, bitmap)).0, Errno::EINVAL);
    t.err("of no vCPU", domctl(DomctlOp::SETVCPUAFFINITY, id, &place(1, 1, bitmap)).0, Errno::EINVAL);
    let mut none = [0u8; 8];
    let nowhere = place(0, VcpuAffinity::HARD, none.as_mut_ptr() as u64);
    t.err("no CPU", domctl(DomctlOp::SETVCPUAFFINITY, id, &nowhere).0, Errno::EINVAL);
}

fn memory(t: &mut Test, id: DomId) {
    t.ok("max_mem", domctl(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb: 41 }).0);
    t.eq("whole pages", info(id).1.max_pages, 10);
    let page = probe::page();
    let fill = |mfn: Mfn| domctl(DomctlOp::HYPERCALL_INIT, DOM0, &HypercallInit { gmfn: mfn }).0;
    t.ok("hypercall_init", fill(page.mfn));
    t.eq("a stub", page.get(4 * 17) & 0xff, 0x51);
    t.err(
        "of another's frame",
        domctl(DomctlOp::HYPERCALL_INIT, id, &HypercallInit { gmfn: page.mfn }).0,
        Errno::EINVAL,
    );
    t.err("of no frame", fill(Mfn(0xff_ffff)), Errno::EINVAL);
}

fn permissions(t: &mut Test, id: DomId) {
    let ports = |first_port, nr_ports| {
        let p = IoportPermission { first_port, nr_ports, allow_access: 1, ..IoportPermission::default() };
        domctl(DomctlOp::IOPORT_PERMISSION, id, &p).0
    };
    t.ok("ports", ports(0x1000, 8));
    t.err("no ports", ports(0x1000, 0), Errno::EINVAL);
    t.err("past the last", ports(0xffff, 2), Errno::EINVAL);
    t.ok("the last", ports(0xffff, 1));
    t.err("wrapped around", ports(2, u32::MAX), Errno::EINVAL);
    let frames = |first, nr_mfns| {
        let p = IomemPermission { first_mfn: Mfn(first), nr_mfns, allow_access: 1, ..IomemPermission::default() };
        domctl(DomctlOp::IOMEM_PERMISSION, id, &p).0
    };
    t.ok("frames", frames(0xf_e000, 4));
    t.err("wrapped around", frames(u64::MAX, 2), Errno::EINVAL);
    let irq = |pirq| domctl(DomctlOp::IRQ_PERMISSION, id, &IrqPermission { pirq, allow_access: 1, _pad: [0; 3] }).0;
    t.err("no such interrupt", irq(u32::MAX), Errno::EINVAL);
}

fn end(t: &mut Test, id: DomId) {
    t.ok("destroy", destroy(id));
    t.err("is gone", control(DomctlOp::DESTROYDOMAIN, id), Errno::ESRCH);
    t.err("for good", control(DomctlOp::UNPAUSEDOMAIN, id), Errno::ESRCH);
    t.err("and no other", info(DomId(1)).0, Errno::ESRCH);
}
