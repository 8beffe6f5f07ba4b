//! set_gdt, update_descriptor, set_ldt: the guest's own segments in the live tables.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::mmu::MmuextCmd;
use conformance_guests::abi::trap::vector;
use conformance_guests::abi::{Errno, Mfn, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Page, Regs, call, exec};
use conformance_guests::ops::mmuext;
use conformance_guests::{Test, guest};

guest!(run);

const GP: Entry = Entry::Exception(vector::GP);
/// A flat data segment of ring 3.
const DATA3: u64 = 0x00cf_f300_0000_ffff;
/// The same of ring 0.
const DATA0: u64 = 0x00cf_9300_0000_ffff;
/// A call gate.
const GATE: u64 = 0x0000_ec00_0008_0000;
/// What becomes of it: privilege 0, into ring 3.
const GATE_MADE_SAFE: u64 = 0x0000_8c00_000b_0000;
/// Code of ring 0, conforming.
const CODE0: u64 = 0x00af_9b00_0000_ffff;

fn run(t: &mut Test) {
    let gdt = set_gdt(t);
    update(t, gdt);
    ldt(t);
}

/// `mov ds, ax`; `mov eax, ds`; `xor ecx, ecx`; `mov ds, ecx`
const LOAD: &[u8] = &[0x8e, 0xd8, 0x8c, 0xd8, 0x31, 0xc9, 0x8e, 0xd9];

fn load(selector: u64) -> (Option<probe::Frame>, u64) {
    let mut regs = Regs { rax: selector, ..Regs::default() };
    (exec(LOAD, &mut regs), regs.rax)
}

fn gdt(frames: &[Mfn], entries: u64) -> i64 {
    call(Hypercall::SET_GDT, &[frames.as_ptr() as u64, entries])
}

fn set_gdt(t: &mut Test) -> Page {
    let page = probe::page();
    page.set(1, DATA3);
    page.set(2, DATA0);
    t.err("frames mapped writable", gdt(&[page.mfn], 512), Errno::EINVAL);
    t.ok("protect", page.protect(false));
    t.ok("set_gdt", gdt(&[page.mfn], 512));
    t.err("the frame is a descriptor page", page.protect(true), Errno::EBUSY);
    t.eq("privilege 0 became 3", page.get(2), DATA3);
    let (trap, selector) = load(0xb);
    t.runs("its segment loads", trap);
    t.eq("selector", selector, 0xb);
    t.runs("the other too", load(0x13).0);
    t.traps("an empty one", load(0x1b).0, GP, 0x18);
    t.traps("past the frames", load(0x1003).0, GP, 0x1000);
    t.err("too many entries", gdt(&[page.mfn], 8193), Errno::EINVAL);
    t.err("entries of the hypervisor", gdt(&[page.mfn], 7169), Errno::EINVAL);
    t.err("no frame", gdt(&[Mfn(0xff_ffff)], 512), Errno::EINVAL);
    t.err("frames nowhere", call(Hypercall::SET_GDT, &[0x1000, 512]), Errno::EFAULT);
    t.runs("the GDT stands", load(0xb).0);
    t.ok("the frame twice", gdt(&[page.mfn, page.mfn], 1024));
    t.runs("its segment loads by the second, too", load(0x100b).0);
    t.ok("once", gdt(&[page.mfn], 512));
    t.traps("the second is gone", load(0x100b).0, GP, 0x1008);
    let bad = probe::page();
    bad.set(1, DATA3);
    bad.set(3, GATE);
    t.ok("protect", bad.protect(false));
    t.ok("a page with a call gate", gdt(&[bad.mfn], 512));
    t.eq("is nobody's to call", bad.get(3), GATE_MADE_SAFE);
    t.runs("its other segment loads", load(0xb).0);
    t.ok("no GDT", gdt(&[], 0));
    t.traps("nothing loads", load(0xb).0, GP, 8);
    t.ok("the page is free", page.protect(true));
    t.ok("protect", page.protect(false));
    t.ok("set_gdt again", gdt(&[page.mfn], 512));
    page
}

fn update(t: &mut Test, page: Page) {
    let write = |index: usize, descriptor: u64| call(Hypercall::UPDATE_DESCRIPTOR, &[page.slot(index), descriptor]);
    t.ok("update_descriptor", write(5, DATA3));
    t.runs("loads", load(0x2b).0);
    t.ok("privilege 0", write(6, DATA0));
    t.eq("becomes 3", page.get(6), DATA3);
    t.ok("code of ring 0", write(7, CODE0));
    t.eq("becomes ring 3's", page.get(7), CODE0 | 0x6000_0000_0000);
    t.ok("clear", write(5, 0));
    t.traps("is gone", load(0x2b).0, GP, 0x28);
    t.ok("a call gate", write(8, GATE));
    t.eq("is nobody's to call", page.get(8), GATE_MADE_SAFE);
    t.ok("clear", write(8, 0));
    t.err("a task gate", write(8, 0x0000_e500_0008_0000), Errno::EINVAL);
    t.err("a TSS", write(8, 0x0000_e900_0000_0067), Errno::EINVAL);
    t.eq("nothing there", page.get(8), 0);
    t.ok("a gate that is not present", write(8, 0x0000_6c00_0008_0000));
    t.ok("clear", write(8, 0));
    let args = |at, d| call(Hypercall::UPDATE_DESCRIPTOR, &[at, d]);
    t.err("misaligned", args(page.slot(5) + 4, DATA3), Errno::EINVAL);
    t.err("no frame", args(0xff_ffff_f000, DATA3), Errno::EINVAL);
    let data = probe::page();
    t.ok("in a data page", args(data.slot(3), DATA3));
    t.eq("is data", data.get(3), DATA3);
    let l1 = probe::pte_slot(Vaddr(data.va), 1).map_or(0, |(at, _)| at.0);
    t.err("in a page table", args(l1, DATA3), Errno::EINVAL);
}

fn ldt(t: &mut Test) {
    let page = probe::page();
    page.set(0, DATA3);
    let set = |at: u64, entries: u64| mmuext(MmuextCmd::SET_LDT, at, entries);
    t.ok("protect", page.protect(false));
    t.ok("set_ldt", set(page.va, 512));
    let (trap, selector) = load(0x7);
    t.runs("its segment loads", trap);
    t.eq("selector", selector, 7);
    t.traps("an empty one", load(0xf).0, GP, 0xc);
    t.err("the page is a descriptor page", page.protect(true), Errno::EBUSY);
    t.ok("no LDT", set(0, 0));
    t.traps("nothing loads", load(0x7).0, GP, 4);
    t.ok("the page is free", page.protect(true));
    // A page mapped writable is found out on use.
    t.ok("set_ldt of a writable page", set(page.va, 512));
    let got = load(0x7).0;
    t.traps("does not load", got, Entry::Exception(vector::PF), 0);
    t.eq("cr2 is the descriptor", got.map(|f| f.cr2), Some(page.va));
    t.ok("no LDT again", set(0, 0));
}
