//! Model-specific registers: which there are, what they say, what may be written. All others raise #GP, to read and to write.
//!
//! Left out are those of AMD's that Xen shows (0xc0010000 and up: `pair_views`, docs/caveats.md) and TSC_AUX.

use domain_rt::abi::Mfn;
use domain_rt::abi::regs::msr;
use domain_rt::println;
use domain_rt::probe::{self, Regs};

use super::{Fault, Kernel};
use crate::{Test, code};

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

/// A kernel whose registers are looked at.
pub struct Registers<'a>(pub &'a dyn Kernel);

impl Registers<'_> {
    /// None where it raises #GP.
    pub fn read(&self, number: u32) -> Option<u64> {
        // The upper halves are no part of the number, and are cleared in the answer.
        let mut regs = Regs { rcx: u64::from(number) | 5 << 32, rax: !0, rdx: !0, ..Regs::default() };
        match self.0.execute(code::RDMSR, &mut regs) {
            None => Some(regs.rdx << 32 | regs.rax),
            Some(fault) if fault == self.refusal() => None,
            Some(_) => Some(0xbad),
        }
    }

    /// False where it raises #GP.
    pub fn write(&self, number: u32, value: u64) -> bool {
        let ones = !0 << 32;
        let mut regs = Regs { rcx: number.into(), rax: ones | value, rdx: ones | value >> 32, ..Regs::default() };
        self.0.execute(code::WRMSR, &mut regs) != Some(self.refusal())
    }

    fn refusal(&self) -> Fault {
        Fault { error_code: 0, rip: self.0.code_at() }
    }
}

/// Which registers there are, what they say, what may be written.
pub fn check(t: &mut Test, kernel: &dyn Kernel) {
    let kernel = &Registers(kernel);
    all(t, kernel);
    values(t, kernel);
    written(t, kernel);
    bases(t, kernel);
    machine_checks(t, kernel);
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

fn all(t: &mut Test, kernel: &Registers<'_>) {
    for number in RANGES.into_iter().flatten().filter(|number| *number != TSC_AUX) {
        if kernel.read(number).is_some() != is_there(number) {
            println!("  register {number:#x}");
            t.yes("what is there, and nothing else", false);
        }
        if !is_there(number) && kernel.write(number, 0) != [MPERF, APERF].contains(&number) {
            println!("  register {number:#x}");
            t.yes("what is not there is not written", false);
        }
    }
}

/// Values that are the same everywhere.
fn values(t: &mut Test, kernel: &Registers<'_>) {
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
        t.eq("a value", (number, kernel.read(number)), (number, Some(value)));
    }
    t.yes("the TSC goes on", kernel.read(msr::TSC) < kernel.read(msr::TSC));
    // No performance monitoring (7), no branch tracing (11), no event sampling (12), no MONITOR (18), no priority
    // messages (23).
    let enabled = kernel.read(msr::MISC_ENABLE).unwrap_or(0);
    t.eq("MISC_ENABLE", enabled & 0x0084_1880, 0x0080_1800);
}

/// Who may be written to, and with what effect.
fn written(t: &mut Test, kernel: &Registers<'_>) {
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
        let value = kernel.read(number).unwrap_or(0);
        t.eq("not even its own value", (number, kernel.write(number, value)), (number, false));
        t.eq("nor ones", (number, kernel.write(number, u64::MAX)), (number, false));
    }
    t.yes("EFER as it is", kernel.write(msr::EFER, 0xd01));
    for value in [0, 1, 0xd00, 0x501, 0x1d01, 1 << 32 | 0xd01] {
        t.yes("and not otherwise", !kernel.write(msr::EFER, value));
    }
    t.yes("no CPUID faulting", kernel.write(msr::MISC_FEATURES_ENABLES, 0));
    for value in [1, 2, 1 << 32] {
        t.yes("and none to be had", !kernel.write(msr::MISC_FEATURES_ENABLES, value));
    }
    let before = kernel.read(msr::MISC_ENABLE);
    for value in [0, 1, u64::MAX] {
        t.yes("MISC_ENABLE hears", kernel.write(msr::MISC_ENABLE, value));
        t.eq("and does not listen", kernel.read(msr::MISC_ENABLE), before);
        t.yes("MPERF too", kernel.write(MPERF, value) && kernel.write(APERF, value));
    }
}

/// Two banks, in which nothing is ever seen.
fn machine_checks(t: &mut Test, kernel: &Registers<'_>) {
    t.eq("two banks", kernel.read(msr::MCG_CAP).map(|cap| cap & 0xff), Some(2));
    for number in [msr::MCG_CAP, msr::MCG_CTL].into_iter().chain(CTL2).chain(0x408..=0x47f) {
        let before = kernel.read(number);
        for value in [0, 1, u64::MAX] {
            t.eq("heard", (number, kernel.write(number, value)), (number, true));
            t.eq("and no more", (number, kernel.read(number)), (number, before));
        }
    }
    t.yes("no machine check goes on", kernel.read(msr::MCG_STATUS) == Some(0) && kernel.write(msr::MCG_STATUS, 0));
    for control in [msr::MC0_CTL, msr::MC1_CTL] {
        t.eq("all is reported", kernel.read(control), Some(u64::MAX));
        t.yes("whatever is asked for", kernel.write(control, 0) && kernel.read(control) == Some(u64::MAX));
        for number in control + 1..control + 4 {
            t.eq("nothing was seen", (number, kernel.read(number)), (number, Some(0)));
            t.yes("it may be forgotten", kernel.write(number, 0));
            t.yes("and not made up", !kernel.write(number, 1) && !kernel.write(number, 1 << 63));
        }
    }
}

/// FS and GS: any address that there is.
fn bases(t: &mut Test, kernel: &Registers<'_>) {
    for number in [msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE] {
        for value in [1, 0x7fff_ffff_ffff, !0 << 47, 0] {
            t.eq("a base", (kernel.write(number, value), kernel.read(number)), (true, Some(value)));
        }
        for value in [1 << 47, !0 << 48] {
            t.eq("of no address", (kernel.write(number, value), kernel.read(number)), (false, Some(0)));
        }
    }
}

/// A frame of the kernel's own, seen at `view`, is filled with stubs, each of 32 bytes: `push rcx; push r11; mov eax, number;
/// syscall; ...`. Frames that are page tables or others' are `not`.
pub fn hypercall_page(t: &mut Test, kernel: &dyn Kernel, frame: Mfn, view: u64, not: &[Mfn]) {
    let kernel = Registers(kernel);
    let at = frame.maddr().0;
    (0..512).for_each(|word| probe::poke(view + 8 * word, 0));
    for bad in [at | 1, at | 0xfff, 0xff_ffff_f000, !0 << 12] {
        t.yes("no such frame, or a second page", !kernel.write(msr::HYPERCALL_PAGE, bad));
    }
    for frame in not {
        t.yes("a page table, or another's frame", !kernel.write(msr::HYPERCALL_PAGE, frame.maddr().0));
    }
    t.eq("nothing happened", probe::peek(view), 0);
    t.yes("a page", kernel.write(msr::HYPERCALL_PAGE, at));
    for number in [0, 1, 63] {
        let stub = u64::from_le_bytes([0x51, 0x41, 0x53, 0xb8, number, 0, 0, 0]);
        t.eq("a call", probe::peek(view + 32 * u64::from(number)), stub);
    }
    t.eq("it says nothing of itself", kernel.read(msr::HYPERCALL_PAGE), Some(0));
}
