//! Control registers of a CPU.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use x86_64::registers::model_specific::Msr;

const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// Bits that are the guest's own: TSD, DE, FSGSBASE.
const CR4_GUEST: u64 = 1 << 2 | 1 << 3 | 1 << 16;
const CR4_SMEP: u64 = 1 << 20;

/// Sets the control registers: the same on every CPU. What protects ring 0 is on where the CPU has it.
pub fn init() {
    let features = __cpuid_count(7, 0);
    let smep = if features.ebx & 1 << 7 != 0 { CR4_SMEP } else { 0 };
    let set = CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | smep;
    // SAFETY: PAE stays; the bits are ones that this CPU has; MP, NE and AM on, EM and TS off in CR0.
    unsafe {
        let cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack));
        asm!("mov cr4, {}", in(reg) cr4 | set, options(nostack));
        let cr0: u64;
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack));
        asm!("mov cr0, {}", in(reg) cr0 & !0xc | 0x4_0022, options(nostack));
    }
}

/// Takes the bits of CR4 that are a guest's own into the hardware, where they differ.
pub fn load_control(guest: u64) {
    let old: u64;
    // SAFETY: the bits are ones that this CPU has, as the core checked when the guest set them; ring 0 does not depend
    // on them.
    unsafe {
        asm!("mov {}, cr4", out(reg) old, options(nomem, nostack, preserves_flags));
        let new = old & !CR4_GUEST | guest & CR4_GUEST;
        if new != old {
            asm!("mov cr4, {}", in(reg) new, options(nostack, preserves_flags));
        }
    }
}

/// The PAT that guests see, as Xen has it: WB, WT, UC-, UC, WC, WP, UC, UC.
const PAT: u64 = 0x0000_0501_0007_0406;

/// Programs the PAT.
pub fn init_pat() {
    // SAFETY: entries 0-3 keep their meaning, which is all that the core's own tables use.
    unsafe { Msr::new(0x277).write(PAT) };
}
