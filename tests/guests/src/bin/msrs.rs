//! Model-specific registers as the initial domain's kernel has them; user mode has none.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::regs::msr;
use conformance_guests::abi::trap::vector;
use conformance_guests::domain_rt::probe::{self, Entry, Regs, exec_user};
use conformance_guests::views::Own;
use conformance_guests::views::msrs::{self, Registers};
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

fn run(t: &mut Test) {
    msrs::check(t, &Own);
    let (page, table) = (probe::page(), probe::mfn_of(conformance_guests::l4()));
    msrs::hypercall_page(t, &Own, page.mfn, page.va, &[table]);
    t.ok("protect", page.protect(false));
    let written = Registers(&Own).write(msr::HYPERCALL_PAGE, page.mfn.maddr().0);
    t.yes("one that is mapped read-only is still the guest's", written);
    user_table(t);
    for code in [code::RDMSR, code::WRMSR] {
        let mut regs = Regs { rcx: msr::EFER.into(), ..Regs::default() };
        t.traps("user mode has none", exec_user(code, &mut regs), Entry::Exception(vector::GP), 0);
    }
}
