//! `sysctl(arg)`, the subset a toolstack needs (`sysctl.h`).

use crate::domctl::DomctlPayload;
use crate::frame::Vaddr;
use crate::ids::DomId;

/// The only version answered (4.17).
pub const SYSCTL_INTERFACE_VERSION: u32 = 0x15;

open_enum! {
    /// Sub-operations.
    pub struct SysctlOp(u32) {
        /// [`ReadConsole`].
        READCONSOLE = 1;
        /// Trace buffers.
        TBUF_OP = 2;
        /// [`PhysInfo`].
        PHYSINFO = 3;
        /// [`SchedId`].
        SCHED_ID = 4;
        /// Performance counters.
        PERFC_OP = 5;
        /// [`GetDomainInfoList`].
        GETDOMAININFOLIST = 6;
        /// [`DebugKeys`].
        DEBUG_KEYS = 7;
        /// [`GetCpuInfo`].
        GETCPUINFO = 8;
        /// [`AvailHeap`].
        AVAILHEAP = 9;
        /// Topology.
        CPUTOPOINFO = 16;
        /// Topology.
        NUMAINFO = 17;
    }
}

wire_struct! {
    /// The argument: a head and a payload by `cmd`.
    pub struct Sysctl {
        /// Which.
        pub cmd: SysctlOp,
        /// [`SYSCTL_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The payload.
        pub payload: DomctlPayload,
    }
}
layout!(Sysctl: 136; interface_version @ 4, payload @ 8);

impl Sysctl {
    /// A call with its payload; fails to compile for a payload that does not fit.
    pub fn new<T: zerocopy::IntoBytes + zerocopy::Immutable>(cmd: SysctlOp, payload: &T) -> Self {
        let mut call = Self { cmd, interface_version: SYSCTL_INTERFACE_VERSION, ..Self::default() };
        call.payload.set(payload);
        call
    }
}

wire_struct! {
    /// Reads the hypervisor's console ring.
    pub struct ReadConsole {
        /// Not 0: empties the ring.
        pub clear: u8,
        /// Not 0: starts at `index`.
        pub incremental: u8,
        /// Padding.
        pub _pad0: [u8; 2],
        /// In: where to start. Out: where it ended.
        pub index: u32,
        /// Where to.
        pub buffer: Vaddr,
        /// In: room. Out: bytes.
        pub count: u32,
        /// Padding.
        pub _pad1: u32,
    }
}
layout!(ReadConsole: 24; incremental @ 1, index @ 4, buffer @ 8, count @ 16);

wire_struct! {
    /// What the machine is; all out.
    pub struct PhysInfo {
        /// Threads a core.
        pub threads_per_core: u32,
        /// Cores a socket.
        pub cores_per_socket: u32,
        /// CPUs.
        pub nr_cpus: u32,
        /// Highest CPU.
        pub max_cpu_id: u32,
        /// Nodes.
        pub nr_nodes: u32,
        /// Highest node.
        pub max_node_id: u32,
        /// TSC rate in kHz.
        pub cpu_khz: u32,
        /// `PhysInfo::CAP_*`.
        pub capabilities: u32,
        /// Architecture's capabilities.
        pub arch_capabilities: u32,
        /// Padding.
        pub _pad: u32,
        /// Pages of the machine.
        pub total_pages: u64,
        /// Pages free.
        pub free_pages: u64,
        /// Free pages not scrubbed yet.
        pub scrub_pages: u64,
        /// Pages claimed.
        pub outstanding_pages: u64,
        /// Highest frame.
        pub max_mfn: u64,
        /// CPUID feature words.
        pub hw_cap: [u32; 8],
    }
}
layout!(PhysInfo: 112;
    nr_cpus @ 8, cpu_khz @ 24, capabilities @ 28, total_pages @ 40, free_pages @ 48,
    scrub_pages @ 56, outstanding_pages @ 64, max_mfn @ 72, hw_cap @ 80);

impl PhysInfo {
    /// Hardware guests.
    pub const CAP_HVM: u32 = 1 << 0;
    /// PV guests.
    pub const CAP_PV: u32 = 1 << 1;
    /// An IOMMU.
    pub const CAP_DIRECTIO: u32 = 1 << 2;
    /// Hardware-assisted paging.
    pub const CAP_HAP: u32 = 1 << 3;
    /// Shadow paging.
    pub const CAP_SHADOW: u32 = 1 << 4;
    /// Grant tables of version 1.
    pub const CAP_GNTTAB_V1: u32 = 1 << 8;
    /// Grant tables of version 2.
    pub const CAP_GNTTAB_V2: u32 = 1 << 9;
}

wire_struct! {
    /// Which scheduler runs.
    pub struct SchedId {
        /// Out.
        pub sched_id: u32,
    }
}
layout!(SchedId: 4);

wire_struct! {
    /// Lists domains.
    pub struct GetDomainInfoList {
        /// First number.
        pub first_domain: DomId,
        /// Padding.
        pub _pad0: u16,
        /// Room in the array.
        pub max_domains: u32,
        /// Array of [`GetDomainInfo`](crate::domctl::GetDomainInfo).
        pub buffer: Vaddr,
        /// Out: how many.
        pub num_domains: u32,
        /// Padding.
        pub _pad1: u32,
    }
}
layout!(GetDomainInfoList: 24; max_domains @ 4, buffer @ 8, num_domains @ 16);

wire_struct! {
    /// Presses debug keys.
    pub struct DebugKeys {
        /// The keys.
        pub keys: Vaddr,
        /// How many.
        pub nr_keys: u32,
        /// Padding.
        pub _pad: u32,
    }
}
layout!(DebugKeys: 16; nr_keys @ 8);

wire_struct! {
    /// Idle time of the CPUs.
    pub struct GetCpuInfo {
        /// Room in the array.
        pub max_cpus: u32,
        /// Padding.
        pub _pad0: u32,
        /// Array of u64: nanoseconds idle.
        pub info: Vaddr,
        /// Out: how many.
        pub nr_cpus: u32,
        /// Padding.
        pub _pad1: u32,
    }
}
layout!(GetCpuInfo: 24; info @ 8, nr_cpus @ 16);

wire_struct! {
    /// Free memory in a range.
    pub struct AvailHeap {
        /// Least bits of an address; 0: none.
        pub min_bitwidth: u32,
        /// Most bits of an address; 0: any.
        pub max_bitwidth: u32,
        /// Node; -1: all.
        pub node: i32,
        /// Padding.
        pub _pad: u32,
        /// Out: bytes.
        pub avail_bytes: u64,
    }
}
layout!(AvailHeap: 24; max_bitwidth @ 4, node @ 8, avail_bytes @ 16);
