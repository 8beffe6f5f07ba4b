//! A frame that reaches into a page that is not there: the domain's end, though the rest of the stack is good.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::Pte;
use conformance_guests::domain_rt::probe::{self, Regs, exec};
use conformance_guests::ops::update_va;
use conformance_guests::{Test, code, guest};

guest!(run);

fn run(t: &mut Test) {
    let (below, above) = (probe::page(), probe::page());
    t.eq("neighbours", above.va, below.va + 4096);
    t.ok("unmap", update_va(below.va, Pte::EMPTY, 2));
    let got = exec(code::UD2, &mut Regs { rsp: above.va + 0x20, ..Regs::default() });
    t.eq("nobody comes back", got.is_some(), false);
    t.eq("from here", true, false);
}
