//! What each step of a frame's state is, value by value; and the flush clock.

use super::info::{Claim, OwnerWord};
use super::*;
use crate::Privilege;
use crate::testing::{self, FIRST_RAM, TestCore};
use abi::DomId;

const TYPE_ONE: u64 = 1 << 28;
const VALID: u64 = State::VALIDATED;

const fn kind(kind: PageType) -> u64 {
    (kind as u64) << 56
}

fn writable(refs: u64, types: u64) -> State {
    State(VALID | kind(PageType::Writable) | types << 28 | refs)
}

#[test]
fn a_state_is_taken_apart() {
    let all = State(1 << 63 | 5 << 56 | 7 << 28 | 9);
    assert_eq!((all.refs(), all.type_refs(), all.kind()), (9, 7, PageType::SegmentDescriptor));
    assert!(all.has(State::CORE) && !all.has(State::CORE | State::PINNED));
    for level in 1..=4u8 {
        let table = State(VALID | u64::from(level) << 56 | TYPE_ONE | 1);
        assert_eq!((1..=4).filter(|other| table.is_table(*other)).collect::<std::vec::Vec<_>>(), [level]);
        assert!(!State(table.0 & !VALID).is_table(level), "half validated");
        assert!(!State(table.0 - TYPE_ONE).is_table(level), "none holds it");
        assert!(State(table.0 | State::PINNED).is_table(level));
        assert_eq!((PageType::table(level).level(), PageType::table(level) as u8), (level, level));
    }
    assert_eq!((PageType::table(5), PageType::Writable.level()), (PageType::None, 0));
}

#[test]
fn general_references_have_a_floor_and_a_ceiling() {
    assert_eq!(State(0).get(), None, "free");
    assert_eq!(State(1).get(), Some(State(2)));
    assert_eq!(State((1 << 27) - 1).get(), Some(State(1 << 27)));
    assert_eq!(State(1 << 27).get(), None, "full");
    assert_eq!(State(TYPE_ONE).get(), None);
}

#[test]
fn a_first_type_reference_is_valid_only_where_nothing_has_to_happen() {
    use PageType::*;
    let first = |old: PageType, new| State(kind(old) | 2).get_type(new).unwrap();
    for new in [None, L1, L2, L3, L4, SegmentDescriptor, Writable] {
        for old in [None, L1, SegmentDescriptor, Writable] {
            let simple = new == Writable && matches!(old, None | Writable);
            let expected = kind(new) | TYPE_ONE | 2 | if simple { VALID } else { 0 };
            assert_eq!(first(old, new), State(expected), "{old:?} to {new:?}");
            // What a domain left of the last type, and the flags, stay or go.
            let flags = State(VALID | State::ALLOCATED | kind(old) | 2).get_type(new).unwrap();
            assert_eq!(flags, State(expected | State::ALLOCATED));
        }
    }
    let table = State(VALID | kind(L1) | TYPE_ONE | 2);
    assert_eq!(table.get_type(L1), Some(State(table.0 + TYPE_ONE)));
    assert_eq!([Writable, L2, SegmentDescriptor].map(|new| table.get_type(new)), [Option::None; 3]);
    assert_eq!(State(table.0 | State::PARTIAL).get_type(L1), Option::None);
    assert_eq!(writable(2, (1 << 27) - 1).get_type(Writable), Some(writable(2, 1 << 27)));
    assert_eq!(writable(2, 1 << 27).get_type(Writable), Option::None, "full");
}

#[test]
fn only_what_nothing_else_refers_to_is_unshared() {
    let alone = State(State::ALLOCATED | kind(PageType::Writable) | 1);
    assert_eq!(alone.unshared(), Some(State(0)));
    for held in [State::REF, State::CORE, TYPE_ONE] {
        assert_eq!(State(alone.0 + held).unshared(), None, "{held:#x}");
    }
    assert_eq!(State(1).unshared(), None, "given back already");
}

#[test]
fn owners_as_words() {
    let all = [Owner::NotRam, Owner::Free(None), Owner::Core, Owner::Free(Some(0)), Owner::Free(Some(18))];
    let all = all.into_iter().chain([0, 1, 2, 0x7fef, u16::MAX].map(|id| Owner::Domain(DomId(id))));
    let words: std::vec::Vec<(Owner, OwnerWord)> = all.map(|owner| (owner, owner.word())).collect();
    for (at, (owner, word)) in words.iter().enumerate() {
        let info = PageInfo::default();
        info.set_owner(*owner);
        assert!(info.owner() == *owner && info.owner_word() == *word);
        assert!(words[..at].iter().all(|(_, other)| other != word), "{owner:?}");
        assert_eq!(info.is_owned_by(DomId(1)), *owner == Owner::Domain(DomId(1)));
    }
}

/// What an entry takes and gives back at once, without a look at anything else.
#[test]
fn an_entry_takes_what_it_names() {
    let [own, other] = [1, 2].map(|id| Owner::Domain(DomId(id)).word());
    let info = |state: State| {
        let info = PageInfo::default();
        info.set_owner(Owner::Domain(DomId(1)));
        info.reset(state.0);
        info.set_stamp(5);
        info
    };
    let take = |state, claim| {
        let info = info(state);
        let result = info.claim(own, claim);
        (result, info.state())
    };
    let fresh = State(State::ALLOCATED | 1);
    assert_eq!(take(fresh, Claim::PAGE), (Ok(()), State(fresh.0 + 1)));
    assert_eq!(take(fresh, Claim::of(true)), (Ok(()), State(writable(2, 1).0 | State::ALLOCATED)));
    assert_eq!(take(fresh, Claim::TYPE), (Ok(()), State(writable(1, 1).0 | State::ALLOCATED)));
    assert_eq!(take(writable(3, 2), Claim::of(true)), (Ok(()), writable(4, 3)));
    assert_eq!(take(writable(3, 2), Claim::TYPE), (Ok(()), writable(3, 3)));
    // Free, full, a table, half a table, and one whose flush is due.
    let refused = [
        State(0),
        State(1 << 27),
        State(VALID | kind(PageType::L1) | TYPE_ONE | 2),
        State(kind(PageType::L1) | State::PARTIAL | TYPE_ONE | 2),
        State(kind(PageType::L1) | 2),
        State(kind(PageType::Writable) | TYPE_ONE | 2),
        writable(1 << 27, 1),
        writable(2, 1 << 27),
    ];
    for state in refused {
        assert_eq!(take(state, Claim::of(true)), (Err(false), state), "{:#x}", state.0);
    }
    assert_eq!(take(refused[2], Claim::PAGE), (Ok(()), State(refused[2].0 + 1)), "a table, read-only");
    // It had just changed hands: taken, to be undone.
    let changed = info(fresh);
    assert_eq!(changed.claim(other, Claim::PAGE), Err(true));
    assert_eq!(changed.state().refs(), 2);

    let give = |state, claim| {
        let info = info(state);
        let last = info.unclaim(claim, || 77);
        (last, info.state(), info.stamp())
    };
    assert_eq!(give(writable(3, 2), Claim::of(true)), (false, writable(2, 1), 5));
    assert_eq!(give(writable(3, 2), Claim::TYPE), (false, writable(3, 1), 5));
    assert_eq!(give(writable(3, 2), Claim::PAGE), (false, writable(2, 2), 5));
    let unused = |refs| State(kind(PageType::Writable) | refs);
    assert_eq!(give(writable(3, 1), Claim::of(true)), (false, unused(2), 77), "stamped, and no longer validated");
    assert_eq!(give(writable(1, 1), Claim::TYPE), (false, unused(1), 77), "a general one is left");
    assert_eq!(give(unused(3), Claim::PAGE), (false, unused(2), 5));
    assert_eq!(give(unused(1), Claim::PAGE), (true, unused(0), 5), "the last one");
    assert_eq!(give(writable(1, 1), Claim::of(true)), (true, unused(0), 77), "the last of both");
}

#[test]
fn the_table_knows_what_is_ram_and_whose() {
    let core = testing::core(256, 1);
    let frames = &core.frames;
    assert_eq!((frames.count(), frames.iter().count()), (256, 256 - FIRST_RAM as usize));
    assert_eq!([FIRST_RAM - 1, 256, u64::MAX].map(|mfn| frames.get(Mfn(mfn))), [None; 3]);
    assert_eq!(
        [FIRST_RAM, 255].map(|mfn| frames.get(Mfn(mfn)).map(Frame::mfn)),
        [Some(Mfn(FIRST_RAM)), Some(Mfn(255))]
    );
    assert_eq!([255, 256, u64::MAX].map(|mfn| frames.known(mfn).is_some()), [true, false, false]);
    let first = frames.get(Mfn(254)).unwrap();
    assert_eq!([0, 1, 2].map(|order| frames.block(first, order).count()), [1, 2, 2], "up to the end");
    let guest = testing::guest(&core, Privilege::empty(), 4);
    let (own, other) = (Owner::Domain(guest.domain.id).word(), Owner::Domain(DomId(99)).word());
    let (frame, mfn) = (guest.frames[2], guest.frames[2].mfn());
    assert_eq!([own, other].map(|who| frames.owned(mfn, who).map(|(frame, _)| frame)), [Some(frame), None]);
    assert!(frames.owned(Mfn(256), own).is_none());
    let before = frames.info(frame).state();
    assert_eq!(core.claim(mfn, other, Claim::of(true)), None);
    assert_eq!(frames.info(frame).state(), before);
    assert_eq!(core.claim(mfn, own, Claim::of(true)), Some(frame));
    assert_eq!(frames.info(frame).state(), State(before.0 + State::REF + State::TYPE_REF));
    core.put_claim(mfn, Claim::of(true));
    assert_eq!(frames.info(frame).state(), before);
    for kind in [PageType::None, PageType::L1, PageType::L4] {
        assert_eq!(core.get_type(frame, kind, core.online()), Err(Errno::EINVAL));
    }
}

#[test]
fn a_full_flush_is_remembered_by_those_who_made_it() {
    let core = testing::core(256, 3);
    assert_eq!(core.online(), CpuSet(7));
    let stamp = core.frames.clock.stamp();
    assert_eq!(core.stale(core.online(), stamp), CpuSet(7));
    core.flush(CpuSet(2), Flush::Page(abi::Vaddr(0x1000)));
    assert_eq!(core.stale(core.online(), stamp), CpuSet(7), "one page is not all");
    core.flush(CpuSet(2), Flush::All);
    assert_eq!(core.stale(core.online(), stamp), CpuSet(5));
    assert_eq!(core.stale(CpuSet(6), stamp), CpuSet(4), "of those that were asked about");
    assert_eq!(core.stale(core.online(), core.frames.clock.stamp()), CpuSet(7), "what was let go of later");
    core.platform.take_flushes();
    core.flush(CpuSet::NONE, Flush::All);
    assert_eq!(core.platform.take_flushes(), []);
    // The clock moves only where stamps and flushes take turns.
    let clock = &core.frames.clock;
    let (one, two) = (clock.stamp(), clock.stamp());
    assert_eq!((two, clock.flush_begins(), clock.flush_begins()), (one, u64::from(one) + 1, u64::from(one) + 1));
    // A moment counts from when it was taken, and never back.
    let stamp = clock.stamp();
    assert_eq!(stamp, one + 2);
    let moment = clock.flush_begins();
    core.cpus[0].note_flush(moment);
    core.cpus[0].note_flush(1);
    assert_eq!(core.stale(core.online(), stamp), CpuSet(6));
}

fn flushes(core: &TestCore, change: impl FnOnce()) -> usize {
    core.platform.take_flushes();
    change();
    core.platform.take_flushes().len()
}

#[test]
fn a_new_type_is_flushed_for_and_the_same_one_is_not() {
    let core = testing::core(256, 1);
    let guest = testing::guest(&core, Privilege::empty(), 4);
    let domain = &guest.domain;
    let get = |mfn, kind| core.get_page_and_type(mfn, domain, kind).map(|_| ());
    let page = core.alloc_domain_page(domain).unwrap();
    core.frames.info(page).set_stamp(core.frames.clock.stamp());
    let descriptors = || get(page.mfn(), PageType::SegmentDescriptor).unwrap();
    assert_eq!(flushes(&core, descriptors), 0, "it was nothing before");
    assert_eq!(flushes(&core, || core.put_page_and_type(page)), 0);
    assert_eq!(flushes(&core, descriptors), 0, "the same again");
    core.put_page_and_type(page);
    assert_eq!(flushes(&core, || get(page.mfn(), PageType::Writable).unwrap()), 1);
    assert_eq!(get(page.mfn(), PageType::SegmentDescriptor), Err(Errno::EINVAL), "in use");
    core.put_page_and_type(page);
    assert_eq!(flushes(&core, descriptors), 1, "a TLB may remember it writable");
    core.put_page_and_type(page);
    // Let go of at a moment, by either way: what flushed after it has forgotten it.
    for type_alone in [true, false] {
        get(page.mfn(), PageType::Writable).unwrap();
        core.flush(core.online(), Flush::All);
        if type_alone {
            core.put_type(page);
        }
        if !type_alone {
            core.put_page_and_type(page);
        }
        assert_eq!(core.frames.info(page).stamp(), core.frames.clock.stamp());
        if type_alone {
            core.put_page(page);
        }
    }
    // An interrupt gate is no descriptor of a guest's: neither reference is kept.
    core.platform.word(page, 3).store(0xee << 40, Ordering::SeqCst);
    let before = core.frames.info(page).state();
    assert_eq!(get(page.mfn(), PageType::SegmentDescriptor), Err(Errno::EINVAL));
    let after = core.frames.info(page).state();
    assert_eq!((after.refs(), after.type_refs()), (before.refs(), 0));
}

#[test]
fn a_place_is_what_was_put_there() {
    for (frame, word) in [(0, 0), (1, 511), (u32::MAX, 5)] {
        let place = Place::new(Frame(frame), word);
        assert_eq!(place.get(), (Frame(frame), word));
        place.set(Frame(7), 512 + 9);
        assert_eq!(place.get(), (Frame(7), 9));
    }
}
