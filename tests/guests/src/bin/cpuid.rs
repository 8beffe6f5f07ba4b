//! CPUID as the initial domain's kernel has it, by the forced prefix, beside the processor's own answer, which user mode gets.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::domain_rt::probe::{Regs, exec};
use conformance_guests::views::{Own, cpuid};
use conformance_guests::{Test, code, guest};

guest!(run);

fn run(t: &mut Test) {
    cpuid::check(t, &Own);
    t.eq("the forced prefix is of 7 bytes", exec(code::CPUID, &mut Regs::default()), None);
}
