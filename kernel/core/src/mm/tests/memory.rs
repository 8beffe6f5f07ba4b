//! `memory_op`, the allocator and the ends of domains.

use super::*;
use crate::buddy::MAX_ORDER;
use crate::{Owner, Stage, State};
use abi::memory::*;
use abi::{Mfn, Vaddr};

const OP: u32 = Hypercall::MEMORY_OP.0;

fn list(guest: &Guest) -> Vaddr {
    Vaddr(guest.va(0).0 + 1024)
}

fn reservation(guest: &Guest, extents: u64, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: list(guest),
        nr_extents: extents,
        extent_order: order,
        domid: DomId::SELF,
        ..Default::default()
    }
}

fn memory_op<T: IntoBytes + zerocopy::Immutable>(core: &TestCore, guest: &Guest, op: MemoryOp, arg: &T) -> i64 {
    guest.poke(core, 0, 0, arg.as_bytes());
    guest.hypercall(core, OP, [u64::from(op.0), guest.va(0).0, 0, 0, 0])
}

fn listed(core: &TestCore, guest: &Guest, index: usize) -> u64 {
    entry(core, guest.frames[0], 128 + index).0
}

fn set_list(core: &TestCore, guest: &Guest, values: &[u64]) {
    guest.poke(core, 0, 1024, values.as_bytes());
}

#[test]
fn populate_and_give_back() {
    for scatter in [false, true] {
        let core = testing::core_with(2048, 2, scatter);
        let guest = testing::guest(&core, Privilege::empty(), 8);
        let free = core.free_frames();
        set_list(&core, &guest, &[100, 200, 300, 400]);
        assert_eq!(memory_op(&core, &guest, MemoryOp::POPULATE_PHYSMAP, &reservation(&guest, 4, 0)), 4);
        let mfns: Vec<u64> = (0..4).map(|index| listed(&core, &guest, index)).collect();
        for (mfn, pfn) in mfns.iter().zip([100, 200, 300, 400]) {
            assert_eq!(core.platform.m2p(Mfn(*mfn)), pfn);
        }
        assert_eq!(core.free_frames(), free - 4);
        assert_eq!(guest.domain.memory.lock().pages, 16);
        // One of them is mapped: it is freed when it is unmapped.
        assert_eq!(guest.map(&core, 3, Pte::new(Mfn(mfns[0]), WRITABLE)), Ok(()));
        assert_eq!(memory_op(&core, &guest, MemoryOp::DECREASE_RESERVATION, &reservation(&guest, 4, 0)), 4);
        assert_eq!(core.free_frames(), free - 1);
        assert_eq!(core.platform.m2p(Mfn(mfns[1])), u64::MAX);
        assert_eq!(guest.map(&core, 3, Pte::EMPTY), Ok(()));
        assert_eq!(core.free_frames(), free);
        assert_eq!(guest.domain.memory.lock().pages, 12);
        // Not its own any more; not its own ever; the core's.
        for mfn in [mfns[1], 3, u64::MAX, core.frames.count() as u64] {
            set_list(&core, &guest, &[mfn]);
            assert_eq!(memory_op(&core, &guest, MemoryOp::DECREASE_RESERVATION, &reservation(&guest, 1, 0)), 0);
        }
        set_list(&core, &guest, &[guest.domain.shared_info.mfn().0]);
        memory_op(&core, &guest, MemoryOp::DECREASE_RESERVATION, &reservation(&guest, 1, 0));
        assert!(core.frames.info(guest.domain.shared_info).state().has(State::ALLOCATED));
        sound(&core);
    }
}

#[test]
fn reservations_are_limited() {
    let (core, guest) = machine(8);
    let op = |r: &MemoryReservation, op| memory_op(&core, &guest, op, r);
    // 64 frames of allowance are left.
    let many = reservation(&guest, 100, 0);
    let no_list = MemoryReservation { extent_start: Vaddr::NULL, ..many };
    assert_eq!(op(&no_list, MemoryOp::INCREASE_RESERVATION), 64);
    assert_eq!(op(&reservation(&guest, 1, 0), MemoryOp::INCREASE_RESERVATION), 0);
    let max = MemoryDomain { domid: DomId::SELF };
    assert_eq!(op_domain(&core, &guest, MemoryOp::CURRENT_RESERVATION, max), 76);
    assert_eq!(op_domain(&core, &guest, MemoryOp::MAXIMUM_RESERVATION, max), 76);
    sound(&core);
    for bad in [
        reservation(&guest, 1, 10),
        reservation(&guest, 1, 64),
        reservation(&guest, 1 << 26, 0),
        MemoryReservation { mem_flags: 12, ..reservation(&guest, 1, 0) },
        MemoryReservation { domid: DomId(999), ..reservation(&guest, 1, 0) },
    ] {
        for kind in [MemoryOp::INCREASE_RESERVATION, MemoryOp::DECREASE_RESERVATION, MemoryOp::POPULATE_PHYSMAP] {
            assert_eq!(op(&bad, kind), 0, "{bad:?}");
        }
    }
    assert_eq!(guest.hypercall(&core, OP, [0, 0xdead_0000_0000, 0, 0, 0]), 0);
    assert_eq!(guest.hypercall(&core, OP, [5 << 6, 0xdead_0000_0000, 0, 0, 0]), 5);
}

fn op_domain(core: &TestCore, guest: &Guest, op: MemoryOp, domain: MemoryDomain) -> i64 {
    memory_op(core, guest, op, &domain)
}

#[test]
fn blocks_and_addresses() {
    let (core, guest) = machine(8);
    set_list(&core, &guest, &[0x1000]);
    assert_eq!(memory_op(&core, &guest, MemoryOp::POPULATE_PHYSMAP, &reservation(&guest, 1, 3)), 1);
    let first = listed(&core, &guest, 0);
    assert_eq!(first % 8, 0);
    for offset in 0..8 {
        assert_eq!(core.platform.m2p(Mfn(first + offset)), 0x1000 + offset);
    }
    // Below 2 MiB: frame 512.
    set_list(&core, &guest, &[0x2000]);
    let low = MemoryReservation { mem_flags: 21, ..reservation(&guest, 1, 0) };
    assert_eq!(memory_op(&core, &guest, MemoryOp::POPULATE_PHYSMAP, &low), 1);
    assert!(listed(&core, &guest, 0) < 512);
    sound(&core);
}

#[test]
fn interrupted_between_extents() {
    let (core, guest) = machine(8);
    core.platform.interrupt_every(1);
    set_list(&core, &guest, &[1, 2, 3, 4, 5]);
    let mut args = [u64::from(MemoryOp::POPULATE_PHYSMAP.0), guest.va(0).0, 0, 0, 0];
    guest.poke(&core, 0, 0, reservation(&guest, 5, 0).as_bytes());
    let mut slices = 0;
    let done = loop {
        match guest.run(&core, |c| crate::dispatch::call(c, OP, &mut args)) {
            Err(crate::Stop::PREEMPTED) => slices += 1,
            other => break other,
        }
        sound(&core);
    };
    assert_eq!((done, slices), (Ok(5), 4));
}

#[test]
fn exchange_frames() {
    let (core, guest) = machine(16);
    let own: Vec<u64> = (4..8).map(|page| guest.frames[page].mfn().0).collect();
    let exchange = |order_in: u32, order_out: u32, frames: u64| MemoryExchange {
        input: reservation(&guest, frames >> order_in, order_in),
        output: MemoryReservation {
            extent_start: Vaddr(list(&guest).0 + 1024),
            ..reservation(&guest, frames >> order_out, order_out)
        },
        nr_exchanged: 0,
    };
    let out = |index: usize| entry(&core, guest.frames[0], 256 + index).0;
    let set_out = |pfn: u64| guest.poke(&core, 0, 2048, &pfn.to_le_bytes());
    set_list(&core, &guest, &own);
    set_out(77);
    // They are mapped: nothing happens.
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &exchange(0, 2, 4)), EINVAL);
    for page in 4..8 {
        assert_eq!(guest.map(&core, page, Pte::EMPTY), Ok(()));
    }
    // The last is not its own: the others are given back.
    let mut some = own.clone();
    some[3] = 3;
    set_list(&core, &guest, &some);
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &exchange(0, 2, 4)), EINVAL);
    assert_eq!(guest.domain.memory.lock().pages, 20);
    sound(&core);
    // Four single ones for a block of four.
    set_list(&core, &guest, &own);
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &exchange(0, 2, 4)), 0);
    assert_eq!(entry(&core, guest.frames[0], 8).0, 4, "nr_exchanged");
    let block = out(0);
    assert_eq!((block % 4, core.platform.m2p(Mfn(block + 3))), (0, 80));
    assert!(own.iter().all(|mfn| core.frames.info(core.frames.get(Mfn(*mfn)).unwrap()).owner() != Owner::Core));
    assert_eq!(guest.domain.memory.lock().pages, 20);
    sound(&core);
    // And back: a block for single ones.
    set_list(&core, &guest, &[block]);
    guest.poke(&core, 0, 2048, [11u64, 12, 13, 14].as_bytes());
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &exchange(2, 0, 4)), 0);
    assert_eq!(core.platform.m2p(Mfn(out(3))), 14);
    sound(&core);
    // Sizes that do not match; orders that are too large.
    let mut x = exchange(0, 0, 4);
    x.output.nr_extents = 3;
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &x), EINVAL);
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &exchange(0, 10, 1024)), EPERM);
    x = exchange(0, 0, 4);
    x.nr_exchanged = 5;
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &x), EINVAL);
    x.input.nr_extents = u64::MAX;
    assert_eq!(memory_op(&core, &guest, MemoryOp::EXCHANGE, &x), EINVAL);
}

#[test]
fn memory_maps() {
    let core = testing::core(2048, 2);
    let builder = testing::guest(&core, Privilege::BUILDER, 8);
    let guest = testing::guest(&core, Privilege::empty(), 8);
    let ask = |entries, buffer| {
        let map = MemoryMap { nr_entries: entries, _pad: 0, buffer };
        (memory_op(&core, &guest, MemoryOp::MEMORY_MAP, &map), entry(&core, guest.frames[0], 0).0 as u32)
    };
    assert_eq!(ask(8, list(&guest)).0, Errno::ENOSYS.code());
    let regions = [E820Entry { addr: 0, size: 0x1000, kind: 1 }, E820Entry { addr: 0x1000, size: 5, kind: 2 }];
    builder.poke(&core, 0, 1024, regions.as_bytes());
    let map = MemoryMap { nr_entries: 2, _pad: 0, buffer: list(&builder) };
    let mut new = ForeignMemoryMap { domid: guest.domain.id, _pad: [0; 3], map };
    assert_eq!(memory_op(&core, &builder, MemoryOp::SET_MEMORY_MAP, &new), 0);
    assert_eq!(memory_op(&core, &guest, MemoryOp::SET_MEMORY_MAP, &new), EPERM);
    new.map.nr_entries = 1025;
    assert_eq!(memory_op(&core, &builder, MemoryOp::SET_MEMORY_MAP, &new), Errno::EINVAL.code());
    assert_eq!(ask(8, list(&guest)), (0, 2));
    assert_eq!(ask(1, list(&guest)), (0, 1));
    assert_eq!(ask(0, Vaddr::NULL), (0, 2));
    assert_eq!(ask(8, Vaddr(0xdead_0000_0000)).0, EFAULT);
}

#[test]
fn questions() {
    let (core, guest) = machine(8);
    let op = |op: MemoryOp, at: u64| guest.hypercall(&core, OP, [u64::from(op.0), at, 0, 0, 0]);
    assert_eq!(op(MemoryOp::MAXIMUM_RAM_PAGE, 0), 2048);
    assert_eq!(op(MemoryOp::MACHPHYS_MAPPING, guest.va(0).0), 0);
    assert_eq!(entry(&core, guest.frames[0], 0).0, 0xffff_8000_0000_0000);
    assert_eq!(op(MemoryOp::MACHPHYS_MAPPING, 0xdead_0000_0000), EFAULT);
    let other = testing::guest(&core, Privilege::empty(), 8);
    let of = |id| op_domain(&core, &guest, MemoryOp::CURRENT_RESERVATION, MemoryDomain { domid: id });
    assert_eq!(of(other.domain.id), EPERM);
    assert_eq!(of(DomId(999)), Errno::ESRCH.code());
    assert_eq!(of(guest.domain.id), 12);
    assert_eq!(op_domain(&core, &guest, MemoryOp::MAXIMUM_GPFN, MemoryDomain { domid: DomId::SELF }), 0);
    let add = AddToPhysmap { domid: DomId::SELF, ..Default::default() };
    assert_eq!(memory_op(&core, &guest, MemoryOp::ADD_TO_PHYSMAP, &add), Errno::EACCES.code());
    for unknown in [8, 26, 63] {
        assert_eq!(op(MemoryOp(unknown), guest.va(0).0), Errno::ENOSYS.code());
    }
}

#[test]
fn reservations_up_to_the_last_that_is_taken() {
    let populate = |extents, order, mem_flags| {
        let core = testing::core(2048, 1);
        let guest = testing::guest(&core, Privilege::empty(), 8);
        guest.domain.memory.lock().max_pages = 12 + 600;
        let r = MemoryReservation { mem_flags, extent_start: Vaddr::NULL, ..reservation(&guest, extents, order) };
        memory_op(&core, &guest, MemoryOp::INCREASE_RESERVATION, &r)
    };
    // An extent of 2 MiB at most; as many extents as a continuation can count.
    assert_eq!([populate(2, 9, 0), populate(1, 10, 0)], [1, 0]);
    assert_eq!([populate((1 << 26) - 1, 0, 0), populate(1 << 26, 0, 0), populate((1 << 26) + 1, 0, 0)], [600, 0, 0]);
    // So many bits of addresses: frames below 16 are no memory here, and flags above the bits mean nothing.
    for (flags, done) in
        [(12, 0), (13, 0), (16, 0), (17, 1), (0x1_0000 | 16, 0), (0x1_0000, 1), (63, 1), (64, 1), (255, 1)]
    {
        assert_eq!(populate(1, 0, flags), done, "{flags:#x}");
    }
    // Only operations on extents go on with a later one.
    let (core, guest) = machine(8);
    let op = |op: u64| guest.hypercall(&core, OP, [op, guest.va(0).0, 0, 0, 0]);
    assert_eq!(op(1 << 6 | u64::from(MemoryOp::MAXIMUM_RAM_PAGE.0)), EINVAL);
    assert_eq!(op(MemoryOp::MAXIMUM_RAM_PAGE.0.into()), 2048);
    assert_eq!([MemoryOp::SET_POD_TARGET, MemoryOp::GET_POD_TARGET].map(|pod| op(pod.0.into())), [EINVAL; 2]);
    assert_eq!(op(MemoryOp::MACHPHYS_MAPPING.0.into()), 0);
    assert_eq!(entry(&core, guest.frames[0], 2).0, 0x7_ffff_ffff, "the last frame");
}

#[test]
fn a_block_is_given_back_whole() {
    let (core, guest) = machine(8);
    set_list(&core, &guest, &[0x1000]);
    assert_eq!(memory_op(&core, &guest, MemoryOp::POPULATE_PHYSMAP, &reservation(&guest, 1, 3)), 1);
    assert_eq!(guest.domain.memory.lock().pages, 20);
    assert_eq!(memory_op(&core, &guest, MemoryOp::DECREASE_RESERVATION, &reservation(&guest, 1, 3)), 1);
    assert_eq!(guest.domain.memory.lock().pages, 12);
}

/// Each thing that does not fit, alone: before the list of frames is looked at, which cannot be read.
#[test]
fn an_exchange_has_to_fit() {
    let core = testing::core(4096, 1);
    let guest = testing::guest(&core, Privilege::empty(), 8);
    guest.domain.memory.lock().max_pages = 1200;
    let nowhere = Vaddr(0xdead_0000_0000);
    let side = |nr_extents, extent_order| MemoryReservation {
        extent_start: nowhere,
        nr_extents,
        extent_order,
        domid: DomId::SELF,
        ..Default::default()
    };
    let exchange = |input, output, nr_exchanged| {
        memory_op(&core, &guest, MemoryOp::EXCHANGE, &MemoryExchange { input, output, nr_exchanged })
    };
    assert_eq!(exchange(side(4, 0), side(4, 0), 0), EFAULT, "it fits");
    assert_eq!(exchange(side(4, 0), side(4, 0), 4), 0, "all are done");
    assert_eq!(exchange(side(4, 0), side(4, 0), 5), EINVAL);
    let by_number = MemoryReservation { domid: guest.domain.id, ..side(4, 0) };
    assert_eq!(exchange(side(4, 0), by_number, 0), EINVAL, "by two names");
    // More than there are addresses, and as many as the other side if what is too much is cut off.
    let (wraps, same) = (side(1 << 63 | 1, 1), side(2, 0));
    assert_eq!([exchange(wraps, same, 0), exchange(same, wraps, 0), exchange(wraps, wraps, 0)], [EINVAL; 3]);
    assert_eq!(exchange(side(4, 0), side(3, 0), 0), EINVAL);
    assert_eq!(exchange(side(1, 9), side(1, 9), 0), EFAULT, "the largest extent");
    assert_eq!(exchange(side(1, 10), side(1, 10), 0), EPERM);
}

/// A machine-to-physical table of three pages of 2 MiB, of which the second is made of small ones.
#[test]
fn the_frames_of_the_machine_to_physical_table() {
    const IN_2_MIB: usize = 1 << 18;
    for (frames, room, expected) in [
        (IN_2_MIB, 9, &[0x200, 77][..1]),
        (IN_2_MIB + 1, 9, &[0x200, 77]),
        (IN_2_MIB + 1, 1, &[0x200]),
        (IN_2_MIB + 1, 0, &[]),
    ] {
        let core = testing::core(frames, 1);
        let guest = testing::guest(&core, Privilege::empty(), 8);
        let [l3, l2, l1] = [(); 3].map(|()| core.take_frames(0, u64::MAX).unwrap());
        let set = |table, index, value| core.platform.word(table, index).store(value, SeqCst);
        let to = |table: Frame| table.mfn().0 << 12 | 3;
        set(guest.tables[3], 256, to(l3));
        set(l3, 0, to(l2));
        (0..4).for_each(|n| set(l2, n, (0x200 + n as u64) << 12 | 0x83));
        set(l2, 1, to(l1));
        set(l1, 0, 77 << 12 | 3);
        let ask = MachphysMfnList { max_extents: room, extent_start: list(&guest), ..Default::default() };
        assert_eq!(memory_op(&core, &guest, MemoryOp::MACHPHYS_MFN_LIST, &ask), 0);
        let told = entry(&core, guest.frames[0], 2).0 as usize;
        let mfns: Vec<u64> = (0..told).map(|index| listed(&core, &guest, index)).collect();
        assert_eq!(mfns, expected);
        assert_eq!(listed(&core, &guest, told), 0, "nothing behind them");
        // A page that is not there is where it ends.
        set(l2, 0, 0);
        assert_eq!(memory_op(&core, &guest, MemoryOp::MACHPHYS_MFN_LIST, &ask), 0);
        assert_eq!(entry(&core, guest.frames[0], 2).0, 0);
    }
}

#[test]
fn the_machines_memory_is_for_who_drives_it() {
    static MAP: [E820Entry; 2] =
        [E820Entry { addr: 0, size: 0x1000, kind: 1 }, E820Entry { addr: 0x1000, size: 5, kind: 2 }];
    let mut core = testing::core(2048, 1);
    core.frames.memory_map = &MAP;
    for (privilege, results) in [(Privilege::empty(), [EPERM; 3]), (Privilege::HARDWARE, [EINVAL, 0, 0])] {
        let guest = testing::guest(&core, privilege, 8);
        let ask = |nr_entries| {
            let map = MemoryMap { nr_entries, _pad: 0, buffer: list(&guest) };
            memory_op(&core, &guest, MemoryOp::MACHINE_MEMORY_MAP, &map)
        };
        // Room for one more than there are.
        assert_eq!([2, 3, 4].map(ask), results);
        if privilege == Privilege::HARDWARE {
            assert_eq!(entry(&core, guest.frames[0], 0).0 as u32, 2);
            assert_eq!(listed(&core, &guest, 1), 0x1000);
        }
    }
    // A domain's own has 1024 regions at most.
    let builder = testing::guest(&core, Privilege::BUILDER, 8);
    let set = |nr_entries| {
        let map = MemoryMap { nr_entries, _pad: 0, buffer: builder.va(1) };
        memory_op(
            &core,
            &builder,
            MemoryOp::SET_MEMORY_MAP,
            &ForeignMemoryMap { domid: DomId::SELF, _pad: [0; 3], map },
        )
    };
    assert_eq!([set(1024), set(1025), set(1026)], [0, EINVAL, EINVAL]);
}

/// Frames that the builder maps outlive their domain, and go with the last mapping.
#[test]
fn a_zombie_keeps_what_others_map() {
    let core = testing::core(2048, 2);
    let builder = testing::guest(&core, Privilege::BUILDER, 8);
    let free = core.free_frames();
    let guest = testing::guest(&core, Privilege::empty(), 8);
    let frame = guest.frames[4];
    let pte = Pte::new(frame.mfn(), WRITABLE);
    let id = u64::from(guest.domain.id.0);
    assert_eq!(update_of(&core, &builder, &[request(builder.tables[0], 300, pte)], id), 0);
    guest.domain.life.store(Stage::Dying as u32, SeqCst);
    {
        let mut run = guest.vcpu.run.lock();
        run.hardware_root = None;
        core.drop_root(&guest.domain, &mut run.kernel_root).unwrap();
    }
    core.relinquish_memory(&guest.domain).unwrap();
    core.free_core_page(guest.domain.shared_info);
    assert_eq!((core.frames_left(&guest.domain), core.free_frames()), (1, free - 1));
    assert_eq!(core.frames.info(frame).owner(), Owner::Domain(guest.domain.id));
    assert_eq!(core.alloc_domain_page(&guest.domain), Err(Errno::EINVAL));
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    assert_eq!(update(&core, &builder, &[request(builder.tables[0], 300, Pte::EMPTY)]), 0);
    assert_eq!((core.frames_left(&guest.domain), core.free_frames()), (0, free));
    sound(&core);
}

#[test]
fn the_allocator_merges_splits_and_flushes() {
    let core = testing::core(4096 + 16, 2);
    let all = core.free_frames();
    let block = core.take_frames(11, u64::MAX).expect("2048 in a row");
    assert_eq!(block.mfn().0 % 2048, 0);
    assert_eq!(core.take_frames(MAX_ORDER, u64::MAX), None);
    for offset in (0..2048).rev() {
        core.free_frame(core.frames.get(Mfn(block.mfn().0 + offset)).unwrap());
    }
    assert_eq!(core.free_frames(), all);
    // What was freed is remembered by no TLB when it is handed out again; one flush does for all.
    core.platform.take_flushes();
    let again = core.take_frames(11, u64::MAX).expect("merged again");
    assert_eq!(core.platform.take_flushes(), [(crate::CpuSet(3), crate::Flush::All)]);
    core.free_frame(again);
    let one = core.take_frames(0, u64::MAX).unwrap();
    assert_eq!(core.platform.take_flushes().len(), 1);
    assert_ne!(core.take_frames(0, u64::MAX), Some(one));
    assert_eq!(core.platform.take_flushes(), []);
}

#[test]
fn scattered_frames_are_scattered_and_all_there() {
    let core = testing::core_with::<512>(1024, 1, true);
    let count = core.free_frames();
    assert_eq!(count, 1024 - testing::FIRST_RAM);
    let frames: Vec<u64> = (0..count).map(|_| core.take_frames(0, u64::MAX).unwrap().mfn().0).collect();
    assert_eq!(core.take_frames(0, u64::MAX), None);
    let neighbours = frames.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
    assert!(neighbours < 16, "{neighbours}");
    let mut sorted = frames.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len() as u64, count);
}
