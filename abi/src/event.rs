//! Event channels (`event_channel.h`).

use crate::frame::Mfn;
use crate::ids::{DomId, Port, VcpuId, Virq};

/// Ports of the 2-level layout (`EVTCHN_2L_NR_CHANNELS`).
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
/// Ports of the FIFO layout.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << 17;

open_enum! {
    /// Sub-operations of `event_channel_op(op, arg)`.
    pub struct EvtchnOp(u32) {
        /// arg: [`BindInterdomain`].
        BIND_INTERDOMAIN = 0;
        /// arg: [`BindVirq`].
        BIND_VIRQ = 1;
        /// arg: [`BindPirq`].
        BIND_PIRQ = 2;
        /// arg: [`PortArg`].
        CLOSE = 3;
        /// arg: [`PortArg`].
        SEND = 4;
        /// arg: [`Status`].
        STATUS = 5;
        /// arg: [`AllocUnbound`].
        ALLOC_UNBOUND = 6;
        /// arg: [`BindIpi`].
        BIND_IPI = 7;
        /// arg: [`BindVcpu`].
        BIND_VCPU = 8;
        /// arg: [`PortArg`].
        UNMASK = 9;
        /// arg: [`Reset`].
        RESET = 10;
        /// arg: [`InitControl`].
        INIT_CONTROL = 11;
        /// arg: [`ExpandArray`].
        EXPAND_ARRAY = 12;
        /// arg: [`SetPriority`].
        SET_PRIORITY = 13;
    }
}

wire_struct! {
    /// Allocates a port in `dom` that `remote_dom` may bind.
    pub struct AllocUnbound {
        /// Where the port is made.
        pub dom: DomId,
        /// Who may bind it.
        pub remote_dom: DomId,
        /// Out: the port.
        pub port: Port,
    }
}
layout!(AllocUnbound: 8; remote_dom @ 2, port @ 4);

wire_struct! {
    /// Binds a new local port to a peer's unbound one.
    pub struct BindInterdomain {
        /// The peer.
        pub remote_dom: DomId,
        /// Padding.
        pub _pad: u16,
        /// Its unbound port.
        pub remote_port: Port,
        /// Out: ours.
        pub local_port: Port,
    }
}
layout!(BindInterdomain: 12; remote_port @ 4, local_port @ 8);

wire_struct! {
    /// Binds a port to a virtual interrupt.
    pub struct BindVirq {
        /// Which.
        pub virq: Virq,
        /// Of which vCPU; 0 for one that is a domain's.
        pub vcpu: VcpuId,
        /// Out: the port.
        pub port: Port,
    }
}
layout!(BindVirq: 12; vcpu @ 4, port @ 8);

wire_struct! {
    /// Binds a port to a physical interrupt.
    pub struct BindPirq {
        /// The domain's interrupt number.
        pub pirq: u32,
        /// [`BindPirq::WILL_SHARE`] or 0.
        pub flags: u32,
        /// Out: the port.
        pub port: Port,
    }
}
layout!(BindPirq: 12; flags @ 4, port @ 8);

impl BindPirq {
    /// Others may bind the same interrupt.
    pub const WILL_SHARE: u32 = 1;
}

wire_struct! {
    /// Binds a port for signals between vCPUs.
    pub struct BindIpi {
        /// The vCPU that is notified.
        pub vcpu: VcpuId,
        /// Out: the port.
        pub port: Port,
    }
}
layout!(BindIpi: 8; port @ 4);

wire_struct! {
    /// The argument of close, send and unmask.
    pub struct PortArg {
        /// The port.
        pub port: Port,
    }
}
layout!(PortArg: 4);

open_enum! {
    /// What a port is bound to.
    pub struct PortStatus(u32) {
        /// Nothing.
        CLOSED = 0;
        /// Waits for a peer.
        UNBOUND = 1;
        /// A peer's port.
        INTERDOMAIN = 2;
        /// A physical interrupt.
        PIRQ = 3;
        /// A virtual interrupt.
        VIRQ = 4;
        /// A vCPU.
        IPI = 5;
    }
}

wire_struct! {
    /// The state of a port.
    pub struct Status {
        /// Whose port.
        pub dom: DomId,
        /// Padding.
        pub _pad: u16,
        /// Which.
        pub port: Port,
        /// Out: what it is bound to.
        pub status: PortStatus,
        /// Out: which vCPU it notifies.
        pub vcpu: VcpuId,
        /// Out: the peer domain in the low 16 bits (UNBOUND, INTERDOMAIN), the interrupt (PIRQ),
        /// or the VIRQ (VIRQ).
        pub detail: u32,
        /// Out: the peer's port (INTERDOMAIN).
        pub remote_port: Port,
    }
}
layout!(Status: 24; port @ 4, status @ 8, vcpu @ 12, detail @ 16, remote_port @ 20);

wire_struct! {
    /// Moves a port's notifications to another vCPU.
    pub struct BindVcpu {
        /// The port.
        pub port: Port,
        /// The vCPU.
        pub vcpu: VcpuId,
    }
}
layout!(BindVcpu: 8; vcpu @ 4);

wire_struct! {
    /// Closes all ports of a domain.
    pub struct Reset {
        /// Whose.
        pub dom: DomId,
    }
}
layout!(Reset: 2);

wire_struct! {
    /// Gives a vCPU its FIFO control block and switches the domain to FIFO.
    pub struct InitControl {
        /// Frame of the control block.
        pub control_gfn: Mfn,
        /// Its offset; the block must not cross the frame.
        pub offset: u32,
        /// Whose.
        pub vcpu: VcpuId,
        /// Out: bits of a link, 17.
        pub link_bits: u8,
        /// Padding.
        pub _pad: [u8; 7],
    }
}
layout!(InitControl: 24; offset @ 8, vcpu @ 12, link_bits @ 16);

wire_struct! {
    /// Adds a page to the FIFO event array.
    pub struct ExpandArray {
        /// The page.
        pub array_gfn: Mfn,
    }
}
layout!(ExpandArray: 8);

wire_struct! {
    /// Sets a port's FIFO queue.
    pub struct SetPriority {
        /// The port.
        pub port: Port,
        /// 0 (first) to 15 (last).
        pub priority: u32,
    }
}
layout!(SetPriority: 8; priority @ 4);

/// The FIFO layout: event words and the control block.
pub mod fifo {
    /// First queue to be served.
    pub const PRIORITY_MAX: u32 = 0;
    /// Queue of a port nobody set.
    pub const PRIORITY_DEFAULT: u32 = 7;
    /// Last queue.
    pub const PRIORITY_MIN: u32 = 15;
    /// Queues a vCPU.
    pub const MAX_QUEUES: usize = 16;
    /// Bit of an event word: an event waits.
    pub const PENDING: u32 = 1 << 31;
    /// Bit: masked.
    pub const MASKED: u32 = 1 << 30;
    /// Bit: linked on a queue.
    pub const LINKED: u32 = 1 << 29;
    /// Bit: the hypervisor changes the link.
    pub const BUSY: u32 = 1 << 28;
    /// The port of the next event.
    pub const LINK_MASK: u32 = (1 << 17) - 1;
    /// Event words in a page of the array.
    pub const WORDS_PER_PAGE: u32 = 1024;

    wire_struct! {
        /// A vCPU's queues (`evtchn_fifo_control_block`).
        pub struct ControlBlock {
            /// One bit a queue that is not empty.
            pub ready: u32,
            /// Reserved.
            pub _rsvd: u32,
            /// First port of each queue.
            pub head: [u32; MAX_QUEUES],
        }
    }
    layout!(ControlBlock: 72; head @ 8);
}
