//! A second vCPU that counts, and sleeps when told to.

use abi::PAGE_SIZE;
use abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::vcpu::VcpuGuestContext;
use core::sync::atomic::{AtomicU64, Ordering};

/// Incremented by the vCPU as long as it runs.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

#[repr(C, align(4096))]
struct Stack([u8; PAGE_SIZE]);
static mut STACK: Stack = Stack([0; PAGE_SIZE]);

/// Where the vCPU starts; it never returns.
extern "C" fn spin() -> ! {
    loop {
        PROGRESS.fetch_add(1, Ordering::Relaxed);
        core::hint::spin_loop();
    }
}

/// How far the vCPU came.
pub fn ap_progress() -> u64 {
    PROGRESS.load(Ordering::Relaxed)
}

/// Whether it makes progress, watched for at most so many of this vCPU's TSC ticks.
pub fn ap_runs(ticks: u64) -> bool {
    let (before, start) = (ap_progress(), crate::arch::rdtsc());
    while crate::arch::rdtsc().wrapping_sub(start) < ticks {
        if ap_progress() != before {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

/// Fills in the state of a vCPU that counts, on the page table with base `cr3`.
pub fn ap_context(context: &mut VcpuGuestContext, cr3: u64) {
    *context = VcpuGuestContext::default();
    context.flags = VcpuGuestContext::VGCF_IN_KERNEL;
    let top = &raw const STACK as u64 + PAGE_SIZE as u64 - 8;
    context.user_regs.rip = spin as *const () as u64;
    context.user_regs.rsp = top;
    context.user_regs.cs = FLAT_RING3_CS64;
    context.user_regs.ss = FLAT_RING3_SS64;
    context.user_regs.rflags = 0x202;
    context.kernel_ss = FLAT_RING3_SS64.into();
    context.kernel_sp = abi::Vaddr(top);
    context.ctrlreg[3] = cr3;
}
