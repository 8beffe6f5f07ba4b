//! `sched_op(op, arg)` (`sched.h`).

use crate::frame::Vaddr;
use crate::ids::DomId;

open_enum! {
    /// Sub-operations.
    pub struct SchedOp(u32) {
        /// Gives up the CPU.
        YIELD = 0;
        /// Unmasks events and waits for one.
        BLOCK = 1;
        /// [`Shutdown`] of the caller's domain.
        SHUTDOWN = 2;
        /// [`Poll`].
        POLL = 3;
        /// [`RemoteShutdown`], for the privileged.
        REMOTE_SHUTDOWN = 4;
        /// [`Shutdown`]: the reason a later shutdown will have.
        SHUTDOWN_CODE = 5;
        /// [`Watchdog`].
        WATCHDOG = 6;
        /// [`PinOverride`], for the initial domain.
        PIN_OVERRIDE = 7;
    }
}

open_enum! {
    /// Why a domain shut down.
    pub struct ShutdownReason(u32) {
        /// It is done.
        POWEROFF = 0;
        /// To be started again.
        REBOOT = 1;
        /// To be saved.
        SUSPEND = 2;
        /// It crashed.
        CRASH = 3;
        /// Its watchdog ran out.
        WATCHDOG = 4;
        /// Soft reset.
        SOFT_RESET = 5;
    }
}

wire_struct! {
    /// Argument of shutdown.
    pub struct Shutdown {
        /// Why.
        pub reason: ShutdownReason,
    }
}
layout!(Shutdown: 4);

wire_struct! {
    /// Waits until one of the ports is pending (masked ones too), or a deadline.
    pub struct Poll {
        /// Array of ports.
        pub ports: Vaddr,
        /// How many.
        pub nr_ports: u32,
        /// Padding.
        pub _pad: u32,
        /// Absolute system time in ns; 0 waits for ever.
        pub timeout: u64,
    }
}
layout!(Poll: 24; nr_ports @ 8, timeout @ 16);

impl Poll {
    /// Ports a poll may name.
    pub const MAX_PORTS: u32 = 128;
}

wire_struct! {
    /// Argument of remote_shutdown.
    pub struct RemoteShutdown {
        /// Which domain.
        pub domain_id: DomId,
        /// Padding.
        pub _pad: u16,
        /// Why.
        pub reason: ShutdownReason,
    }
}
layout!(RemoteShutdown: 8; reason @ 4);

wire_struct! {
    /// Argument of watchdog.
    pub struct Watchdog {
        /// 0 makes one; its id is returned.
        pub id: u32,
        /// Seconds; 0 ends it.
        pub timeout: u32,
    }
}
layout!(Watchdog: 8; timeout @ 4);

wire_struct! {
    /// Argument of pin_override.
    pub struct PinOverride {
        /// The physical CPU; negative ends the override.
        pub pcpu: i32,
    }
}
layout!(PinOverride: 4);
