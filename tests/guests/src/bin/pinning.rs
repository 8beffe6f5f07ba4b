//! mmuext_op: pin and unpin at every level, base pointers, flushes, clear and copy, LDT.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::mmu::{MmuextCmd as Cmd, MmuextOp};
use conformance_guests::abi::{DomId, Errno, Pte, PteFlags, Vaddr};
use conformance_guests::domain_rt::probe::{self, Page, call};
use conformance_guests::ops::{MAP, READ, TABLE, mmuext};
use conformance_guests::{Test, guest};

guest!(run);

fn run(t: &mut Test) {
    arguments(t);
    levels(t);
    errors(t);
    base_pointers(t);
    flushes(t);
    pages(t);
}

fn pin(level: u32, page: Page) -> i64 {
    mmuext(Cmd(level - 1), page.mfn.0, 0)
}

fn unpin(page: Page) -> i64 {
    mmuext(Cmd::UNPIN_TABLE, page.mfn.0, 0)
}

/// A read-only page whose entry 0 is as given.
fn table(t: &mut Test, entry: u64) -> Page {
    let page = probe::page();
    page.set(0, entry);
    t.ok("protect", page.protect(false));
    page
}

fn arguments(t: &mut Test) {
    let raw = |at: u64, count: u64, domain: u64| call(Hypercall::MMUEXT_OP, &[at, count, 0, domain]);
    t.ok("none", raw(0x1000, 0, 0x7ff0));
    t.err("requests nowhere", raw(0x1000, 1, 0x7ff0), Errno::EFAULT);
    t.err("unknown command", mmuext(Cmd(14), 0, 0), Errno::ENOSYS);
    t.err("the highest command", mmuext(Cmd(u32::MAX), 0, 0), Errno::ENOSYS);
    t.err("mark_super is gone", mmuext(Cmd::MARK_SUPER, 0, 0), Errno::EOPNOTSUPP);
    let mut ops = [Cmd::TLB_FLUSH_LOCAL, Cmd(14), Cmd::TLB_FLUSH_LOCAL].map(|cmd| MmuextOp::new(cmd, 0, 0));
    let mut done = 77u32;
    let args = [ops.as_mut_ptr() as u64, 3, &raw mut done as u64, DomId::SELF.0.into()];
    t.err("a batch with an unknown command", call(Hypercall::MMUEXT_OP, &args), Errno::ENOSYS);
    t.eq("stops there", core::hint::black_box(done), 1);
    let args = [ops.as_mut_ptr() as u64, 1, 0, 77];
    t.err("of nobody", call(Hypercall::MMUEXT_OP, &args), Errno::ESRCH);
}

fn levels(t: &mut Test) {
    let leaf = probe::page();
    let l1 = table(t, Pte::new(leaf.mfn, MAP).0);
    let l2 = table(t, Pte::new(l1.mfn, TABLE).0);
    let l3 = table(t, Pte::new(l2.mfn, TABLE).0);
    let l4 = table(t, Pte::new(l3.mfn, TABLE).0);
    for (level, page) in [(1, l1), (2, l2), (3, l3), (4, l4)] {
        t.ok("pin", pin(level, page));
        t.err("pin again", pin(level, page), Errno::EINVAL);
        t.err("pinned pages are not writable", page.protect(true), Errno::EBUSY);
        t.ok("unpin", unpin(page));
        t.err("unpin again", unpin(page), Errno::EINVAL);
        t.ok("writable again", page.protect(true));
        t.ok("protect", page.protect(false));
    }
    let own = probe::mfn_of(conformance_guests::l4());
    t.ok("the root that a domain starts with is pinned", mmuext(Cmd::UNPIN_TABLE, own.0, 0));
    t.ok("pin it again", mmuext(Cmd::PIN_L4_TABLE, own.0, 0));
    t.ok("pin the tree", pin(4, l4));
    for page in [l1, l2, l3] {
        t.err("its tables are tables", page.protect(true), Errno::EBUSY);
        t.err("and not pinned", unpin(page), Errno::EINVAL);
    }
    t.ok("pin an L1 in it", pin(1, l1));
    t.err("as an L2 it will not do", pin(2, l1), Errno::EINVAL);
    t.ok("unpin the tree", unpin(l4));
    t.err("the pinned L1 stays", l1.protect(true), Errno::EBUSY);
    t.ok("the L2 is free", l2.protect(true));
    t.ok("unpin it", unpin(l1));
    t.ok("and it is free", l1.protect(true));
    // The hypervisor fills its slots of an L4.
    let l4 = table(t, 0);
    t.ok("an empty L4", pin(4, l4));
    t.yes("has the hypervisor's slots", (256..272).any(|i| l4.get(i) != 0));
    t.eq("and only those", (0..256).chain(272..512).filter(|&i| l4.get(i) != 0).count(), 0);
    t.ok("unpin", unpin(l4));
}

fn errors(t: &mut Test) {
    let writable = probe::page();
    t.err("a page mapped writable", pin(1, writable), Errno::EINVAL);
    t.err("no frame", mmuext(Cmd::PIN_L1_TABLE, 0xff_ffff, 0), Errno::EINVAL);
    let foreign = Pte(probe::peek(conformance_guests::l4() + 8 * 256)).mfn();
    t.err("the hypervisor's frame", mmuext(Cmd::PIN_L1_TABLE, foreign.0, 0), Errno::EINVAL);
    t.err("unpin what is no table", unpin(writable), Errno::EINVAL);
    t.err("unpin no frame", mmuext(Cmd::UNPIN_TABLE, 0xff_ffff, 0), Errno::EINVAL);
    // An L1 with an entry that maps itself writable, a table writable, or a frame not ours.
    let own = probe::page();
    own.set(3, Pte::new(own.mfn, MAP).0);
    t.ok("protect", own.protect(false));
    t.err("an L1 that maps itself writable", pin(1, own), Errno::EBUSY);
    t.ok("is unpinned", own.protect(true));
    own.set(3, Pte::new(own.mfn, READ).0);
    t.ok("protect", own.protect(false));
    t.ok("read-only it may", pin(1, own));
    t.ok("unpin", unpin(own));
    let mut bad = |what, entry: u64, level, error| {
        let page = table(t, 0);
        t.ok("unprotect", page.protect(true));
        page.set(511, entry);
        t.ok("protect", page.protect(false));
        t.err(what, pin(level, page), error);
        t.ok("still a plain page", page.protect(true));
    };
    bad("an L1 with a frame not ours", Pte::new(foreign, READ).0, 1, Errno::EBUSY);
    let leaf = probe::page();
    bad("an L2 with a writable page", Pte::new(leaf.mfn, TABLE).0, 2, Errno::EINVAL);
    bad("an L2 with a superpage", Pte::new(leaf.mfn, TABLE | PteFlags::PSE).0, 2, Errno::EINVAL);
    bad("an L3 with rubbish", 0x000f_ffff_ffff_f001, 3, Errno::EINVAL);
    bad("an L4 with a writable page", Pte::new(leaf.mfn, TABLE).0, 4, Errno::EINVAL);
}

fn base_pointers(t: &mut Test) {
    let old = conformance_guests::l4();
    // A copy of the running L4, without the hypervisor's slots.
    let copy = probe::page();
    for i in (0..256).chain(272..512) {
        copy.set(i, probe::peek(old + 8 * i as u64));
    }
    t.ok("protect", copy.protect(false));
    t.ok("switch to an unpinned L4", mmuext(Cmd::NEW_BASEPTR, copy.mfn.0, 0));
    t.yes("it has the hypervisor's slots", copy.get(256) != 0);
    t.err("it is in use", copy.protect(true), Errno::EBUSY);
    t.ok("switch back", mmuext(Cmd::NEW_BASEPTR, probe::mfn_of(old).0, 0));
    t.ok("it is free", copy.protect(true));
    t.err("switch to a plain page", mmuext(Cmd::NEW_BASEPTR, copy.mfn.0, 0), Errno::EINVAL);
    t.err("switch to no frame", mmuext(Cmd::NEW_BASEPTR, 0xff_ffff, 0), Errno::EINVAL);
    t.err("switch to an L1", mmuext(Cmd::NEW_BASEPTR, l1_of(copy), 0), Errno::EINVAL);
    t.ok("no user table", mmuext(Cmd::NEW_USER_BASEPTR, 0, 0));
    for i in 272..512 {
        copy.set(i, 0);
    }
    t.ok("protect", copy.protect(false));
    t.ok("user table", mmuext(Cmd::NEW_USER_BASEPTR, copy.mfn.0, 0));
    t.err("is in use", copy.protect(true), Errno::EBUSY);
    t.ok("the same again", mmuext(Cmd::NEW_USER_BASEPTR, copy.mfn.0, 0));
    t.err("user table of a plain page", mmuext(Cmd::NEW_USER_BASEPTR, probe::page().mfn.0, 0), Errno::EINVAL);
    t.ok("none", mmuext(Cmd::NEW_USER_BASEPTR, 0, 0));
    t.ok("it is free", copy.protect(true));
}

fn l1_of(page: Page) -> u64 {
    probe::pte_slot(Vaddr(page.va), 1).map_or(0, |(at, _)| at.mfn().0)
}

fn flushes(t: &mut Test) {
    let page = probe::page();
    t.ok("flush here", mmuext(Cmd::TLB_FLUSH_LOCAL, 0, 0));
    t.ok("flush an address here", mmuext(Cmd::INVLPG_LOCAL, page.va, 0));
    t.ok("flush a non-canonical address", mmuext(Cmd::INVLPG_LOCAL, 0x8000_0000_0000, 0));
    t.ok("flush everywhere", mmuext(Cmd::TLB_FLUSH_ALL, 0, 0));
    t.ok("flush an address everywhere", mmuext(Cmd::INVLPG_ALL, page.va, 0));
    page.set(0, 1);
    t.ok("flush vCPUs", mmuext(Cmd::TLB_FLUSH_MULTI, 0, page.va));
    t.ok("flush an address on vCPUs", mmuext(Cmd::INVLPG_MULTI, page.va, page.va));
    t.err("vCPUs nowhere", mmuext(Cmd::TLB_FLUSH_MULTI, 0, 0x1000), Errno::EINVAL);
    t.err("an address, vCPUs nowhere", mmuext(Cmd::INVLPG_MULTI, page.va, 0x1000), Errno::EINVAL);
    t.ok("caches", mmuext(Cmd::FLUSH_CACHE, 0, 0));
    t.ok("all caches", mmuext(Cmd::FLUSH_CACHE_GLOBAL, 0, 0));
}

fn pages(t: &mut Test) {
    let (a, b) = (probe::page(), probe::page());
    a.set(0, 5);
    t.ok("copy_page", mmuext(Cmd::COPY_PAGE, b.mfn.0, a.mfn.0));
    t.eq("copied", b.get(0), 5);
    t.ok("clear_page", mmuext(Cmd::CLEAR_PAGE, b.mfn.0, 0));
    t.eq("cleared", b.get(0), 0);
    t.err("clear no frame", mmuext(Cmd::CLEAR_PAGE, 0xff_ffff, 0), Errno::EINVAL);
    t.err("copy from no frame", mmuext(Cmd::COPY_PAGE, b.mfn.0, 0xff_ffff), Errno::EINVAL);
    t.err("clear a page table", mmuext(Cmd::CLEAR_PAGE, l1_of(a), 0), Errno::EINVAL);
    t.err("copy to a page table", mmuext(Cmd::COPY_PAGE, l1_of(a), b.mfn.0), Errno::EINVAL);
    t.ok("copy from a page table", mmuext(Cmd::COPY_PAGE, b.mfn.0, l1_of(a)));
    let set_ldt = |at, entries| mmuext(Cmd::SET_LDT, at, entries);
    t.ok("no LDT", set_ldt(0, 0));
    t.ok("an LDT", set_ldt(a.va, 2));
    t.err("a misaligned LDT", set_ldt(a.va + 8, 2), Errno::EINVAL);
    t.err("an LDT too long", set_ldt(a.va, 8193), Errno::EINVAL);
    t.err("an LDT in the hypervisor", set_ldt(0xffff_8300_0000_0000, 2), Errno::EINVAL);
    t.ok("no LDT again", set_ldt(0, 0));
}
