//! An exception of user mode, and no kernel stack for its frame: the domain's end.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::FLAT_RING3_SS64;
use conformance_guests::domain_rt::probe::{Regs, call, exec_user};
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

fn run(t: &mut Test) {
    user_table(t);
    t.ok("stack_switch", call(Hypercall::STACK_SWITCH, &[FLAT_RING3_SS64.into(), 0x2000]));
    let got = exec_user(code::UD2, &mut Regs::default());
    t.eq("nobody comes back", got.is_some(), false);
    t.eq("from here", true, false);
}
