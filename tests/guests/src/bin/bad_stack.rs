//! An exception whose frame cannot be written, as the stack is nowhere: the domain's end.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::domain_rt::probe::{Regs, exec};
use conformance_guests::{Test, code, guest};

guest!(run);

fn run(t: &mut Test) {
    let got = exec(code::UD2, &mut Regs { rsp: 0x2000, ..Regs::default() });
    t.eq("nobody comes back", got.is_some(), false);
    t.eq("from here", true, false);
}
