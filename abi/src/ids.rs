//! Names of domains, ports, grants, virtual CPUs and virtual interrupts (`xen.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// A domain (`domid_t`). Real domains lie below [`DomId::FIRST_RESERVED`].
    pub struct DomId(u16) {
        /// The caller itself. Equal to [`DomId::FIRST_RESERVED`].
        SELF = 0x7ff0;
        /// Owner of device memory, in page-table operations.
        IO = 0x7ff1;
        /// Owner of hypervisor memory shared with guests.
        XEN = 0x7ff2;
        /// Owner of copy-on-write pages; unused here.
        COW = 0x7ff3;
        /// Names no domain.
        INVALID = 0x7ff4;
        /// The idle domain; never seen by guests.
        IDLE = 0x7fff;
    }
}

impl DomId {
    /// First number that names no real domain.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The initial domain.
    pub const DOM0: Self = Self(0);

    /// Whether the number can name a real domain.
    pub const fn is_real(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

/// An event channel port of one domain (`evtchn_port_t`). Port 0 is never bound.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Port(pub u32);

/// An index into a domain's grant table (`grant_ref_t`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

/// A virtual CPU of one domain, from 0.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct VcpuId(pub u32);

open_enum! {
    /// A virtual interrupt. `V.`: one a vCPU; `G.`: one a domain.
    pub struct Virq(u32) {
        /// V. Timebase update, and requested timeout.
        TIMER = 0;
        /// V. Request for the guest to dump debug information.
        DEBUG = 1;
        /// G. Bytes arrived on the emergency console.
        CONSOLE = 2;
        /// G. A domain changed its state (died, shut down).
        DOM_EXC = 3;
        /// G. The trace buffer has records.
        TBUF = 4;
        /// G. A domain paused for debugging.
        DEBUGGER = 6;
        /// V. The profiler has a sample.
        XENOPROF = 7;
        /// G. Bytes arrived on the hypervisor's console ring.
        CON_RING = 8;
        /// G. A physical CPU changed its state.
        PCPU_STATE = 9;
        /// G. A memory event occurred.
        MEM_EVENT = 10;
        /// G. Argo interdomain message notification.
        ARGO = 11;
        /// G. Low on heap memory.
        ENOMEM = 12;
        /// V. Performance counter interrupt.
        XENPMU = 13;
        /// Architecture-defined; x86 uses it for machine checks.
        ARCH_0 = 16;
    }
}

impl Virq {
    /// How many there are (`NR_VIRQS`); a number at or above it is no VIRQ.
    pub const COUNT: u32 = 24;
}
