//! Control registers of a CPU.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use x86_64::registers::model_specific::Msr;

const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_SMEP: u64 = 1 << 20;

/// Sets the control registers: the same on every CPU. What protects ring 0 is on where the CPU has it.
pub fn init() {
    let features = __cpuid_count(7, 0);
    let mut set = CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    for (bit, flag) in [(features.ebx & 1, CR4_FSGSBASE), (features.ebx & 1 << 7, CR4_SMEP), (features.ecx & 1 << 2, CR4_UMIP)] {
        if bit != 0 {
            set |= flag;
        }
    }
    // SAFETY: PAE stays; the bits are ones that this CPU has; MP and NE on, EM and TS off in CR0.
    unsafe {
        let cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack));
        asm!("mov cr4, {}", in(reg) cr4 | set, options(nostack));
        let cr0: u64;
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack));
        asm!("mov cr0, {}", in(reg) cr0 & !0xc | 0x22, options(nostack));
    }
}

/// The PAT that guests see, as Xen has it: WB, WT, UC-, UC, WC, WP, UC, UC.
const PAT: u64 = 0x0000_0501_0007_0406;

/// Programs the PAT.
pub fn init_pat() {
    // SAFETY: entries 0-3 keep their meaning, which is all that the core's own tables use.
    unsafe { Msr::new(0x277).write(PAT) };
}
