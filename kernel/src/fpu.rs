//! The FPU and vector registers: saved and loaded whole at every vCPU switch, so that nobody ever sees another's.
//!
//! With XSAVE, all components that guests are offered are kept, whatever a guest's XCR0 has enabled at the moment: what it
//! disables and enables again is still there, and still its own.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use ferrule_core::vcpu::{FpuState, Run};
use x86_64::registers::control::Cr0;
use x86_64::registers::xcontrol::XCr0;

use crate::cpu;

/// CR0.TS.
const TS: u64 = 1 << 3;
/// The components that are kept where the CPU has them: x87, SSE, AVX, the three of AVX-512.
const KEPT: u64 = 0xe7;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0xe0;

static OFFERED: AtomicU64 = AtomicU64::new(0);

/// Looks what the CPU has. Without XSAVE, or `hidden`, FXSAVE does. Before `cpu::init`.
pub fn init(hidden: bool) {
    let [_, _, features, _] = cpu::cpuid(1, 0);
    if hidden || features & 1 << 26 == 0 {
        return;
    }
    let [low, ..] = cpu::cpuid(0xd, 0);
    let mut offered = u64::from(low) & KEPT;
    // AVX-512 comes whole and with AVX, and the area has its place and size as the standard form has them.
    let [bytes, at, ..] = cpu::cpuid(0xd, 7);
    let fits = (bytes + at) as usize <= size_of::<FpuState>();
    if offered & AVX == 0 || offered & AVX_512 != AVX_512 || !fits {
        offered &= !AVX_512;
    }
    OFFERED.store(offered, Ordering::Relaxed);
}

/// The components that guests are offered, as bits of XCR0; 0 where XSAVE is not used.
pub fn offered() -> u64 {
    OFFERED.load(Ordering::Relaxed)
}

/// Sets XCR0. CR4.OSXSAVE is set wherever something is offered.
pub fn set_xcr0(value: u64) {
    // SAFETY: the value was checked against what is offered, and ring 0 uses none of it.
    unsafe { XCr0::write_raw(value) };
}

/// Sets or clears CR0.TS.
pub fn set_task_switched(set: bool) {
    let old = Cr0::read_raw();
    let new = if set { old | TS } else { old & !TS };
    if new != old {
        // SAFETY: only CR0.TS changes; ring 0 uses the FPU in this file alone, which clears it first.
        unsafe { Cr0::write_raw(new) };
    }
}

/// Makes all that is kept accessible; returns it.
fn open() -> u64 {
    set_task_switched(false);
    let offered = offered();
    if offered != 0 {
        set_xcr0(offered);
    }
    offered
}

/// Stores the registers of the vCPU that is switched away.
pub fn save(run: &mut Run) {
    let at = run.fpu.area.as_mut_ptr();
    // SAFETY: the area is 64-byte aligned, and longer than FXSAVE's 512 bytes and than XSAVE's of what is offered
    // (`init`); CR4.OSFXSR is set.
    unsafe {
        match open() {
            0 => asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags)),
            kept => asm!("xsave64 [{}]", in(reg) at, in("eax") kept as u32, in("edx") 0,
                options(nostack, preserves_flags)),
        }
    }
}

/// Loads the registers of the vCPU that is switched to, and the TS that its kernel wants.
pub fn load(run: &Run) {
    let at = run.fpu.area.as_ptr();
    let kept = open();
    // SAFETY: as for `save`; the area holds what was stored so, or a context whose MXCSR was checked when it was set. Some
    // CPUs leave the last instruction's pointers as they are unless an exception is pending: those become the core's first.
    unsafe {
        asm!("fnclex", "ffree st(7)", "fild dword ptr [{}]", in(reg) &TS, options(nostack, readonly));
        match kept {
            0 => asm!("fxrstor64 [{}]", in(reg) at, options(nostack, readonly)),
            _ => asm!("xrstor64 [{}]", in(reg) at, in("eax") kept as u32, in("edx") 0, options(nostack, readonly)),
        }
    }
    if kept != 0 {
        set_xcr0(run.xcr0);
    }
    set_task_switched(run.cr0 & TS != 0);
}
