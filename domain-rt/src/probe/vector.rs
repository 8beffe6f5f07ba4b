//! AVX registers, and a second vCPU that watches its own.

use abi::vcpu::VcpuGuestContext;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// CR4.OSXSAVE.
const OSXSAVE: u64 = 1 << 18;
/// x87, SSE and AVX, as bits of XCR0.
const AVX: u32 = 7;
/// What the watching vCPU has in its registers.
const ITS: u64 = 0x5a5a_1234_5678_9abc;

/// How often the watching vCPU has found its registers as it left them.
static FOUND: AtomicU64 = AtomicU64::new(0);
/// It has found something else.
static LOST: AtomicBool = AtomicBool::new(false);

/// Sets CR4.OSXSAVE, which is emulated.
pub fn enable_xsave() {
    // SAFETY: changes no memory; whoever calls this uses none of the registers that it makes usable.
    unsafe { asm!("mov {t}, cr4", "or {t}, {bit}", "mov cr4, {t}", t = out(reg) _, bit = in(reg) OSXSAVE) };
}

/// XSETBV of XCR0, which is emulated.
pub fn set_xcr0(value: u32) {
    // SAFETY: as for `enable_xsave`.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value, in("edx") 0) };
}

/// XGETBV of XCR0, which is not: what the processor holds.
pub fn xcr0() -> u32 {
    let value;
    // SAFETY: reads a register; CR4.OSXSAVE is set by the caller's word, else this is the caller's own exception.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") value, out("edx") _) };
    value
}

/// The value of 64-bit word `n` of the sixteen YMM registers, for a pattern.
fn word(pattern: u64, n: usize) -> u64 {
    pattern.rotate_left(n as u32).wrapping_add(n as u64)
}

/// Fills the YMM registers with a pattern.
pub fn fill_ymm(pattern: u64) {
    let words: [u64; 64] = core::array::from_fn(|n| word(pattern, n));
    // SAFETY: reads `words` alone; compiled code here uses no vector registers.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "vmovdqu ymm\\n, [rdi + 32 * \\n]",
            ".endr",
            in("rdi") words.as_ptr(), options(nostack, readonly)
        );
    }
}

/// Do the YMM registers hold a pattern?
pub fn ymm_holds(pattern: u64) -> bool {
    let mut words = [0u64; 64];
    // SAFETY: writes `words` alone.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "vmovdqu [rdi + 32 * \\n], ymm\\n",
            ".endr",
            in("rdi") words.as_mut_ptr(), options(nostack)
        );
    }
    words.iter().enumerate().all(|(n, held)| *held == word(pattern, n))
}

/// Where the watching vCPU starts; it never returns.
extern "C" fn watch() -> ! {
    enable_xsave();
    set_xcr0(AVX);
    fill_ymm(ITS);
    loop {
        if !ymm_holds(ITS) {
            LOST.store(true, Ordering::Relaxed);
        }
        FOUND.fetch_add(1, Ordering::Relaxed);
    }
}

/// Fills in the state of a vCPU that watches its YMM registers, on the page table with base `cr3`.
pub fn watcher_context(context: &mut VcpuGuestContext, cr3: u64) {
    super::ap_context(context, cr3);
    context.user_regs.rip = watch as *const () as u64;
}

/// How often the vCPU has looked, and whether it has always found what it left.
pub fn watched() -> (u64, bool) {
    (FOUND.load(Ordering::Relaxed), !LOST.load(Ordering::Relaxed))
}
