//! Model-specific registers as the initial domain's kernel has them: which there are, what they say, what may be written.
//! All others raise #GP, to read and to write.
//!
//! Left out are those of AMD's that Xen shows to its initial domain alone (0xc0010000 and up; docs/caveats.md) and TSC_AUX.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::regs::msr;
use conformance_guests::abi::trap::vector;
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe::{self, Entry, Regs, exec, exec_user};
use conformance_guests::{Test, code, guest, user_table};

guest!(run);

const GP: Entry = Entry::Exception(vector::GP);
const TSC_AUX: u32 = 0xc000_0103;
/// Frequencies, as they were counted: of cores that guests do not have.
const MPERF: u32 = 0xe7;
const APERF: u32 = 0xe8;
/// Registers of machine checks: when to interrupt, and 32 banks of four.
const CTL2: core::ops::RangeInclusive<u32> = 0x280..=0x29f;
const BANKS: core::ops::RangeInclusive<u32> = msr::MC0_CTL..=0x47f;

/// What is looked at.
const RANGES: [core::ops::Range<u32>; 4] =
    [0..0x2000, 0x4000_0000..0x4000_0100, 0xc000_0000..0xc000_0400, 0xffff_ff00..0xffff_ffff];

/// None where it raises #GP.
fn read(number: u32) -> Option<u64> {
    // The upper halves are no part of the number, and are cleared in the answer.
    let mut regs = Regs { rcx: u64::from(number) | 5 << 32, rax: !0, rdx: !0, ..Regs::default() };
    match exec(code::RDMSR, &mut regs) {
        None => Some(regs.rdx << 32 | regs.rax),
        Some(frame) if (frame.entry, frame.error_code, frame.rip) == (GP, 0, probe::code_page()) => None,
        Some(_) => Some(0xbad),
    }
}

/// Whether it may be.
fn write(number: u32, value: u64) -> bool {
    let mut regs = Regs { rcx: number.into(), rax: !0 << 32 | value, rdx: !0 << 32 | value >> 32, ..Regs::default() };
    exec(code::WRMSR, &mut regs).is_none()
}

fn run(t: &mut Test) {
    all(t);
    values(t);
    written(t);
    machine_checks(t);
    hypercall_page(t);
    user_table(t);
    for code in [code::RDMSR, code::WRMSR] {
        let mut regs = Regs { rcx: msr::EFER.into(), ..Regs::default() };
        t.traps("user mode has none", exec_user(code, &mut regs), GP, 0);
    }
}

/// Is it there to be read?
fn is_there(number: u32) -> bool {
    match number {
        0 | 1 | msr::TSC | msr::APIC_BASE | msr::BIOS_SIGN_ID | msr::PLATFORM_INFO | msr::MISC_FEATURES_ENABLES => true,
        msr::MCG_CAP..=msr::MCG_CTL | msr::PAT | msr::PERF_CAPABILITIES | msr::HYPERCALL_PAGE | msr::EFER => true,
        // The processor's own: AMD's have none, QEMU's has.
        msr::MISC_ENABLE => true,
        msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE => true,
        _ => CTL2.contains(&number) || BANKS.contains(&number),
    }
}

fn all(t: &mut Test) {
    for number in RANGES.into_iter().flatten().filter(|number| *number != TSC_AUX) {
        if read(number).is_some() != is_there(number) {
            println!("  register {number:#x}");
            t.yes("what is there, and nothing else", false);
        }
        if !is_there(number) && write(number, 0) != [MPERF, APERF].contains(&number) {
            println!("  register {number:#x}");
            t.yes("what is not there is not written", false);
        }
    }
}

/// Values that are the same everywhere.
fn values(t: &mut Test) {
    let same = [
        (msr::APIC_BASE, 0xfee0_0900),
        (msr::PLATFORM_INFO, 0),
        (msr::MISC_FEATURES_ENABLES, 0),
        (msr::PERF_CAPABILITIES, 0),
        (msr::HYPERCALL_PAGE, 0),
        (msr::PAT, 0x0501_0007_0406),
        (msr::EFER, 0xd01),
        (0, 0),
        (1, 0),
    ];
    for (number, value) in same {
        t.eq("a value", (number, read(number)), (number, Some(value)));
    }
    t.yes("the TSC goes on", read(msr::TSC) < read(msr::TSC));
    // No performance monitoring (7), no branch tracing (11), no event sampling (12), no MONITOR (18), no priority
    // messages (23).
    let enabled = read(msr::MISC_ENABLE).unwrap_or(0);
    t.eq("MISC_ENABLE", enabled & 0x0084_1880, 0x0080_1800);
}

/// Who may be written to, and with what effect.
fn written(t: &mut Test) {
    let fixed = [
        0,
        1,
        msr::TSC,
        msr::APIC_BASE,
        msr::BIOS_SIGN_ID,
        msr::PLATFORM_INFO,
        msr::PAT,
        msr::PERF_CAPABILITIES,
        msr::HYPERCALL_PAGE,
        0xc000_0081,
    ];
    for number in fixed {
        let value = read(number).unwrap_or(0);
        t.eq("not even its own value", (number, write(number, value)), (number, false));
        t.eq("nor ones", (number, write(number, u64::MAX)), (number, false));
    }
    t.yes("EFER as it is", write(msr::EFER, 0xd01));
    for value in [0, 1, 0xd00, 0x501, 0x1d01, 1 << 32 | 0xd01] {
        t.yes("and not otherwise", !write(msr::EFER, value));
    }
    t.yes("no CPUID faulting", write(msr::MISC_FEATURES_ENABLES, 0));
    for value in [1, 2, 1 << 32] {
        t.yes("and none to be had", !write(msr::MISC_FEATURES_ENABLES, value));
    }
    let before = read(msr::MISC_ENABLE);
    for value in [0, 1, u64::MAX] {
        t.yes("MISC_ENABLE hears", write(msr::MISC_ENABLE, value));
        t.eq("and does not listen", read(msr::MISC_ENABLE), before);
        t.yes("MPERF too", write(MPERF, value) && write(APERF, value));
    }
}

/// Two banks, in which nothing is ever seen.
fn machine_checks(t: &mut Test) {
    t.eq("two banks", read(msr::MCG_CAP).map(|cap| cap & 0xff), Some(2));
    for number in [msr::MCG_CAP, msr::MCG_CTL].into_iter().chain(CTL2).chain(0x408..=0x47f) {
        let before = read(number);
        for value in [0, 1, u64::MAX] {
            t.eq("heard", (number, write(number, value)), (number, true));
            t.eq("and no more", (number, read(number)), (number, before));
        }
    }
    t.yes("no machine check goes on", read(msr::MCG_STATUS) == Some(0) && write(msr::MCG_STATUS, 0));
    for control in [msr::MC0_CTL, msr::MC1_CTL] {
        t.eq("all is reported", read(control), Some(u64::MAX));
        t.yes("whatever is asked for", write(control, 0) && read(control) == Some(u64::MAX));
        for number in control + 1..control + 4 {
            t.eq("nothing was seen", (number, read(number)), (number, Some(0)));
            t.yes("it may be forgotten", write(number, 0));
            t.yes("and not made up", !write(number, 1) && !write(number, 1 << 63));
        }
    }
}

/// A frame that may be written is filled with stubs, each of 32 bytes: `push rcx; push r11; mov eax, number; syscall; ...`.
fn hypercall_page(t: &mut Test) {
    let page = probe::page();
    let at = page.mfn.maddr().0;
    for bad in [at | 1, at | 0xfff, 0xff_ffff_f000, !0 << 12] {
        t.yes("no such frame, or a second page", !write(msr::HYPERCALL_PAGE, bad));
    }
    let table = probe::mfn_of(conformance_guests::l4()).maddr().0;
    t.yes("a page table", !write(msr::HYPERCALL_PAGE, table));
    t.eq("nothing happened", page.get(0), 0);
    t.yes("a page", write(msr::HYPERCALL_PAGE, at));
    t.eq("the first call", page.get(0), u64::from_le_bytes([0x51, 0x41, 0x53, 0xb8, 0, 0, 0, 0]));
    t.eq("the second", page.get(4), u64::from_le_bytes([0x51, 0x41, 0x53, 0xb8, 1, 0, 0, 0]));
    t.eq("the last", page.get(4 * 63), u64::from_le_bytes([0x51, 0x41, 0x53, 0xb8, 63, 0, 0, 0]));
    t.ok("protect", page.protect(false));
    t.yes("one that is mapped read-only is still the guest's", write(msr::HYPERCALL_PAGE, at));
    t.eq("it says nothing of itself", read(msr::HYPERCALL_PAGE), Some(0));
}
