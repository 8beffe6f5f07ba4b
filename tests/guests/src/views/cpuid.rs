//! Every leaf of CPUID, each register, by the forced prefix, beside the processor's own answer. Shown is what the processor has
//! and `arch-x86/cpufeatureset.h` has for all guests.

use domain_rt::abi::cpuid as leaves;
use domain_rt::probe::Regs;

use super::Kernel;
use crate::{Test, code};

/// Leaf 1 ecx and edx: what is shown where it is there. Not the number of threads (HTT).
const FEATURES_C: u64 = 0x76d8_3203;
const FEATURES_D: u64 = 0x0fc9_cbf5;
/// A hypervisor is here, and XSAVE is enabled: said to a kernel whatever its CR4.
const HYPERVISOR: u64 = 1 << 31;
const OSXSAVE: u64 = 1 << 27;
const XSAVE: u64 = 1 << 26;
/// Shown to the initial domain alone, in leaf 1 and in 0x80000001, edx both.
const MTRR: u64 = 1 << 12;
/// AMD's processors have no SYSENTER in long mode.
const SEP: u64 = 1 << 11;
/// Leaf 7: ebx, ecx, edx. Not the registers of speculation's, nor RDPID.
const FEATURES_7: [u64; 3] = [0xfdaf_2b69, 0x0200_5f43, 0x441c];
/// Leaf 7.1 eax: AVX-VNNI, AVX512_BF16, fast string instructions.
const FEATURES_71: u64 = 0x1c30;
/// Leaf 0xd.1 eax: XSAVEOPT, XSAVEC, XGETBV of XINUSE.
const FEATURES_XSAVE: u64 = 7;
/// Leaf 0x80000001: ecx, edx.
const FEATURES_81C: u64 = 0x0021_09e3;
const FEATURES_81D: u64 = 0xebd1_cbf5;
/// Leaf 0x80000007 edx: the TSC's rate is always the same.
const EVEN: u64 = 1 << 8;
/// The components of XCR0 that may be offered: x87, SSE, AVX, AVX-512.
const STATES: u64 = 0xe7;
/// The last leaf of the first range, and the last that is compared of the second.
const LAST: u64 = 0xd;
const LAST_EXTENDED: u64 = 0x8000_0020;

/// eax, ebx, ecx, edx.
type Answer = [u64; 4];

const ONES: u64 = 0xffff_ffff_0000_0000;

/// A kernel that asks.
struct Asked<'a>(&'a dyn Kernel);

impl Asked<'_> {
    fn ask(&self, code: &[u8], leaf: u64, subleaf: u64) -> Answer {
        // The upper halves are no part of the question, and are cleared in the answer.
        let mut regs = Regs { rax: ONES | leaf, rbx: !0, rcx: ONES | subleaf, rdx: !0, ..Regs::default() };
        match self.0.execute(code, &mut regs) {
            None => [regs.rax, regs.rbx, regs.rcx, regs.rdx],
            Some(_) => [!0; 4],
        }
    }

    /// By the forced prefix.
    fn shown(&self, leaf: u64, subleaf: u64) -> Answer {
        self.ask(code::CPUID, leaf, subleaf)
    }

    /// The processor's own.
    fn native(&self, leaf: u64, subleaf: u64) -> Answer {
        self.ask(code::NATIVE_CPUID, leaf, subleaf)
    }

    fn is_amd(&self) -> bool {
        let [_, _, last, _] = self.native(0, 0);
        last == 0x444d_4163
    }

    /// What of MTRR is shown.
    fn mtrr(&self) -> u64 {
        if self.0.is_initial() { MTRR } else { 0 }
    }
}

/// Every leaf that a kernel is shown.
pub fn check(t: &mut Test, kernel: &dyn Kernel) {
    let kernel = &Asked(kernel);
    first(t, kernel);
    features(t, kernel);
    extended_state(t, kernel);
    empty(t, kernel);
    extended(t, kernel);
    hypervisor(t, kernel);
}

fn first(t: &mut Test, kernel: &Asked<'_>) {
    let [last, vendor @ ..] = kernel.native(0, 0);
    let [shown_last, shown_vendor @ ..] = kernel.shown(0, 0);
    t.eq("the last leaf", shown_last, last.min(LAST));
    t.eq("the vendor", shown_vendor, vendor);
    for (what, leaf) in [("caches by descriptor", 2), ("leaf 3", 3), ("leaf 8", 8), ("leaf 9", 9), ("leaf 0xc", 0xc)] {
        t.eq(what, kernel.shown(leaf, 0), kernel.native(leaf, 0));
    }
    for cache in 0..4 {
        // Not how many threads and cores share them.
        let [a, rest @ ..] = kernel.native(4, cache);
        let [shown_a, shown_rest @ ..] = kernel.shown(4, cache);
        t.eq("a cache", (shown_a & 0x3fff, shown_rest), (a & 0x3fff, rest));
    }
}

fn features(t: &mut Test, kernel: &Asked<'_>) {
    let [signature, _, c, d] = kernel.native(1, 0);
    let [shown_signature, b, shown_c, shown_d] = kernel.shown(1, 0);
    t.eq("family, model, stepping", shown_signature, signature);
    t.eq("APIC id 0", b >> 24, 0);
    let enabled = if c & XSAVE != 0 { OSXSAVE } else { 0 };
    t.eq("leaf 1 ecx", shown_c, c & FEATURES_C | HYPERVISOR | enabled);
    let sysenter = if kernel.is_amd() { SEP } else { 0 };
    t.eq("leaf 1 edx", shown_d, d & (FEATURES_D | kernel.mtrr()) & !sysenter);
    t.eq("XSAVE is enabled, and user mode sees it", c & OSXSAVE, enabled);

    let [most, b, c, d] = kernel.native(7, 0);
    let [shown_most, shown @ ..] = kernel.shown(7, 0);
    let [mask_b, mask_c, mask_d] = FEATURES_7;
    t.yes("subleaves of 7", shown_most <= most);
    t.eq("leaf 7", shown, [b & mask_b, c & mask_c, d & mask_d]);
    let [a, ..] = kernel.native(7, 1);
    let wanted = if most > 0 { a & FEATURES_71 } else { 0 };
    t.eq("leaf 7.1", kernel.shown(7, 1), [wanted, 0, 0, 0]);
    t.eq("leaf 7.2", kernel.shown(7, 2), [0; 4]);
}

fn extended_state(t: &mut Test, kernel: &Asked<'_>) {
    let [states, enabled, _, _] = kernel.native(0xd, 0);
    let offered = states & STATES;
    let size = match offered {
        0x20.. => 0xa80,
        4.. => 0x340,
        _ => 0x240,
    };
    t.eq("leaf 0xd", kernel.shown(0xd, 0), [offered, enabled, size, 0]);
    let [kinds, ..] = kernel.native(0xd, 1);
    t.eq("leaf 0xd.1", kernel.shown(0xd, 1), [kinds & FEATURES_XSAVE, 0, 0, 0]);
    for state in 2..64 {
        let wanted = if offered >> state & 1 != 0 { kernel.native(0xd, state) } else { [0; 4] };
        t.eq("the place of a component", kernel.shown(0xd, state), wanted);
    }
}

/// MONITOR, power, performance counters, topology, all behind the last leaf, and ranges that are none.
fn empty(t: &mut Test, kernel: &Asked<'_>) {
    let ranges = [LAST + 1..0x40, 0x4000_0006..0x4000_0010, 0x4000_0100..0x4000_0104, 0xc000_0000..0xc000_0004];
    for leaf in [5, 6, 0xa, 0xb].into_iter().chain(ranges.into_iter().flatten()) {
        for subleaf in [0, 1] {
            t.eq("nothing there", kernel.shown(leaf, subleaf), [0; 4]);
        }
    }
    t.eq("nothing at the end", kernel.shown(0xffff_ffff, 0), [0; 4]);
    t.eq("nor before the second range", kernel.shown(0x7fff_ffff, 0), [0; 4]);
}

fn extended(t: &mut Test, kernel: &Asked<'_>) {
    let [last, ..] = kernel.native(0x8000_0000, 0);
    let [shown_last, vendor @ ..] = kernel.shown(0x8000_0000, 0);
    t.yes("the last leaf is one that there is", shown_last >= last.min(0x8000_0008) && shown_last <= 0x8000_0021);
    let [_, _, c, d] = kernel.native(0x8000_0001, 0);
    let [_, _, shown_c, shown_d] = kernel.shown(0x8000_0001, 0);
    t.eq("0x80000001 ecx", shown_c, c & FEATURES_81C);
    t.eq("0x80000001 edx", shown_d, d & FEATURES_81D | kernel.mtrr());
    if kernel.is_amd() {
        let [_, native @ ..] = kernel.native(0x8000_0000, 0);
        t.eq("the vendor", vendor, native);
        t.eq("caches and TLBs", kernel.shown(0x8000_0005, 0), kernel.native(0x8000_0005, 0));
    }
    for leaf in 0x8000_0002..0x8000_0005 {
        t.eq("the processor's name", kernel.shown(leaf, 0), kernel.native(leaf, 0));
    }
    let [_, _, second, _] = kernel.native(0x8000_0006, 0);
    let [_, _, shown_second, _] = kernel.shown(0x8000_0006, 0);
    t.eq("the second cache", shown_second, second);
    let [.., d] = kernel.native(0x8000_0007, 0);
    // Xen shows it to a domain that is not to move to other machines.
    let [rest @ .., even] = kernel.shown(0x8000_0007, 0);
    t.eq("nothing of power", (rest, even & !(d & EVEN)), ([0; 3], 0));
    t.yes("an even TSC", even == d & EVEN || !kernel.0.is_initial());
    let [a, b, _, _] = kernel.native(0x8000_0008, 0);
    let [shown_a, shown_b, shown_c, shown_d] = kernel.shown(0x8000_0008, 0);
    t.yes("no more physical bits than there are", shown_a & 0xff <= a & 0xff && shown_a & 0xff >= 36);
    t.eq("48 bits of linear addresses", shown_a >> 8, 48);
    t.eq("CLZERO, FPU pointers", (shown_b, shown_c, shown_d), (b & 5, 0, 0));
    for leaf in (0x8000_000a..0x8000_001b).chain(0x8000_001b..=LAST_EXTENDED) {
        let wanted = match leaf {
            0x8000_000a | 0x8000_001b.. => [0; 4],
            _ if leaf > last => [0; 4],
            _ => kernel.native(leaf, 0),
        };
        t.eq("of AMD's", kernel.shown(leaf, 0), wanted);
    }
}

/// The hypervisor's own leaves (`arch-x86/cpuid.h`).
fn hypervisor(t: &mut Test, kernel: &Asked<'_>) {
    let leaf = |leaf: u32, subleaf| kernel.shown((leaves::FIRST_LEAF + leaf).into(), subleaf);
    let last = leaves::FIRST_LEAF + leaves::MAX_NUM_LEAVES;
    let signature = [last, leaves::SIGNATURE_EBX, leaves::SIGNATURE_ECX, leaves::SIGNATURE_EDX].map(u64::from);
    t.eq("the signature", leaf(0, 0), signature);
    t.eq("the version", leaf(leaves::LEAF_VERSION, 0), [0x4_0011, 0, 0, 0]);
    t.eq("a page of hypercalls", leaf(leaves::LEAF_HYPERCALL, 0), [1, 0x4000_0000, 1, 0]);
    t.eq("nothing of hardware guests", leaf(leaves::LEAF_HVM, 0), [0; 4]);
    // 256 MiB.
    t.eq("bits of a machine address", leaf(leaves::LEAF_PV, 0), [0, 28, 0, 0]);
    let [flags, mode, its, _] = leaf(leaves::LEAF_TIME, 0);
    let [_, _, _, features] = kernel.native(0x8000_0001, 0);
    t.eq("RDTSCP, and the usual mode", (flags >> 2, mode), (features >> 27 & 1, 0));
    let [khz, ..] = leaf(leaves::LEAF_TIME, 2);
    t.yes("the TSC's frequency", khz > 1000);
    // Xen's initial domain has no TSC of its own.
    if !kernel.0.is_initial() {
        t.eq("is the guest's", its, khz);
        let [_, _, mul, shift] = leaf(leaves::LEAF_TIME, 1);
        let shift = shift as i32;
        let shifted = if shift < 0 { khz >> -shift } else { khz << shift };
        // Whole kHz, halved.
        let off = ((shifted * mul) >> 32).abs_diff(1_000_000);
        t.yes("a millisecond by its scale", off <= 2 + 2_000_000 / khz.max(1));
    }
}
