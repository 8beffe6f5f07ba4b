//! mmu_update: entries of every level, commands, and what must never be written.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::MACH2PHYS_VIRT_START;
use conformance_guests::abi::mmu::{MmuUpdate, MmuextCmd};
use conformance_guests::abi::{DomId, Errno, Maddr, Mfn, Pte, PteFlags, Vaddr};
use conformance_guests::domain_rt::probe::{self, Page, call};
use conformance_guests::ops::{MAP, READ, TABLE, mmu_update, mmu_update_for, mmuext, update_va};
use conformance_guests::{Test, guest};

guest!(run);

/// An L4 slot of user space that is free in the tables a domain starts with.
const SLOT: usize = 3;

fn run(t: &mut Test) {
    arguments(t);
    leaf(t);
    machphys(t);
    let tables = build(t);
    aliases(t, &tables);
    flags(t, &tables);
    levels(t, &tables);
    top(t);
}

fn slot(va: u64, level: u32) -> u64 {
    probe::pte_slot(Vaddr(va), level).map_or(0, |(at, _)| at.0)
}

fn l4_mfn() -> Mfn {
    probe::mfn_of(conformance_guests::l4())
}

fn arguments(t: &mut Test) {
    let raw = |at: u64, count: u64, domain: u64| call(Hypercall::MMU_UPDATE, &[at, count, 0, domain]);
    t.ok("none", raw(0x1000, 0, 0x7ff0));
    t.err("requests nowhere", raw(0x1000, 1, 0x7ff0), Errno::EFAULT);
    t.err("requests in the hypervisor", raw(0xffff_8300_0000_0000, 1, 0x7ff0), Errno::EFAULT);
    let page = probe::page();
    let mut good = [MmuUpdate { ptr: slot(page.va, 1), val: Pte::new(page.mfn, MAP).0 }];
    t.err("of nobody", mmu_update_for(&mut good, DomId(77)).0, Errno::ESRCH);
    t.ok("of oneself", mmu_update_for(&mut good, DomId::SELF).0);
    let mut batch = [good, [MmuUpdate { ptr: 0x1000_0000_0000_0000, val: 0 }], good].concat_flat();
    let (ret, done) = mmu_update_for(&mut batch, DomId::SELF);
    t.err("a batch with a bad frame", ret, Errno::EINVAL);
    t.eq("stops there", done, 1);
    let mut fine = [good, good, good].concat_flat();
    t.eq("a batch", mmu_update_for(&mut fine, DomId::SELF), (0, 3));
}

/// Flattens an array of one-element arrays.
trait Flat<T, const N: usize> {
    fn concat_flat(self) -> [T; N];
}

impl<T, const N: usize> Flat<T, N> for [[T; 1]; N] {
    fn concat_flat(self) -> [T; N] {
        self.map(|[one]| one)
    }
}

fn leaf(t: &mut Test) {
    let (a, b) = (probe::page(), probe::page());
    b.set(0, 0xb);
    t.ok("write an L1 entry", mmu_update(slot(a.va, 1), Pte::new(b.mfn, MAP).0));
    t.ok("flush", mmuext(MmuextCmd::INVLPG_LOCAL, a.va, 0));
    t.eq("seen", probe::peek(a.va), 0xb);
    t.ok("unmap", mmu_update(slot(a.va, 1), 0));
    t.ok("map back", mmu_update(slot(a.va, 1), Pte::new(a.mfn, MAP).0));
    t.ok("flush", mmuext(MmuextCmd::INVLPG_LOCAL, a.va, 0));
    t.ok("command 3 is as 0", mmu_update(slot(a.va, 1) | 3, Pte::new(a.mfn, MAP).0));
    // The low three bits of the address are the command; there is none from 4 up.
    t.err("a misaligned entry", mmu_update(slot(a.va, 1) + 4, Pte::new(a.mfn, MAP).0), Errno::ENOSYS);
    // Accessed and dirty bits survive command 2 and not command 0.
    let clean = MAP.without(PteFlags::DIRTY).without(PteFlags::ACCESSED);
    t.ok("clean", mmu_update(slot(a.va, 1), Pte::new(a.mfn, clean).0));
    t.ok("flush", mmuext(MmuextCmd::INVLPG_LOCAL, a.va, 0));
    a.set(0, 1);
    t.yes("the processor marks it", dirty(a.va));
    t.ok("write, keeping them", mmu_update(slot(a.va, 1) | 2, Pte::new(a.mfn, clean).0));
    t.yes("kept", dirty(a.va));
    t.ok("write, not keeping them", mmu_update(slot(a.va, 1), Pte::new(a.mfn, clean).0));
    t.yes("lost", !dirty(a.va));
    t.ok("flush", mmuext(MmuextCmd::INVLPG_LOCAL, a.va, 0));
    // A page that is no page table is written as data.
    let data = probe::page();
    t.ok("an entry in a data page", mmu_update(data.slot(5), 0x1234_5678_9abc_def0));
    t.eq("is plain data", data.get(5), 0x1234_5678_9abc_def0);
    t.err("an entry in no frame", mmu_update(0xffff_ffff_f000, 0), Errno::EINVAL);
}

fn dirty(va: u64) -> bool {
    probe::pte_slot(Vaddr(va), 1).is_some_and(|(_, entry)| entry.has(PteFlags::DIRTY))
}

fn machphys(t: &mut Test) {
    let page = probe::page();
    let m2p = MACH2PHYS_VIRT_START.0 + 8 * page.mfn.0;
    let old = probe::peek(m2p);
    t.ok("machphys_update", mmu_update(page.mfn.maddr().0 | 1, 0x4321));
    t.eq("seen", probe::peek(m2p), 0x4321);
    t.ok("put back", mmu_update(page.mfn.maddr().0 | 1, old));
    t.err("of no frame", mmu_update(0xffff_ffff_f001, 1), Errno::EINVAL);
    let mut foreign = [MmuUpdate { ptr: foreign_frame().0 | 1, val: 1 }];
    t.err("of the hypervisor's frame", mmu_update_for(&mut foreign, DomId::SELF).0, Errno::EINVAL);
}

/// A frame of the hypervisor's that guests can see in their L4.
fn foreign_frame() -> Maddr {
    Pte(probe::peek(conformance_guests::l4() + 8 * 256)).maddr()
}

/// A tree of our own under the running L4.
struct Tables {
    l1: Page,
    l2: Page,
    l3: Page,
    /// Mapped by entry 7 of the L1.
    leaf: Page,
}

impl Tables {
    fn va(&self) -> u64 {
        ((SLOT as u64) << 39) + (7 << 12)
    }
}

fn build(t: &mut Test) -> Tables {
    let [leaf, l1, l2, l3] = [(); 4].map(|()| probe::page());
    leaf.set(0, 0x1eaf);
    l1.set(7, Pte::new(leaf.mfn, MAP).0);
    l2.set(0, Pte::new(l1.mfn, TABLE).0);
    l3.set(0, Pte::new(l2.mfn, TABLE).0);
    let link = || mmu_update(l4_mfn().maddr().0 + 8 * SLOT as u64, Pte::new(l3.mfn, TABLE).0);
    t.err("tables that are mapped writable", link(), Errno::EINVAL);
    for page in [l1, l2, l3] {
        t.ok("protect", page.protect(false));
    }
    t.ok("link the L3", link());
    let tables = Tables { l1, l2, l3, leaf };
    t.eq("reach the leaf", probe::peek(tables.va()), 0x1eaf);
    tables
}

fn aliases(t: &mut Test, tables: &Tables) {
    let spare = probe::page();
    for table in [tables.l1, tables.l2, tables.l3] {
        let entry = Pte::new(table.mfn, MAP);
        t.err("a writable alias by mmu_update", mmu_update(slot(spare.va, 1), entry.0), Errno::EBUSY);
        t.err("a writable alias in our own L1", mmu_update(tables.l1.slot(9), entry.0), Errno::EBUSY);
        t.err("a writable alias by update_va_mapping", update_va(spare.va, entry, 2), Errno::EBUSY);
        t.ok("a read-only alias", mmu_update(tables.l1.slot(9), Pte::new(table.mfn, READ).0));
        let made_writable = mmu_update(tables.l1.slot(9), entry.0);
        t.err("that may not become writable", made_writable, Errno::EBUSY);
    }
    t.ok("drop it", mmu_update(tables.l1.slot(9), 0));
    t.err("the hypervisor's frame", mmu_update(tables.l1.slot(9), foreign_frame().0 | READ.0), Errno::EBUSY);
}

/// Flags that entries above L1 may not have, on a live entry and on a new one.
fn flags(t: &mut Test, tables: &Tables) {
    let l2_entry = |flags| mmu_update(tables.l2.slot(0), Pte::new(tables.l1.mfn, flags).0);
    let l3_entry = |flags| mmu_update(tables.l3.slot(0), Pte::new(tables.l2.mfn, flags).0);
    let l4_entry = |flags| mmu_update(l4_mfn().maddr().0 + 8 * SLOT as u64, Pte::new(tables.l3.mfn, flags).0);
    let writers: [(&'static str, &dyn Fn(PteFlags) -> i64); 3] =
        [("L2", &l2_entry), ("L3", &l3_entry), ("L4", &l4_entry)];
    for (what, write) in writers {
        t.err(what, write(TABLE | PteFlags::PSE), Errno::EINVAL);
        t.err(what, write(TABLE | PteFlags::GLOBAL), Errno::EINVAL);
        t.ok(what, write(TABLE | PteFlags::AVAIL));
        t.ok(what, write(TABLE | PteFlags::NX));
        t.ok(what, write(TABLE.without(PteFlags::RW)));
        t.ok(what, write(TABLE.without(PteFlags::USER)));
        t.ok(what, write(TABLE.without(PteFlags::ACCESSED)));
        t.ok(what, write(TABLE));
    }
    t.ok("flush", mmuext(MmuextCmd::TLB_FLUSH_LOCAL, 0, 0));
    t.eq("the leaf", probe::peek(tables.va()), 0x1eaf);
    // A flag of a live entry together with another frame.
    let other = probe::page();
    t.ok("protect", other.protect(false));
    let entry = Pte::new(other.mfn, TABLE | PteFlags::PSE).0;
    t.err("a superpage", mmu_update(tables.l2.slot(0), entry), Errno::EINVAL);
    t.ok("another L1", mmu_update(tables.l2.slot(0), Pte::new(other.mfn, TABLE).0));
    t.ok("and back", mmu_update(tables.l2.slot(0), Pte::new(tables.l1.mfn, TABLE).0));
}

/// A table serves one level only.
fn levels(t: &mut Test, tables: &Tables) {
    let entry = |page: Page| Pte::new(page.mfn, TABLE).0;
    t.err("an L2 in an L2", mmu_update(tables.l2.slot(3), entry(tables.l2)), Errno::EINVAL);
    t.err("an L3 in an L2", mmu_update(tables.l2.slot(3), entry(tables.l3)), Errno::EINVAL);
    t.err("an L1 in an L3", mmu_update(tables.l3.slot(3), entry(tables.l1)), Errno::EINVAL);
    t.err("a data page in an L3", mmu_update(tables.l3.slot(3), entry(tables.leaf)), Errno::EINVAL);
    let l4 = l4_mfn().maddr().0;
    t.err("an L2 in an L4", mmu_update(l4 + 8 * 4, entry(tables.l2)), Errno::EINVAL);
    t.ok("an L1 twice", mmu_update(tables.l2.slot(4), entry(tables.l1)));
    t.eq("is mapped twice", probe::peek(tables.va() + (4 << 21)), 0x1eaf);
    t.ok("and once", mmu_update(tables.l2.slot(4), 0));
    let frame = foreign_frame().0 | TABLE.0;
    t.err("the hypervisor's table", mmu_update(tables.l3.slot(3), frame), Errno::EINVAL);
    t.err("a table past all memory", mmu_update(tables.l3.slot(3), 0xff_ffff_f000 | TABLE.0), Errno::EINVAL);
    // Unlinked, its pages are free again.
    t.ok("unlink", mmu_update(l4 + 8 * SLOT as u64, 0));
    for page in [tables.l1, tables.l2, tables.l3] {
        t.ok("writable again", page.protect(true));
    }
}

/// The hypervisor's slots, and linear tables.
fn top(t: &mut Test) {
    let l4 = l4_mfn().maddr().0;
    for index in [256u64, 257, 260, 271] {
        t.err("a slot of the hypervisor", mmu_update(l4 + 8 * index, 0), Errno::EINVAL);
    }
    let own = |flags: PteFlags| Pte::new(l4_mfn(), flags).0;
    t.err("a linear entry, writable", mmu_update(l4 + 8 * 5, own(TABLE)), Errno::EINVAL);
    t.ok("an empty slot", mmu_update(l4 + 8 * 5, 0));
}
