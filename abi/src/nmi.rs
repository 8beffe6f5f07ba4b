//! `nmi_op(op, arg)`, for guests older than `callback_op`, and NMI reasons (`nmi.h`).

use crate::frame::Vaddr;

open_enum! {
    /// Sub-operations.
    pub struct NmiOp(u32) {
        /// arg: [`NmiCallback`].
        REGISTER_CALLBACK = 0;
        /// No argument.
        UNREGISTER_CALLBACK = 1;
    }
}

wire_struct! {
    /// `xennmi_callback`.
    pub struct NmiCallback {
        /// The handler.
        pub handler_address: Vaddr,
        /// Padding.
        pub _pad: u64,
    }
}
layout!(NmiCallback: 16);

/// Reasons in `arch_shared_info.nmi_reason`.
pub mod reason {
    /// I/O check.
    pub const IO_ERROR: u64 = 1 << 0;
    /// PCI system error.
    pub const PCI_SERR: u64 = 1 << 1;
    /// Unknown.
    pub const UNKNOWN: u64 = 1 << 2;
}
