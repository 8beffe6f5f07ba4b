//! Exceptions: every one is a fault of this program. The handler prints the registers and ends the domain.
//!
//! The hypervisor pushes RCX, R11, the error code where the exception has one, RIP, CS, RFLAGS, RSP and SS on the
//! stack that was in use. If that stack has run into its guard page there is no room for them, and the hypervisor
//! ends the domain instead and names the address.

use crate::console::print;
use crate::hypercall;
use crate::shared;
use abi::layout::FLAT_RING3_CS64;
use abi::trap::{TrapInfo, vector};
use abi::{Errno, Vaddr};

/// Vectors handled.
const VECTORS: [(u8, &str); 18] = [
    (vector::DE, "divide error"),
    (vector::DB, "debug"),
    (vector::NMI, "NMI"),
    (vector::BP, "breakpoint"),
    (vector::OF, "overflow"),
    (vector::BR, "bound range"),
    (vector::UD, "invalid opcode"),
    (vector::NM, "no FPU"),
    (vector::DF, "double fault"),
    (vector::TS, "invalid TSS"),
    (vector::NP, "segment not present"),
    (vector::SS, "stack fault"),
    (vector::GP, "general protection"),
    (vector::PF, "page fault"),
    (vector::MF, "x87 error"),
    (vector::AC, "alignment check"),
    (vector::MC, "machine check"),
    (vector::XM, "SIMD error"),
];

/// Bytes of one entry stub.
const STUB: usize = 16;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".globl __trap_stubs",
    ".balign 16",
    "__trap_stubs:",
    ".set vector, 0",
    ".rept 20",
    ".balign 16",
    ".byte 0x6a, vector", // push vector
    "jmp 2f",
    ".set vector, vector + 1",
    ".endr",
    "2:",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rax",
    "push rbx",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rdi, rsp",
    "and rsp, -16",
    "cld",
    "call {report}",
    "ud2",
    report = sym report,
);

/// Sets the trap table.
pub fn init() -> Result<(), Errno> {
    #[cfg(target_os = "none")]
    let stubs = {
        unsafe extern "C" {
            fn __trap_stubs();
        }
        __trap_stubs as *const () as usize
    };
    #[cfg(not(target_os = "none"))]
    let stubs = STUB;
    let mut table = [TrapInfo::default(); VECTORS.len() + 1];
    for (entry, (vector, _)) in table.iter_mut().zip(VECTORS) {
        *entry = TrapInfo {
            vector,
            flags: TrapInfo::MASK_EVENTS,
            cs: FLAT_RING3_CS64,
            address: Vaddr((stubs + STUB * usize::from(vector)) as u64),
            ..TrapInfo::default()
        };
    }
    // SAFETY: the stubs handle the frames of their vectors and do not return.
    unsafe { hypercall::set_trap_table(&table) }
}

/// Registers that the stub pushes, from the stack pointer up; then come the vector and the hypervisor's frame.
const SAVED: [&str; 13] = ["r15", "r14", "r13", "r12", "r10", "r9", "r8", "rbp", "rbx", "rax", "rdx", "rsi", "rdi"];

/// Prints what happened and ends the domain.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "called by the stubs"))]
extern "C" fn report(saved: *const u64) -> ! {
    // SAFETY: the stub passes its stack pointer, above which lie the saved registers, the vector and the frame.
    let word = |index: usize| unsafe { saved.add(index).read() };
    let vector = word(SAVED.len()) as u8;
    let name = VECTORS.iter().find(|(number, _)| *number == vector).map_or("exception", |(_, name)| name);
    let frame = SAVED.len() + 1;
    let has_code = vector::has_error_code(vector);
    let rest = frame + 2 + usize::from(has_code);
    let (rip, cs, rflags, rsp) = (word(rest), word(rest + 1), word(rest + 2), word(rest + 3));
    print(format_args!("\ncrash: {name} (vector {vector}) at rip {rip:#x}"));
    if has_code {
        print(format_args!(", error code {:#x}", word(frame + 2)));
    }
    if vector == vector::PF && shared::ready() {
        print(format_args!(", address {:#x}", shared::page().fault_address()));
    }
    print(format_args!("\n  cs {:#06x} rflags {rflags:#x} rsp {rsp:#x}\n", cs as u32));
    print(format_args!("  rcx {:016x} r11 {:016x}\n", word(frame), word(frame + 1)));
    for (index, name) in SAVED.iter().enumerate() {
        let end = if index % 4 == 3 || index + 1 == SAVED.len() { '\n' } else { ' ' };
        print(format_args!("  {name:3} {:016x}{end}", word(index)));
    }
    hypercall::shutdown(abi::sched::ShutdownReason::CRASH)
}
