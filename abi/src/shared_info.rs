//! The page a domain shares with the hypervisor (`shared_info` of `xen.h`).

use crate::frame::Mfn;
use crate::layout::LEGACY_MAX_VCPUS;
use crate::vcpu::VcpuInfo;

wire_struct! {
    /// `arch_shared_info`: where the guest keeps its P2M, for tools.
    pub struct ArchSharedInfo {
        /// Last valid PFN + 1, as the guest tells.
        pub max_pfn: u64,
        /// Root of the P2M's frame list; all ones when the P2M is only virtual.
        pub pfn_to_mfn_frame_list_list: Mfn,
        /// Why the last NMI came (`nmi` module).
        pub nmi_reason: u64,
        /// Page-table base of the virtual P2M, as `mfn << 12`; 0 when there is none.
        pub p2m_cr3: u64,
        /// Address of the virtual P2M.
        pub p2m_vaddr: u64,
        /// Changes with each change of the P2M.
        pub p2m_generation: u64,
    }
}
layout!(ArchSharedInfo: 48; nmi_reason @ 16, p2m_cr3 @ 24, p2m_vaddr @ 32, p2m_generation @ 40);

wire_struct! {
    /// `shared_info`, at the start of its page.
    pub struct SharedInfo {
        /// Areas of the first vCPUs, until they register their own.
        pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
        /// One bit a port (2-level events).
        pub evtchn_pending: [u64; 64],
        /// One bit a port (2-level events).
        pub evtchn_mask: [u64; 64],
        /// Odd while the wall clock is being written.
        pub wc_version: u32,
        /// Wall-clock seconds at system time 0, low half.
        pub wc_sec: u32,
        /// And nanoseconds.
        pub wc_nsec: u32,
        /// Wall-clock seconds, high half.
        pub wc_sec_hi: u32,
        /// Architecture's part.
        pub arch: ArchSharedInfo,
    }
}
layout!(SharedInfo: 3136;
    evtchn_pending @ 2048, evtchn_mask @ 2560, wc_version @ 3072, wc_sec @ 3076, wc_nsec @ 3080,
    wc_sec_hi @ 3084, arch @ 3088);
