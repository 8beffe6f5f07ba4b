//! Exceptions in handlers of exceptions: a second frame under the first, which stays as it was; masks on the way in and
//! back; handlers that are themselves nowhere; stacks of a handler at the end of a page.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::FLAT_RING3_CS64;
use conformance_guests::abi::trap::{TrapInfo, vector};
use conformance_guests::abi::{Pte, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Frame, Page, Regs, call_with, exec, exec_user};
use conformance_guests::ops::update_va;
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

/// `mov rax, [0x1000]`
const LOAD_1000: &[u8] = &[0x48, 0x8b, 0x04, 0x25, 0, 0x10, 0, 0];

fn run(t: &mut Test) {
    let handler = probe::page();
    for mask in [0, TrapInfo::MASK_EVENTS] {
        in_handler(t, handler, mask);
    }
    user_table(t);
    from_user_mode(t, handler);
    nowhere(t);
    edges(t);
}

/// Has the code at an address handle #UD.
fn handle(t: &mut Test, address: u64, flags: u8) {
    let entry =
        TrapInfo { vector: vector::UD, flags, cs: FLAT_RING3_CS64, address: Vaddr(address), ..TrapInfo::default() };
    t.ok("set_trap_table", call_with(Hypercall::SET_TRAP_TABLE, &[], &mut [entry, TrapInfo::default()]));
}

fn write(page: Page, bytes: &[u8]) {
    (page.va..).zip(bytes).for_each(|(at, byte)| probe::modify(at, |_| *byte));
}

/// The event mask that a frame says was in force.
fn saved_mask(frame: &Frame) -> u64 {
    frame.cs_word >> 32 & 0xff
}

fn in_handler(t: &mut Test, handler: Page, mask: u8) {
    let faults: [(&'static str, &[u8], u8, u64, u64); 4] = [
        ("a page fault in it", LOAD_1000, vector::PF, 0, 0),
        ("hlt in it", code::HLT, vector::GP, 0, 0),
        ("int3 in it", code::INT3, vector::BP, 0, 1),
        ("a division in it", code::DIV_0, vector::DE, 0, 2),
    ];
    for (what, bytes, inner, error, behind) in faults {
        write(handler, bytes);
        handle(t, handler.va, mask);
        probe::mask_events(false);
        let got = exec(code::UD2, &mut Regs::default());
        probe::mask_events(true);
        let Some(frame) = t.traps(what, got, Entry::Exception(inner), error) else { continue };
        t.eq("where", frame.rip, handler.va + behind);
        t.eq("in kernel mode", frame.cs, 0xe030);
        t.eq("with the handler's mask", saved_mask(&frame), u64::from(mask != 0));
        // The handler's stack pointer is the first frame: rcx, r11, rip, cs, flags, rsp, ss.
        t.eq("the first frame is there", probe::peek(frame.rsp + 16), probe::code_page());
        t.eq("with its own mask", probe::peek(frame.rsp + 24) >> 32 & 0xff, 0);
        t.yes("the second is under it", frame.frame_at < frame.rsp && frame.rsp - frame.frame_at <= 0x50);
    }
    t.ok("handlers", probe::install(probe::vcpu_info(), 0, 0));
}

/// The first frame goes to the kernel stack, the second under it.
fn from_user_mode(t: &mut Test, handler: Page) {
    write(handler, LOAD_1000);
    handle(t, handler.va, 0);
    let got = exec_user(code::UD2, &mut Regs::default());
    if let Some(frame) = t.traps("a page fault in it", got, Entry::Exception(vector::PF), 0) {
        t.eq("where", (frame.rip, frame.cs), (handler.va, 0xe030));
        t.eq("the first frame is user mode's", probe::peek(frame.rsp + 24) as u16, 0xe033);
    }
    t.ok("handlers", probe::install(probe::vcpu_info(), 0, 0));
}

/// Handlers where no code is: the fetch faults, and that has a handler.
fn nowhere(t: &mut Test) {
    handle(t, 0x5000, 0);
    let got = exec(code::UD2, &mut Regs::default());
    if let Some(frame) = got {
        t.eq("a fetch", (frame.entry, frame.rip, frame.cr2), (Entry::Exception(vector::PF), 0x5000, 0x5000));
        t.eq("the first frame is there", probe::peek(frame.rsp + 16), probe::code_page());
    }
    t.yes("a handler that is nowhere", got.is_some());
    t.ok("handlers", probe::install(probe::vcpu_info(), 0, 0));
}

/// A stack that ends with its page: both frames cross into the page in front, and may not where that is not there.
fn edges(t: &mut Test) {
    let (below, above) = (probe::page(), probe::page());
    t.eq("neighbours", above.va, below.va + 4096);
    for offset in [8, 16, 32, 48, 56] {
        let mut regs = Regs { rsp: above.va + offset, ..Regs::default() };
        let got = exec(code::UD2, &mut regs);
        if let Some(frame) = t.traps("a frame on two pages", got, Entry::Exception(vector::UD), 0) {
            t.eq("rsp as it was", frame.rsp, above.va + offset);
            t.yes("begins on the first", frame.frame_at < above.va);
        }
    }
    t.ok("unmap", update_va(below.va, Pte::EMPTY, 2));
    let mut regs = Regs { rsp: above.va + 0x800, ..Regs::default() };
    t.traps("a frame that keeps off", exec(code::UD2, &mut regs), Entry::Exception(vector::UD), 0);
}
