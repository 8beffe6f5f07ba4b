//! A second vCPU that works, and counts the pieces.

use abi::PAGE_SIZE;
use abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::vcpu::VcpuGuestContext;
use core::sync::atomic::{AtomicU64, Ordering};

/// Pieces of work that the vCPU has done.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

#[repr(C, align(4096))]
struct Stack([u8; PAGE_SIZE]);
static mut STACK: Stack = Stack([0; PAGE_SIZE]);

/// Where the vCPU starts; it never returns.
extern "C" fn spin() -> ! {
    loop {
        work(1);
        PROGRESS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Computes: `pieces` of work, each of some thousand instructions that depend on one another.
pub fn work(pieces: u64) {
    let mut state = pieces;
    for _ in 0..pieces * 1000 {
        state = core::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// How many pieces of work the vCPU has done.
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

/// Fills in the state of a vCPU that works, on the page table with base `cr3`.
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
