//! `physdev_op(op, arg)` (`physdev.h`).

use crate::frame::{Mfn, Vaddr};
use crate::ids::DomId;

open_enum! {
    /// Sub-operations.
    pub struct PhysdevOp(u32) {
        /// Old guests; always succeeds.
        IRQ_UNMASK_NOTIFY = 4;
        /// [`IrqStatusQuery`].
        IRQ_STATUS_QUERY = 5;
        /// [`SetIopl`].
        SET_IOPL = 6;
        /// [`SetIobitmap`].
        SET_IOBITMAP = 7;
        /// [`Apic`].
        APIC_READ = 8;
        /// [`Apic`].
        APIC_WRITE = 9;
        /// [`Irq`].
        ALLOC_IRQ_VECTOR = 10;
        /// [`Irq`].
        FREE_IRQ_VECTOR = 11;
        /// [`Eoi`].
        EOI = 12;
        /// [`MapPirq`].
        MAP_PIRQ = 13;
        /// [`UnmapPirq`].
        UNMAP_PIRQ = 14;
        /// [`ManagePci`].
        MANAGE_PCI_ADD = 15;
        /// [`ManagePci`].
        MANAGE_PCI_REMOVE = 16;
        /// [`PirqEoiGmfn`]; turns automatic unmasking on.
        PIRQ_EOI_GMFN_V1 = 17;
        /// [`ManagePci`].
        RESTORE_MSI = 19;
        /// Adds a virtual function.
        MANAGE_PCI_ADD_EXT = 20;
        /// [`SetupGsi`].
        SETUP_GSI = 21;
        /// [`GetFreePirq`].
        GET_FREE_PIRQ = 23;
        /// [`PciMmcfgReserved`].
        PCI_MMCFG_RESERVED = 24;
        /// [`PciDeviceAdd`].
        PCI_DEVICE_ADD = 25;
        /// [`PciDevice`].
        PCI_DEVICE_REMOVE = 26;
        /// [`PciDevice`].
        RESTORE_MSI_EXT = 27;
        /// [`PirqEoiGmfn`].
        PIRQ_EOI_GMFN_V2 = 28;
        /// Debug port.
        DBGP_OP = 29;
        /// [`PciDevice`].
        PREPARE_MSIX = 30;
        /// [`PciDevice`].
        RELEASE_MSIX = 31;
    }
}

wire_struct! {
    /// Ends an interrupt.
    pub struct Eoi {
        /// The PIRQ.
        pub irq: u32,
    }
}
layout!(Eoi: 4);

wire_struct! {
    /// A page whose bits say which PIRQs need an [`Eoi`].
    pub struct PirqEoiGmfn {
        /// The page.
        pub gmfn: Mfn,
    }
}
layout!(PirqEoiGmfn: 8);

wire_struct! {
    /// What an interrupt needs.
    pub struct IrqStatusQuery {
        /// The PIRQ.
        pub irq: u32,
        /// Out: `IrqStatusQuery::NEEDS_EOI`, `SHARED`.
        pub flags: u32,
    }
}
layout!(IrqStatusQuery: 8; flags @ 4);

impl IrqStatusQuery {
    /// The guest must end it.
    pub const NEEDS_EOI: u32 = 1 << 0;
    /// Others use it.
    pub const SHARED: u32 = 1 << 1;
}

wire_struct! {
    /// I/O privilege of the vCPU.
    pub struct SetIopl {
        /// 0..=3.
        pub iopl: u32,
    }
}
layout!(SetIopl: 4);

wire_struct! {
    /// Ports user mode may use.
    pub struct SetIobitmap {
        /// A set bit denies.
        pub bitmap: Vaddr,
        /// At most 65536.
        pub nr_ports: u32,
        /// Padding.
        pub _pad: u32,
    }
}
layout!(SetIobitmap: 16; nr_ports @ 8);

wire_struct! {
    /// A register of an I/O APIC.
    pub struct Apic {
        /// Its physical address.
        pub apic_physbase: u64,
        /// Register.
        pub reg: u32,
        /// Value.
        pub value: u32,
    }
}
layout!(Apic: 16; reg @ 8, value @ 12);

wire_struct! {
    /// A vector for an interrupt; the vector has no meaning any more.
    pub struct Irq {
        /// The interrupt.
        pub irq: u32,
        /// Out.
        pub vector: u32,
    }
}
layout!(Irq: 8; vector @ 4);

open_enum! {
    /// What [`MapPirq`] maps.
    pub struct MapPirqType(u32) {
        /// One MSI or MSI-X vector, segment 0.
        MSI = 0;
        /// A GSI.
        GSI = 1;
        /// Unknown.
        UNKNOWN = 2;
        /// One MSI or MSI-X vector; bits 16 and up of the bus are the segment.
        MSI_SEG = 3;
        /// Several MSI vectors.
        MULTI_MSI = 4;
    }
}

wire_struct! {
    /// Gives a domain an interrupt as a PIRQ.
    pub struct MapPirq {
        /// Whose.
        pub domid: DomId,
        /// Padding.
        pub _pad0: u16,
        /// What (`type`).
        pub kind: MapPirqType,
        /// The GSI; -1 for MSI.
        pub index: i32,
        /// In: wanted, or -1. Out: the PIRQ.
        pub pirq: i32,
        /// MSI: bus.
        pub bus: i32,
        /// MSI: device and function.
        pub devfn: i32,
        /// MSI-X: which entry. Several MSI: in how many wanted, out how many there are.
        pub entry_nr: i32,
        /// Padding.
        pub _pad1: u32,
        /// MSI-X: address of the table; 0 means MSI.
        pub table_base: u64,
    }
}
layout!(MapPirq: 40;
    kind @ 4, index @ 8, pirq @ 12, bus @ 16, devfn @ 20, entry_nr @ 24, table_base @ 32);

wire_struct! {
    /// Takes a PIRQ away.
    pub struct UnmapPirq {
        /// Whose.
        pub domid: DomId,
        /// Padding.
        pub _pad: u16,
        /// The PIRQ.
        pub pirq: i32,
    }
}
layout!(UnmapPirq: 8; pirq @ 4);

wire_struct! {
    /// A PCI function of segment 0.
    pub struct ManagePci {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
}
layout!(ManagePci: 2; devfn @ 1);

wire_struct! {
    /// Sets up a GSI.
    pub struct SetupGsi {
        /// Which.
        pub gsi: i32,
        /// 0 edge, 1 level.
        pub triggering: u8,
        /// 0 active high, 1 low.
        pub polarity: u8,
        /// Padding.
        pub _pad: u16,
    }
}
layout!(SetupGsi: 8; triggering @ 4, polarity @ 5);

wire_struct! {
    /// Asks for an unused PIRQ.
    pub struct GetFreePirq {
        /// For what (`type`).
        pub kind: MapPirqType,
        /// Out.
        pub pirq: u32,
    }
}
layout!(GetFreePirq: 8; pirq @ 4);

wire_struct! {
    /// A memory-mapped configuration area.
    pub struct PciMmcfgReserved {
        /// Its address.
        pub address: u64,
        /// PCI segment.
        pub segment: u16,
        /// First bus.
        pub start_bus: u8,
        /// Last bus.
        pub end_bus: u8,
        /// `PciMmcfgReserved::RESERVED` or 0.
        pub flags: u32,
    }
}
layout!(PciMmcfgReserved: 16; segment @ 8, start_bus @ 10, end_bus @ 11, flags @ 12);

impl PciMmcfgReserved {
    /// The firmware reserved it.
    pub const RESERVED: u32 = 1;
}

wire_struct! {
    /// Tells of a PCI function; optional words may follow.
    pub struct PciDeviceAdd {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// `PciDeviceAdd::EXTFN`, `VIRTFN`, `PXM`.
        pub flags: u32,
        /// Of a virtual function: its physical function's bus.
        pub physfn_bus: u8,
        /// And device and function.
        pub physfn_devfn: u8,
        /// Padding.
        pub _pad: u16,
    }
}
layout!(PciDeviceAdd: 12; bus @ 2, devfn @ 3, flags @ 4, physfn_bus @ 8, physfn_devfn @ 9);

impl PciDeviceAdd {
    /// An extended function.
    pub const EXTFN: u32 = 1;
    /// A virtual function.
    pub const VIRTFN: u32 = 2;
    /// A word with its node follows.
    pub const PXM: u32 = 4;
}

wire_struct! {
    /// A PCI function.
    pub struct PciDevice {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
}
layout!(PciDevice: 4; bus @ 2, devfn @ 3);
