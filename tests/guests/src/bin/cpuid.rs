//! CPUID as the initial domain's kernel has it, by the forced prefix, beside the processor's own answer, which user mode gets:
//! every leaf, each register. Shown is what the processor has and `arch-x86/cpufeatureset.h` has for all guests.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::domain_rt::probe::{Regs, exec};
use conformance_guests::{Test, code, guest};

guest!(run);

/// Leaf 1 ecx and edx: what is shown where it is there. Not the number of threads (HTT).
const FEATURES_C: u64 = 0x76d8_3203;
const FEATURES_D: u64 = 0x0fc9_cbf5;
/// A hypervisor is here, and XSAVE is enabled: said to a kernel whatever its CR4.
const HYPERVISOR: u64 = 1 << 31;
const OSXSAVE: u64 = 1 << 27;
const XSAVE: u64 = 1 << 26;
/// Shown to the initial domain in leaf 1 and in 0x80000001, edx both.
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
/// The components of XCR0 that may be offered: x87, SSE, AVX, AVX-512.
const STATES: u64 = 0xe7;
/// The last leaf of the first range, and the last that is compared of the second.
const LAST: u64 = 0xd;
const LAST_EXTENDED: u64 = 0x8000_0020;

type Answer = [u64; 4];

fn ask(code: &[u8], leaf: u64, subleaf: u64) -> Answer {
    // The upper halves are no part of the question, and are cleared in the answer.
    let mut regs = Regs { rax: ONES | leaf, rbx: !0, rcx: ONES | subleaf, rdx: !0, ..Regs::default() };
    exec(code, &mut regs);
    [regs.rax, regs.rbx, regs.rcx, regs.rdx]
}

const ONES: u64 = 0xffff_ffff_0000_0000;

fn shown(leaf: u64, subleaf: u64) -> Answer {
    ask(code::CPUID, leaf, subleaf)
}

fn native(leaf: u64, subleaf: u64) -> Answer {
    ask(code::NATIVE_CPUID, leaf, subleaf)
}

fn run(t: &mut Test) {
    first(t);
    features(t);
    extended_state(t);
    empty(t);
    extended(t);
    t.eq("the forced prefix is of 7 bytes", exec(code::CPUID, &mut Regs::default()), None);
}

fn is_amd() -> bool {
    let [_, _, last, _] = native(0, 0);
    last == 0x444d_4163
}

fn first(t: &mut Test) {
    let [last, vendor @ ..] = native(0, 0);
    let [shown_last, shown_vendor @ ..] = shown(0, 0);
    t.eq("the last leaf", shown_last, last.min(LAST));
    t.eq("the vendor", shown_vendor, vendor);
    for (what, leaf) in [("caches by descriptor", 2), ("leaf 3", 3), ("leaf 8", 8), ("leaf 9", 9), ("leaf 0xc", 0xc)] {
        t.eq(what, shown(leaf, 0), native(leaf, 0));
    }
    for cache in 0..4 {
        // Not how many threads and cores share them.
        let [a, rest @ ..] = native(4, cache);
        let [shown_a, shown_rest @ ..] = shown(4, cache);
        t.eq("a cache", (shown_a & 0x3fff, shown_rest), (a & 0x3fff, rest));
    }
}

fn features(t: &mut Test) {
    let [signature, _, c, d] = native(1, 0);
    let [shown_signature, b, shown_c, shown_d] = shown(1, 0);
    t.eq("family, model, stepping", shown_signature, signature);
    t.eq("APIC id 0", b >> 24, 0);
    let enabled = if c & XSAVE != 0 { OSXSAVE } else { 0 };
    t.eq("leaf 1 ecx", shown_c, c & FEATURES_C | HYPERVISOR | enabled);
    let sysenter = if is_amd() { SEP } else { 0 };
    t.eq("leaf 1 edx", shown_d, d & (FEATURES_D | MTRR) & !sysenter);
    t.eq("XSAVE is enabled, and user mode sees it", c & OSXSAVE, enabled);

    let [most, b, c, d] = native(7, 0);
    let [shown_most, shown @ ..] = shown(7, 0);
    let [mask_b, mask_c, mask_d] = FEATURES_7;
    t.yes("subleaves of 7", shown_most <= most);
    t.eq("leaf 7", shown, [b & mask_b, c & mask_c, d & mask_d]);
    let [a, ..] = native(7, 1);
    let wanted = if most > 0 { a & FEATURES_71 } else { 0 };
    t.eq("leaf 7.1", self::shown(7, 1), [wanted, 0, 0, 0]);
    t.eq("leaf 7.2", self::shown(7, 2), [0; 4]);
}

fn extended_state(t: &mut Test) {
    let [states, enabled, _, _] = native(0xd, 0);
    let offered = states & STATES;
    let size = match offered {
        0x20.. => 0xa80,
        4.. => 0x340,
        _ => 0x240,
    };
    t.eq("leaf 0xd", shown(0xd, 0), [offered, enabled, size, 0]);
    let [kinds, ..] = native(0xd, 1);
    t.eq("leaf 0xd.1", shown(0xd, 1), [kinds & FEATURES_XSAVE, 0, 0, 0]);
    for state in 2..64 {
        let wanted = if offered >> state & 1 != 0 { native(0xd, state) } else { [0; 4] };
        t.eq("the place of a component", shown(0xd, state), wanted);
    }
}

/// MONITOR, power, performance counters, topology, all behind the last leaf, and ranges that are none.
fn empty(t: &mut Test) {
    let ranges = [LAST + 1..0x40, 0x4000_0006..0x4000_0010, 0x4000_0100..0x4000_0104, 0xc000_0000..0xc000_0004];
    for leaf in [5, 6, 0xa, 0xb].into_iter().chain(ranges.into_iter().flatten()) {
        for subleaf in [0, 1] {
            t.eq("nothing there", shown(leaf, subleaf), [0; 4]);
        }
    }
    t.eq("nothing at the end", shown(0xffff_ffff, 0), [0; 4]);
    t.eq("nor before the second range", shown(0x7fff_ffff, 0), [0; 4]);
}

fn extended(t: &mut Test) {
    let [last, ..] = native(0x8000_0000, 0);
    let [shown_last, vendor @ ..] = shown(0x8000_0000, 0);
    t.yes("the last leaf is one that there is", shown_last >= last.min(0x8000_0008) && shown_last <= 0x8000_0021);
    let [_, _, c, d] = native(0x8000_0001, 0);
    let [_, _, shown_c, shown_d] = shown(0x8000_0001, 0);
    t.eq("0x80000001 ecx", shown_c, c & FEATURES_81C);
    t.eq("0x80000001 edx", shown_d, d & FEATURES_81D | MTRR);
    if is_amd() {
        let [_, native @ ..] = native(0x8000_0000, 0);
        t.eq("the vendor", vendor, native);
        t.eq("caches and TLBs", shown(0x8000_0005, 0), self::native(0x8000_0005, 0));
    }
    for leaf in 0x8000_0002..0x8000_0005 {
        t.eq("the processor's name", shown(leaf, 0), native(leaf, 0));
    }
    let [_, _, second, _] = native(0x8000_0006, 0);
    let [_, _, shown_second, _] = shown(0x8000_0006, 0);
    t.eq("the second cache", shown_second, second);
    let [.., d] = native(0x8000_0007, 0);
    t.eq("an even TSC", shown(0x8000_0007, 0), [0, 0, 0, d & 1 << 8]);
    let [a, b, _, _] = native(0x8000_0008, 0);
    let [shown_a, shown_b, shown_c, shown_d] = shown(0x8000_0008, 0);
    t.yes("no more physical bits than there are", shown_a & 0xff <= a & 0xff && shown_a & 0xff >= 36);
    t.eq("48 bits of linear addresses", shown_a >> 8, 48);
    t.eq("CLZERO, FPU pointers", (shown_b, shown_c, shown_d), (b & 5, 0, 0));
    for leaf in (0x8000_000a..0x8000_001b).chain(0x8000_001b..=LAST_EXTENDED) {
        let wanted = match leaf {
            0x8000_000a | 0x8000_001b.. => [0; 4],
            _ if leaf > last => [0; 4],
            _ => native(leaf, 0),
        };
        t.eq("of AMD's", shown(leaf, 0), wanted);
    }
}
