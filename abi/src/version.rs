//! `xen_version(op, arg)` (`version.h`).

pub use crate::features;
use crate::frame::Vaddr;

open_enum! {
    /// Sub-operations.
    pub struct XenVersionOp(u32) {
        /// Returns `major << 16 | minor`; no argument.
        VERSION = 0;
        /// arg: 16 bytes of text, out.
        EXTRAVERSION = 1;
        /// arg: [`CompileInfo`], out.
        COMPILE_INFO = 2;
        /// arg: 1024 bytes of text, out.
        CAPABILITIES = 3;
        /// arg: 64 bytes of text, out.
        CHANGESET = 4;
        /// arg: [`PlatformParameters`], out.
        PLATFORM_PARAMETERS = 5;
        /// arg: [`FeatureInfo`].
        GET_FEATURES = 6;
        /// Returns the page size; no argument.
        PAGESIZE = 7;
        /// arg: the domain's handle (UUID), 16 bytes, out.
        GUEST_HANDLE = 8;
        /// arg: 1024 bytes of text, out.
        COMMANDLINE = 9;
        /// arg: a length (u32), then that many bytes, out. Null asks for the length.
        BUILD_ID = 10;
    }
}

/// Bytes of the extra version.
pub const EXTRAVERSION_LEN: usize = 16;
/// Bytes of the capabilities.
pub const CAPABILITIES_LEN: usize = 1024;
/// Bytes of the change set.
pub const CHANGESET_LEN: usize = 64;
/// Bytes of the hypervisor's command line.
pub const COMMANDLINE_LEN: usize = 1024;
/// Bytes of a domain's handle.
pub const DOMAIN_HANDLE_LEN: usize = 16;
/// What [`XenVersionOp::VERSION`] returns for 4.17.
pub const VERSION_4_17: u32 = 4 << 16 | 17;

wire_struct! {
    /// Who built the hypervisor, zero-terminated texts.
    pub struct CompileInfo {
        /// Compiler.
        pub compiler: [u8; 64],
        /// User.
        pub compile_by: [u8; 16],
        /// Machine.
        pub compile_domain: [u8; 32],
        /// Date.
        pub compile_date: [u8; 32],
    }
}
layout!(CompileInfo: 144; compile_by @ 64, compile_domain @ 80, compile_date @ 112);

wire_struct! {
    /// Where the hypervisor's range starts.
    pub struct PlatformParameters {
        /// First address.
        pub virt_start: Vaddr,
    }
}
layout!(PlatformParameters: 8);

wire_struct! {
    /// One word of feature bits.
    pub struct FeatureInfo {
        /// In: which word.
        pub submap_idx: u32,
        /// Out: the bits, numbered as in [`features`].
        pub submap: u32,
    }
}
layout!(FeatureInfo: 8; submap @ 4);
