//! Page tables and pages.

use crate::clock::Clock;
use crate::slot;
use conformance_guests::Test;
use conformance_guests::abi::memory::{MemoryOp, MemoryReservation};
use conformance_guests::abi::mmu::{MmuUpdate, MmuextCmd};
use conformance_guests::abi::{DomId, Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, Page};
use conformance_guests::ops::{MAP, READ, memory, mmu_update_for, mmuext, update_va};

pub fn measure(t: &mut Test, clock: &mut Clock) {
    updates(t, clock);
    clock.median("tlb_flush_local", || {
        mmuext(MmuextCmd::TLB_FLUSH_LOCAL, 0, 0);
    });
    let page = probe::page();
    clock.median("invlpg_local", || {
        mmuext(MmuextCmd::INVLPG_LOCAL, page.va, 0);
    });
    t.ok("flush", mmuext(MmuextCmd::TLB_FLUSH_LOCAL, 0, 0));
    t.ok("invlpg", mmuext(MmuextCmd::INVLPG_LOCAL, page.va, 0));
    base_pointers(t, clock);
    pins(t, clock);
    pages(t, clock);
}

/// One of two, in turn.
fn turns(entries: [Pte; 2]) -> impl FnMut() -> Pte {
    let [mut next, mut after] = entries;
    move || {
        core::mem::swap(&mut next, &mut after);
        next
    }
}

fn updates(t: &mut Test, clock: &mut Clock) {
    let (a, b) = (probe::page(), probe::page());
    let at = slot(a.va);
    let mut next = turns([Pte::new(a.mfn, MAP), Pte::new(b.mfn, MAP)]);
    let mut row = clock.row("mmu_update_1");
    for _ in 0..crate::clock::TIMES {
        let mut one = [MmuUpdate { ptr: at, val: next().0 }];
        row.time(|| {
            mmu_update_for(&mut one, DomId::SELF);
        });
    }
    row.each_of(1);
    // Each entry changes, each time.
    let mut sixteen = [(); 16].map(|()| MmuUpdate { ptr: at, val: next().0 });
    let mut row = clock.row("mmu_update_16_per_entry");
    row.repeat(|| {
        mmu_update_for(&mut sixteen, DomId::SELF);
    });
    row.each_of(16);
    t.eq("sixteen of them", mmu_update_for(&mut sixteen, DomId::SELF), (0, 16));
    clock.median("update_va_new_frame_flush", || {
        update_va(a.va, next(), 1);
    });
    t.ok("update_va_mapping", update_va(a.va, next(), 1));
    let mut flip = turns([Pte::new(a.mfn, READ), Pte::new(a.mfn, MAP)]);
    update_va(a.va, flip(), 1);
    clock.median("update_va_mapping", || {
        update_va(a.va, flip(), 0);
    });
    clock.median("update_va_mapping_invlpg", || {
        update_va(a.va, flip(), 2);
    });
    t.ok("update_va_mapping of flags", update_va(a.va, flip(), 2));
}

/// A root like ours.
pub fn copy_of_l4(t: &mut Test) -> Page {
    let page = probe::page();
    for i in (0..256).chain(272..512) {
        page.set(i, probe::peek(conformance_guests::l4() + 8 * i as u64));
    }
    t.ok("protect", page.protect(false));
    t.ok("pin", mmuext(MmuextCmd::PIN_L4_TABLE, page.mfn.0, 0));
    page
}

fn base_pointers(t: &mut Test, clock: &mut Clock) {
    let other = copy_of_l4(t).mfn.0;
    let own = probe::mfn_of(conformance_guests::l4()).0;
    let mut here = own;
    clock.median("new_baseptr", || {
        here ^= own ^ other;
        mmuext(MmuextCmd::NEW_BASEPTR, here, 0);
    });
    t.ok("back", mmuext(MmuextCmd::NEW_BASEPTR, own, 0));
}

fn pins(t: &mut Test, clock: &mut Clock) {
    let (table, leaf) = (probe::page(), probe::page());
    (0..512).for_each(|i| table.set(i, Pte::new(leaf.mfn, MAP).0));
    t.ok("protect", table.protect(false));
    let mut row = clock.row("pin_unpin_per_pte");
    row.repeat(|| {
        mmuext(MmuextCmd::PIN_L1_TABLE, table.mfn.0, 0);
        mmuext(MmuextCmd::UNPIN_TABLE, table.mfn.0, 0);
    });
    row.each_of(512);
    t.ok("pin", mmuext(MmuextCmd::PIN_L1_TABLE, table.mfn.0, 0));
    t.ok("unpin", mmuext(MmuextCmd::UNPIN_TABLE, table.mfn.0, 0));
}

fn pages(t: &mut Test, clock: &mut Clock) {
    let page = probe::page();
    let pfn = probe::peek(0xffff_8000_0000_0000 + 8 * page.mfn.0);
    t.ok("unmap", update_va(page.va, Pte::EMPTY, 2));
    let mut list = [page.mfn.0];
    let at = Vaddr(list.as_mut_ptr() as u64);
    let mut request =
        MemoryReservation { extent_start: at, nr_extents: 1, domid: DomId::SELF, ..MemoryReservation::default() };
    let (mut give, mut take) = (clock.row("decrease_reservation"), clock.row("populate_physmap"));
    for _ in 0..crate::clock::TIMES {
        let (mut given, mut taken) = (0, 0);
        give.time(|| given = memory(MemoryOp::DECREASE_RESERVATION, &mut request));
        probe::poke(at.0, pfn);
        take.time(|| taken = memory(MemoryOp::POPULATE_PHYSMAP, &mut request));
        t.eq("a page given and taken", (given, taken), (1, 1));
    }
    give.each_of(1);
    take.each_of(1);
    core::hint::black_box(list);
}
