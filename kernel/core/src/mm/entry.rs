//! Which bits an entry may have, and which the core adds.
//!
//! Source: the architecture's paging structures; which bits a real Xen refuses and adds.

use abi::layout::{FIRST_XEN_SLOT, LAST_XEN_SLOT};
use abi::{Pte, PteFlags, Vaddr};

/// Bits that decide how a mapping is cached. On RAM they would alias the core's own mapping (XSA-402), so they are
/// stored only for what is not RAM.
pub const CACHE: u64 = PteFlags::PWT.0 | PteFlags::PCD.0 | PteFlags::PAT.0;
/// Present.
pub const PRESENT: u64 = PteFlags::PRESENT.0;
/// Writable.
pub const RW: u64 = PteFlags::RW.0;
/// Accessed and dirty: the hardware sets them behind our back.
pub const AD: u64 = PteFlags::ACCESSED.0 | PteFlags::DIRTY.0;
/// Bits that an L1 entry may not have: software's bit 62, which marks granted mappings in Xen. Cacheability is another
/// matter: see [`CACHE`].
pub const L1_FORBIDDEN: u64 = 1 << 62;
/// Software's bit 52: the core added USER to a kernel mapping.
const GUEST_KERNEL: u64 = 1 << 52;

/// Bits that an entry of a table above L1 may not have.
pub const TABLE_FORBIDDEN: u64 = CACHE | PteFlags::GLOBAL.0;

/// Bits that may change on a live entry with nothing to check: an allow-list (XSA-148, XSA-182).
const FREE: u64 =
    PteFlags::NX.0 | PteFlags::AVAIL.0 | PteFlags::AVAIL_HIGH.0 | PteFlags::GLOBAL.0 | AD | PteFlags::USER.0;

/// Do two present entries differ in nothing but bits that need no check?
pub const fn is_harmless_change(old: Pte, new: Pte) -> bool {
    (old.0 ^ new.0) & !FREE == 0
}

/// Do two present entries differ in RW, and otherwise in nothing that needs a check?
pub const fn is_rw_change(old: Pte, new: Pte) -> bool {
    (old.0 ^ new.0) & !FREE == RW
}

/// The present L1 entry as it is stored: kernel mappings get USER, as both modes of a PV guest run in ring 3, and bit 52, so
/// that they can be told. GLOBAL, which a guest may ask for, is left out: a CR3 load is the flush that guests and this
/// core rely on. (Xen sets it on user mappings, and flushes otherwise.)
pub const fn adjust_l1(entry: Pte) -> Pte {
    let entry = entry.0 & !PteFlags::GLOBAL.0;
    Pte(if entry & PteFlags::USER.0 == 0 { entry | GUEST_KERNEL | PteFlags::USER.0 } else { entry })
}

/// Is this present entry stored as it is, and allowed on RAM?
pub const fn is_plain_l1(entry: Pte) -> bool {
    entry.0 & (CACHE | L1_FORBIDDEN | PteFlags::GLOBAL.0 | PteFlags::USER.0) == PteFlags::USER.0
}

/// The present entry of a higher table as it is stored.
pub const fn adjust_table(entry: Pte) -> Pte {
    Pte(entry.0 | PteFlags::USER.0)
}

/// May a guest have this address mapped: canonical, and outside of the core's range?
pub const fn is_guest_address(va: Vaddr) -> bool {
    let slot = va.table_index(4);
    va.is_canonical() && !(slot >= FIRST_XEN_SLOT && slot <= LAST_XEN_SLOT)
}
