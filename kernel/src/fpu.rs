//! The FPU and vector registers: saved and loaded whole at every vCPU switch, so that nobody ever sees another's.

use core::arch::asm;

use ferrule_core::vcpu::Run;

/// CR0.TS.
const TS: u64 = 1 << 3;

/// Sets or clears CR0.TS.
pub fn set_task_switched(set: bool) {
    let old: u64;
    // SAFETY: only CR0.TS changes; ring 0 uses the FPU in this file alone, which clears it first.
    unsafe {
        asm!("mov {}, cr0", out(reg) old, options(nomem, nostack, preserves_flags));
        let new = if set { old | TS } else { old & !TS };
        if new != old {
            asm!("mov cr0, {}", in(reg) new, options(nostack, preserves_flags));
        }
    }
}

/// Stores the registers of the vCPU that is switched away.
pub fn save(run: &mut Run) {
    set_task_switched(false);
    // SAFETY: the area is 64-byte aligned and longer than FXSAVE's 512 bytes; CR4.OSFXSR is set.
    unsafe { asm!("fxsave64 [{}]", in(reg) run.fpu.area.as_mut_ptr(), options(nostack, preserves_flags)) };
}

/// Loads the registers of the vCPU that is switched to, and the TS that its kernel wants.
pub fn load(run: &Run) {
    set_task_switched(false);
    // SAFETY: as for `save`; the area holds what FXSAVE stored, or a context whose MXCSR was checked when it was set.
    unsafe { asm!("fxrstor64 [{}]", in(reg) run.fpu.area.as_ptr(), options(nostack, preserves_flags)) };
    set_task_switched(run.cr0 & TS != 0);
}
