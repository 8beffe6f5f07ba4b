//! Single operations: what they do, and each error.

use super::*;
use crate::mm::{MapAt, Trapped};
use crate::{Flush, State};
use abi::mmu::uvmf;
use abi::{Maddr, Mfn, Vaddr};

const VA: u32 = Hypercall::UPDATE_VA_MAPPING.0;
const NOT_PRESENT: Vaddr = Vaddr(0x7000_0000_0000);

fn kind(core: &TestCore, frame: Frame) -> (PageType, u64, u64) {
    let state = core.frames.info(frame).state();
    (state.kind(), state.type_refs(), state.refs())
}

#[test]
fn update_va_mapping_counts_what_it_maps() {
    let (core, guest) = machine(8);
    let (one, two) = (guest.frames[3], guest.frames[4]);
    assert_eq!(kind(&core, one), (PageType::Writable, 1, 2));
    // Read-only and back: the type alone.
    protect(&core, &guest, 3, READ_ONLY);
    assert_eq!(kind(&core, one), (PageType::Writable, 0, 2));
    protect(&core, &guest, 3, WRITABLE);
    assert_eq!(kind(&core, one), (PageType::Writable, 1, 2));
    // Another frame; none.
    assert_eq!(guest.map(&core, 3, Pte::new(two.mfn(), WRITABLE)), Ok(()));
    assert_eq!((kind(&core, one).2, kind(&core, two)), (1, (PageType::Writable, 2, 3)));
    assert_eq!(guest.map(&core, 3, Pte::EMPTY), Ok(()));
    assert_eq!(kind(&core, two), (PageType::Writable, 1, 2));
    // Not present: anything may be in the rest.
    assert_eq!(guest.map(&core, 3, Pte(!1)), Ok(()));
    sound(&core);
}

#[test]
fn update_va_mapping_errors() {
    let (core, guest) = machine(8);
    let pte = Pte::new(guest.frames[3].mfn(), WRITABLE).0;
    let at = |va: Vaddr, pte| guest.hypercall(&core, VA, [va.0, pte, 0, 0, 0]);
    for bad in [NOT_PRESENT, Vaddr(0xffff_8000_0000_0000), Vaddr(0x8000_0000_0000), Vaddr(u64::MAX)] {
        assert_eq!(at(bad, pte), EINVAL);
    }
    let page = guest.va(3);
    for flags in [PteFlags::PWT, PteFlags::PCD, PteFlags::PAT, PteFlags(1 << 62)] {
        assert_eq!(at(page, pte | flags.0), EINVAL);
    }
    let other = testing::guest(&core, Privilege::empty(), 4);
    for (mfn, error) in [
        (other.frames[1].mfn(), EBUSY),
        (other.domain.shared_info.mfn(), EBUSY),
        (guest.tables[0].mfn(), EBUSY),
        (Mfn(3), EPERM),
        (Mfn(1 << 30), EPERM),
        (Mfn(Pte::MFN_MASK >> 12), EINVAL),
    ] {
        assert_eq!(at(page, Pte::new(mfn, WRITABLE).0), error, "{mfn:?}");
    }
    // A free frame is nobody's.
    let free = core.frames.iter().find(|f| core.frames.info(*f).state() == State(0)).unwrap();
    assert_eq!(at(page, Pte::new(free.mfn(), READ_ONLY).0), EBUSY);
    // Its own shared page it may map.
    assert_eq!(at(page, Pte::new(guest.domain.shared_info.mfn(), WRITABLE).0), 0);
    assert_eq!(pin(&core, &guest, 1, guest.domain.shared_info), EINVAL);
    sound(&core);
}

#[test]
fn update_va_mapping_flushes_what_it_is_told() {
    let (core, guest) = machine(8);
    let va = guest.va(3);
    let here = crate::CpuSet(1);
    guest.domain.dirty_cpus.store(3, SeqCst);
    for (flags, expected) in [
        (uvmf::NONE, None),
        (uvmf::TLB_FLUSH, Some((here, Flush::All))),
        (uvmf::INVLPG, Some((here, Flush::Page(va)))),
        (uvmf::TLB_FLUSH | uvmf::ALL, Some((crate::CpuSet(3), Flush::All))),
        (uvmf::INVLPG | uvmf::ALL, Some((crate::CpuSet(3), Flush::Page(va)))),
    ] {
        core.platform.take_flushes();
        let pte = Pte::new(guest.frames[3].mfn(), READ_ONLY).0;
        assert_eq!(guest.hypercall(&core, VA, [va.0, pte, flags, 0, 0]), 0);
        assert_eq!(core.platform.take_flushes(), Vec::from_iter(expected), "{flags}");
    }
    // A bitmap that cannot be read; one that names nobody; nothing after an error.
    let pte = Pte::new(guest.frames[3].mfn(), READ_ONLY).0;
    assert_eq!(guest.hypercall(&core, VA, [va.0, pte, uvmf::INVLPG | NOT_PRESENT.0, 0, 0]), EFAULT);
    guest.poke(&core, 0, 0, &[0]);
    assert_eq!(guest.hypercall(&core, VA, [va.0, pte, uvmf::TLB_FLUSH | guest.va(0).0, 0, 0]), 0);
    assert_eq!(guest.hypercall(&core, VA, [va.0, 3 << 12 | 7, uvmf::TLB_FLUSH | uvmf::ALL, 0, 0]), EPERM);
    assert_eq!(core.platform.take_flushes(), []);
}

#[test]
fn entries_are_adjusted_as_a_ring_3_kernel_needs() {
    let (core, guest) = machine(8);
    let l1 = guest.tables[0];
    let kernel = Pte::new(guest.frames[3].mfn(), PteFlags(3));
    assert_eq!(guest.map(&core, 3, kernel), Ok(()));
    assert_eq!(entry(&core, l1, 3).0, kernel.0 | 4 | 1 << 52);
    let user = Pte::new(guest.frames[3].mfn(), WRITABLE | PteFlags::GLOBAL);
    assert_eq!(guest.map(&core, 3, user), Ok(()));
    assert_eq!(entry(&core, l1, 3).0, user.0 & !PteFlags::GLOBAL.0);
    // An entry that was adjusted once is accepted again.
    assert_eq!(guest.map(&core, 3, Pte(kernel.0 | 4 | 1 << 52)), Ok(()));
    sound(&core);
}

#[test]
fn mmu_update_counts_what_it_did() {
    let (core, guest) = machine(8);
    let l1 = guest.tables[0];
    let good = request(l1, 400, Pte::new(guest.frames[3].mfn(), WRITABLE));
    let bad = request(l1, 401, Pte::new(Mfn(5), WRITABLE));
    guest.poke(&core, 0, 0, [good, good, bad, good].as_bytes());
    guest.poke(&core, 0, 512, &77u32.to_le_bytes());
    let done = guest.va(0).0 + 512;
    let number = Hypercall::MMU_UPDATE.0;
    assert_eq!(guest.hypercall(&core, number, [guest.va(0).0, 4, done, SELF, 0]), EPERM);
    assert_eq!(entry(&core, guest.frames[0], 64).0 as u32, 2);
    // All at once; and with the array half unmapped, what can be read is done.
    assert_eq!(guest.hypercall(&core, number, [guest.va(0).0, 2, done, SELF, 0]), 0);
    let last = guest.va(7).0 + 4096 - 32;
    guest.poke(&core, 7, 4096 - 32, [good, good].as_bytes());
    assert_eq!(guest.map(&core, 8, Pte::EMPTY), Ok(()));
    assert_eq!(guest.hypercall(&core, number, [last, 3, done, SELF, 0]), EFAULT);
    assert_eq!(entry(&core, guest.frames[0], 64).0 as u32, 2);
    // Unknown kinds.
    for kind in [4, 5, 6, 7] {
        assert_eq!(update(&core, &guest, &[MmuUpdate { ptr: good.ptr | kind, ..good }]), Errno::ENOSYS.code());
    }
    sound(&core);
}

#[test]
fn preserve_ad_keeps_what_the_hardware_set() {
    let (core, guest) = machine(8);
    let l1 = guest.tables[0];
    let set = Pte::new(guest.frames[3].mfn(), WRITABLE | PteFlags::ACCESSED | PteFlags::DIRTY);
    assert_eq!(guest.map(&core, 3, set), Ok(()));
    let plain = request(l1, 3, Pte::new(guest.frames[3].mfn(), WRITABLE));
    assert_eq!(update(&core, &guest, &[MmuUpdate { ptr: plain.ptr | 2, ..plain }]), 0);
    assert_eq!(entry(&core, l1, 3), set);
    assert_eq!(update(&core, &guest, &[plain]), 0);
    assert_eq!(entry(&core, l1, 3).flags(), WRITABLE);
}

#[test]
fn machphys_updates() {
    let (core, guest) = machine(8);
    let mfn = guest.frames[3].mfn();
    let of = |mfn: Mfn| MmuUpdate { ptr: mfn.maddr().0 | 1, val: 0x1234 };
    assert_eq!(update(&core, &guest, &[of(mfn)]), 0);
    assert_eq!(core.platform.m2p(mfn), 0x1234);
    let other = testing::guest(&core, Privilege::empty(), 4);
    assert_eq!(update(&core, &guest, &[of(other.frames[0].mfn())]), EINVAL);
    let id = u64::from(other.domain.id.0);
    assert_eq!(update_of(&core, &guest, &[of(other.frames[0].mfn())], id), EPERM);
    assert_eq!(update_of(&core, &guest, &[of(mfn)], u64::from(guest.domain.id.0)), Errno::ESRCH.code());
    assert_eq!(update_of(&core, &guest, &[of(mfn)], 0x1ff0), Errno::ESRCH.code());
}

#[test]
fn a_builder_maps_and_updates_others() {
    let core = testing::core(2048, 2);
    let builder = testing::guest(&core, Privilege::BUILDER, 8);
    let other = testing::guest(&core, Privilege::empty(), 16);
    other.domain.dirty_cpus.store(0, SeqCst);
    let id = u64::from(other.domain.id.0);
    let frame = other.frames[5];
    let l1 = builder.tables[0];
    let map = |flags| update_of(&core, &builder, &[request(l1, 300, Pte::new(frame.mfn(), flags))], id);
    assert_eq!(map(WRITABLE), 0);
    assert_eq!(kind(&core, frame), (PageType::Writable, 2, 3));
    // The other call for it.
    let number = Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN.0;
    let args = [builder.va(3).0, Pte::new(frame.mfn(), READ_ONLY).0, 0, id, 0];
    assert_eq!(builder.hypercall(&core, number, args), 0);
    // The owner's table it cannot become, for as long as the builder can write it.
    protect(&core, &other, 5, READ_ONLY);
    assert_eq!(pin(&core, &other, 1, frame), EINVAL);
    core.platform.touch(crate::CpuId(0), builder.space(), Vaddr(builder.va(0).0 + 300 * 4096));
    assert_eq!(map(READ_ONLY), 0);
    // The builder's CPU, which remembers the writable mapping, is flushed first although the owner never ran there.
    core.platform.take_flushes();
    assert_eq!(pin(&core, &other, 1, frame), 0);
    assert!(core.platform.take_flushes().iter().any(|(cpus, _)| cpus.has(crate::CpuId(0))));
    sound(&core);
    // An entry of the other's table, by the builder; only with its frames in directories.
    let who = id | (id + 1) << 16;
    let own = request(other.tables[0], 200, Pte::new(other.frames[6].mfn(), WRITABLE));
    assert_eq!(update_of(&core, &builder, &[own], who), 0);
    let directory = request(other.tables[1], 9, Pte::new(frame.mfn(), WRITABLE));
    assert_eq!(update_of(&core, &builder, &[directory], SELF | (id + 1) << 16), EINVAL);
    assert_eq!(update_of(&core, &builder, &[directory], who), 0);
    sound(&core);
    // Nobody else may.
    let number = Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN.0;
    let back = u64::from(builder.domain.id.0);
    let args = [other.va(3).0, Pte::new(builder.frames[3].mfn(), READ_ONLY).0, 0, back, 0];
    assert_eq!(other.hypercall(&core, number, args), EPERM);
}

#[test]
fn trapped_writes_of_every_width() {
    let (core, guest) = machine(8);
    let l1 = guest.tables[0];
    // The L1 itself is mapped at page 8, read-only.
    let window = |index: usize| Vaddr(guest.va(8).0 + index as u64 * 8);
    let write = |va, bytes, old, new| guest.run(&core, |c| c.emulate_write(va, bytes, old, new));
    assert!(guest.run(&core, |c| c.is_page_table(window(3))));
    assert!(!guest.run(&core, |c| c.is_page_table(guest.va(3))));
    let new = Pte::new(guest.frames[4].mfn(), READ_ONLY);
    assert_eq!(write(window(3), 8, None, new.0), Ok(Trapped::Done));
    assert_eq!(entry(&core, l1, 3), new);
    // One byte: the flags; RW goes on and off with its reference.
    assert_eq!(write(window(3), 1, None, 7), Ok(Trapped::Done));
    assert_eq!(kind(&core, guest.frames[4]), (PageType::Writable, 2, 3));
    assert_eq!(write(window(3), 1, Some(7), 5), Ok(Trapped::Done));
    assert_eq!(kind(&core, guest.frames[4]), (PageType::Writable, 1, 3));
    assert_eq!(write(window(3), 1, Some(7), 5), Ok(Trapped::Changed(5)));
    assert_eq!(write(window(3), 8, Some(0), 0), Ok(Trapped::Changed(new.0)));
    // The upper half alone.
    assert_eq!(write(Vaddr(window(3).0 + 4), 4, None, 1 << 31), Ok(Trapped::Done));
    assert!(entry(&core, l1, 3).has(PteFlags::NX));
    assert_eq!(write(window(3), 8, None, 0), Ok(Trapped::Done));
    sound(&core);
    // What may not be.
    for (va, bytes, new) in [
        (Vaddr(window(3).0 + 1), 8, 0),
        (Vaddr(window(3).0 + 7), 2, 0),
        (window(3), 3, 0),
        (window(3), 8, Pte::new(l1.mfn(), WRITABLE).0),
        (window(3), 8, Pte::new(Mfn(5), READ_ONLY).0),
        // The L2, at page 9, is no L1; and page 3 is nothing now; and page 4 is mapped writable.
        (guest.va(9), 8, 0),
        (guest.va(3), 8, 0),
        (guest.va(4), 8, 0),
        (Vaddr(0xffff_8000_0000_0000), 8, 0),
    ] {
        assert!(write(va, bytes, None, new).is_err(), "{va:?} {bytes} {new:#x}");
    }
    sound(&core);
}

#[test]
fn granted_frames_move_their_references_to_the_entry() {
    let (core, guest) = machine(8);
    let owner = testing::guest(&core, Privilege::empty(), 8);
    let frame = core.get_page_and_type(owner.frames[2].mfn(), &owner.domain, PageType::Writable).unwrap();
    let root = guest.space().root;
    let pte = Pte::new(frame.mfn(), WRITABLE);
    let mut session = core.mm(&guest.domain);
    assert_eq!(session.grant_map(root, MapAt::Address(NOT_PRESENT), pte), Err(Errno::EINVAL));
    assert_eq!(session.grant_map(root, MapAt::Entry(Maddr(at(guest.tables[0], 6) + 1)), pte), Err(Errno::EINVAL));
    assert_eq!(session.grant_map(root, MapAt::Entry(Maddr(at(guest.tables[1], 6))), pte), Err(Errno::EINVAL));
    assert_eq!(session.grant_map(root, MapAt::Entry(Maddr(at(guest.tables[0], 6))), pte), Ok(()));
    drop(session);
    sound(&core);
    // The guest changes harmless bits; it may not make what it got read-only writable, nor map it elsewhere.
    assert_eq!(guest.map(&core, 6, Pte::new(frame.mfn(), WRITABLE | PteFlags::NX)), Ok(()));
    assert_eq!(guest.map(&core, 5, pte), Err(Errno::EBUSY));
    assert_eq!(guest.map(&core, 6, Pte::new(frame.mfn(), READ_ONLY)), Err(Errno::EBUSY));
    let mut session = core.mm(&guest.domain);
    let at = MapAt::Address(guest.va(6));
    assert_eq!(session.grant_unmap(root, at, frame.mfn(), false, None), Err(Errno::EINVAL));
    assert_eq!(session.grant_unmap(root, at, Mfn(frame.mfn().0 + 1), true, None), Err(Errno::EINVAL));
    assert_eq!(session.grant_unmap(root, at, frame.mfn(), true, Some(guest.va(6))), Err(Errno::EINVAL));
    assert_eq!(session.grant_unmap(root, at, frame.mfn(), true, Some(guest.va(5))), Ok(()));
    assert_eq!(session.grant_unmap(root, at, frame.mfn(), true, None), Err(Errno::EINVAL));
    drop(session);
    core.put_page_and_type(frame);
    assert_eq!(entry(&core, guest.tables[0], 5), Pte::EMPTY);
    assert_eq!(entry(&core, guest.tables[0], 6).mfn(), guest.frames[5].mfn());
    sound(&core);
}

#[test]
fn granted_read_only_frames_stay_so() {
    let (core, guest) = machine(8);
    let owner = testing::guest(&core, Privilege::empty(), 8);
    let frame = core.get_page(owner.frames[2].mfn(), &owner.domain).unwrap();
    let root = guest.space().root;
    let pte = Pte::new(frame.mfn(), READ_ONLY);
    core.mm(&guest.domain).grant_map(root, MapAt::Address(guest.va(6)), pte).unwrap();
    assert_eq!(guest.map(&core, 6, Pte::new(frame.mfn(), WRITABLE)), Err(Errno::EBUSY));
    let window = Vaddr(guest.va(8).0 + 6 * 8);
    assert!(guest.run(&core, |c| c.emulate_write(window, 1, None, 7)).is_err());
    sound(&core);
}

#[test]
fn extended_operations_on_frames() {
    let (core, guest) = machine(8);
    let other = testing::guest(&core, Privilege::empty(), 8);
    let page = guest.frames[3];
    fill(&core, page, &[(0, Pte(5)), (511, Pte(6))]);
    let op = |cmd, a: Mfn, b: u64| extended(&core, &guest, cmd, a.0, b);
    assert_eq!(op(MmuextCmd::COPY_PAGE, guest.frames[4].mfn(), page.mfn().0), 0);
    assert_eq!(entry(&core, guest.frames[4], 511), Pte(6));
    assert_eq!(op(MmuextCmd::CLEAR_PAGE, page.mfn(), 0), 0);
    assert_eq!(entry(&core, page, 511), Pte(0));
    for bad in [other.frames[1].mfn(), guest.tables[0].mfn(), Mfn(3), Mfn(u64::MAX)] {
        assert_eq!(op(MmuextCmd::CLEAR_PAGE, bad, 0), EINVAL);
        assert_eq!(op(MmuextCmd::COPY_PAGE, bad, page.mfn().0), EINVAL);
        for level in 0..4 {
            let expected = if bad == guest.tables[0].mfn() && level == 0 { 0 } else { EINVAL };
            assert_eq!(op(MmuextCmd(level), bad, 0), expected);
        }
    }
    assert_eq!(op(MmuextCmd::PIN_L1_TABLE, guest.tables[0].mfn(), 0), EINVAL, "pinned already");
    assert_eq!(op(MmuextCmd::UNPIN_TABLE, guest.tables[0].mfn(), 0), 0);
    assert_eq!(op(MmuextCmd::UNPIN_TABLE, guest.tables[0].mfn(), 0), EINVAL);
    assert_eq!(op(MmuextCmd::COPY_PAGE, page.mfn(), other.frames[1].mfn().0), EINVAL);
    assert_eq!(op(MmuextCmd::MARK_SUPER, page.mfn(), 0), Errno::EOPNOTSUPP.code());
    assert_eq!(op(MmuextCmd::UNMARK_SUPER, page.mfn(), 0), Errno::EOPNOTSUPP.code());
    for unknown in [14, 21, u32::MAX] {
        assert_eq!(op(MmuextCmd(unknown), page.mfn(), 0), Errno::ENOSYS.code());
    }
    assert_eq!(op(MmuextCmd::FLUSH_CACHE, Mfn(0), 0), Errno::EACCES.code());
    sound(&core);
}

#[test]
fn flushes_and_the_ldt() {
    let (core, guest) = machine(8);
    let op = |cmd, a: u64, b: u64| extended(&core, &guest, cmd, a, b);
    guest.poke(&core, 1, 0, &[1]);
    let (all, one) = (Flush::All, Flush::Page(guest.va(2)));
    let (va, bitmap) = (guest.va(2).0, guest.va(1).0);
    for (cmd, b, what) in [
        (MmuextCmd::TLB_FLUSH_LOCAL, 0, all),
        (MmuextCmd::INVLPG_LOCAL, 0, one),
        (MmuextCmd::TLB_FLUSH_ALL, 0, all),
        (MmuextCmd::INVLPG_ALL, 0, one),
        (MmuextCmd::TLB_FLUSH_MULTI, bitmap, all),
        (MmuextCmd::INVLPG_MULTI, bitmap, one),
    ] {
        core.platform.take_flushes();
        assert_eq!(op(cmd, va, b), 0);
        assert_eq!(core.platform.take_flushes(), [(crate::CpuSet(1), what)], "{cmd:?}");
    }
    assert_eq!(op(MmuextCmd::TLB_FLUSH_MULTI, 0, NOT_PRESENT.0), EINVAL);
    // Addresses of the core's are not flushed for a guest.
    core.platform.take_flushes();
    assert_eq!(op(MmuextCmd::INVLPG_ALL, 0xffff_8080_0000_0000, 0), 0);
    assert_eq!(core.platform.take_flushes(), []);

    for (base, entries) in [(1, 1), (0xffff_8000_0000_0000, 1), (0x8000_0000_0000, 1), (va, 8193)] {
        assert_eq!(op(MmuextCmd::SET_LDT, base, entries), EINVAL);
    }
    // Mapped when used; not while it can be written.
    assert_eq!(op(MmuextCmd::SET_LDT, va, 512), 0);
    assert!(!guest.run(&core, |c| c.map_ldt(0)));
    protect(&core, &guest, 2, READ_ONLY);
    assert!(guest.run(&core, |c| c.map_ldt(8)));
    assert!(!guest.run(&core, |c| c.map_ldt(4096)), "beyond its end");
    assert_eq!(kind(&core, guest.frames[2]).0, PageType::SegmentDescriptor);
    assert_eq!(guest.map(&core, 2, Pte::new(guest.frames[2].mfn(), WRITABLE)), Err(Errno::EBUSY));
    sound(&core);
    assert_eq!(op(MmuextCmd::SET_LDT, 0, 0), 0);
    protect(&core, &guest, 2, WRITABLE);
    sound(&core);
}

#[test]
fn descriptor_frames_are_made_fit() {
    let (core, guest) = machine(8);
    let code = 0x00af_9a00_0000_ffffu64;
    fill(&core, guest.frames[2], &[(2, Pte(code))]);
    protect(&core, &guest, 2, READ_ONLY);
    let get = || core.get_page_and_type(guest.frames[2].mfn(), &guest.domain, PageType::SegmentDescriptor);
    let held = get().unwrap();
    assert_eq!(entry(&core, held, 2).0, code | 3 << 45, "ring 3");
    core.put_page_and_type(held);
    protect(&core, &guest, 2, WRITABLE);
    // An interrupt gate.
    fill(&core, guest.frames[2], &[(511, Pte(0x0000_8e00_0000_0000))]);
    protect(&core, &guest, 2, READ_ONLY);
    assert_eq!(get(), Err(Errno::EINVAL));
    assert_eq!(kind(&core, guest.frames[2]).1, 0);
    sound(&core);
}

#[test]
fn roots_of_a_vcpu() {
    let (core, guest) = machine(16);
    let op = |cmd, mfn: Mfn| extended(&core, &guest, cmd, mfn.0, 0);
    let root = guest.tables[3];
    // What cannot be a root leaves everything as it is.
    for bad in [guest.frames[1].mfn(), guest.tables[2].mfn(), Mfn(3), Mfn(u64::MAX)] {
        assert_eq!(op(MmuextCmd::NEW_BASEPTR, bad), EINVAL);
        assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, bad), EINVAL);
    }
    assert_eq!(op(MmuextCmd::NEW_BASEPTR, Mfn(0)), EINVAL);
    assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, root.mfn()), 0);
    assert_eq!(kind(&core, root).1, 2);
    assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, root.mfn()), 0);
    assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, Mfn(0)), 0);
    assert_eq!(kind(&core, root).1, 1);
    sound(&core);
    // The core's slots are filled in, and are not the guest's to change.
    let slots = core.platform.hypervisor_slots();
    for (index, slot) in (256..272).zip(slots) {
        assert_eq!(entry(&core, root, index).0, slot);
        for pte in [Pte::EMPTY, Pte::new(guest.tables[2].mfn(), WRITABLE)] {
            assert_eq!(update(&core, &guest, &[request(root, index, pte)]), EINVAL);
        }
    }
    // A root of user mode does not show the machine-to-physical table, unless it was the kernel's before.
    let user = guest.frames[4];
    assert_eq!(guest.map(&core, 4, Pte::EMPTY), Ok(()));
    assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, user.mfn()), 0);
    assert_eq!(entry(&core, user, 256), Pte::EMPTY);
    assert_eq!(entry(&core, user, 257).0, slots[1]);
    assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, root.mfn()), 0);
    assert_eq!(entry(&core, root, 256).0, slots[0]);
    assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, Mfn(0)), 0);
    // With m2p_strict not even then.
    guest.domain.assist.store(1 << 32, SeqCst);
    assert_eq!(op(MmuextCmd::NEW_USER_BASEPTR, root.mfn()), 0);
    assert_eq!(entry(&core, root, 256), Pte::EMPTY);
    sound(&core);
}

#[test]
fn a_dying_domain_pins_nothing() {
    let (core, guest) = machine(16);
    guest.domain.life.store(crate::domain::Stage::Dying as u32, SeqCst);
    assert_eq!(core.mm(&guest.domain).pin(guest.tables[0].mfn(), 1), Err(Errno::EINVAL.into()));
}

/// A kernel's read-only mapping, which the core gives USER: it takes no reference to a writable frame.
#[test]
fn a_kernel_mapping_that_is_read_only_may_be_of_a_table() {
    let (core, guest) = machine(16);
    for frame in [guest.tables[0], guest.frames[3]] {
        assert_eq!(guest.map(&core, 30, Pte::new(frame.mfn(), PteFlags::PRESENT)), Ok(()));
        sound(&core);
        assert_eq!(guest.map(&core, 30, Pte::EMPTY), Ok(()));
        sound(&core);
    }
    assert_eq!(guest.map(&core, 30, Pte::new(guest.tables[0].mfn(), PteFlags(3))), Err(Errno::EBUSY));
}
