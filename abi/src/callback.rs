//! `callback_op(op, arg)` (`callback.h`).

use crate::frame::Vaddr;

open_enum! {
    /// Sub-operations.
    pub struct CallbackOp(u32) {
        /// arg: [`CallbackRegister`].
        REGISTER = 0;
        /// arg: [`CallbackUnregister`].
        UNREGISTER = 1;
    }
}

open_enum! {
    /// A kind of entry into the guest.
    pub struct CallbackType(u16) {
        /// Event upcall.
        EVENT = 0;
        /// A segment could not be loaded on the way back to the guest.
        FAILSAFE = 1;
        /// System call.
        SYSCALL = 2;
        /// The old number of SYSENTER; refused.
        SYSENTER_DEPRECATED = 3;
        /// NMI.
        NMI = 4;
        /// `sysenter`.
        SYSENTER = 5;
        /// System call from 32-bit code.
        SYSCALL32 = 7;
    }
}

/// Flag of a callback: it starts with events masked.
pub const MASK_EVENTS: u16 = 1 << 0;

wire_struct! {
    /// Sets a callback.
    pub struct CallbackRegister {
        /// Which (`type`).
        pub kind: CallbackType,
        /// [`MASK_EVENTS`] or 0.
        pub flags: u16,
        /// Padding.
        pub _pad: u32,
        /// Where to.
        pub address: Vaddr,
    }
}
layout!(CallbackRegister: 16; flags @ 2, address @ 8);

wire_struct! {
    /// Removes a callback.
    pub struct CallbackUnregister {
        /// Which (`type`).
        pub kind: CallbackType,
        /// Unused.
        pub _unused: u16,
    }
}
layout!(CallbackUnregister: 4; _unused @ 2);
