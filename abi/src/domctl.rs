//! `domctl(arg)`, the subset a toolstack for PV guests needs (`domctl.h`).

use crate::frame::{Mfn, Vaddr};
use crate::ids::{DomId, VcpuId, Virq};
use zerocopy::{FromBytes, IntoBytes};

/// The only version answered (4.17).
pub const DOMCTL_INTERFACE_VERSION: u32 = 0x15;
/// Bytes of the argument's union.
pub const DOMCTL_PAYLOAD: usize = 128;

open_enum! {
    /// Sub-operations.
    pub struct DomctlOp(u32) {
        /// [`CreateDomain`]; the number is `Domctl::domain`, in (0 or reserved: any) and out.
        CREATEDOMAIN = 1;
        /// No payload. EAGAIN or a continuation until done.
        DESTROYDOMAIN = 2;
        /// No payload.
        PAUSEDOMAIN = 3;
        /// No payload.
        UNPAUSEDOMAIN = 4;
        /// [`GetDomainInfo`].
        GETDOMAININFO = 5;
        /// Affinity.
        SETVCPUAFFINITY = 9;
        /// Log-dirty and shadow control.
        SHADOW_OP = 10;
        /// [`MaxMem`].
        MAX_MEM = 11;
        /// [`VcpuContext`].
        SETVCPUCONTEXT = 12;
        /// [`VcpuContext`].
        GETVCPUCONTEXT = 13;
        /// [`GetVcpuInfo`].
        GETVCPUINFO = 14;
        /// [`MaxVcpus`].
        MAX_VCPUS = 15;
        /// Scheduler parameters.
        SCHEDULER_OP = 16;
        /// [`SetDomainHandle`].
        SETDOMAINHANDLE = 17;
        /// [`SetDebugging`].
        SETDEBUGGING = 18;
        /// [`IrqPermission`].
        IRQ_PERMISSION = 19;
        /// [`IomemPermission`].
        IOMEM_PERMISSION = 20;
        /// [`IoportPermission`].
        IOPORT_PERMISSION = 21;
        /// [`HypercallInit`].
        HYPERCALL_INIT = 22;
        /// [`SetTimeOffset`].
        SETTIMEOFFSET = 24;
        /// Affinity.
        GETVCPUAFFINITY = 25;
        /// No payload.
        RESUMEDOMAIN = 27;
        /// [`SendTrigger`].
        SENDTRIGGER = 28;
        /// [`Subscribe`].
        SUBSCRIBE = 29;
        /// [`AddressSize`].
        SET_ADDRESS_SIZE = 35;
        /// [`AddressSize`].
        GET_ADDRESS_SIZE = 36;
        /// [`AssignDevice`].
        ASSIGN_DEVICE = 37;
        /// Device memory of translated guests.
        MEMORY_MAPPING = 39;
        /// [`AssignDevice`].
        TEST_ASSIGN_DEVICE = 45;
        /// [`AssignDevice`].
        DEASSIGN_DEVICE = 47;
        /// [`TscInfo`].
        GETTSCINFO = 59;
        /// [`TscInfo`].
        SETTSCINFO = 60;
        /// [`GetPageFrameInfo3`].
        GETPAGEFRAMEINFO3 = 61;
        /// [`SetVirqHandler`].
        SET_VIRQ_HANDLER = 66;
    }
}

wire_struct! {
    /// The argument: a head and a payload by `cmd`.
    pub struct Domctl {
        /// Which.
        pub cmd: DomctlOp,
        /// [`DOMCTL_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The domain.
        pub domain: DomId,
        /// Padding.
        pub _pad: [u16; 3],
        /// The payload.
        pub payload: DomctlPayload,
    }
}
layout!(Domctl: 144; interface_version @ 4, domain @ 8, payload @ 16);

impl Domctl {
    /// A call with its payload; fails to compile for a payload that does not fit.
    pub fn new<T: IntoBytes + zerocopy::Immutable>(cmd: DomctlOp, domain: DomId, payload: &T) -> Self {
        let mut call = Self { cmd, interface_version: DOMCTL_INTERFACE_VERSION, domain, ..Self::default() };
        call.payload.set(payload);
        call
    }
}

/// The union of a [`Domctl`] or a [`Sysctl`](crate::sysctl::Sysctl): bytes, 8-aligned.
#[derive(
    Clone, Copy, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
)]
#[repr(C, align(8))]
pub struct DomctlPayload(pub [u8; DOMCTL_PAYLOAD]);
layout!(DomctlPayload: 128);

impl DomctlPayload {
    /// Reads the payload as a structure; fails to compile for one that does not fit.
    pub fn get<T: FromBytes>(&self) -> T {
        const { assert!(size_of::<T>() <= DOMCTL_PAYLOAD) };
        match T::read_from_prefix(&self.0) {
            Ok((value, _)) => value,
            Err(_) => T::new_zeroed(),
        }
    }

    /// Writes a structure; the rest of the payload keeps its value.
    pub fn set<T: IntoBytes + zerocopy::Immutable>(&mut self, value: &T) {
        const { assert!(size_of::<T>() <= DOMCTL_PAYLOAD) };
        for (to, from) in self.0.iter_mut().zip(value.as_bytes()) {
            *to = *from;
        }
    }
}

impl core::fmt::Debug for DomctlPayload {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DomctlPayload(..)")
    }
}

wire_struct! {
    /// `xen_arch_domainconfig`.
    pub struct ArchDomainConfig {
        /// Emulated devices; 0 for PV.
        pub emulation_flags: u32,
        /// [`ArchDomainConfig::MSR_RELAXED`] or 0.
        pub misc_flags: u32,
    }
}
layout!(ArchDomainConfig: 8; misc_flags @ 4);

impl ArchDomainConfig {
    /// Unknown MSRs read as 0 rather than fault.
    pub const MSR_RELAXED: u32 = 1 << 0;
}

wire_struct! {
    /// Payload of CREATEDOMAIN.
    pub struct CreateDomain {
        /// Security label.
        pub ssidref: u32,
        /// The domain's handle (UUID).
        pub handle: [u8; 16],
        /// `CreateDomain::CDF_*`.
        pub flags: u32,
        /// IOMMU options.
        pub iommu_opts: u32,
        /// vCPUs at most, not 0.
        pub max_vcpus: u32,
        /// Highest port.
        pub max_evtchn_port: u32,
        /// Grant frames at most; negative: default.
        pub max_grant_frames: i32,
        /// Maptrack frames at most; negative: default.
        pub max_maptrack_frames: i32,
        /// Low 4 bits: highest version of grant tables.
        pub grant_opts: u32,
        /// Trace buffer a vCPU.
        pub vmtrace_size: u32,
        /// CPU pool.
        pub cpupool_id: u32,
        /// Architecture's part.
        pub arch: ArchDomainConfig,
    }
}
layout!(CreateDomain: 64;
    handle @ 4, flags @ 20, iommu_opts @ 24, max_vcpus @ 28, max_evtchn_port @ 32,
    max_grant_frames @ 36, max_maptrack_frames @ 40, grant_opts @ 44, vmtrace_size @ 48,
    cpupool_id @ 52, arch @ 56);

impl CreateDomain {
    /// A hardware guest.
    pub const CDF_HVM: u32 = 1 << 0;
    /// Hardware-assisted paging.
    pub const CDF_HAP: u32 = 1 << 1;
    /// Integrity across suspend to memory.
    pub const CDF_S3_INTEGRITY: u32 = 1 << 2;
    /// No out-of-sync shadows.
    pub const CDF_OOS_OFF: u32 = 1 << 3;
    /// The domain serves the store.
    pub const CDF_XS_DOMAIN: u32 = 1 << 4;
    /// Uses the IOMMU.
    pub const CDF_IOMMU: u32 = 1 << 5;
    /// Nested virtualization.
    pub const CDF_NESTED_VIRT: u32 = 1 << 6;
    /// Performance counters.
    pub const CDF_VPMU: u32 = 1 << 7;
}

wire_struct! {
    /// Payload of GETDOMAININFO; an element of the system's list of domains.
    pub struct GetDomainInfo {
        /// Out: the number (of this domain or the next higher one).
        pub domain: DomId,
        /// Padding.
        pub _pad1: u16,
        /// Out: `GetDomainInfo::DOMINF_*`, and from bit 16 the shutdown reason.
        pub flags: u32,
        /// Out: pages.
        pub tot_pages: u64,
        /// Out: pages at most.
        pub max_pages: u64,
        /// Out: claimed pages.
        pub outstanding_pages: u64,
        /// Out: shared pages.
        pub shr_pages: u64,
        /// Out: paged pages.
        pub paged_pages: u64,
        /// Out: frame of the shared-info page.
        pub shared_info_frame: Mfn,
        /// Out: nanoseconds of CPU time of all vCPUs.
        pub cpu_time: u64,
        /// Out: vCPUs that are up.
        pub nr_online_vcpus: u32,
        /// Out: highest vCPU, or all ones.
        pub max_vcpu_id: u32,
        /// Out: security label.
        pub ssidref: u32,
        /// Out: handle.
        pub handle: [u8; 16],
        /// Out: CPU pool.
        pub cpupool: u32,
        /// Out: bits of a guest address.
        pub gpaddr_bits: u8,
        /// Padding.
        pub _pad2: [u8; 7],
        /// Out: architecture's part.
        pub arch_config: ArchDomainConfig,
    }
}
layout!(GetDomainInfo: 112;
    flags @ 4, tot_pages @ 8, max_pages @ 16, shared_info_frame @ 48, cpu_time @ 56,
    nr_online_vcpus @ 64, max_vcpu_id @ 68, ssidref @ 72, handle @ 76, cpupool @ 92,
    gpaddr_bits @ 96, arch_config @ 104);

impl GetDomainInfo {
    /// Being destroyed.
    pub const DOMINF_DYING: u32 = 1 << 0;
    /// A hardware guest.
    pub const DOMINF_HVM: u32 = 1 << 1;
    /// Shut down, for the reason in bits 16..=23.
    pub const DOMINF_SHUTDOWN: u32 = 1 << 2;
    /// Paused by tools.
    pub const DOMINF_PAUSED: u32 = 1 << 3;
    /// All its vCPUs wait.
    pub const DOMINF_BLOCKED: u32 = 1 << 4;
    /// One of its vCPUs runs.
    pub const DOMINF_RUNNING: u32 = 1 << 5;
    /// Paused by a debugger.
    pub const DOMINF_DEBUGGED: u32 = 1 << 6;
    /// Serves the store.
    pub const DOMINF_XS_DOMAIN: u32 = 1 << 7;
    /// Hardware-assisted paging.
    pub const DOMINF_HAP: u32 = 1 << 8;
    /// Where the shutdown reason starts.
    pub const SHUTDOWN_SHIFT: u32 = 16;
    /// Mask of the shutdown reason, after the shift.
    pub const SHUTDOWN_MASK: u32 = 255;
    /// `max_vcpu_id` of a domain without vCPUs.
    pub const NO_VCPU: u32 = u32::MAX;
}

wire_struct! {
    /// Payload of MAX_MEM.
    pub struct MaxMem {
        /// KiB.
        pub max_memkb: u64,
    }
}
layout!(MaxMem: 8);

wire_struct! {
    /// Payload of SETVCPUCONTEXT and GETVCPUCONTEXT.
    pub struct VcpuContext {
        /// Which.
        pub vcpu: VcpuId,
        /// Padding.
        pub _pad: u32,
        /// Address of a [`VcpuGuestContext`](crate::vcpu::VcpuGuestContext).
        pub ctxt: Vaddr,
    }
}
layout!(VcpuContext: 16; ctxt @ 8);

wire_struct! {
    /// Payload of GETVCPUINFO.
    pub struct GetVcpuInfo {
        /// In: which.
        pub vcpu: VcpuId,
        /// Out: up.
        pub online: u8,
        /// Out: waits for an event.
        pub blocked: u8,
        /// Out: on a CPU.
        pub running: u8,
        /// Padding.
        pub _pad0: u8,
        /// Out: nanoseconds of CPU time.
        pub cpu_time: u64,
        /// Out: its CPU.
        pub cpu: u32,
        /// Padding.
        pub _pad1: u32,
    }
}
layout!(GetVcpuInfo: 24; online @ 4, blocked @ 5, running @ 6, cpu_time @ 8, cpu @ 16);

wire_struct! {
    /// A bitmap of the tools (`xenctl_bitmap`).
    pub struct CtlBitmap {
        /// Where its bytes are.
        pub bitmap: Vaddr,
        /// How many bits there is room for.
        pub nr_bits: u32,
        /// Padding.
        pub _pad: u32,
    }
}
layout!(CtlBitmap: 16; nr_bits @ 8);

wire_struct! {
    /// Payload of SETVCPUAFFINITY and GETVCPUAFFINITY: the CPUs a vCPU may run on.
    pub struct VcpuAffinity {
        /// Which vCPU.
        pub vcpu: VcpuId,
        /// [`VcpuAffinity::HARD`], [`VcpuAffinity::SOFT`].
        pub flags: u32,
        /// Where it may run.
        pub hard: CtlBitmap,
        /// Where it would rather run.
        pub soft: CtlBitmap,
    }
}
layout!(VcpuAffinity: 40; flags @ 4, hard @ 8, soft @ 24);

impl VcpuAffinity {
    /// The hard affinity is meant.
    pub const HARD: u32 = 1 << 0;
    /// The soft affinity is meant.
    pub const SOFT: u32 = 1 << 1;
}

wire_struct! {
    /// Payload of MAX_VCPUS.
    pub struct MaxVcpus {
        /// Must equal what the domain was created with.
        pub max: u32,
    }
}
layout!(MaxVcpus: 4);

wire_struct! {
    /// Payload of SETDOMAINHANDLE.
    pub struct SetDomainHandle {
        /// The handle (UUID).
        pub handle: [u8; 16],
    }
}
layout!(SetDomainHandle: 16);

wire_struct! {
    /// Payload of SETDEBUGGING.
    pub struct SetDebugging {
        /// Not 0: on.
        pub enable: u8,
    }
}
layout!(SetDebugging: 1);

wire_struct! {
    /// Payload of IRQ_PERMISSION.
    pub struct IrqPermission {
        /// The caller's PIRQ.
        pub pirq: u32,
        /// Not 0: allow.
        pub allow_access: u8,
        /// Padding.
        pub _pad: [u8; 3],
    }
}
layout!(IrqPermission: 8; allow_access @ 4);

wire_struct! {
    /// Payload of IOMEM_PERMISSION.
    pub struct IomemPermission {
        /// First frame.
        pub first_mfn: Mfn,
        /// How many.
        pub nr_mfns: u64,
        /// Not 0: allow.
        pub allow_access: u8,
        /// Padding.
        pub _pad: [u8; 7],
    }
}
layout!(IomemPermission: 24; nr_mfns @ 8, allow_access @ 16);

wire_struct! {
    /// Payload of IOPORT_PERMISSION.
    pub struct IoportPermission {
        /// First port.
        pub first_port: u32,
        /// How many.
        pub nr_ports: u32,
        /// Not 0: allow.
        pub allow_access: u8,
        /// Padding.
        pub _pad: [u8; 3],
    }
}
layout!(IoportPermission: 12; nr_ports @ 4, allow_access @ 8);

wire_struct! {
    /// Payload of HYPERCALL_INIT: fills a page with hypercall stubs.
    pub struct HypercallInit {
        /// The page.
        pub gmfn: Mfn,
    }
}
layout!(HypercallInit: 8);

wire_struct! {
    /// Payload of SETTIMEOFFSET.
    pub struct SetTimeOffset {
        /// Of the domain's wall clock.
        pub time_offset_seconds: i64,
    }
}
layout!(SetTimeOffset: 8);

wire_struct! {
    /// Payload of SENDTRIGGER.
    pub struct SendTrigger {
        /// 0 is NMI, the only one for PV.
        pub trigger: u32,
        /// To whom.
        pub vcpu: VcpuId,
    }
}
layout!(SendTrigger: 8; vcpu @ 4);

wire_struct! {
    /// Payload of SUBSCRIBE: event at a shutdown for suspension.
    pub struct Subscribe {
        /// The domain's port.
        pub port: u32,
    }
}
layout!(Subscribe: 4);

wire_struct! {
    /// Payload of SET_ADDRESS_SIZE and GET_ADDRESS_SIZE.
    pub struct AddressSize {
        /// 64.
        pub size: u32,
    }
}
layout!(AddressSize: 4);

wire_struct! {
    /// Payload of ASSIGN_DEVICE and its relatives, for PCI.
    pub struct AssignDevice {
        /// 0: PCI.
        pub dev: u32,
        /// [`AssignDevice::RDM_RELAXED`] or 0.
        pub flags: u32,
        /// Segment << 16, bus << 8, device and function.
        pub machine_sbdf: u32,
    }
}
layout!(AssignDevice: 12; flags @ 4, machine_sbdf @ 8);

impl AssignDevice {
    /// Conflicts of reserved device memory are not fatal.
    pub const RDM_RELAXED: u32 = 1;
}

wire_struct! {
    /// Payload of GETTSCINFO and SETTSCINFO.
    pub struct TscInfo {
        /// 0 default, 1 emulate, 2 native.
        pub tsc_mode: u32,
        /// kHz.
        pub gtsc_khz: u32,
        /// Counts restores.
        pub incarnation: u32,
        /// Padding.
        pub _pad: u32,
        /// Guest time so far.
        pub elapsed_nsec: u64,
    }
}
layout!(TscInfo: 24; gtsc_khz @ 4, incarnation @ 8, elapsed_nsec @ 16);

wire_struct! {
    /// Payload of GETPAGEFRAMEINFO3.
    pub struct GetPageFrameInfo3 {
        /// How many.
        pub num: u64,
        /// Array: in frames, out types (`pfinfo`).
        pub array: Vaddr,
    }
}
layout!(GetPageFrameInfo3: 16; array @ 8);

/// Results of [`GetPageFrameInfo3`].
pub mod pfinfo {
    /// Where the type starts.
    pub const LTAB_SHIFT: u32 = 28;
    /// Not a page table.
    pub const NOTAB: u64 = 0;
    /// An L1.
    pub const L1TAB: u64 = 1 << 28;
    /// An L2.
    pub const L2TAB: u64 = 2 << 28;
    /// An L3.
    pub const L3TAB: u64 = 3 << 28;
    /// An L4.
    pub const L4TAB: u64 = 4 << 28;
    /// Pinned.
    pub const LPINTAB: u64 = 1 << 31;
    /// Not the domain's.
    pub const XTAB: u64 = 0xf << 28;
    /// Allocated only.
    pub const XALLOC: u64 = 0xe << 28;
    /// Broken.
    pub const BROKEN: u64 = 0xd << 28;
}

wire_struct! {
    /// Payload of SET_VIRQ_HANDLER: the domain gets a VIRQ that is the machine's.
    pub struct SetVirqHandler {
        /// Which.
        pub virq: Virq,
    }
}
layout!(SetVirqHandler: 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_round_trip() {
        let mut call = Domctl::new(DomctlOp::MAX_MEM, DomId(3), &MaxMem { max_memkb: 0x1234 });
        assert_eq!(call.payload.get::<MaxMem>().max_memkb, 0x1234);
        call.payload.set(&MaxVcpus { max: 7 });
        assert_eq!(call.payload.get::<MaxVcpus>().max, 7);
        assert_eq!(call.interface_version, 0x15);
    }
}
