//! Which bits of an entry mean what, and what the audit says, value by value.

use super::*;
use crate::mm::Trapped;
use crate::mm::audit::{Fault, Finding};
use crate::mm::entry::*;
use crate::{Owner, State};
use abi::{Mfn, Vaddr};
use zerocopy::FromZeros;

#[test]
fn changes_that_need_no_check() {
    let page = Pte(0x1234_5000 | 7);
    for bit in 0..64 {
        let other = Pte(page.0 ^ 1 << bit);
        // USER, accessed, dirty, GLOBAL, software's bits, and NX.
        let free = matches!(bit, 2 | 5 | 6 | 8 | 9..=11 | 52..=58 | 63);
        let available = PteFlags::AVAIL_HIGH.0 >> bit & 1 == 1;
        let expected = if (52..=62).contains(&bit) { available } else { free };
        assert_eq!(is_harmless_change(page, other), expected, "bit {bit}");
        assert_eq!(is_rw_change(page, other), bit == 1, "bit {bit}");
        // With RW besides.
        assert_eq!(is_rw_change(page, Pte(other.0 ^ 2)), expected, "bit {bit}");
    }
    assert!(is_harmless_change(page, page) && !is_rw_change(page, page));
}

#[test]
fn entries_as_they_are_stored() {
    let (user, global, kernel) = (PteFlags::USER.0, PteFlags::GLOBAL.0, 1 << 52);
    let frame = 0x1234_5000;
    assert_eq!(adjust_l1(Pte(frame | user | 3)), Pte(frame | user | 3));
    assert_eq!(adjust_l1(Pte(frame | 3)), Pte(frame | user | kernel | 3));
    assert_eq!(adjust_l1(Pte(frame | global | user | 3)), Pte(frame | user | 3));
    assert_eq!(adjust_l1(Pte(frame | kernel | 3)), Pte(frame | user | kernel | 3), "whether it had bit 52 or not");
    assert_eq!(adjust_table(Pte(frame | 3)), Pte(frame | user | 3));
    assert!(is_plain_l1(Pte(frame | user | 3)) && is_plain_l1(Pte(frame | user | 1 << 63 | 1)));
    assert!(!is_plain_l1(Pte(frame | 3)), "USER is added");
    for bit in [PteFlags::PWT.0, PteFlags::PCD.0, PteFlags::PAT.0, global, 1 << 62] {
        assert!(!is_plain_l1(Pte(frame | user | bit | 3)), "{bit:#x}");
    }
    assert_eq!(CACHE, 1 << 3 | 1 << 4 | 1 << 7);
    assert_eq!((AD, TABLE_FORBIDDEN), (1 << 5 | 1 << 6, CACHE | 1 << 8));
}

#[test]
fn addresses_of_guests() {
    let slot = |slot: u64| Vaddr(if slot < 256 { slot << 39 } else { slot << 39 | 0xffff << 48 });
    let fine = [0, 1, 255, 272, 511].map(|index| is_guest_address(slot(index)));
    assert_eq!((fine, [256, 257, 271].map(|index| is_guest_address(slot(index)))), ([true; 5], [false; 3]));
    assert!(!is_guest_address(Vaddr(1 << 47)) && !is_guest_address(Vaddr(0xfffe_ffff_ffff_ffff)));
}

#[test]
fn a_walk_ends_where_the_hardwares_would() {
    let (core, guest) = machine(8);
    let va = guest.va(2);
    let walk = || core.walk(guest.space(), va).map(|entry| entry.0);
    let whole = walk();
    assert!(whole.iter().all(|entry| entry & 1 == 1));
    assert_eq!(core.translate(guest.space(), va, true), Some(Pte(whole[3])));
    let [_, l2, l3, _] = guest.tables;
    for (level, table) in [(2, l2), (3, l3)] {
        let (index, behind) = (va.table_index(level), 5 - level as usize);
        // Not there, wherever it would lead; a large page; a frame that is no RAM.
        for end in [whole[behind - 1] & !1, whole[behind - 1] | PteFlags::PSE.0, Pte::new(Mfn(3), WRITABLE).0] {
            let before = core.platform.word(table, index).swap(end, SeqCst);
            let seen = walk();
            assert_eq!((seen[behind - 1], &seen[..behind - 1]), (end, &whole[..behind - 1]));
            assert!(seen[behind..].iter().all(|entry| *entry == 0), "{end:#x} leads on");
            core.platform.word(table, index).store(before, SeqCst);
        }
    }
}

/// Sets a frame's state, looks for what the audit finds, and sets it back.
#[track_caller]
fn faults(core: &TestCore, frame: Frame, state: u64) -> Vec<Fault> {
    let before = core.frames.info(frame).state();
    core.frames.info(frame).reset(state);
    let found = core.audit(&[]).unwrap();
    core.frames.info(frame).reset(before.0);
    sound(core);
    let of_frame = found.into_iter().filter_map(|finding| match finding {
        Finding::Frame(of, _, _, fault) if of == frame => Some(fault),
        _ => None,
    });
    of_frame.collect()
}

#[test]
fn the_audit_knows_states_that_cannot_be() {
    let (core, guest) = machine(8);
    let page = guest.frames[3];
    protect(&core, &guest, 3, READ_ONLY);
    let plain = core.frames.info(page).state().0;
    let one = |kind: PageType| (kind as u64) << 56 | State::TYPE_REF;
    let bad = |state: u64| faults(&core, page, state).contains(&Fault::BadState);
    let kinds = !(7 << 56);
    // Validated without a reference, and a reference that is not validated.
    assert!(!bad(plain) && bad(plain | State::VALIDATED) && bad(plain & kinds | one(PageType::Writable)));
    assert!(!bad(plain & kinds | one(PageType::Writable) | State::VALIDATED));
    // Half a table holds one reference, is of a table's type, and is not validated.
    let half = plain & kinds | State::PARTIAL;
    assert!(!bad(half | one(PageType::L2)));
    assert!(bad(half | one(PageType::L2) | State::VALIDATED));
    assert!(bad((half | one(PageType::L2)) + State::TYPE_REF));
    assert!(bad(half | one(PageType::Writable)) && bad(half));
    // What is pinned is a table in use.
    let pinned = plain & kinds | State::PINNED;
    assert!(!bad(pinned | one(PageType::L1) | State::VALIDATED));
    assert!(bad(pinned) && bad(pinned | one(PageType::Writable) | State::VALIDATED));
    assert!(bad(pinned | (PageType::L1 as u64) << 56));
    // There is no reference of type None.
    assert!(bad(plain & kinds | one(PageType::None) | State::VALIDATED));
    assert!(bad(plain & kinds | one(PageType::Writable) | State::CORE));
    // What is free or the core's has no state.
    let free = core.frames.iter().find(|frame| matches!(core.frames.info(*frame).owner(), Owner::Free(_))).unwrap();
    assert!(faults(&core, free, State::REF).contains(&Fault::BadState));
}

#[test]
fn the_audit_knows_a_list_from_an_account() {
    let (core, guest) = machine(8);
    let own = guest.frames[7];
    let bad = || core.audit(&[]).unwrap().iter().any(|f| matches!(f, Finding::Frame(_, _, _, Fault::BadList)));
    guest.domain.memory.lock().pages += 1;
    assert!(bad(), "one that is on no list");
    guest.domain.memory.lock().pages -= 1;
    let owner = core.frames.info(own).owner();
    core.frames.info(own).set_owner(Owner::Core);
    assert!(bad(), "one that is not the domain's");
    core.frames.info(own).set_owner(owner);
    let state = core.frames.info(own).state();
    core.frames.info(own).reset(state.0 | State::CORE);
    assert!(bad(), "one that is the core's");
    core.frames.info(own).reset(state.0);
    sound(&core);
}

#[test]
fn the_audit_knows_entries_that_cannot_be() {
    let (core, guest) = machine(8);
    let [l1, l2, ..] = guest.tables;
    let put = |table: Frame, index: usize, pte: Pte| core.platform.word(table, index).swap(pte.0, SeqCst);
    let finds = |table, index, pte: Pte, fault: Fault| {
        let before = put(table, index, pte);
        let found = core.audit(&[]).unwrap();
        put(table, index, Pte(before));
        sound(&core);
        found.iter().any(|finding| matches!(finding, Finding::Frame(_, _, _, that) if *that == fault))
    };
    let page = guest.frames[3].mfn();
    assert!(finds(l1, 400, Pte::new(page, PteFlags(READ_ONLY.0 | 1 << 4)), Fault::BadEntry(l1)), "cacheability");
    assert!(finds(l1, 400, Pte::new(l2.mfn(), WRITABLE), Fault::WritableAlias(l1)));
    assert!(finds(l2, 400, Pte::new(page, WRITABLE), Fault::WrongLevel(l2)));
    assert!(finds(l2, 400, Pte::new(l1.mfn(), PteFlags(WRITABLE.0 | 1 << 8)), Fault::BadEntry(l2)), "GLOBAL");
    assert!(finds(l2, 400, Pte::new(l2.mfn(), WRITABLE), Fault::BadEntry(l2)), "itself, writable");
    assert!(!finds(l2, 400, Pte::new(l2.mfn(), READ_ONLY), Fault::BadEntry(l2)), "itself");
    assert!(finds(l2, 400, Pte::new(Mfn(3), WRITABLE), Fault::BadEntry(l2)), "no RAM");
    assert!(!finds(l1, 400, Pte::new(Mfn(3), WRITABLE), Fault::BadEntry(l1)), "a device");
}

/// In whatever windows it goes, it finds the same and counts the same.
#[test]
fn the_audit_goes_by_windows_and_says_what_it_saw() {
    let (core, guest) = machine(8);
    let refs = core.frames.iter().map(|frame| core.frames.info(frame).state().refs()).sum::<u64>();
    core.alloc_unbound(&guest.domain, guest.domain.id).unwrap();
    core.report_audit(&[]);
    let frames = core.frames.iter().count();
    let expected = std::format!("audit: ok, 0 findings in {frames} frames, {refs} references, 1 ports of 1 domains");
    let printed = core.platform.take_printed();
    assert!(printed.contains(&expected), "{printed} for {expected}");
    core.frames.info(guest.frames[5]).reset(core.frames.info(guest.frames[5]).state().0 + State::REF);
    core.leak_port(&guest.domain).unwrap();
    let (all, _) = core.audit_by(&[], 1 << 20).unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    // What is wrong apart from counts is said once, in however many windows.
    protect(&core, &guest, 3, READ_ONLY);
    let page = core.frames.info(guest.frames[3]);
    page.reset(page.state().0 | State::VALIDATED);
    for window in [257, 2048] {
        assert_eq!(core.audit_by(&[], window).unwrap().0.len(), 3, "{window}");
    }
    page.reset(page.state().0 & !State::VALIDATED);
    for window in [257, 1023, 2047, 2048] {
        assert_eq!(core.audit_by(&[], window).unwrap().0, all, "{window}");
    }
    core.report_audit(&[]);
    let printed = core.platform.take_printed();
    let mfn = guest.frames[5].mfn().0;
    assert!(printed.contains(&std::format!("audit: frame {mfn:#x} of Domain(DomId(0x1))")), "{printed}");
    assert!(printed.contains("audit: port 2 of d1") && printed.contains("audit: FAILED, 2 findings"), "{printed}");
    // No more than 64 are kept.
    for frame in core.frames.iter().filter(|frame| core.frames.info(*frame).state().refs() == 0).take(100) {
        core.frames.info(frame).reset(State::REF);
    }
    assert_eq!(core.audit(&[]).unwrap().len(), 64);
}

#[test]
fn memory_is_charged_and_given_back_exactly() {
    let (core, guest) = machine(8);
    let pages = || guest.domain.memory.lock().pages;
    let (before, fixed) = (pages(), core.footprint(&guest.domain));
    // More than there is: nothing stays charged.
    guest.domain.memory.lock().max_pages = 1 << 20;
    assert_eq!(core.alloc_domain_pages(&guest.domain, 11, u64::MAX, None), Err(Errno::ENOMEM));
    assert_eq!(core.alloc_domain_pages(&guest.domain, 3, 8, None), Err(Errno::ENOMEM), "below frame 8");
    assert_eq!(pages(), before);
    let block = core.alloc_domain_pages(&guest.domain, 3, u64::MAX, Some(500)).unwrap();
    assert_eq!(pages(), before + 8);
    for (offset, frame) in (0..).zip(core.frames.block(block, 3)) {
        assert_eq!(core.platform.m2p(frame.mfn()), 500 + offset);
        assert_eq!(core.frames.info(frame).state(), State(State::ALLOCATED | State::REF));
    }
    // A page of the core's is charged apart.
    assert_eq!(core.footprint(&guest.domain), fixed);
    let shared = core.alloc_core_page(&guest.domain).unwrap();
    assert_eq!(core.footprint(&guest.domain), fixed + PAGE_SIZE);
    let state = core.frames.info(shared).state();
    assert_eq!((state.refs(), state.type_refs(), state.kind()), (1, 1, PageType::Writable));
    assert!(state.has(State::CORE | State::ALLOCATED | State::VALIDATED));
    core.free_core_page(shared);
    assert_eq!(core.footprint(&guest.domain), fixed);
    // None is left: the charge is taken back.
    while core.take_frames(0, u64::MAX).is_some() {}
    let charged = guest.domain.memory.lock().core_pages;
    assert_eq!(core.alloc_core_page(&guest.domain), Err(Errno::ENOMEM));
    assert_eq!(guest.domain.memory.lock().core_pages, charged);
}

/// A domain that began to die gets nothing more, and is charged nothing.
#[test]
fn a_dying_domain_is_given_nothing() {
    let (core, guest) = machine(8);
    let first = core.take_frames(2, u64::MAX).unwrap();
    let free = core.free_frames();
    guest.domain.memory.lock().pages += 4;
    let pages = guest.domain.memory.lock().pages;
    guest.domain.life.store(crate::Stage::Dying as u32, SeqCst);
    assert_eq!(core.give(&guest.domain, first, 2), Err(Errno::EINVAL));
    assert_eq!((guest.domain.memory.lock().pages, core.free_frames()), (pages - 4, free + 4));
}

/// The heap that a domain takes, part by part.
#[test]
fn the_footprint_is_the_sum_of_its_parts() {
    let (core, guest) = machine(8);
    let vcpus = |count| {
        let new = crate::lifecycle::NewDomain::ordinary(count);
        core.footprint(&core.create_domain(&new).unwrap())
    };
    let (one, two, four) = (vcpus(1), vcpus(2), vcpus(4));
    type Machine = testing::TestMachine;
    let each = size_of::<crate::Vcpu<Machine>>()
        + size_of::<crate::Lock<Machine, crate::Run>>()
        + size_of::<crate::trap::TrapTable>()
        + size_of::<crate::vcpu::FpuState>();
    assert_eq!((two - one, four - two), (each, 2 * each));
    core.grow_grant_table(&guest.domain, 1).unwrap();
    let (grants, events) = (guest.domain.grants.bytes(), guest.domain.events.bytes());
    let pages = guest.domain.memory.lock().core_pages as usize;
    assert!(grants > 0 && events > 0 && pages == 2);
    let parts = size_of::<crate::Domain<Machine>>() + each + grants + events + pages * PAGE_SIZE;
    assert_eq!(core.footprint(&guest.domain), parts);
    let before = core.footprint(&guest.domain);
    guest.domain.memory.lock().memory_map = std::vec![FromZeros::new_zeroed(); 10];
    assert_eq!(core.footprint(&guest.domain), before + 10 * size_of::<abi::memory::E820Entry>());
    core.grow_grant_table(&guest.domain, 2).unwrap();
    let grown = core.footprint(&guest.domain);
    let events = guest.domain.events.bytes();
    for _ in 0..100 {
        core.alloc_unbound(&guest.domain, guest.domain.id).unwrap();
    }
    assert_eq!(core.footprint(&guest.domain), grown + guest.domain.events.bytes() - events);
    assert!(guest.domain.events.bytes() > events);
}

/// What is let go of is finished by the same call, if it was interrupted no more than twice; and nobody is asked about
/// nothing.
#[test]
fn what_is_finished_at_once_takes_no_second_call() {
    for (times, step) in (1..=2).flat_map(|times| (0..20).map(move |step| (times, step))) {
        let (core, guest) = machine(16);
        let tables = tree(&core, &guest, 4, 8);
        assert_eq!(pin(&core, &guest, 4, tables[3]), 0);
        guest.poke(&core, 0, 0, MmuextOp::new(MmuextCmd::UNPIN_TABLE, tables[3].mfn().0, 0).as_bytes());
        core.platform.interrupt_during(step, times);
        let mut args = [guest.va(0).0, 1, 0, SELF, 0];
        let ended = guest.run(&core, |c| crate::dispatch::call(c, Hypercall::MMUEXT_OP.0, &mut args));
        assert_eq!(ended, Ok(0), "step {step}");
        assert!(tables.iter().all(|table| core.frames.info(*table).state().type_refs() == 0));
    }
}

#[test]
fn tables_are_flushed_for_where_they_were_something_else() {
    let (core, guest) = machine(8);
    let fresh = core.alloc_domain_page(&guest.domain).unwrap();
    core.platform.take_flushes();
    assert_eq!(pin(&core, &guest, 1, fresh), 0);
    assert_eq!(unpin(&core, &guest, fresh), 0);
    assert_eq!(pin(&core, &guest, 1, fresh), 0, "the same again");
    assert_eq!(core.platform.take_flushes(), []);
    assert_eq!(unpin(&core, &guest, fresh), 0);
    assert_eq!(pin(&core, &guest, 2, fresh), 0);
    assert_eq!(core.platform.take_flushes().len(), 1);
    // Entries of directories get USER when they are validated.
    let (upper, lower) = (core.alloc_domain_page(&guest.domain).unwrap(), Pte::new(fresh.mfn(), PteFlags(3)));
    core.platform.word(upper, 7).store(lower.0, SeqCst);
    assert_eq!(pin(&core, &guest, 3, upper), 0);
    assert_eq!(entry(&core, upper, 7), Pte(lower.0 | PteFlags::USER.0));
    assert_eq!([0, 1].map(|kind| core.get_type(fresh, PageType::table(kind), core.online())), [Err(Errno::EINVAL); 2]);
    let nothing = core.alloc_domain_page(&guest.domain).unwrap();
    for kind in [PageType::None, PageType::L1] {
        assert_eq!(core.get_type(nothing, kind, core.online()), Err(Errno::EINVAL));
    }
    sound(&core);
}

#[test]
fn a_new_root_is_a_flush() {
    let (core, guest) = machine(16);
    let tables = tree(&core, &guest, 4, 8);
    protect(&core, &guest, 7, WRITABLE);
    let slot = guest.va(0).table_index(4);
    fill(&core, tables[3], &[(slot, entry(&core, guest.tables[3], slot))]);
    protect(&core, &guest, 7, READ_ONLY);
    // Validated before, so that nothing else is to be flushed for.
    assert_eq!(pin(&core, &guest, 4, tables[3]), 0);
    let stamp = core.frames.clock.stamp();
    assert!(core.stale(core.online(), stamp).has(crate::CpuId(0)));
    assert_eq!(extended(&core, &guest, MmuextCmd::NEW_BASEPTR, tables[3].mfn().0, 0), 0);
    assert!(!core.stale(core.online(), stamp).has(crate::CpuId(0)));
    assert_eq!(core.stale(core.online(), stamp), crate::CpuSet(2));
}

#[test]
fn an_ldt_changes_with_either_of_its_words() {
    let (core, guest) = machine(8);
    let set = |base, entries| extended(&core, &guest, MmuextCmd::SET_LDT, base, entries);
    let now = || guest.run(&core, |c| (c.run.ldt_base, c.run.ldt_entries));
    let (one, two) = (guest.va(2).0, guest.va(3).0);
    for (base, entries) in [(one, 8), (one, 16), (two, 16), (two, 16), (one, 8192)] {
        assert_eq!((set(base, entries), now()), (0, (base, entries as u32)));
    }
    assert_eq!((set(one, 8193), now()), (EINVAL, (one, 8192)));
    assert_eq!((set(77, 0), now()), (0, (0, 0)), "none, wherever");
    protect(&core, &guest, 2, READ_ONLY);
    assert_eq!(set(one, 8), 0);
    assert!(!guest.run(&core, |c| c.map_ldt(64)) && guest.run(&core, |c| c.map_ldt(63)));
    // The same again keeps what is mapped; another lets go of it.
    let held = || core.frames.info(guest.frames[2]).state().type_refs();
    assert_eq!((set(one, 8), held()), (0, 1));
    assert_eq!((set(one, 9), held()), (0, 0));
}

#[test]
fn trapped_writes_within_a_word() {
    let (core, guest) = machine(8);
    let window = |byte: u64| Vaddr(guest.va(8).0 + 3 * 8 + byte);
    let write = |va, bytes, old, new| guest.run(&core, |c| c.emulate_write(va, bytes, old, new));
    core.platform.word(guest.tables[0], 300).store(0, SeqCst);
    // Not present: any bits may be there.
    assert_eq!(guest.map(&core, 3, Pte(0x1122_3344_5566_7788)), Ok(()));
    assert_eq!(write(window(2), 2, Some(0x1234), 0), Ok(Trapped::Changed(0x5566)));
    assert_eq!(write(window(2), 2, Some(0x5566), 0xabcd), Ok(Trapped::Done));
    assert_eq!(write(window(5), 1, Some(0x33), 0xee), Ok(Trapped::Done));
    assert_eq!(write(window(4), 4, Some(0x1122_ee44), 0x9988_7766), Ok(Trapped::Done));
    assert_eq!(entry(&core, guest.tables[0], 3), Pte(0x9988_7766_abcd_7788));
    // A page that is not there shows no table, whatever its entry names.
    assert_eq!(guest.map(&core, 3, Pte(guest.tables[0].mfn().maddr().0)), Ok(()));
    assert!(!guest.run(&core, |c| c.is_page_table(guest.va(3))));
    assert_eq!(guest.map(&core, 3, Pte::new(guest.tables[0].mfn(), READ_ONLY)), Ok(()));
    assert!(guest.run(&core, |c| c.is_page_table(guest.va(3))));
    sound(&core);
}

/// The hardware's bits are kept, whether the new entry has them as well or not.
#[test]
fn accessed_and_dirty_are_kept_and_not_taken_back() {
    let (core, guest) = machine(8);
    let plain = Pte::new(guest.frames[4].mfn(), READ_ONLY);
    for (held, new) in [(AD, AD), (AD, 0), (1 << 5, 1 << 6), (0, AD), (0, 0)] {
        let (first, then) = (Pte(plain.0 | held), Pte(plain.0 | new));
        let mut keep = request(guest.tables[0], 300, then);
        keep.ptr |= u64::from(abi::mmu::MmuUpdateKind::PT_UPDATE_PRESERVE_AD.0);
        assert_eq!(update(&core, &guest, &[request(guest.tables[0], 300, first), keep]), 0);
        assert_eq!(entry(&core, guest.tables[0], 300), Pte(plain.0 | held | new));
        assert_eq!(update(&core, &guest, &[request(guest.tables[0], 300, Pte::EMPTY)]), 0);
    }
    sound(&core);
}
