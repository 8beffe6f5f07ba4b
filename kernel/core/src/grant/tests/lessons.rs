//! The lessons that the field paid for (hostile-guest-lessons.md), and what each operation answers.

use abi::grant::{
    GetVersion, GrantEntryV1 as Entry, GrantHandle, GrantOp, GrantStatus, MapGrantRef, QuerySize, SetVersion,
    SetupTable, UnmapAndReplace, UnmapGrantRef, gntmap,
};
use abi::hypercall::Hypercall;
use abi::{DomId, Errno, Maddr, Mfn, Pte, PteFlags, Vaddr};
use core::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;
use zerocopy::FromZeros;

use super::*;
use crate::Flush;
use crate::testing::WRITABLE;

const HOST: u32 = gntmap::HOST_MAP;
const DEVICE: u32 = gntmap::DEVICE_MAP;
const READONLY: u32 = gntmap::READONLY;
const OKAY: GrantStatus = GrantStatus::OKAY;
const ERROR: GrantStatus = GrantStatus::GENERAL_ERROR;
const IN_USE: u16 = Entry::GTF_READING | Entry::GTF_WRITING;

/// A core, one that grants its page 1 by entry 8 to the other, and that other.
fn pair() -> (std::boxed::Box<TestCore>, Guest, Guest) {
    let core = testing::core(2048, 2);
    let (from, to) = (guest(&core), guest(&core));
    grant(&core, &from, 8, to.domain.id, from.frames[1].mfn(), 0);
    (core, from, to)
}

#[test]
fn lesson_18_host_and_device_mappings_go_one_by_one_and_references_balance() {
    let (core, from, to) = pair();
    let frame = from.frames[1];
    let before = refs(&core, frame);
    for first in [HOST, DEVICE] {
        let at = to.va(HOLE).0;
        let (status, handle, address) = map(&core, &to, map_op(&from, 8, HOST | DEVICE, at));
        assert_eq!((status, address), (OKAY, frame.mfn().maddr()));
        assert_eq!(refs(&core, frame), (before.0 + 2, before.1 + 2));
        sound(&core);
        let half = |kind| match kind {
            HOST => unmap(&core, &to, handle, at, Maddr(0)),
            _ => unmap(&core, &to, handle, 0, frame.mfn().maddr()),
        };
        assert_eq!(half(first), OKAY);
        assert_eq!(refs(&core, frame), (before.0 + 1, before.1 + 1));
        assert_eq!(flags(&core, &from, 8) & IN_USE, IN_USE, "the other half is there");
        sound(&core);
        assert_eq!(half((HOST | DEVICE) ^ first), OKAY);
        assert_eq!(refs(&core, frame), before);
        assert_eq!(flags(&core, &from, 8) & IN_USE, 0);
        assert_eq!(half(first), GrantStatus::BAD_HANDLE);
        sound(&core);
    }
}

#[test]
fn what_tables_take_is_asked_beside_a_domain_that_maps_its_own_entry() {
    let (core, _, guest) = pair();
    grant(&core, &guest, 9, guest.domain.id, guest.frames[1].mfn(), 0);
    // It holds its tracking when it takes its table; who looks at both takes neither while it holds the other.
    assert_eq!(map(&core, &guest, map_op(&guest, 9, HOST, guest.va(HOLE).0)).0, OKAY);
    assert!(core.footprint(&guest.domain) > 0);
    assert_eq!(guest.domain.grants.in_use(), (1, 1));
}

#[test]
fn the_keys_list_domains_beside_one_that_frees_what_it_mapped() {
    let (core, from, to) = pair();
    let (frame, at) = (from.frames[1], to.va(HOLE).0);
    let (status, handle, _) = map(&core, &to, map_op(&from, 8, HOST, at));
    from.map(&core, 1, Pte(0)).expect("its own entry");
    assert_eq!((status, core.deallocate(frame)), (OKAY, true));
    // The frame's owner is looked up, with the one's grants locked: so who walks the domains may not do so the other way.
    assert_eq!(unmap(&core, &to, handle, at, Maddr(0)), OKAY);
    assert!(matches!(core.frames.info(frame).owner(), crate::frame::Owner::Free(_)));
    core.dump_domains();
    core.dump_events();
    core.dump_grants();
}

#[test]
fn lesson_19_a_misaligned_entry_or_one_of_no_l1_is_refused() {
    let (core, from, to) = pair();
    let l1 = to.tables[0].mfn().maddr().0;
    let before = refs(&core, from.frames[1]);
    let bad = [
        l1 + HOLE as u64 * 8 + 1,
        l1 + HOLE as u64 * 8 + 4,
        to.tables[1].mfn().maddr().0 + 800,
        from.tables[0].mfn().maddr().0 + 800,
        to.frames[2].mfn().maddr().0,
        !7,
    ];
    for at in bad {
        assert_eq!(map(&core, &to, map_op(&from, 8, HOST | gntmap::CONTAINS_PTE, at)).0, ERROR, "{at:x}");
    }
    for at in [0x1000, to.va(HOLE).0 + (1 << 39), 0xffff_8000_0000_0000, 1 << 47] {
        assert_eq!(map(&core, &to, map_op(&from, 8, HOST, at)).0, ERROR, "{at:x}");
    }
    assert_eq!(refs(&core, from.frames[1]), before);
    assert_eq!(flags(&core, &from, 8) & IN_USE, 0);
    let at = l1 + HOLE as u64 * 8;
    let (status, handle, _) = map(&core, &to, map_op(&from, 8, HOST | gntmap::CONTAINS_PTE, at));
    assert_eq!(status, OKAY);
    assert_eq!(core.platform.translate(to.space(), to.va(HOLE)), Some((from.frames[1], true)));
    assert_eq!(unmap(&core, &to, handle, at + 1, Maddr(0)), ERROR);
    assert_eq!(unmap(&core, &to, handle, at, Maddr(0)), OKAY);
    sound(&core);
}

#[test]
fn lesson_20_an_entry_that_the_guest_rewrote_is_not_taken_for_the_mapping() {
    let (core, from, to) = pair();
    grant(&core, &from, 9, to.domain.id, from.frames[2].mfn(), 0);
    let (at, other) = (to.va(HOLE).0, to.va(HOLE + 1).0);
    let (_, read, _) = map(&core, &to, map_op(&from, 8, HOST | READONLY, at));
    let (_, write, _) = map(&core, &to, map_op(&from, 8, HOST, other));
    let (_, another, _) = map(&core, &to, map_op(&from, 9, HOST, to.va(HOLE + 2).0));
    // A writable entry is not the read-only mapping's, nor the other way round, nor one of another frame.
    for (handle, at) in [(read, other), (write, at), (another, at), (another, other), (write, to.va(1).0)] {
        assert_eq!(unmap(&core, &to, handle, at, Maddr(0)), ERROR);
    }
    sound(&core);
    // The guest takes the read-only entry away behind the grant's back: its references are gone with it, the mark stays.
    to.map(&core, HOLE, Pte::EMPTY).unwrap();
    assert_eq!(unmap(&core, &to, read, at, Maddr(0)), ERROR);
    assert_eq!(unmap(&core, &to, write, other, Maddr(0)), OKAY);
    assert_eq!(flags(&core, &from, 8) & IN_USE, Entry::GTF_READING);
    // It cannot make the entry writable by itself.
    let (_, read, _) = map(&core, &to, map_op(&from, 8, HOST | READONLY, at));
    assert!(to.map(&core, HOLE, Pte::new(from.frames[1].mfn(), WRITABLE)).is_err());
    assert_eq!(unmap(&core, &to, read, at, Maddr(0)), OKAY);
    sound(&core);
}

#[test]
fn lesson_21_transitive_and_partial_grants_are_left_out() {
    let (core, from, to) = pair();
    for kind in [Entry::GTF_TRANSITIVE, Entry::GTF_ACCEPT_TRANSFER, Entry::GTF_INVALID] {
        let word = from.frames[1].mfn().0 << 32 | u64::from(to.domain.id.0) << 16 | u64::from(kind);
        entry(&core, &from, 8).store(word, SeqCst);
        assert_eq!(map(&core, &to, map_op(&from, 8, HOST, to.va(HOLE).0)).0, ERROR);
        let source = end(8, from.domain.id, 0);
        let dest = end(to.frames[2].mfn().0, DomId::SELF, 0);
        assert_eq!(copy(&core, &to, source, dest, 8, 1), ERROR);
    }
    grant(&core, &from, 8, to.domain.id, from.frames[1].mfn(), Entry::GTF_SUB_PAGE);
    assert_eq!(map(&core, &to, map_op(&from, 8, HOST, to.va(HOLE).0)).0, ERROR);
    sound(&core);
}

#[test]
fn lesson_22_two_unmaps_at_once_and_marks_that_stay_to_the_last() {
    let (core, from, to) = pair();
    let at = |n| to.va(HOLE + n).0;
    let handles: Vec<_> = (0..3).map(|n| map(&core, &to, map_op(&from, 8, HOST, at(n))).1).collect();
    // The same mapping twice in one batch: once it is there, once not.
    let one = |n: usize| UnmapGrantRef { host_addr: at(n), handle: handles[n], ..UnmapGrantRef::new_zeroed() };
    let mut twice = [one(0), one(0), one(1)];
    core.platform.take_flushes();
    assert_eq!(ops(&core, &to, GrantOp::UNMAP_GRANT_REF, &mut twice), 0);
    assert_eq!(twice.map(|op| op.status), [OKAY, GrantStatus::BAD_HANDLE, OKAY]);
    let flushed = core.platform.take_flushes();
    assert_eq!(flushed.len(), 1, "one flush a batch");
    assert_eq!(flushed[0].1, Flush::All);
    assert_eq!(flags(&core, &from, 8) & IN_USE, IN_USE);
    assert_eq!(unmap(&core, &to, handles[2], at(2), Maddr(0)), OKAY);
    assert_eq!(flags(&core, &from, 8) & IN_USE, 0);
    sound(&core);
    // Several CPUs map and unmap the same entry: in the end nothing is left.
    let (core, from, to) = (&*core, &from, &to);
    std::thread::scope(|scope| {
        for n in 0..3 {
            scope.spawn(move || {
                for _ in 0..300 {
                    let root = to.tables[3];
                    let op = map_op(from, 8, HOST | DEVICE, to.va(HOLE + n).0);
                    let mapper = || core.grant_mapper(&to.domain, root);
                    let (handle, address) = mapper().map(&from.domain, &op).unwrap();
                    let mut mapper = mapper();
                    let gone = mapper.begin_unmap(handle, op.host_addr, address, 0).unwrap();
                    mapper.end_unmaps(&[gone]);
                }
            });
        }
    });
    assert_eq!(from.domain.grants.in_use().0 + to.domain.grants.in_use().1, 0);
    assert_eq!(flags(core, from, 8) & IN_USE, 0);
    sound(core);
}

#[test]
fn lesson_23_version_2_is_absent() {
    let (core, _, to) = pair();
    let set = |version| ops(&core, &to, GrantOp::SET_VERSION, &mut [SetVersion { version }]);
    assert_eq!([set(1), set(2), set(3)], [0, Errno::ENOSYS.code(), Errno::EINVAL.code()]);
    let mut get = [GetVersion { dom: DomId::SELF, ..GetVersion::new_zeroed() }];
    assert_eq!(ops(&core, &to, GrantOp::GET_VERSION, &mut get), 0);
    assert_eq!(get[0].version, 1);
    for absent in [GrantOp::GET_STATUS_FRAMES, GrantOp::TRANSFER, GrantOp::CACHE_FLUSH, GrantOp(77)] {
        assert_eq!(ops(&core, &to, absent, &mut [0u64; 8]), Errno::ENOSYS.code());
    }
}

#[test]
fn lesson_24_no_result_is_positive() {
    let (core, from, to) = pair();
    for gref in [0, 7, 8, 511, 512, u32::MAX] {
        for flags in 0..32 {
            let (status, handle, _) = map(&core, &to, map_op(&from, gref, flags, to.va(HOLE).0 & !7));
            assert!(status.0 <= 0);
            if status == OKAY {
                let _ = unmap(&core, &to, handle, to.va(HOLE).0, from.frames[1].mfn().maddr());
            }
        }
    }
    assert!(unmap(&core, &to, GrantHandle(u32::MAX), 1, Maddr(1)).0 < 0);
    let rax = to.hypercall(&core, Hypercall::GRANT_TABLE_OP.0, [0, to.va(0).0, u64::from(u32::MAX), 0, 0]);
    assert_eq!(rax, Errno::EINVAL.code(), "a negative count");
    let rax = to.hypercall(&core, Hypercall::GRANT_TABLE_OP.0, [0, 0x1000, 1, 0, 0]);
    assert_eq!(rax, Errno::EFAULT.code());
    sound(&core);
}

#[test]
fn lesson_25_capacities_are_of_what_they_bound() {
    let (core, _, to) = pair();
    let mut size = [QuerySize { dom: DomId::SELF, ..QuerySize::new_zeroed() }];
    assert_eq!(ops(&core, &to, GrantOp::QUERY_SIZE, &mut size), 0);
    assert_eq!((size[0].nr_frames, size[0].max_nr_frames, size[0].status), (1, 64, OKAY));
    let setup = |nr_frames, list: Vaddr| {
        let it = SetupTable { dom: DomId::SELF, nr_frames, frame_list: list, ..SetupTable::new_zeroed() };
        let mut them = [it];
        assert_eq!(ops(&core, &to, GrantOp::SETUP_TABLE, &mut them), 0);
        them[0].status
    };
    assert_eq!(setup(65, to.va(1)), ERROR);
    assert_eq!(setup(u32::MAX, to.va(1)), ERROR);
    assert_eq!(setup(3, to.va(1)), OKAY);
    assert_eq!(setup(1, Vaddr(0x1000)), GrantStatus::BAD_VIRT_ADDR);
    let mut list = [0u64; 4];
    core.platform.copy_from_guest(to.space(), to.va(1), list.as_mut_bytes()).unwrap();
    assert_eq!(list[3], 0);
    for (index, mfn) in list[..3].iter().enumerate() {
        assert_eq!(to.domain.grants.table.lock().frames[index].mfn(), Mfn(*mfn));
        // The guest maps the frame of its table, writable.
        to.map(&core, HOLE + index, Pte::new(Mfn(*mfn), WRITABLE)).unwrap();
    }
    assert_eq!(to.domain.grants.size(), (3, 64));
    let other = SetupTable { dom: DomId(0), nr_frames: 1, frame_list: to.va(1), ..SetupTable::new_zeroed() };
    let mut them = [other];
    assert_eq!(ops(&core, &to, GrantOp::SETUP_TABLE, &mut them), 0);
    assert_ne!(them[0].status, OKAY);
    sound(&core);
}

#[test]
fn page_tables_can_be_granted_to_be_read_only() {
    let (core, from, to) = pair();
    let table = from.tables[0].mfn();
    grant(&core, &from, 8, to.domain.id, table, 0);
    assert_eq!(map(&core, &to, map_op(&from, 8, HOST, to.va(HOLE).0)).0, ERROR);
    assert_eq!(map(&core, &to, map_op(&from, 8, DEVICE, 0)).0, ERROR);
    let source = end(to.frames[1].mfn().0, DomId::SELF, 0);
    assert_eq!(copy(&core, &to, source, end(8, from.domain.id, 0), 8, 2), ERROR);
    let (status, handle, _) = map(&core, &to, map_op(&from, 8, HOST | READONLY, to.va(HOLE).0));
    assert_eq!(status, OKAY);
    assert_eq!(core.platform.translate(to.space(), to.va(HOLE)), Some((from.tables[0], false)));
    assert_eq!(unmap(&core, &to, handle, to.va(HOLE).0, Maddr(0)), OKAY);
    // A frame that is mapped for writing cannot become a page table meanwhile.
    grant(&core, &from, 9, to.domain.id, from.frames[3].mfn(), 0);
    let (_, handle, _) = map(&core, &to, map_op(&from, 9, DEVICE, 0));
    from.map(&core, 3, Pte::EMPTY).unwrap();
    let pin = abi::mmu::MmuextOp::new(abi::mmu::MmuextCmd::PIN_L1_TABLE, from.frames[3].mfn().0, 0);
    from.poke(&core, 0, 0, pin.as_bytes());
    let pin = || from.hypercall(&core, Hypercall::MMUEXT_OP.0, [from.va(0).0, 1, 0, u64::from(DomId::SELF.0), 0]);
    assert!(pin() < 0);
    assert_eq!(unmap(&core, &to, handle, 0, from.frames[3].mfn().maddr()), OKAY);
    assert_eq!(pin(), 0);
    sound(&core);
}

#[test]
fn no_tlb_remembers_a_mapping_when_its_mark_is_gone() {
    let (core, from, to) = pair();
    to.domain.dirty_cpus.store(0b10, SeqCst);
    let (_, handle, _) = map(&core, &to, map_op(&from, 8, HOST, to.va(HOLE).0));
    core.platform.touch(crate::CpuId(1), to.space(), to.va(HOLE));
    core.platform.take_flushes();
    assert_eq!(unmap(&core, &to, handle, to.va(HOLE).0, Maddr(0)), OKAY);
    let flushed = core.platform.take_flushes();
    assert!(flushed.iter().any(|(cpus, what)| cpus.has(crate::CpuId(1)) && *what == Flush::All));
    // A device mapping costs none.
    let (_, handle, address) = map(&core, &to, map_op(&from, 8, DEVICE, 0));
    assert_eq!(unmap(&core, &to, handle, 0, address), OKAY);
    assert_eq!(core.platform.take_flushes(), Vec::new());
}

#[test]
fn copies_between_all_kinds_of_ends() {
    let (core, from, to) = pair();
    grant(&core, &from, 9, to.domain.id, from.frames[2].mfn(), Entry::GTF_READONLY);
    from.poke(&core, 1, 100, b"granted");
    to.poke(&core, 2, 4000, b"one's own");
    let own = |page: usize, offset| end(to.frames[page].mfn().0, DomId::SELF, offset);
    let theirs = |gref, offset| end(gref, from.domain.id, offset);
    let text = |guest: &Guest, page: usize, offset: usize, len: usize| {
        let mut bytes = std::vec![0; len];
        core.platform.read(guest.frames[page], offset, &mut bytes);
        bytes
    };
    assert_eq!(copy(&core, &to, theirs(8, 100), own(3, 5), 7, 1), OKAY);
    assert_eq!(text(&to, 3, 5, 7), b"granted");
    assert_eq!(copy(&core, &to, own(2, 4000), theirs(8, 0), 9, 2), OKAY);
    assert_eq!(text(&from, 1, 0, 9), b"one's own");
    assert_eq!(copy(&core, &to, theirs(8, 0), theirs(8, 2000), 9, 3), OKAY);
    assert_eq!(text(&from, 1, 2000, 9), b"one's own");
    assert_eq!(copy(&core, &to, own(2, 4000), own(4, 0), 9, 0), OKAY);
    assert_eq!(text(&to, 4, 0, 9), b"one's own");
    assert_eq!(copy(&core, &to, own(2, 0), theirs(9, 0), 9, 2), ERROR, "read-only");
    assert_eq!(copy(&core, &to, theirs(9, 0), own(2, 0), 0, 1), OKAY, "nothing to copy");
    assert_eq!(copy(&core, &to, own(2, 4000), own(4, 0), 97, 0), GrantStatus::BAD_COPY_ARG);
    assert_eq!(copy(&core, &to, own(2, 0), own(4, 4090), 7, 0), GrantStatus::BAD_COPY_ARG);
    assert_eq!(copy(&core, &to, own(2, u16::MAX), own(4, 0), u16::MAX, 0), GrantStatus::BAD_COPY_ARG);
    let stranger = end(from.frames[3].mfn().0, from.domain.id, 0);
    assert_eq!(copy(&core, &to, stranger, own(4, 0), 7, 0), GrantStatus::PERMISSION_DENIED);
    assert_eq!(copy(&core, &to, end(from.frames[3].mfn().0, DomId::SELF, 0), own(4, 0), 7, 0), GrantStatus::BAD_PAGE);
    assert_eq!(copy(&core, &to, end(8, DomId(99), 0), own(4, 0), 7, 1), GrantStatus::BAD_DOMAIN);
    assert_eq!(copy(&core, &to, theirs(600, 0), own(4, 0), 7, 1), GrantStatus::BAD_GNTREF);
    let l1 = end(to.tables[0].mfn().0, DomId::SELF, 0);
    assert_eq!(copy(&core, &to, own(2, 0), l1, 8, 0), ERROR, "a page table");
    assert_eq!([8, 9].map(|gref| flags(&core, &from, gref) & IN_USE), [0, 0]);
    sound(&core);
}

#[test]
fn a_batch_of_copies_takes_what_they_have_in_common_once() {
    let (core, from, to) = pair();
    let mut them = [(); 32].map(|()| abi::grant::Copy {
        source: end(8, from.domain.id, 0),
        dest: end(to.frames[3].mfn().0, DomId::SELF, 0),
        len: 8,
        flags: 1,
        ..abi::grant::Copy::new_zeroed()
    });
    for (at, op) in them.iter_mut().enumerate() {
        (op.source.offset, op.dest.offset) = (8 * at as u16, 4000 - 8 * at as u16);
    }
    // One in the middle is wrong, and another has other ends.
    them[5].len = 5000;
    them[6].dest.frame = to.frames[4].mfn().0;
    let text: Vec<u8> = (0..=255).collect();
    from.poke(&core, 1, 0, &text);
    assert_eq!(ops(&core, &to, GrantOp::COPY, &mut them), 0);
    for (at, op) in them.iter().enumerate() {
        assert_eq!(op.status, if at == 5 { GrantStatus::BAD_COPY_ARG } else { OKAY });
        let mut bytes = [0; 8];
        let page = if at == 6 { 4 } else { 3 };
        core.platform.read(to.frames[page], 4000 - 8 * at, &mut bytes);
        assert_eq!(bytes == text[8 * at..8 * at + 8], at != 5);
    }
    sound(&core);
}

#[test]
fn a_batch_of_copies_asks_each_domain_for_its_own_grant() {
    let (core, from, to) = pair();
    let other = guest(&core);
    [&to, &other].into_iter().for_each(|it| grant(&core, it, 8, to.domain.id, it.frames[1].mfn(), 0));
    let granters =
        [from.domain.id, other.domain.id, DomId::SELF, from.domain.id, DomId(99), to.domain.id, from.domain.id];
    let texts: [&[u8]; 3] = [b"from", b"else", b"mine"];
    [&from, &other, &to].iter().zip(texts).for_each(|(guest, text)| guest.poke(&core, 1, 0, text));
    let expected = [texts[0], texts[1], texts[2], texts[0], &[0; 4], texts[2], texts[0]];
    let mut reads = [abi::grant::Copy { len: 4, flags: 1, ..abi::grant::Copy::new_zeroed() }; 7];
    for (at, (op, granter)) in reads.iter_mut().zip(granters).enumerate() {
        (op.source, op.dest) = (end(8, granter, 0), end(to.frames[3].mfn().0, DomId::SELF, 8 * at as u16));
    }
    assert_eq!(ops(&core, &to, GrantOp::COPY, &mut reads), 0);
    for (at, (op, text)) in reads.iter().zip(expected).enumerate() {
        assert_eq!(op.status, if granters[at] == DomId(99) { GrantStatus::BAD_DOMAIN } else { OKAY });
        let mut bytes = [0; 4];
        core.platform.read(to.frames[3], 8 * at, &mut bytes);
        assert_eq!(bytes, text, "{at}");
    }
    // And each gets its own back.
    assert_eq!([&from, &to, &other].map(|guest| flags(&core, guest, 8) & IN_USE), [0; 3]);
    sound(&core);
}

#[test]
fn unmap_and_replace_moves_an_entry() {
    let (core, from, to) = pair();
    let (at, new) = (to.va(HOLE).0, to.va(3).0);
    let (_, handle, _) = map(&core, &to, map_op(&from, 8, HOST, at));
    let replace = |new_addr| {
        let mut them = [UnmapAndReplace { host_addr: at, new_addr, handle, ..UnmapAndReplace::new_zeroed() }];
        assert_eq!(ops(&core, &to, GrantOp::UNMAP_AND_REPLACE, &mut them), 0);
        them[0].status
    };
    assert_eq!(replace(0x1000), ERROR, "nothing there");
    assert_eq!(replace(at), ERROR, "itself");
    assert_eq!(replace(new), OKAY);
    assert_eq!(core.platform.translate(to.space(), Vaddr(at)), Some((to.frames[3], true)));
    assert_eq!(core.platform.translate(to.space(), Vaddr(new)), None);
    assert_eq!(replace(new), GrantStatus::BAD_HANDLE);
    assert_eq!(flags(&core, &from, 8) & IN_USE, 0);
    sound(&core);
}

#[test]
fn a_guests_bits_and_user_flag_go_into_the_entry() {
    let (core, from, to) = pair();
    let flags = HOST | gntmap::APPLICATION_MAP | 5 << gntmap::GUEST_AVAIL_SHIFT;
    assert_eq!(map(&core, &to, map_op(&from, 8, flags, to.va(HOLE).0)).0, OKAY);
    let [.., pte] = core.walk(to.space(), to.va(HOLE));
    assert_eq!(pte.mfn(), from.frames[1].mfn());
    assert_eq!(pte.0 & PteFlags::AVAIL.0, 5 << 9);
    assert!(pte.has(PteFlags::USER | PteFlags::RW));
}

#[test]
fn a_batch_that_ends_in_the_middle_or_is_preempted_does_what_it_can() {
    let (core, from, to) = pair();
    // 40 mappings, preempted after each batch.
    core.platform.interrupt_every(1);
    let mut them: Vec<MapGrantRef> = (0..40).map(|n| map_op(&from, 8, HOST, to.va(HOLE + n).0)).collect();
    assert_eq!(ops(&core, &to, GrantOp::MAP_GRANT_REF, &mut them), 0);
    assert!(them.iter().all(|op| op.status == OKAY));
    assert_eq!(to.domain.grants.in_use().1, 40);
    // 4 unmaps, of which 2 are on a page that is not there.
    to.map(&core, 2, Pte::EMPTY).unwrap();
    let unmaps: Vec<_> = them[..2]
        .iter()
        .map(|m| UnmapGrantRef { host_addr: m.host_addr, handle: m.handle, ..UnmapGrantRef::new_zeroed() })
        .collect();
    let offset = 4096 - unmaps.as_bytes().len();
    to.poke(&core, 1, offset, unmaps.as_bytes());
    let rax = to.hypercall(&core, Hypercall::GRANT_TABLE_OP.0, [1, to.va(1).0 + offset as u64, 4, 0, 0]);
    assert_eq!(rax, Errno::EFAULT.code());
    assert_eq!(to.domain.grants.in_use().1, 38);
    sound(&core);
}

#[test]
fn a_granter_that_dies_is_kept_while_its_frames_are_mapped() {
    let (core, from, to) = pair();
    let (id, frame) = (from.domain.id, from.frames[1]);
    let (_, handle, _) = map(&core, &to, map_op(&from, 8, HOST, to.va(HOLE).0));
    let dead = from.domain.clone();
    drop(from);
    end_domain(&core, &dead);
    assert_eq!(
        map(&core, &to, MapGrantRef { dom: id, ..map_op(&to, 8, HOST, to.va(HOLE + 1).0) }).0,
        GrantStatus::BAD_DOMAIN
    );
    assert_eq!(core.platform.translate(to.space(), to.va(HOLE)), Some((frame, true)), "still mapped");
    assert!(core.frames_left(&dead) > 0);
    assert_eq!(unmap(&core, &to, handle, to.va(HOLE).0, Maddr(0)), OKAY);
    assert_eq!(core.frames_left(&dead), 1, "only shared_info, which goes with the domain");
}

#[test]
fn a_mapper_that_dies_lets_go_of_everything() {
    let (core, from, to) = pair();
    let before = refs(&core, from.frames[1]);
    for n in 0..20 {
        let kinds = [HOST, DEVICE, HOST | DEVICE, HOST | READONLY][n % 4];
        assert_eq!(map(&core, &to, map_op(&from, 8, kinds, to.va(HOLE + n).0)).0, OKAY);
    }
    core.platform.interrupt_every(3);
    end_domain(&core, &to.domain);
    assert_eq!(refs(&core, from.frames[1]), before);
    assert_eq!(flags(&core, &from, 8) & IN_USE, 0);
    assert_eq!(from.domain.grants.in_use().0, 0);
}

/// Takes a domain apart as destruction does, but for its entry in the table.
fn end_domain(core: &TestCore, domain: &alloc::sync::Arc<crate::Domain<crate::testing::TestMachine>>) {
    domain.life.store(crate::domain::Stage::Dying as u32, SeqCst);
    core.pause_domain(domain);
    for vcpu in &domain.vcpus {
        let mut run = vcpu.run.lock();
        while core.drop_root(domain, &mut run.kernel_root).is_err() {}
    }
    while core.relinquish_memory(domain).is_err() {}
    while core.release_mappings(domain).is_err() {}
    core.release_grant_table(domain);
}
