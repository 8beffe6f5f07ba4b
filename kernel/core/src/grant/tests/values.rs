//! Bounds from both sides, and what each part takes of the heap.

use super::*;
use abi::Pte;
use abi::grant::gntmap;

fn pair() -> (std::boxed::Box<TestCore>, Guest, Guest) {
    let core = testing::core(2048, 1);
    let (from, to) = (guest(&core), guest(&core));
    grant(&core, &from, 8, to.domain.id, from.frames[1].mfn(), 0);
    (core, from, to)
}

/// The L1 entry of a page of the address space.
fn stored(core: &TestCore, guest: &Guest, page: usize) -> Pte {
    Pte(core.platform.word(guest.tables[0], page).load(SeqCst))
}

#[test]
fn a_mapping_is_stored_as_it_was_asked_for() {
    let (core, from, to) = pair();
    let (accessed, kernel) = (1 << 5 | 1 << 6, 1 << 52);
    for (flags, expected) in [
        (0, 7 | kernel),
        (gntmap::READONLY, 5 | kernel),
        (gntmap::APPLICATION_MAP, 7),
        (gntmap::APPLICATION_MAP | gntmap::READONLY, 5),
        (gntmap::APPLICATION_MAP | 5 << gntmap::GUEST_AVAIL_SHIFT, 7 | 5 << 9),
    ] {
        let (status, handle, _) = map(&core, &to, map_op(&from, 8, gntmap::HOST_MAP | flags, to.va(HOLE).0));
        assert_eq!(status, GrantStatus::OKAY);
        let expected = Pte(from.frames[1].mfn().maddr().0 | accessed | expected);
        assert_eq!(stored(&core, &to, HOLE), expected, "{flags:#x}");
        assert_eq!(unmap(&core, &to, handle, to.va(HOLE).0, Maddr(0)), GrantStatus::OKAY);
    }
    sound(&core);
}

/// More than one allocation's worth of handles, and of entries.
#[test]
fn hundreds_of_mappings_have_a_handle_each() {
    let (core, from, to) = pair();
    core.grow_grant_table(&from.domain, 2).unwrap();
    let second = from.domain.grants.table.lock().frames[1];
    let word = from.frames[1].mfn().0 << 32 | u64::from(to.domain.id.0) << 16 | 1;
    core.platform.word(second, 511).store(word, SeqCst);
    let device = |gref| map_op(&from, gref, gntmap::DEVICE_MAP, 0);
    let (none, one_use) = (from.domain.grants.bytes(), 128 * 16);
    let mut handles: Vec<GrantHandle> = Vec::new();
    let empty = to.domain.grants.bytes();
    for n in 0..300 {
        let (status, handle, _) = map(&core, &to, device(if n % 2 == 0 { 8 } else { 1023 }));
        assert_eq!((status, handle.0), (GrantStatus::OKAY, n), "the next one");
        handles.push(handle);
        let chunks = n as usize / 128 + 1;
        let each = to.domain.grants.bytes() - empty;
        assert!(each > chunks * 128 * 16 && each.is_multiple_of(chunks * 128), "{each}");
    }
    // Two entries are in use, in two allocations.
    assert_eq!(from.domain.grants.bytes() - none, 2 * one_use);
    assert_eq!((from.domain.grants.in_use().0, to.domain.grants.in_use().1), (2, 300));
    let mut seen = Vec::new();
    for (gref, who, mfn, readers, writers) in from.domain.grants.table.lock().in_use() {
        assert_eq!((who, mfn), (to.domain.id, from.frames[1].mfn()));
        seen.push((gref, readers, writers));
    }
    assert_eq!(seen, [(8, 0, 150), (1023, 0, 150)]);
    let address = from.frames[1].mfn().maddr();
    for handle in handles.iter().rev() {
        assert_eq!(unmap(&core, &to, *handle, 0, address), GrantStatus::OKAY);
        assert_eq!(unmap(&core, &to, *handle, 0, address), GrantStatus::BAD_HANDLE);
    }
    assert_eq!((from.domain.grants.in_use().0, to.domain.grants.in_use().1), (0, 0));
    // Handles are used again, the last one given back first.
    assert_eq!(map(&core, &to, device(8)).1, handles[0]);
    sound(&core);
    while core.release_mappings(&to.domain).is_err() {}
    assert_eq!((from.domain.grants.in_use().0, to.domain.grants.in_use().1), (0, 0));
}

#[test]
fn a_table_grows_to_its_limit_and_no_further() {
    let core = testing::core(2048, 1);
    let new = crate::lifecycle::NewDomain { grant_frames: 3, ..crate::lifecycle::NewDomain::ordinary(1) };
    let domain = core.create_domain(&new).unwrap();
    let bytes = |frames: usize| frames * (size_of::<Frame>() + 4 * size_of::<usize>());
    for (frames, fine) in [(0, true), (1, true), (3, true), (4, false), (2, true)] {
        assert_eq!(core.grow_grant_table(&domain, frames).is_ok(), fine, "{frames}");
    }
    assert_eq!((domain.grants.size(), domain.grants.bytes()), ((3, 3), bytes(3)));
}

/// An entry that is in use stays what it was, whatever the granter writes into it meanwhile.
#[test]
fn a_second_use_does_not_look_at_the_entry_again() {
    let (core, from, to) = pair();
    let read = |page: usize| map(&core, &to, map_op(&from, 8, gntmap::HOST_MAP | gntmap::READONLY, to.va(page).0));
    assert_eq!(read(HOLE).0, GrantStatus::OKAY);
    let kept = entry(&core, &from, 8).swap(0, SeqCst);
    assert_eq!(read(HOLE + 1).0, GrantStatus::OKAY);
    let write = map(&core, &to, map_op(&from, 8, gntmap::HOST_MAP, to.va(HOLE + 2).0));
    assert_eq!(write.0, GrantStatus::GENERAL_ERROR, "a first write does");
    entry(&core, &from, 8).store(kept, SeqCst);
    sound(&core);
}

#[test]
fn copies_go_to_the_end_of_a_page_and_not_beyond() {
    let (core, from, to) = pair();
    let own = |offset| end(to.frames[3].mfn().0, DomId::SELF, offset);
    let theirs = |offset| end(8, from.domain.id, offset);
    let take = |source, dest, len| copy(&core, &to, source, dest, len, Copy::SOURCE_GREF);
    for (a, b, len, fine) in [
        (0, 0, 4096, true),
        (4095, 4095, 1, true),
        (1, 0, 4096, false),
        (0, 1, 4096, false),
        (4096, 0, 0, true),
        (4097, 0, 0, false),
        (0, 4097, 0, false),
    ] {
        let status = take(theirs(a), own(b), len);
        assert_eq!(status == GrantStatus::OKAY, fine, "{a} {b} {len}: {status:?}");
    }
}
