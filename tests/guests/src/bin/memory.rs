//! memory_op: reservations, exchange, maps, the M2P.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use conformance_guests::abi::memory::*;
use conformance_guests::abi::{DomId, Errno, Mfn, Pfn, Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, Page, call};
use conformance_guests::ops::{MAP, memory, mmu_update, update_va};
use conformance_guests::{Test, guest};

guest!(run);

fn run(t: &mut Test) {
    arguments(t);
    figures(t);
    balloon(t);
    exchange(t);
    maps(t);
}

fn arguments(t: &mut Test) {
    // The operations that count extents say how many were done.
    for op in [0, 1, 6] {
        t.ok("argument nowhere", call(Hypercall::MEMORY_OP, &[op, 0x1000]));
    }
    for op in [3, 4, 5, 7, 9, 10, 11, 12, 14] {
        t.err("argument nowhere", call(Hypercall::MEMORY_OP, &[op, 0x1000]), Errno::EFAULT);
    }
    t.err("unknown op", call(Hypercall::MEMORY_OP, &[63, 0]), Errno::ENOSYS);
    for op in [2, 3, 4] {
        t.err("progress where there is none", call(Hypercall::MEMORY_OP, &[op | 1 << 6, 0x1000]), Errno::EINVAL);
    }
}

fn of(domid: DomId) -> MemoryDomain {
    MemoryDomain { domid }
}

fn figures(t: &mut Test) {
    let pages = t.info.nr_pages as i64;
    t.returns("current_reservation", memory(MemoryOp::CURRENT_RESERVATION, &mut of(DomId::SELF)), pages);
    t.returns("by number", memory(MemoryOp::CURRENT_RESERVATION, &mut of(DomId(0))), pages);
    t.err("of nobody", memory(MemoryOp::CURRENT_RESERVATION, &mut of(DomId(77))), Errno::ESRCH);
    t.yes("maximum_reservation", memory(MemoryOp::MAXIMUM_RESERVATION, &mut of(DomId::SELF)) >= pages);
    t.yes("maximum_gpfn", memory(MemoryOp::MAXIMUM_GPFN, &mut of(DomId::SELF)) >= -1);
    t.yes("maximum_ram_page", call(Hypercall::MEMORY_OP, &[2, 0]) > 0x1000);
}

fn reservation(list: &mut [u64], order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: Vaddr(list.as_mut_ptr() as u64),
        nr_extents: list.len() as u64,
        extent_order: order,
        domid: DomId::SELF,
        ..MemoryReservation::default()
    }
}

fn pfn_of(page: Page) -> u64 {
    probe::peek(MACH2PHYS_VIRT_START.0 + 8 * page.mfn.0)
}

/// Gives pages back and takes others.
fn balloon(t: &mut Test) {
    let now = || memory(MemoryOp::CURRENT_RESERVATION, &mut of(DomId::SELF));
    let before = now();
    let page = probe::page();
    let pfn = pfn_of(page);
    let mut list = [page.mfn.0];
    let decrease = |list: &mut [u64], order| memory(MemoryOp::DECREASE_RESERVATION, &mut reservation(list, order));
    t.ok("unmap", update_va(page.va, Pte::EMPTY, 2));
    t.returns("decrease", decrease(&mut list, 0), 1);
    t.eq("one page fewer", now(), before - 1);
    t.returns("it is not ours any more", decrease(&mut list, 0), 0);
    t.returns("no frame", decrease(&mut [0xff_ffff], 0), 0);
    t.err("mapping it", update_va(page.va, Pte::new(page.mfn, MAP), 2), Errno::EBUSY);
    // populate_physmap names PFNs and returns MFNs.
    let mut list = [pfn];
    t.returns("populate", memory(MemoryOp::POPULATE_PHYSMAP, &mut reservation(&mut list, 0)), 1);
    let mfn = Mfn(core::hint::black_box(list).first().copied().unwrap_or(0));
    t.eq("as many as before", now(), before);
    t.eq("the M2P knows it", probe::peek(MACH2PHYS_VIRT_START.0 + 8 * mfn.0), pfn);
    t.ok("map it", update_va(page.va, Pte::new(mfn, MAP), 2));
    t.ok("and write", {
        page.set(0, 1);
        0
    });
    // increase_reservation returns MFNs without a PFN.
    let mut list = [0u64];
    let increase = |list: &mut [u64], order| memory(MemoryOp::INCREASE_RESERVATION, &mut reservation(list, order));
    let other = probe::page();
    t.ok("unmap", update_va(other.va, Pte::EMPTY, 2));
    t.returns("give one", decrease(&mut [other.mfn.0], 0), 1);
    t.returns("increase", increase(&mut list, 0), 1);
    let fresh = Page { va: other.va, mfn: Mfn(core::hint::black_box(list).first().copied().unwrap_or(0)) };
    t.ok("map it", update_va(fresh.va, Pte::new(fresh.mfn, MAP), 2));
    t.eq(
        "scrubbed or not, it can be written",
        {
            fresh.set(0, 7);
            fresh.get(0)
        },
        7,
    );
    t.ok("its M2P entry", mmu_update(fresh.mfn.maddr().0 | 1, pfn_of(other)));
    // Requests that cannot be.
    t.returns("an order too large", increase(&mut [0], 20), 0);
    t.returns("order 2^32-1", increase(&mut [0], u32::MAX), 0);
    t.returns("no extents", increase(&mut [], 0), 0);
    let mut far = reservation(&mut [0], 0);
    far.extent_start = Vaddr(0x1000);
    t.returns("frames nowhere", memory(MemoryOp::DECREASE_RESERVATION, &mut far), 0);
    far.nr_extents = 1 << 62;
    t.returns("too many", memory(MemoryOp::DECREASE_RESERVATION, &mut far), 0);
    far.domid = DomId(77);
    far.nr_extents = 1;
    t.returns("of nobody", memory(MemoryOp::DECREASE_RESERVATION, &mut far), 0);
    // Frames by the bits of their addresses.
    let spare = probe::page();
    t.ok("unmap", update_va(spare.va, Pte::EMPTY, 2));
    t.returns("give one", decrease(&mut [spare.mfn.0], 0), 1);
    let within = |bits| {
        let mut list = [pfn_of(spare)];
        let mut arg = MemoryReservation { mem_flags: bits, ..reservation(&mut list, 0) };
        (memory(MemoryOp::POPULATE_PHYSMAP, &mut arg), core::hint::black_box(list).first().copied().unwrap_or(0))
    };
    t.eq("addresses of 12 bits are none", within(12).0, 0);
    let (got, mfn) = within(32);
    t.eq("of 32 bits there are", got, 1);
    t.yes("and so it is", mfn < 1 << 20);
    t.ok("map it", update_va(spare.va, Pte::new(Mfn(mfn), MAP), 2));
    t.eq("frames come cleared", (0..512).filter(|i| Page { va: spare.va, mfn: Mfn(mfn) }.get(*i) != 0).count(), 0);
    // A page in use, mapped: freed once the mapping goes.
    let held = probe::page();
    t.returns("a page still mapped", decrease(&mut [held.mfn.0], 0), 1);
    held.set(0, 0x77);
    t.eq("can be used until unmapped", held.get(0), 0x77);
    t.ok("unmap", update_va(held.va, Pte::EMPTY, 2));
    let table = probe::pte_slot(Vaddr(page.va), 1).map_or(0, |(at, _)| at.mfn().0);
    t.returns("a page table in use", decrease(&mut [table], 0), 1);
}

fn exchange(t: &mut Test) {
    let page = probe::page();
    let (mut give, mut take) = ([page.mfn.0], [pfn_of(page)]);
    let mut arg =
        MemoryExchange { input: reservation(&mut give, 0), output: reservation(&mut take, 0), nr_exchanged: 0 };
    t.ok("unmap", update_va(page.va, Pte::EMPTY, 2));
    t.ok("exchange", memory(MemoryOp::EXCHANGE, &mut arg));
    t.eq("one", arg.nr_exchanged, 1);
    let mfn = Mfn(core::hint::black_box(take).first().copied().unwrap_or(0));
    t.ok("map it", update_va(page.va, Pte::new(mfn, MAP), 2));
    let page = Page { va: page.va, mfn };
    // Two for a block of two.
    let (first, second) = (probe::page(), probe::page());
    let (mut give, mut take) = ([first.mfn.0, second.mfn.0], [pfn_of(first)]);
    for page in [first, second] {
        t.ok("unmap", update_va(page.va, Pte::EMPTY, 2));
    }
    let mut arg =
        MemoryExchange { input: reservation(&mut give, 0), output: reservation(&mut take, 1), nr_exchanged: 0 };
    t.ok("exchange for a block", memory(MemoryOp::EXCHANGE, &mut arg));
    t.eq("both", arg.nr_exchanged, 2);
    let block = core::hint::black_box(take).first().copied().unwrap_or(0);
    t.eq("is aligned", block % 2, 0);
    for (page, mfn) in [first, second].into_iter().zip([block, block + 1]) {
        t.ok("map it", update_va(page.va, Pte::new(Mfn(mfn), MAP), 2));
        page.set(1, mfn);
        t.eq("and write", page.get(1), mfn);
    }
    let mut attempt = |what, change: &dyn Fn(&mut MemoryExchange), error: Errno| {
        let (mut give, mut take) = ([page.mfn.0], [1u64]);
        let mut arg =
            MemoryExchange { input: reservation(&mut give, 0), output: reservation(&mut take, 0), nr_exchanged: 0 };
        change(&mut arg);
        t.err(what, memory(MemoryOp::EXCHANGE, &mut arg), error);
    };
    attempt("progress already", &|a| a.nr_exchanged = 2, Errno::EINVAL);
    attempt("more than given", &|a| a.output.nr_extents = 2, Errno::EINVAL);
    attempt("of two domains", &|a| a.output.domid = DomId(5), Errno::EINVAL);
    attempt("order too large", &|a| a.input.extent_order = 63, Errno::EPERM);
    attempt("no frame", &|a| a.input.extent_start = a.output.extent_start, Errno::EINVAL);
}

fn maps(t: &mut Test) {
    let mut mapping = MachphysMapping::default();
    t.ok("machphys_mapping", memory(MemoryOp::MACHPHYS_MAPPING, &mut mapping));
    t.eq("start", mapping.v_start, MACH2PHYS_VIRT_START);
    t.eq("end", mapping.v_end, MACH2PHYS_VIRT_END);
    t.yes("last", mapping.max_mfn.0 > 0x1000);
    let mut list = [0u64; 4];
    let mut frames =
        MachphysMfnList { max_extents: 4, extent_start: Vaddr(list.as_mut_ptr() as u64), ..MachphysMfnList::default() };
    t.ok("machphys_mfn_list", memory(MemoryOp::MACHPHYS_MFN_LIST, &mut frames));
    t.yes("some extents", frames.nr_extents >= 1);
    let mut map = MemoryMap { nr_entries: 0, _pad: 0, buffer: Vaddr(0x1000) };
    t.err("memory_map of the initial domain", memory(MemoryOp::MEMORY_MAP, &mut map), Errno::ENOSYS);
    let mut entries = [[0u32; 5]; 64];
    let mut map = MemoryMap { nr_entries: 64, _pad: 0, buffer: Vaddr(entries.as_mut_ptr() as u64) };
    t.ok("machine_memory_map", memory(MemoryOp::MACHINE_MEMORY_MAP, &mut map));
    t.yes("some regions", map.nr_entries >= 2 && map.nr_entries <= 64);
    let ram = core::hint::black_box(entries).iter().filter(|e| e.get(4) == Some(&1)).count();
    t.yes("memory among them", ram >= 1);
    let all = map.nr_entries;
    let mut ask = |nr_entries| {
        let mut map = MemoryMap { nr_entries, _pad: 0, buffer: Vaddr(entries.as_mut_ptr() as u64) };
        (memory(MemoryOp::MACHINE_MEMORY_MAP, &mut map), map.nr_entries)
    };
    t.eq("room for one more", ask(all + 1), (0, all));
    t.eq("room for all is too little", ask(all), (Errno::EINVAL.code(), all));
    let mut map = MemoryMap { nr_entries: 64, _pad: 0, buffer: Vaddr::NULL };
    t.eq("only counted", (memory(MemoryOp::MACHINE_MEMORY_MAP, &mut map), map.nr_entries), (0, all));
    let mut add =
        AddToPhysmap { domid: DomId::SELF, space: MapSpace::SHARED_INFO, gpfn: Pfn(1), ..AddToPhysmap::default() };
    t.err("add_to_physmap is not for PV", memory(MemoryOp::ADD_TO_PHYSMAP, &mut add), Errno::EACCES);
    let mut remove = RemoveFromPhysmap { domid: DomId::SELF, gpfn: Pfn(1), ..RemoveFromPhysmap::default() };
    t.err("nor remove_from_physmap", memory(MemoryOp::REMOVE_FROM_PHYSMAP, &mut remove), Errno::EACCES);
}
