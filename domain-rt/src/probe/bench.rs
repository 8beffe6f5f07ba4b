//! What a guest that measures needs: marks for whoever counts from outside, and handlers that return at once.

use abi::callback::{CallbackRegister, CallbackType};
use abi::hypercall::Hypercall;
use abi::layout::FLAT_RING3_CS64;
use abi::trap::{TrapInfo, vector};
use abi::{PAGE_SIZE, Vaddr};
use core::cell::UnsafeCell;

/// One word for each row that can be marked.
#[repr(C, align(4096))]
struct Marks(UnsafeCell<[u64; PAGE_SIZE / 8]>);
// SAFETY: nobody reads the words, and nobody but `mark` and code under the net writes them.
unsafe impl Sync for Marks {}

static MARKS: Marks = Marks(UnsafeCell::new([0; PAGE_SIZE / 8]));

/// The mark that says that all is done.
pub const DONE: u64 = 511;

/// Where MOVNTI marks a row (0 to 511): row 0 begins a measurement, row N ends it as one of N's, [`DONE`] ends all. The
/// instruction occurs nowhere else, so a plugin of QEMU that counts knows by it, and by its address, what it counts for.
pub fn mark_at(row: u64) -> u64 {
    MARKS.0.get() as u64 + 8 * (row % 512)
}

/// Marks a row.
#[inline(always)]
pub fn mark(row: u64) {
    let at = mark_at(row);
    // SAFETY: a word of `MARKS`, which is there for it.
    unsafe { core::arch::asm!("movnti [{at}], {at}", at = in(reg) at, options(nostack, preserves_flags)) };
}

/// What `rax` holds in a system call that [`return_at_once`]'s handler is to return from.
pub const RETURN: u64 = 0x6a75_6d70;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // Stack: rcx, r11, [error code], rip, cs, rflags, rsp, ss.
    "__bounce_int3:",
    "pop rcx", "pop r11",
    "push 0", "push rcx", "push r11", "push rax",
    "mov eax, 23",
    "syscall",
    "ud2",
    // Goes on behind the instruction of three bytes that faulted.
    "__bounce_fault:",
    "pop rcx", "pop r11",
    "add rsp, 8",
    "add qword ptr [rsp], 3",
    "push 0", "push rcx", "push r11", "push rax",
    "mov eax, 23",
    "syscall",
    "ud2",
    "__bounce_syscall:",
    "cmp eax, {magic}",
    "jne __probe_syscall",
    "pop rcx", "pop r11",
    // VGCF_in_syscall: rcx and r11 are not restored.
    "push 256", "push rcx", "push r11", "push rax",
    "mov eax, 23",
    "syscall",
    "ud2",
    magic = const RETURN,
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    fn __bounce_int3();
    fn __bounce_fault();
    fn __bounce_syscall();
}

/// Host stand-ins, so that the crate compiles there.
#[cfg(not(target_os = "none"))]
mod host {
    pub extern "C" fn __bounce_int3() {}
    pub extern "C" fn __bounce_fault() {}
    pub extern "C" fn __bounce_syscall() {}
}
#[cfg(not(target_os = "none"))]
use host::*;

/// Replaces [`install`](super::install)'s handlers of int3, page fault and system call: int3 and a page fault on an
/// instruction of three bytes go on behind it, a system call with [`RETURN`] in `rax` returns, and others still end
/// what runs under the net. Each handler is as short as the interface lets it be. What `set_trap_table` said.
pub fn return_at_once() -> i64 {
    let entry = |vector, address| TrapInfo { vector, cs: FLAT_RING3_CS64, address, ..TrapInfo::default() };
    let mut table = [
        entry(vector::BP, Vaddr(__bounce_int3 as *const () as u64)),
        entry(vector::PF, Vaddr(__bounce_fault as *const () as u64)),
        TrapInfo::default(),
    ];
    let ret = super::call_with(Hypercall::SET_TRAP_TABLE, &[], &mut table);
    let address = Vaddr(__bounce_syscall as *const () as u64);
    let register = CallbackRegister { kind: CallbackType::SYSCALL, address, ..CallbackRegister::default() };
    // SAFETY: the handler returns to where the call came from.
    let _ = unsafe { crate::hypercall::callback_register(register) };
    ret
}
