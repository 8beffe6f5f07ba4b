//! The lessons of the field's advisories that concern page tables: each tried, each with the outcome that it should
//! have had.

use super::*;
use crate::State;
use crate::mm::audit::{Fault, Finding};
use abi::{Maddr, Mfn, Vaddr};
use std::sync::Arc;

/// Every flag bit of a live entry of every level is flipped; only harmless ones go in (XSA-148).
#[test]
fn lesson_1_every_flag_bit_of_a_live_entry() {
    let (core, guest) = machine(8);
    let harmless_everywhere = PteFlags::AVAIL.0 | PteFlags::AVAIL_HIGH.0 | PteFlags::NX.0 | PteFlags::ACCESSED.0;
    for level in 1..=4usize {
        let table = guest.tables[level - 1];
        let index = if level == 1 { 5 } else { guest.va(0).table_index(level as u32) };
        let live = entry(&core, table, index);
        for bit in (0..12).chain(52..64) {
            let flipped = Pte(live.0 ^ 1 << bit);
            let rc = update(&core, &guest, &[request(table, index, flipped)]);
            let flag = PteFlags(1 << bit);
            let allowed = match flag {
                _ if level == 1 && bit == 62 => false,
                PteFlags::PRESENT if level > 1 => {
                    // Its own argument page goes away with it: not for this test.
                    if rc == 0 {
                        core.platform.word(table, index).store(flipped.0, SeqCst);
                    }
                    true
                }
                PteFlags::PRESENT | PteFlags::RW | PteFlags::USER | PteFlags::DIRTY => true,
                PteFlags::GLOBAL => level == 1,
                PteFlags::PWT | PteFlags::PCD | PteFlags::PSE => false,
                _ => harmless_everywhere & flag.0 != 0,
            };
            if level > 1 && flag == PteFlags::PRESENT {
                // Undone by hand, since the guest has no memory any more; its references went with the entry.
                assert_eq!(rc, 0);
                let mut session = core.mm(&guest.domain);
                session.update_table(table, level as u8, index, live, crate::mm::Store::Plain).unwrap();
                continue;
            }
            assert_eq!(rc == 0, allowed, "level {level} bit {bit}: {rc}");
            assert!(rc == 0 || rc == EINVAL);
            if rc == 0 && flag == PteFlags::RW && level > 1 {
                let mut session = core.mm(&guest.domain);
                session.update_table(table, level as u8, index, live, crate::mm::Store::Plain).unwrap();
            } else {
                assert_eq!(update(&core, &guest, &[request(table, index, live)]), 0);
            }
            assert_eq!(entry(&core, table, index).0 & PteFlags::PSE.0, 0);
            sound(&core);
        }
    }
}

/// A recursive root stays read-only, however it is asked for (XSA-182).
#[test]
fn lesson_2_a_recursive_root_is_never_writable() {
    let (core, guest) = machine(8);
    let root = guest.tables[3];
    let own = |flags| request(root, 300, Pte::new(root.mfn(), flags));
    assert_eq!(update(&core, &guest, &[own(WRITABLE)]), EINVAL);
    assert_eq!(update(&core, &guest, &[own(READ_ONLY)]), 0);
    sound(&core);
    for flags in [WRITABLE, WRITABLE | PteFlags::NX, WRITABLE | PteFlags::DIRTY | PteFlags::ACCESSED] {
        assert_eq!(update(&core, &guest, &[own(flags)]), EINVAL);
        let kept = MmuUpdate { ptr: own(flags).ptr | 2, ..own(flags) };
        assert_eq!(update(&core, &guest, &[kept]), EINVAL);
    }
    assert!(!entry(&core, root, 300).has(PteFlags::RW));
    // Harmless bits may change, and it goes without a trace.
    assert_eq!(update(&core, &guest, &[own(READ_ONLY | PteFlags::NX)]), 0);
    assert_eq!(update(&core, &guest, &[request(root, 300, Pte::EMPTY)]), 0);
    sound(&core);
}

/// Addresses in the core's range and counts from nowhere are no way in (XSA-212, XSA-29).
#[test]
fn lesson_3_arrays_and_resume_counts_are_the_attackers() {
    let (core, guest) = machine(8);
    let number = Hypercall::MMU_UPDATE.0;
    for bad in [0xffff_8040_0000_0000, 0xffff_87ff_ffff_fff8, 0x8000_0000_0000, u64::MAX - 7] {
        assert_eq!(guest.hypercall(&core, number, [bad, 1, 0, SELF, 0]), EFAULT);
        assert_eq!(guest.hypercall(&core, Hypercall::MMUEXT_OP.0, [bad, 1, 0, SELF, 0]), EFAULT);
    }
    // Wraps past the end of the address space.
    assert_eq!(guest.hypercall(&core, number, [u64::MAX - 15, u64::from(u32::MAX), 0, SELF, 0]), EFAULT);
    // A done count that lies in the core's range is not written, and nothing comes of it.
    let done = [guest.va(0).0, 0, 0xffff_8800_0000_0000 - 8, SELF, 0];
    assert_eq!(guest.hypercall(&core, number, done), 0);
    // Resumed batches that never began.
    let resumed = 1u64 << 31;
    for count in [resumed, resumed | 1, resumed | 0x7fff_ffff] {
        let _ = guest.hypercall(&core, number, [guest.va(2).0, count, guest.va(1).0, SELF, 0]);
        let _ = guest.hypercall(&core, Hypercall::MMUEXT_OP.0, [guest.va(2).0, count, guest.va(1).0, SELF, 0]);
        sound(&core);
    }
    let memory_op = Hypercall::MEMORY_OP.0;
    for op in [0u64, 1, 6, 11] {
        let _ = guest.hypercall(&core, memory_op, [op | u64::MAX << 6, guest.va(0).0, 0, 0, 0]);
        sound(&core);
    }
}

/// A frame that is exchanged takes no type along (XSA-214), and one in use is not exchanged.
#[test]
fn lesson_5_a_type_does_not_outlive_its_owner() {
    let (core, guest) = machine(16);
    let frame = guest.frames[4];
    protect(&core, &guest, 4, READ_ONLY);
    assert_eq!(pin(&core, &guest, 1, frame), 0);
    assert_eq!(core.steal(&guest.domain, frame), Err(Errno::EINVAL), "pinned and mapped");
    assert_eq!(unpin(&core, &guest, frame), 0);
    assert_eq!(core.steal(&guest.domain, frame), Err(Errno::EINVAL), "mapped");
    assert_eq!(guest.map(&core, 4, Pte::EMPTY), Ok(()));
    assert_eq!(core.frames.info(frame).state().kind(), PageType::L1, "remembered");
    assert_eq!(core.steal(&guest.domain, frame), Ok(()));
    assert_eq!(core.frames.info(frame).state(), State(0));
    core.give(&guest.domain, frame, 0).expect("a live domain");
    sound(&core);
}

/// Updates of what is not a table of the caller's (XSA-109). A word of its own memory may be written that way.
#[test]
fn lesson_6_only_own_tables_are_updated() {
    let (core, guest) = machine(8);
    let other = testing::guest(&core, Privilege::empty(), 8);
    let pte = Pte::new(guest.frames[1].mfn(), WRITABLE);
    for foreign in [other.tables[0], other.tables[3], other.frames[1]] {
        let before = entry(&core, foreign, 7);
        assert_eq!(update(&core, &guest, &[request(foreign, 7, pte)]), EINVAL);
        assert_eq!(entry(&core, foreign, 7), before);
    }
    // Naming the other domain takes the builder's privilege.
    let id = u64::from(other.domain.id.0);
    assert_eq!(update_of(&core, &guest, &[request(other.tables[0], 7, pte)], SELF | (id + 1) << 16), EPERM);
    assert_eq!(update_of(&core, &guest, &[request(guest.tables[0], 7, pte)], id), EPERM);
    assert_eq!(update(&core, &guest, &[MmuUpdate { ptr: 0, val: 0 }]), EINVAL);
    assert_eq!(update(&core, &guest, &[MmuUpdate { ptr: !7, val: 0 }]), EINVAL);
    assert_eq!(update(&core, &guest, &[request(guest.frames[3], 9, pte)]), 0);
    assert_eq!(entry(&core, guest.frames[3], 9), pte);
    sound(&core);
}

/// Superpages, and tables in the place of others (XSA-167, XSA-185).
#[test]
fn lesson_7_no_superpages_no_odd_levels() {
    let (core, guest) = machine(16);
    let [l1, l2, l3, l4] = guest.tables;
    for table in [l2, l3, l4] {
        let superpage = Pte::new(Mfn(0), WRITABLE | PteFlags::PSE);
        assert_eq!(update(&core, &guest, &[request(table, 20, superpage)]), EINVAL);
    }
    for (table, wrong) in [(l2, l3), (l2, l4), (l3, l1), (l3, l4), (l4, l1), (l4, l2), (l2, guest.frames[1])] {
        let rc = update(&core, &guest, &[request(table, 20, Pte::new(wrong.mfn(), READ_ONLY))]);
        assert_eq!(rc, EINVAL);
    }
    // A table names itself at each level: read-only or not at all.
    for table in [l2, l3, l4] {
        assert_eq!(update(&core, &guest, &[request(table, 20, Pte::new(table.mfn(), WRITABLE))]), EINVAL);
        assert_eq!(update(&core, &guest, &[request(table, 20, Pte::new(table.mfn(), READ_ONLY))]), 0);
        sound(&core);
        assert_eq!(update(&core, &guest, &[request(table, 20, Pte::EMPTY)]), 0);
    }
    for (level, frame) in [(2, l1), (3, l1), (4, l1), (1, l4), (3, l4)] {
        assert_eq!(pin(&core, &guest, level, frame), EINVAL);
    }
    sound(&core);
}

/// Linear page tables stop at the table itself (XSA-240).
#[test]
fn lesson_8_linear_tables_are_one_level_deep() {
    let (core, guest) = machine(16);
    let [l1, _, _, l4] = guest.tables;
    let second = guest.frames[4];
    assert_eq!(guest.map(&core, 4, Pte::EMPTY), Ok(()));
    assert_eq!(pin(&core, &guest, 4, second), 0);
    for flags in [READ_ONLY, WRITABLE] {
        assert_eq!(update(&core, &guest, &[request(l4, 30, Pte::new(second.mfn(), flags))]), EINVAL);
        assert_eq!(update(&core, &guest, &[request(second, 30, Pte::new(l4.mfn(), flags))]), EINVAL);
    }
    assert_eq!(update(&core, &guest, &[request(second, 30, Pte::new(second.mfn(), READ_ONLY))]), 0);
    // In an L1 a table may be mapped read-only, as often as one likes.
    assert_eq!(update(&core, &guest, &[request(l1, 60, Pte::new(l1.mfn(), READ_ONLY))]), 0);
    assert_eq!(update(&core, &guest, &[request(l1, 61, Pte::new(l1.mfn(), WRITABLE))]), EBUSY);
    sound(&core);
    assert_eq!(unpin(&core, &guest, second), 0);
    sound(&core);
}

/// A table that is taken out of a directory is not writable before TLBs forgot it (XSA-286).
#[test]
fn lesson_9_no_stale_translation_through_a_changed_directory() {
    let (core, guest) = machine(16);
    let [_, l2, ..] = guest.tables;
    let (table, data) = (guest.frames[5], guest.frames[6]);
    fill(&core, table, &[(0, Pte::new(data.mfn(), WRITABLE))]);
    protect(&core, &guest, 5, READ_ONLY);
    let index = guest.va(0).table_index(2) + 1;
    assert_eq!(update(&core, &guest, &[request(l2, index, Pte::new(table.mfn(), WRITABLE))]), 0);
    let there = Vaddr((guest.va(0).0 & !0x1f_ffff) + (2 << 20));
    core.platform.touch(core.platform.this_cpu(), guest.space(), there);
    assert_eq!(update(&core, &guest, &[request(l2, index, Pte::EMPTY)]), 0);
    // What the table mapped becomes a table: the translation through the old one must be gone.
    core.platform.take_flushes();
    protect(&core, &guest, 6, READ_ONLY);
    assert_eq!(pin(&core, &guest, 1, data), 0);
    sound(&core);
    // And the old table becomes writable only after a flush too.
    core.platform.touch(core.platform.this_cpu(), guest.space(), guest.va(5));
    protect(&core, &guest, 5, WRITABLE);
    assert!(core.platform.take_flushes().iter().any(|(cpus, what)| !cpus.is_empty() && *what == crate::Flush::All));
    sound(&core);
}

/// The type reference is there before the flush, the frame is not usable before the flush is done, and who wants it
/// meanwhile flushes too (XSA-401).
#[test]
fn lesson_13_reference_then_flush() {
    let core: Arc<TestCore> = Arc::from(testing::core(2048, 2));
    let guest = testing::guest(&core, Privilege::empty(), 16);
    let frame = guest.frames[5];
    protect(&core, &guest, 5, READ_ONLY);
    assert_eq!(pin(&core, &guest, 1, frame), 0);
    assert_eq!(unpin(&core, &guest, frame), 0);
    let (seen, dirty) = (Arc::new(std::sync::Mutex::new(None)), guest.domain.dirty());
    let (inner, result) = (core.clone(), seen.clone());
    *core.platform.at_flush.lock().unwrap() = Some(Box::new(move || {
        let before = inner.frames.info(frame).state();
        let flushes = inner.platform.flushes.lock().unwrap().len();
        // Another CPU comes for the same type while the first is about to flush.
        let second = inner.get_type(frame, PageType::Writable, dirty);
        let more = inner.platform.flushes.lock().unwrap().len() - flushes;
        *result.lock().unwrap() = Some((before, second, more));
        inner.put_type(frame);
    }));
    protect(&core, &guest, 5, WRITABLE);
    let (before, second, more) = seen.lock().unwrap().take().expect("a flush");
    assert_eq!((before.kind(), before.type_refs()), (PageType::Writable, 1));
    assert!(!before.has(State::VALIDATED));
    assert_eq!((second, more), (Ok(()), 1));
    *core.platform.at_flush.lock().unwrap() = None;
    sound(&core);
}

/// RAM has one cacheability (XSA-402).
#[test]
fn lesson_14_no_cacheability_aliases() {
    let core = testing::core(2048, 2);
    for privilege in [Privilege::empty(), Privilege::HARDWARE] {
        let guest = testing::guest(&core, privilege, 8);
        let told = if privilege.is_empty() { Err(Errno::EINVAL) } else { Ok(()) };
        let table = guest.frames[4];
        for bits in [PteFlags::PWT, PteFlags::PCD, PteFlags::PAT, PteFlags::PWT | PteFlags::PCD] {
            let pte = Pte::new(guest.frames[3].mfn(), WRITABLE | bits);
            assert_eq!(guest.map(&core, 3, pte), told);
            // Whatever it is told, RAM stays write-back.
            assert_eq!(entry(&core, guest.tables[0], 3), pte.with_flags(WRITABLE));
            sound(&core);
            fill(&core, table, &[(0, pte)]);
        }
        protect(&core, &guest, 4, READ_ONLY);
        assert_eq!(pin(&core, &guest, 1, table) == 0, told.is_ok());
        assert_eq!(entry(&core, table, 0).flags() == WRITABLE, told.is_ok());
        // Nor is a table that is mapped so taken for what can be written.
        assert_eq!(guest.map(&core, 5, Pte::new(table.mfn(), READ_ONLY | PteFlags::PCD)), told);
        assert_eq!(entry(&core, guest.tables[0], 5).flags() == READ_ONLY, told.is_ok());
        sound(&core);
    }
}

/// The audit finds a reference that nobody holds.
#[test]
fn the_audit_fails_on_an_extra_reference() {
    let (core, guest) = machine(8);
    core.get_page(guest.frames[2].mfn(), &guest.domain).unwrap();
    let findings = core.audit(&[]).unwrap();
    let extra = Fault::Refs { found: (2, 1), counted: (3, 1) };
    assert!(matches!(findings[..], [Finding::Frame(f, _, _, fault)] if f == guest.frames[2] && fault == extra));
    // A window at a time it finds the same.
    assert_eq!(core.audit_by(&[], 100).unwrap().0, findings);
    core.put_page(guest.frames[2]);
    sound(&core);
    assert_eq!(core.audit_by(&[], 100).unwrap().0, []);
    core.get_type(guest.frames[2], PageType::Writable, guest.domain.dirty()).unwrap();
    assert_eq!(core.audit(&[]).unwrap().len(), 1);
}

/// The audit finds a page table that is mapped writable, even where the counts agree.
#[test]
fn the_audit_fails_on_a_writable_alias_of_a_table() {
    let (core, guest) = machine(8);
    let [l1, ..] = guest.tables;
    let alias = Pte::new(l1.mfn(), WRITABLE);
    core.platform.word(l1, 8).store(alias.0, SeqCst);
    let info = core.frames.info(l1);
    let _ = info.update(|state| Some(State(state.0 + State::TYPE_REF)));
    let findings = core.audit(&[]).unwrap();
    let alias = |f: &&Finding| matches!(f, Finding::Frame(frame, .., fault) if *frame == l1 && *fault == Fault::WritableAlias(l1));
    assert_eq!(findings.iter().filter(alias).count(), 1, "{findings:?}");
    let counts = |f: &Finding| matches!(f, Finding::Frame(.., Fault::Refs { .. }));
    assert!(!findings.iter().any(counts), "{findings:?}");
}

/// The audit finds half a channel, and no fault with whole ones.
#[test]
fn the_audit_fails_on_a_leaked_port() {
    let (core, guest) = machine(8);
    let other = testing::guest(&core, Privilege::empty(), 4);
    let near = core.alloc_unbound(&guest.domain, other.domain.id).unwrap();
    core.bind_interdomain(&other.domain, &guest.domain, near).unwrap();
    let own = core.alloc_unbound(&guest.domain, guest.domain.id).unwrap();
    core.bind_interdomain(&guest.domain, &guest.domain, own).unwrap();
    core.bind_virq(&guest.domain, abi::Virq::TIMER, abi::VcpuId(0)).unwrap();
    core.bind_ipi(&guest.domain, abi::VcpuId(0)).unwrap();
    sound(&core);
    let leaked = core.leak_port(&guest.domain).unwrap();
    assert_eq!(core.audit(&[]), Ok(std::vec![Finding::Port(guest.domain.id, leaked)]));
    core.close(&guest.domain, leaked).unwrap();
    sound(&core);
}

/// What the core's option `audit-inject=` spoils is found, whichever it is.
#[test]
fn what_the_test_aid_spoils_is_found() {
    for (what, frame) in [("reference", true), ("alias", true), ("port", false)] {
        let core = testing::core(256, 1);
        assert!(!core.spoil(what), "nothing to spoil yet");
        let guest = testing::guest_of(&core, crate::lifecycle::NewDomain::initial(1), 8);
        protect(&core, &guest, 4, READ_ONLY);
        assert_eq!(pin(&core, &guest, 1, guest.frames[4]), 0);
        sound(&core);
        assert!(core.spoil(what), "{what:?}");
        let findings = core.audit(&[]).unwrap();
        assert!(!findings.is_empty(), "{what:?}");
        assert!(findings.iter().all(|f| matches!(f, Finding::Frame(..)) == frame), "{what:?}: {findings:?}");
    }
}

/// The simulated TLB finds a translation that should have been flushed.
#[test]
fn a_stale_translation_is_found() {
    let (core, guest) = machine(8);
    touch_all(&core, &guest);
    assert_eq!(stale_translations(&core), []);
    let info = core.frames.info(guest.frames[3]);
    info.reset(State::ALLOCATED | State::REF | State::TYPE_REF | State::VALIDATED | 1 << 56);
    assert_eq!(stale_translations(&core).len(), 1);
    let _ = Maddr(0);
}
