//! Writes to page tables through read-only mappings: trapped, checked, emulated.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::trap::vector;
use conformance_guests::abi::{Mfn, Pte, PteFlags, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Page, Regs, exec};
use conformance_guests::ops::{MAP, READ, TABLE, mmu_update};
use conformance_guests::{Test, code, guest};

guest!(run);

/// An L4 slot that is free in the tables a domain starts with.
const SLOT: u64 = 3;
const PF: Entry = Entry::Exception(vector::PF);

fn run(t: &mut Test) {
    let [leaf, other, l1, l2, l3] = [(); 5].map(|()| probe::page());
    leaf.set(0, 0xa);
    other.set(0, 0xb);
    l1.set(0, Pte::new(leaf.mfn, MAP).0);
    l2.set(0, Pte::new(l1.mfn, TABLE).0);
    l3.set(0, Pte::new(l2.mfn, TABLE).0);
    for page in [l1, l2, l3] {
        t.ok("protect", page.protect(false));
    }
    let l4 = probe::mfn_of(conformance_guests::l4());
    t.ok("link", mmu_update(l4.maddr().0 + 8 * SLOT, Pte::new(l3.mfn, TABLE).0));
    instructions(t, l1, leaf, other);
    refused(t, l1, [l1, l2, l3], other);
    upper(t, l2, l3);
}

/// Address that entry `index` of the L1 maps.
fn at(index: u64) -> u64 {
    (SLOT << 39) + (index << 12)
}

fn flush(va: u64) {
    conformance_guests::ops::mmuext(conformance_guests::abi::mmu::MmuextCmd::INVLPG_LOCAL, va, 0);
}

/// Flags the processor or the hypervisor may set by themselves left out.
fn entry(l1: Page, index: usize) -> u64 {
    let own = PteFlags::GLOBAL | PteFlags::ACCESSED | PteFlags::DIRTY | PteFlags(1 << 52);
    l1.get(index) & !own.0
}

fn plain(page: Page, flags: PteFlags) -> u64 {
    Pte::new(page.mfn, flags).0 & !(PteFlags::ACCESSED | PteFlags::DIRTY).0
}

fn instructions(t: &mut Test, l1: Page, leaf: Page, other: Page) {
    let write = |bytes: &[u8], index: u64, rax: u64, rsi: u64| {
        let mut regs = Regs { rdi: l1.va + 8 * index, rax, rsi, ..Regs::default() };
        (exec(bytes, &mut regs), regs)
    };
    let to = |page: Page, flags| Pte::new(page.mfn, flags).0;
    t.runs("mov", write(code::STORE, 1, to(other, MAP), 0).0);
    t.eq("maps", probe::peek(at(1)), 0xb);
    t.runs("mov to unmap", write(code::STORE, 1, 0, 0).0);
    flush(at(1));
    t.traps("unmapped", exec(code::LOAD, &mut Regs { rdi: at(1), ..Regs::default() }), PF, 0);
    t.runs("mov of an entry that is not present", write(code::STORE, 1, 0x1234_5000, 0).0);
    t.eq("is kept as it is", l1.get(1), 0x1234_5000);
    let (trap, regs) = write(code::XCHG, 1, to(other, MAP), 0);
    t.runs("xchg", trap);
    t.eq("gives the old entry", regs.rax, 0x1234_5000);
    t.eq("maps", probe::peek(at(1)), 0xb);
    let old = l1.get(1);
    let (trap, regs) = write(code::CMPXCHG, 1, old, to(leaf, MAP));
    t.runs("cmpxchg that succeeds", trap);
    t.yes("sets ZF", regs.rflags & 0x40 != 0);
    flush(at(1));
    t.eq("maps", probe::peek(at(1)), 0xa);
    let (trap, regs) = write(code::CMPXCHG, 1, 0x42, to(other, MAP));
    t.runs("cmpxchg that fails", trap);
    t.yes("clears ZF", regs.rflags & 0x40 == 0);
    t.eq("and tells", regs.rax, l1.get(1));
    t.yes("leaf is accessed", l1.get(1) & PteFlags::ACCESSED.0 != 0);
    let (trap, regs) = write(code::BTR_5, 1, 0, 0);
    t.runs("btr of the accessed bit", trap);
    t.yes("sets CF", regs.rflags & 1 != 0);
    t.eq("is clear", l1.get(1) & PteFlags::ACCESSED.0, 0);
    t.runs("and of one byte", write(code::AND_FD, 1, 0, 0).0);
    t.eq("writes off", entry(l1, 1), plain(leaf, READ));
    flush(at(1));
    let got = exec(code::STORE, &mut Regs { rdi: at(1), ..Regs::default() });
    t.traps("really", got, PF, 3);
    t.runs("four bytes", write(code::STORE32, 2, 0x1234_5670, 0).0);
    t.eq("low half", l1.get(2), 0x1234_5670);
    t.runs("none", write(code::STORE, 2, 0, 0).0);
    // The registers come through.
    let start = Regs {
        rdi: l1.va + 16,
        rax: to(leaf, MAP),
        rbx: 2,
        rcx: 3,
        r11: 11,
        r15: 15,
        rflags: 0x8d7,
        ..Regs::default()
    };
    let mut regs = start;
    t.runs("mov", exec(code::STORE, &mut regs));
    let same = Regs { rsp: 0, rflags: 0, ..regs } == Regs { rsp: 0, rflags: 0, ..start };
    t.yes("registers", same);
    t.eq("flags", regs.rflags & 0x8d5, 0x8d5);
}

/// What may not be written is a page fault, as if nothing had been emulated.
fn refused(t: &mut Test, l1: Page, tables: [Page; 3], other: Page) {
    let store = |index: u64, value: u64| {
        let mut regs = Regs { rdi: l1.va + 8 * index, rax: value, ..Regs::default() };
        exec(code::STORE, &mut regs)
    };
    for table in tables {
        t.traps("a table, writable", store(3, Pte::new(table.mfn, MAP).0), PF, 3);
        t.eq("entry unchanged", l1.get(3), 0);
    }
    t.runs("a table, read-only", store(3, Pte::new(l1.mfn, READ).0));
    let got = store(3, Pte::new(l1.mfn, MAP).0);
    t.traps("and not writable then", got, PF, 3);
    t.eq("cr2", got.map(|f| f.cr2), Some(l1.va + 24));
    t.eq("rip", got.map(|f| f.rip), Some(probe::code_page()));
    t.runs("drop it", store(3, 0));
    let foreign = Pte(probe::peek(conformance_guests::l4() + 8 * 256)).mfn();
    t.traps("a frame not ours", store(3, Pte::new(foreign, READ).0), PF, 3);
    let mut regs = Regs { rdi: l1.va + 8 * 3 + 4, rax: Pte::new(other.mfn, MAP).0, ..Regs::default() };
    t.traps("eight bytes across entries", exec(code::STORE, &mut regs), PF, 3);
    t.eq("entry unchanged", l1.get(3), 0);
    // A read-only page that is no page table.
    t.ok("protect", other.protect(false));
    let mut regs = Regs { rdi: other.va, rax: 1, ..Regs::default() };
    t.traps("a read-only data page", exec(code::STORE, &mut regs), PF, 3);
    let mut regs = Regs { rdi: other.va, rax: Pte::new(Mfn(1), MAP).0, ..Regs::default() };
    t.traps("by xchg", exec(code::XCHG, &mut regs), PF, 3);
}

/// Only L1s are written this way.
fn upper(t: &mut Test, l2: Page, l3: Page) {
    for page in [l2, l3] {
        let mut regs = Regs { rdi: page.va + 8, rax: 0, ..Regs::default() };
        t.traps("an upper table", exec(code::STORE, &mut regs), PF, 3);
    }
    let at = conformance_guests::l4() + 8 * 5;
    t.traps("the L4", exec(code::STORE, &mut Regs { rdi: at, ..Regs::default() }), PF, 3);
    t.yes("L1 of the image", probe::pte_slot(Vaddr(l2.va), 1).is_some());
}
