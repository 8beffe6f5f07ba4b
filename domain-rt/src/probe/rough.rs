//! A domain's first steps without a start of its own: what a parent that copies its own image into a child has the child
//! begin with, and handlers that go on whatever happens.

use abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::trap::{TrapInfo, vector};
use abi::vcpu::VcpuGuestContext;
use abi::{Maddr, Vaddr};

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // fn(address: rdi, value: rsi) -> 0, or 1 where the store raised a page fault. The store is three bytes long.
    "__rough_store:",
    "xor eax, eax",
    "mov [rdi], rsi",
    "ret",
    // The page fault of such a store: goes on behind it. Stack: rcx, r11, error code, rip, ...
    "__rough_fault:",
    "add qword ptr [rsp + 24], 3",
    "mov eax, 1",
    "pop rcx",
    "pop r11",
    "add rsp, 8",
    "jmp 2f",
    // An upcall: goes back, with events masked from now on. Stack: rcx, r11, rip, cs, rflags, ...
    "__rough_upcall:",
    "and dword ptr [rsp + 32], 0xfffffdff",
    "pop rcx",
    "pop r11",
    "2:",
    "push 0",
    "push rcx",
    "push r11",
    "push rax",
    "mov eax, 23",
    "syscall",
    "ud2",
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    fn __rough_store(address: u64, value: u64) -> u64;
    fn __rough_fault();
    fn __rough_upcall();
    static __rodata_end: u8;
}

/// Host stand-ins, so that the crate compiles there.
#[cfg(not(target_os = "none"))]
mod host {
    pub unsafe extern "C" fn __rough_store(_: u64, _: u64) -> u64 {
        1
    }
    pub extern "C" fn __rough_fault() {}
    pub extern "C" fn __rough_upcall() {}
}
#[cfg(not(target_os = "none"))]
use host::*;

/// The addresses of this image's code and constants, which a child can be given a copy of: whole pages.
pub fn constants() -> core::ops::Range<u64> {
    #[cfg(target_os = "none")]
    {
        super::memory::base()..&raw const __rodata_end as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0..0
    }
}

/// Writes memory, in a domain that began with [`rough_context`]; false where that raises a page fault.
pub fn rough_store(va: u64, value: u64) -> bool {
    // SAFETY: as the module says: the experiment picks the address; a fault skips the store.
    unsafe { __rough_store(va, value) == 0 }
}

/// The state of a vCPU that calls `start(argument)` on the page table `root`, with handlers for upcalls and the page
/// faults of [`rough_store`].
pub fn rough_context(
    context: &mut VcpuGuestContext,
    start: extern "C" fn(u64) -> !,
    argument: u64,
    stack: Vaddr,
    root: Maddr,
) {
    *context = VcpuGuestContext::default();
    context.flags = VcpuGuestContext::VGCF_IN_KERNEL | VcpuGuestContext::VGCF_ONLINE;
    context.user_regs.rip = start as *const () as u64;
    context.user_regs.rdi = argument;
    // As after a call: a multiple of 16, and 8 less.
    context.user_regs.rsp = stack.0 - 8;
    context.user_regs.cs = FLAT_RING3_CS64;
    context.user_regs.ss = FLAT_RING3_SS64;
    context.user_regs.rflags = 0x202;
    context.kernel_ss = FLAT_RING3_SS64.into();
    context.kernel_sp = stack;
    context.ctrlreg[3] = root.0;
    context.event_callback_eip = Vaddr(__rough_upcall as *const () as u64);
    let fault = Vaddr(__rough_fault as *const () as u64);
    if let Some(entry) = context.trap_ctxt.get_mut(usize::from(vector::PF)) {
        *entry = TrapInfo { vector: vector::PF, cs: FLAT_RING3_CS64, address: fault, ..TrapInfo::default() };
    }
}
