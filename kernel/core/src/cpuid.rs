//! What CPUID tells a guest's kernel that asks by the forced prefix. User mode sees the hardware's own answer.
//!
//! Shown is what `arch-x86/cpufeatureset.h` has for all guests, as far as the hardware has it and the core offers it.

use crate::domain::Privilege;
use crate::{Caller, Core, Platform};

/// First leaf of the hypervisor's own range (`arch-x86/cpuid.h`).
const BASE: u32 = 0x4000_0000;
/// "XenVMMXenVMM".
const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// The last leaf of the first range.
const LAST: u32 = 0xd;
/// The end of "AuthenticAMD", in ecx of leaf 0.
const AMD: u32 = u32::from_le_bytes(*b"cAMD");
/// CR4.OSXSAVE.
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;

/// Leaf 1 ecx: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
const SHOWN_1C: u32 = 0x76d8_3203;
/// Leaf 1 ecx: a hypervisor is here.
const HYPERVISOR: u32 = 1 << 31;
const OSXSAVE: u32 = 1 << 27;
const XSAVE: u32 = 1 << 26;
/// Leaf 1 edx: FPU, DE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MCA, CMOV, PAT, CLFLUSH, ACPI, MMX, FXSR, SSE, SSE2, SS. Linux
/// complains of its processors' APIC ids where it sees no APIC, and of no machine checks.
const SHOWN_1D: u32 = 0x0fc9_cbf5;
/// Leaves 1 and 0x80000001 edx: memory types. Xen shows them to whoever drives the machine.
const MTRR: u32 = 1 << 12;
/// Leaf 1 edx: SYSENTER, which AMD's processors do not have in long mode, and then as Xen does.
const SEP: u32 = 1 << 11;
/// Leaf 7 ebx: FSGSBASE, BMI1, AVX2, FDP on exceptions only, BMI2, ERMS, RTM, no FPU selectors, AVX-512 (F, DQ, IFMA, PF,
/// ER, CD, BW, VL), RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
const SHOWN_7B: u32 = 0xfdaf_2b69;
/// Leaf 7 ecx: PREFETCHWT1, AVX-512 (VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ), GFNI, VAES, VPCLMULQDQ, CLDEMOTE. Not RDPID:
/// TSC_AUX is not switched.
const SHOWN_7C: u32 = 0x0200_5f43;
/// Leaf 7 edx: AVX-512 (4VNNIW, 4FMAPS), FSRM, MD_CLEAR, SERIALIZE. No register of speculation's is offered.
const SHOWN_7D: u32 = 0x441c;
/// Leaf 0xd.1 eax: XSAVEOPT, XSAVEC, XGETBV of XINUSE.
const SHOWN_XSAVE: u32 = 7;
/// What needs XSAVE, and AVX state with it. Leaf 1 ecx: FMA, XSAVE, AVX, F16C. Leaf 7 ebx: AVX2; ecx: VAES, VPCLMULQDQ;
/// 0x80000001 ecx: XOP, FMA4.
const AVX_1C: u32 = 0x3000_1000;
const AVX_7: [u32; 3] = [1 << 5, 0x600, 0];
const AVX_81C: u32 = 0x1_0800;
/// Leaf 7: what needs AVX-512 state. ebx: F, DQ, IFMA, PF, ER, CD, BW, VL; ecx: VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ;
/// edx: 4VNNIW, 4FMAPS.
const AVX512_7: [u32; 3] = [0xdc23_0000, 0x5842, 0xc];
/// Leaf 0x80000001 ecx: LAHF, CMP_LEGACY, ABM, SSE4A, MISALIGNSSE, PREFETCHW, XOP, FMA4, TBM.
const SHOWN_81C: u32 = 0x0021_09e3;
/// Leaf 0x80000001 edx: SYSCALL, NX, MMX's extensions, FXSR's, RDTSCP, LM, 3DNow; and AMD's copy of leaf 1.
const SHOWN_81D: u32 = 0xebd1_cbf5;

impl<P: Platform> Core<P> {
    /// The answer to a guest kernel: eax, ebx, ecx, edx.
    pub fn cpuid(&self, caller: &Caller<'_, P>, leaf: u32, subleaf: u32) -> [u32; 4] {
        let run = &*caller.run;
        if leaf & 0xffff_ff00 == BASE {
            return self.hypervisor_leaf(leaf - BASE, subleaf);
        }
        let native = |leaf, subleaf| self.platform.cpuid(leaf, subleaf);
        let [max, ..] = native(leaf & 0x8000_0000, 0);
        if leaf > max {
            return [0; 4];
        }
        let [a, b, c, d] = native(leaf, subleaf);
        let xcr0 = self.platform.xcr0_offered();
        let (avx, avx512) = (xcr0 & 4 != 0, xcr0 & 0xe0 == 0xe0);
        let without = |there: bool, bits: u32| if there { 0 } else { bits };
        let mtrr = MTRR * u32::from(run.kernel_mode && caller.domain.privilege.contains(Privilege::HARDWARE));
        match (leaf, subleaf) {
            (0, _) => [a.min(LAST), b, c, d],
            (1, _) => {
                let c = c & SHOWN_1C & !(without(avx, AVX_1C) | without(xcr0 != 0, XSAVE)) | HYPERVISOR;
                // A kernel sees the core's own: Linux takes that for leave to use XSAVE.
                let enabled = run.kernel_mode || run.cr4 & CR4_OSXSAVE != 0;
                let osxsave = OSXSAVE * u32::from(c & XSAVE != 0 && enabled);
                let d = d & (SHOWN_1D | mtrr) & !without(native(0, 0)[2] != AMD, SEP);
                // One logical processor, APIC id 0: guests learn of theirs otherwise.
                [a, b & 0xffff, c | osxsave, d]
            }
            (7, 0) => {
                let hidden = |n: usize| without(avx, AVX_7[n]) | without(avx512, AVX512_7[n]);
                [a.min(1), b & SHOWN_7B & !hidden(0), c & SHOWN_7C & !hidden(1), d & SHOWN_7D & !hidden(2)]
            }
            // AVX-VNNI, AVX512_BF16, FZRM, FSRS, FSRCS.
            (7, 1) => [a & if avx512 { 0x1c30 } else { 0x1c00 }, 0, 0, 0],
            (0xd, _) if xcr0 == 0 => [0; 4],
            // As long as the last component that is offered wants.
            (0xd, 0) => [a & xcr0 as u32, b, 0x240 + if avx { 0x100 } else { 0 } + if avx512 { 0x740 } else { 0 }, 0],
            (0xd, 1) => [a & SHOWN_XSAVE, 0, 0, 0],
            (0xd, 2..=62) if xcr0 >> subleaf & 1 == 0 => [0; 4],
            // MONITOR, thermal and power, performance counters, topology, and what came after XSAVE; AMD's own:
            // virtualisation, and what it has come to since.
            (5 | 6 | 0xa | 0xb | 0xe..=0x7fff_ffff | 0x8000_000a | 0x8000_001b.., _) => [0; 4],
            // Deterministic caches keep their sizes, not who shares them.
            (4, _) => [a & 0x3fff, b, c, d],
            (0x8000_0001, _) => [a, b, c & SHOWN_81C & !without(avx, AVX_81C), d & SHOWN_81D | mtrr],
            (0x8000_0007, _) => [0, 0, 0, d & 1 << 8],
            // Linear addresses have 48 bits; CLZERO, and FXSAVE keeps the FPU's pointers.
            (0x8000_0008, _) => [a & 0xff | 48 << 8, b & 5, 0, 0],
            _ => [a, b, c, d],
        }
    }

    fn hypervisor_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let [b, c, d] = SIGNATURE;
        match (leaf, subleaf) {
            (0, _) => [BASE + 5, b, c, d],
            (1, _) => [4 << 16 | 17, 0, 0, 0],
            (2, _) => [1, abi::regs::msr::HYPERCALL_PAGE, 1, 0],
            // The TSC is native; RDTSCP is there where the CPU has it. Then how ticks become nanoseconds, from no offset.
            (3, 0) => [self.platform.cpuid(0x8000_0001, 0)[3] >> 25 & 4, 0, tsc_khz(&self.platform), 0],
            (3, 1) => [0, 0, self.platform.tsc_scale().0, self.platform.tsc_scale().1 as u32],
            (3, 2) => [tsc_khz(&self.platform), 0, 0, 0],
            // The bits of the machine's highest address: 44 at most, and grants stay in version 1.
            (5, 0) => [0, 64 - (self.frames.count() << abi::PAGE_SHIFT).saturating_sub(1).leading_zeros(), 0, 0],
            _ => [0; 4],
        }
    }
}

/// The TSC's frequency in kHz, from how its ticks become nanoseconds.
pub fn tsc_khz<P: Platform>(platform: &P) -> u32 {
    let (mul, shift) = platform.tsc_scale();
    let ticks = (1_000_000u64 << 32) / u64::from(mul.max(1));
    let ticks = if shift >= 0 { ticks >> shift } else { ticks << -shift };
    ticks.min(u64::from(u32::MAX)) as u32
}
