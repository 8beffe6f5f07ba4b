//! What CPUID tells a guest's kernel that asks by the forced prefix. User mode sees the hardware's own answer.
//!
//! Hidden is what ring 3 cannot have or the core does not offer; everything else is the hardware's.

use crate::{Core, Platform, Run};

/// First leaf of the hypervisor's own range (`arch-x86/cpuid.h`).
const BASE: u32 = 0x4000_0000;
/// "XenVMMXenVMM".
const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;

/// A mask from bit numbers.
const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut at = 0;
    while at < N {
        mask |= 1 << numbers[at];
        at += 1;
    }
    mask
}

/// Leaf 1 ecx: DTES64, MONITOR, DSCPL, VMX, SMX, EST, TM2, CNXT-ID, xTPR, PDCM, PCID, DCA, x2APIC, TSC deadline,
/// OSXSAVE (shown as the guest has set it).
const HIDDEN_1C: u32 = bits([2, 3, 4, 5, 6, 7, 8, 10, 14, 15, 17, 18, 21, 24, 27]);
/// Leaf 1 ecx: a hypervisor is here.
const HYPERVISOR: u32 = 1 << 31;
const OSXSAVE: u32 = 1 << 27;
const XSAVE: u32 = 1 << 26;
/// Leaf 1 edx: VME, PSE, MTRR, PGE, PSE36, DS, ACPI, SS, HT, TM, PBE. APIC, MCE and MCA are shown, as Xen does: without
/// them Linux complains of its processors' APIC ids and of no machine checks.
const HIDDEN_1D: u32 = bits([1, 3, 12, 13, 17, 21, 22, 27, 28, 29, 31]);
/// Leaf 7 ebx: TSC_ADJUST, SGX, SMEP, INVPCID, PQM, MPX, PQE, SMAP, PCOMMIT, PT.
const HIDDEN_7B: u32 = bits([1, 2, 7, 10, 12, 14, 15, 20, 22, 25]);
/// Leaf 7 ecx: UMIP, PKU, OSPKE, WAITPKG, CET_SS, LA57, RDPID (TSC_AUX is not switched), BUS_LOCK, ENQCMD, SGX_LC, PKS.
const HIDDEN_7C: u32 = bits([2, 3, 4, 5, 7, 16, 22, 24, 29, 30, 31]);
/// Leaf 7 edx: UINTR, PCONFIG, ARCH_LBR, CET_IBT, AMX (3), IBRSB, STIBP, L1D_FLUSH, ARCH_CAPS, CORE_CAPS, SSBD.
const HIDDEN_7D: u32 = bits([5, 18, 19, 20, 22, 24, 25, 26, 27, 28, 29, 30, 31]);
/// Leaf 0xd.1 eax: XSAVES, XFD.
const HIDDEN_XSAVE: u32 = bits([3, 4]);
/// What needs XSAVE, and AVX state with it. Leaf 1 ecx: FMA, XSAVE, AVX, F16C. Leaf 7 ebx: AVX2; ecx: VAES, VPCLMULQDQ;
/// 0x80000001 ecx: XOP, FMA4.
const AVX_1C: u32 = bits([12, 28, 29]);
const AVX_7: [u32; 3] = [bits([5]), bits([9, 10]), 0];
const AVX_81C: u32 = bits([11, 16]);
/// Leaf 7: what needs AVX-512 state. ebx: F, DQ, IFMA, PF, ER, CD, BW, VL; ecx: VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ;
/// edx: 4VNNIW, 4FMAPS, VP2INTERSECT, FP16.
const AVX512_7: [u32; 3] = [bits([16, 17, 21, 26, 27, 28, 30, 31]), bits([1, 6, 11, 12, 14]), bits([2, 3, 8, 23])];
/// Leaf 0x80000001 ecx: SVM, ExtApic, IBS, SKINIT, WDT, LWP, NodeId, TopoExt, PerfCtr (3), MONITORX.
const HIDDEN_81C: u32 = bits([2, 3, 10, 12, 13, 15, 19, 22, 23, 24, 28, 29]);
/// Leaf 0x80000001 edx: PSE, MTRR, PGE, PSE36, 1 GiB pages.
const HIDDEN_81D: u32 = bits([1, 3, 12, 13, 17, 26]);

impl<P: Platform> Core<P> {
    /// The answer to a guest kernel: eax, ebx, ecx, edx.
    pub fn cpuid(&self, run: &Run, leaf: u32, subleaf: u32) -> [u32; 4] {
        if leaf & 0xffff_ff00 == BASE {
            return self.hypervisor_leaf(leaf - BASE, subleaf);
        }
        let native = |leaf, subleaf| self.platform.cpuid(leaf, subleaf);
        let [max, ..] = native(leaf & 0x8000_0000, 0);
        if leaf > max {
            return [0; 4];
        }
        let [mut a, mut b, mut c, mut d] = native(leaf, subleaf);
        let xcr0 = self.platform.xcr0_offered();
        let (avx, avx512) = (xcr0 & 4 != 0, xcr0 & 0xe0 == 0xe0);
        match (leaf, subleaf) {
            (1, _) => {
                // One logical processor, APIC id 0: guests learn of theirs otherwise.
                b &= 0xffff;
                c = c & !HIDDEN_1C | HYPERVISOR;
                c &= !(if avx { 0 } else { AVX_1C } | if xcr0 != 0 { 0 } else { XSAVE });
                // A kernel sees the core's own: Linux takes that for leave to use XSAVE.
                if c & XSAVE != 0 && (run.kernel_mode || run.cr4 & CR4_OSXSAVE != 0) {
                    c |= OSXSAVE;
                }
                d &= !HIDDEN_1D;
            }
            (7, 0) => {
                a = a.min(1);
                b &= !HIDDEN_7B;
                c &= !HIDDEN_7C;
                d &= !HIDDEN_7D;
                for ([no_b, no_c, no_d], there) in [(AVX_7, avx), (AVX512_7, avx512)] {
                    if !there {
                        (b, c, d) = (b & !no_b, c & !no_c, d & !no_d);
                    }
                }
            }
            (7, 1) => (b, c, d) = (0, 0, 0),
            (0xd, _) if xcr0 == 0 => (a, b, c, d) = (0, 0, 0, 0),
            (0xd, 0) => {
                a &= xcr0 as u32;
                d = 0;
                c = match a {
                    0x20.. => 0xa80,
                    4.. => 0x340,
                    _ => 0x240,
                };
            }
            (0xd, 1) => (a, b, c, d) = (a & !HIDDEN_XSAVE, 0, 0, 0),
            (0xd, 2..=62) if xcr0 >> subleaf & 1 == 0 => (a, b, c, d) = (0, 0, 0, 0),
            // MONITOR, thermal and power, performance counters, topology, cache and platform quality of service, trace,
            // enclaves; AMD's own: virtualisation, and what it has come to since.
            (5 | 6 | 0xa | 0xb | 0xf | 0x10 | 0x12 | 0x14 | 0x17..=0x1f | 0x8000_000a | 0x8000_001b.., _) => {
                (a, b, c, d) = (0, 0, 0, 0);
            }
            // Deterministic caches keep their sizes, not who shares them.
            (4, _) => a &= 0x3fff,
            (0x8000_0001, _) => {
                c &= !(HIDDEN_81C | if avx { 0 } else { AVX_81C });
                d &= !HIDDEN_81D;
            }
            (0x8000_0007, _) => (a, b, c, d) = (0, 0, 0, d & 1 << 8),
            (0x8000_0008, _) => (b, c, d) = (b & 0x21, 0, 0),
            _ => {}
        }
        [a, b, c, d]
    }

    fn hypervisor_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let [b, c, d] = SIGNATURE;
        match (leaf, subleaf) {
            (0, _) => [BASE + 5, b, c, d],
            (1, _) => [4 << 16 | 17, 0, 0, 0],
            (2, _) => [1, abi::regs::msr::HYPERCALL_PAGE, 1, 0],
            // The TSC is native; RDTSCP is there where the CPU has it.
            (3, 0) => [self.platform.cpuid(0x8000_0001, 0)[3] >> 25 & 4, 0, 0, 0],
            (3, 2) => [tsc_khz(&self.platform), 0, 0, 0],
            // The bits of the machine's highest address: 44 at most, and grants stay in version 1.
            (5, 0) => {
                [0, 64 - ((self.frames.count() as u64) << abi::PAGE_SHIFT).saturating_sub(1).leading_zeros(), 0, 0]
            }
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
