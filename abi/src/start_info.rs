//! What a domain finds at its start (`start_info` of `xen.h`), by the pointer in RSI.

use crate::frame::{Maddr, Mfn, Pfn, Vaddr};

/// Bytes of the command line, with its terminating zero.
pub const MAX_GUEST_CMDLINE: usize = 1024;

wire_struct! {
    /// `start_info`.
    pub struct StartInfo {
        /// "xen-3.0-x86_64", zero-terminated.
        pub magic: [u8; 32],
        /// Pages of the domain.
        pub nr_pages: u64,
        /// The shared-info page.
        pub shared_info: Maddr,
        /// `StartInfo::SIF_*`.
        pub flags: u32,
        /// Padding.
        pub _pad0: u32,
        /// Ring page of the store; 0 in the initial domain.
        pub store_mfn: Mfn,
        /// Port of the store.
        pub store_evtchn: u32,
        /// Padding.
        pub _pad1: u32,
        /// Ring page of the console; in the initial domain, offset (low half) and size (high
        /// half) of the VGA description that follows.
        pub console_mfn: Mfn,
        /// Port of the console.
        pub console_evtchn: u32,
        /// Padding.
        pub _pad2: u32,
        /// The L4.
        pub pt_base: Vaddr,
        /// Frames of the page tables at `pt_base`.
        pub nr_pt_frames: u64,
        /// The P2M.
        pub mfn_list: Vaddr,
        /// The module: an address, or a PFN with [`StartInfo::SIF_MOD_START_PFN`].
        pub mod_start: u64,
        /// Bytes of the module.
        pub mod_len: u64,
        /// Command line, zero-terminated.
        pub cmd_line: [u8; MAX_GUEST_CMDLINE],
        /// First PFN of the P2M's frames, where INIT_P2M placed it outside the mapping.
        pub first_p2m_pfn: Pfn,
        /// And how many.
        pub nr_p2m_frames: u64,
    }
}
layout!(StartInfo: 1168;
    nr_pages @ 32, shared_info @ 40, flags @ 48, store_mfn @ 56, store_evtchn @ 64,
    console_mfn @ 72, console_evtchn @ 80, pt_base @ 88, nr_pt_frames @ 96, mfn_list @ 104,
    mod_start @ 112, mod_len @ 120, cmd_line @ 128, first_p2m_pfn @ 1152, nr_p2m_frames @ 1160);

impl StartInfo {
    /// The magic string, without its terminator.
    pub const MAGIC: &'static [u8] = b"xen-3.0-x86_64";
    /// May do privileged operations.
    pub const SIF_PRIVILEGED: u32 = 1 << 0;
    /// Is the initial domain.
    pub const SIF_INITDOMAIN: u32 = 1 << 1;
    /// The module is a list of multiboot modules.
    pub const SIF_MULTIBOOT_MOD: u32 = 1 << 2;
    /// `mod_start` is a PFN.
    pub const SIF_MOD_START_PFN: u32 = 1 << 3;
    /// The P2M for tools may be virtual.
    pub const SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;
    /// Power-management mask.
    pub const SIF_PM_MASK: u32 = 0xff << 8;

    /// The command line up to its terminator (or the whole field without one).
    pub fn cmdline(&self) -> &[u8] {
        let len = self.cmd_line.iter().position(|&b| b == 0).unwrap_or(MAX_GUEST_CMDLINE);
        self.cmd_line.split_at(len).0
    }
}
