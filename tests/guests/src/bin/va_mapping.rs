//! update_va_mapping: map, unmap, protect, flush kinds; what it refuses.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::trap::vector;
use conformance_guests::abi::{Errno, Mfn, Pte, PteFlags, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Regs, call, exec};
use conformance_guests::ops::{MAP, READ, update_va};
use conformance_guests::{Test, code, guest};

guest!(run);

fn run(t: &mut Test) {
    flags_and_flushes(t);
    refusals(t);
    flag_bits(t);
    other_domain(t);
}

fn flags_and_flushes(t: &mut Test) {
    let (a, b) = (probe::page(), probe::page());
    a.set(0, 0xa);
    b.set(0, 0xb);
    t.eq("before", probe::peek(a.va), 0xa);
    t.ok("map the other frame, flush the address", update_va(a.va, Pte::new(b.mfn, MAP), 2));
    t.eq("seen", probe::peek(a.va), 0xb);
    t.ok("back, flush all", update_va(a.va, Pte::new(a.mfn, MAP), 1));
    t.eq("seen", probe::peek(a.va), 0xa);
    t.ok("everywhere, the address", update_va(a.va, Pte::new(b.mfn, MAP), 2 | 4));
    t.eq("seen", probe::peek(a.va), 0xb);
    t.ok("everywhere, all", update_va(a.va, Pte::new(a.mfn, MAP), 1 | 4));
    t.eq("seen", probe::peek(a.va), 0xa);
    t.ok("both flushes at once", update_va(a.va, Pte::new(a.mfn, MAP), 3));
    t.ok("no flush", update_va(a.va, Pte::new(a.mfn, MAP), 0));
    // A bitmap of vCPUs at the address in the rest of the argument.
    b.set(0, 1);
    t.ok("a vCPU's bitmap", update_va(a.va, Pte::new(a.mfn, MAP), b.va | 1));
    t.err("a bitmap nowhere", update_va(a.va, Pte::new(a.mfn, MAP), 0x1000 | 1), Errno::EFAULT);
    t.ok("read-only", update_va(a.va, Pte::new(a.mfn, READ), 2));
    let got = exec(code::STORE, &mut Regs { rdi: a.va, ..Regs::default() });
    t.traps("write", got, Entry::Exception(vector::PF), 3);
    t.ok("not present, with a frame in it", update_va(a.va, Pte(a.mfn.maddr().0), 2));
    t.ok("not present, with rubbish in it", update_va(a.va, Pte(0xdead_beef_0000_0ffe), 2));
    t.ok("mapped again", update_va(a.va, Pte::new(a.mfn, MAP), 2));
    t.eq("kept its content", probe::peek(a.va), 0xa);
    t.eq("the entry as written", flags_of(a.va), MAP.0);
}

fn refusals(t: &mut Test) {
    let page = probe::page();
    let good = Pte::new(page.mfn, MAP);
    t.err("an address without an L1", update_va(0x1000, good, 2), Errno::EINVAL);
    t.err("an address in the hypervisor", update_va(0xffff_8000_0000_0000, good, 2), Errno::EINVAL);
    t.err("a non-canonical address", update_va(0x8000_0000_0000, good, 2), Errno::EINVAL);
    let l1 = probe::pte_slot(Vaddr(page.va), 1).map_or(Mfn(0), |(at, _)| at.mfn());
    let l2 = probe::pte_slot(Vaddr(page.va), 2).map_or(Mfn(0), |(at, _)| at.mfn());
    let l4 = probe::pte_slot(Vaddr(page.va), 4).map_or(Mfn(0), |(at, _)| at.mfn());
    for table in [l1, l2, l4] {
        t.err("a table, writable", update_va(page.va, Pte::new(table, MAP), 2), Errno::EBUSY);
        t.ok("a table, read-only", update_va(page.va, Pte::new(table, READ), 2));
    }
    t.ok("back", update_va(page.va, good, 2));
    // Past RAM lie devices, which the initial domain may map.
    t.ok("a frame past all memory", update_va(page.va, Pte::new(Mfn(0xff_ffff), MAP), 2));
    t.ok("and back", update_va(page.va, good, 2));
    t.err("a frame of the hypervisor", update_va(page.va, Pte::new(hypervisor_frame(), READ), 2), Errno::EBUSY);
    t.eq("the mapping stands", probe::pte_slot(Vaddr(page.va), 1).map(|(_, e)| e.mfn()), Some(page.mfn));
    // The shared-info page is the guest's to map as often as it likes.
    let shared = t.info.shared_info.mfn();
    t.ok("shared_info once more", update_va(page.va, Pte::new(shared, MAP), 2));
    t.ok("and gone", update_va(page.va, good, 2));
}

/// A frame of the M2P, which guests can find by walking to it.
fn hypervisor_frame() -> Mfn {
    let slot = probe::peek(probe_l4() + 8 * 256);
    Pte(slot).mfn()
}

/// The address of the L4 in use.
fn probe_l4() -> u64 {
    conformance_guests::l4()
}

/// The flags of the entry that maps an address, without the two that the hypervisor may use to
/// tell the guest's kernel mappings from its user ones.
fn flags_of(va: u64) -> u64 {
    const BOOKKEEPING: PteFlags = PteFlags(1 << 52).union(PteFlags::GLOBAL);
    probe::pte_slot(Vaddr(va), 1).map_or(0, |(_, entry)| entry.flags().without(BOOKKEEPING).0)
}

fn flag_bits(t: &mut Test) {
    let page = probe::page();
    let set = |flags: PteFlags| update_va(page.va, Pte::new(page.mfn, flags), 2);
    let now = || flags_of(page.va);
    t.ok("software bits 9 to 11", set(MAP | PteFlags::AVAIL));
    t.eq("kept", now(), (MAP | PteFlags::AVAIL).0);
    t.ok("software bits 53 to 58", set(MAP | PteFlags(0x3f << 53)));
    t.eq("kept", now(), MAP.0 | 0x3f << 53);
    t.ok("global", set(MAP | PteFlags::GLOBAL));
    t.ok("no execute", set(MAP | PteFlags::NX));
    t.eq("kept", now(), (MAP | PteFlags::NX).0);
    t.ok("kernel only", set(MAP.without(PteFlags::USER)));
    t.eq("becomes user, for PV kernels run there", now(), MAP.0);
    t.runs("usable", exec(code::LOAD, &mut Regs { rdi: page.va, ..Regs::default() }));
    t.ok("write-through", set(MAP | PteFlags::PWT));
    t.ok("uncached", set(MAP | PteFlags::PWT | PteFlags::PCD));
    t.ok("write-back again", set(MAP));
    t.eq("plain", now(), MAP.0);
}

fn other_domain(t: &mut Test) {
    let page = probe::page();
    let set = |domain: u64| {
        let entry = Pte::new(page.mfn, MAP).0;
        call(Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN, &[page.va, entry, 2, domain])
    };
    t.err("frames of nobody", set(77), Errno::ESRCH);
    t.err("frames of oneself, by number", set(0), Errno::ESRCH);
    t.ok("frames of oneself", set(0x7ff0));
}
