//! Grants of a domain to itself: map, unmap, copy.

use crate::clock::{Clock, TIMES};
use conformance_guests::Test;
use conformance_guests::abi::grant::{
    Copy, CopyPtr, GrantOp, GrantStatus, MapGrantRef, SetupTable, UnmapGrantRef, gntmap,
};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::{DomId, GrantRef, Maddr, Mfn, Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::ops::{MAP, grant, update_va};

pub fn measure(t: &mut Test, clock: &mut Clock) {
    let mut list = [0u64; 1];
    let mut setup = SetupTable {
        dom: DomId::SELF,
        nr_frames: 1,
        frame_list: Vaddr(list.as_mut_ptr() as u64),
        ..SetupTable::default()
    };
    t.ok("setup_table", grant(GrantOp::SETUP_TABLE, &mut setup));
    let table = probe::spare_va();
    let frame = Mfn(core::hint::black_box(list).first().copied().unwrap_or(0));
    t.ok("map the table", update_va(table, Pte::new(frame, MAP), 2));
    let (page, to) = (probe::page(), probe::page());
    probe::poke(table + 8 * 9, 1 | page.mfn.0 << 32);
    probe::poke(table + 8 * 10, 1 | to.mfn.0 << 32);
    maps(t, clock);
    for (single, batch, len) in [
        ("grant_copy_64", "grant_copy_16_64_per_op", 64),
        ("grant_copy_1500", "grant_copy_16_1500_per_op", 1500),
        ("grant_copy_4096", "grant_copy_16_4096_per_op", 4096),
    ] {
        copies::<1>(t, clock, single, len);
        copies::<16>(t, clock, batch, len);
    }
}

fn maps(t: &mut Test, clock: &mut Clock) {
    let va = probe::spare_va();
    let (mut maps, mut unmaps) = (clock.row("grant_map"), clock.row("grant_unmap"));
    for _ in 0..TIMES {
        let mut map = MapGrantRef {
            host_addr: va,
            flags: gntmap::HOST_MAP,
            gref: GrantRef(9),
            dom: DomId(0),
            ..MapGrantRef::default()
        };
        maps.time(|| {
            grant(GrantOp::MAP_GRANT_REF, &mut map);
        });
        let mut unmap =
            UnmapGrantRef { host_addr: va, dev_bus_addr: Maddr(0), handle: map.handle, ..UnmapGrantRef::default() };
        unmaps.time(|| {
            grant(GrantOp::UNMAP_GRANT_REF, &mut unmap);
        });
        t.eq("mapped and unmapped", (map.status, unmap.status), (GrantStatus::OKAY, GrantStatus::OKAY));
    }
    maps.each_of(1);
    unmaps.each_of(1);
}

/// So many copies in one hypercall, from grant to grant.
fn copies<const N: usize>(t: &mut Test, clock: &mut Clock, name: &'static str, len: u16) {
    let end = |frame| CopyPtr { frame, domid: DomId::SELF, ..CopyPtr::default() };
    let mut copies = [(); N].map(|()| Copy { source: end(9), dest: end(10), len, flags: 3, ..Copy::default() });
    let at = copies.as_mut_ptr() as u64;
    let mut row = clock.row(name);
    row.repeat(|| {
        call(Hypercall::GRANT_TABLE_OP, &[GrantOp::COPY.0.into(), at, N as u64]);
    });
    row.each_of(N as u64);
    t.yes("all copied", core::hint::black_box(copies).iter().all(|copy| copy.status == GrantStatus::OKAY));
}
