//! Page-table calls: `mmu_update`, `update_va_mapping`, `mmuext_op` (`xen.h`).

use crate::frame::Vaddr;

wire_struct! {
    /// One request of `mmu_update(requests, count, done, domain)`.
    pub struct MmuUpdate {
        /// Machine address of the entry; the low two bits are an [`MmuUpdateKind`].
        pub ptr: u64,
        /// The new entry, or the PFN for [`MmuUpdateKind::MACHPHYS_UPDATE`].
        pub val: u64,
    }
}
layout!(MmuUpdate: 16; val @ 8);

open_enum! {
    /// Low two bits of [`MmuUpdate::ptr`].
    pub struct MmuUpdateKind(u32) {
        /// A checked write of an entry.
        NORMAL_PT_UPDATE = 0;
        /// A write of the frame's M2P entry.
        MACHPHYS_UPDATE = 1;
        /// As normal, keeping accessed and dirty bits as they are.
        PT_UPDATE_PRESERVE_AD = 2;
        /// As normal; the difference is for translated guests.
        PT_UPDATE_NO_TRANSLATE = 3;
    }
}

impl MmuUpdateKind {
    /// The bits of [`MmuUpdate::ptr`] that hold the kind.
    pub const MASK: u64 = 3;
}

/// `mmu_update` and `mmuext_op` set this bit in their count on a continuation; a guest that
/// sets it resumes a batch (`MMU_UPDATE_PREEMPTED`).
pub const MMU_UPDATE_PREEMPTED: u32 = 1 << 31;

/// Third argument of `update_va_mapping(va, entry, flags)`.
pub mod uvmf {
    /// No flush.
    pub const NONE: u64 = 0;
    /// Flush the TLB.
    pub const TLB_FLUSH: u64 = 1;
    /// Flush the address.
    pub const INVLPG: u64 = 2;
    /// Mask of the two.
    pub const FLUSHTYPE_MASK: u64 = 3;
    /// Flush on the CPUs of the bitmap whose address is the rest of the argument.
    pub const MULTI: u64 = 0;
    /// Flush here (no bitmap).
    pub const LOCAL: u64 = 0;
    /// Flush on every CPU the domain runs on.
    pub const ALL: u64 = 1 << 2;
}

wire_struct! {
    /// One request of `mmuext_op(requests, count, done, domain)`.
    pub struct MmuextOp {
        /// What.
        pub cmd: MmuextCmd,
        /// Padding.
        pub _pad: u32,
        /// A frame or an address.
        pub arg1: u64,
        /// Entries, a bitmap's address or a source frame.
        pub arg2: u64,
    }
}
layout!(MmuextOp: 24; cmd @ 0, arg1 @ 8, arg2 @ 16);

impl MmuextOp {
    /// A request with its arguments.
    pub const fn new(cmd: MmuextCmd, arg1: u64, arg2: u64) -> Self {
        Self { cmd, _pad: 0, arg1, arg2 }
    }

    /// A flush of one address here.
    pub const fn invlpg_local(va: Vaddr) -> Self {
        Self::new(MmuextCmd::INVLPG_LOCAL, va.0, 0)
    }
}

open_enum! {
    /// What a [`MmuextOp`] does.
    pub struct MmuextCmd(u32) {
        /// Pins frame arg1 as an L1.
        PIN_L1_TABLE = 0;
        /// Pins frame arg1 as an L2.
        PIN_L2_TABLE = 1;
        /// Pins frame arg1 as an L3.
        PIN_L3_TABLE = 2;
        /// Pins frame arg1 as an L4.
        PIN_L4_TABLE = 3;
        /// Unpins frame arg1.
        UNPIN_TABLE = 4;
        /// Kernel page-table base, frame arg1.
        NEW_BASEPTR = 5;
        /// Flushes this CPU's TLB.
        TLB_FLUSH_LOCAL = 6;
        /// Flushes address arg1 here.
        INVLPG_LOCAL = 7;
        /// Flushes the TLBs of the vCPUs in the bitmap at arg2.
        TLB_FLUSH_MULTI = 8;
        /// Flushes address arg1 on the vCPUs in the bitmap at arg2.
        INVLPG_MULTI = 9;
        /// Flushes the TLBs of all the domain's vCPUs.
        TLB_FLUSH_ALL = 10;
        /// Flushes address arg1 on all the domain's vCPUs.
        INVLPG_ALL = 11;
        /// Writes back and flushes this CPU's caches; needs device access.
        FLUSH_CACHE = 12;
        /// LDT at address arg1 with arg2 entries.
        SET_LDT = 13;
        /// User page-table base, frame arg1; 0 for none.
        NEW_USER_BASEPTR = 15;
        /// Zeroes frame arg1.
        CLEAR_PAGE = 16;
        /// Copies frame arg2 to frame arg1.
        COPY_PAGE = 17;
        /// Flushes all CPUs' caches.
        FLUSH_CACHE_GLOBAL = 18;
        /// Superpage bookkeeping; gone.
        MARK_SUPER = 19;
        /// Superpage bookkeeping; gone.
        UNMARK_SUPER = 20;
    }
}
