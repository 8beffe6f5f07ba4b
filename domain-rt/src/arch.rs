//! The processor: the hypercall instruction and a few others.

/// Issues a hypercall: `rax` the number, `rdi`, `rsi`, `rdx`, `r10`, `r8` the arguments. Returns
/// `rax`; `rcx` and `r11` are lost, and so are the arguments (`arch-x86/xen-x86_64.h`): a call that was interrupted goes
/// on with what is left of them. On a host there is no hypervisor: -ENOSYS.
///
/// # Safety
/// The call may do anything to this domain's memory; what it does must not break what Rust was
/// promised about it.
#[inline]
pub unsafe fn hypercall(number: u32, args: [u64; 5]) -> i64 {
    #[cfg(target_os = "none")]
    {
        let ret: i64;
        // SAFETY: the caller answers for the call's effects; the clobbers are the convention's.
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") u64::from(number) => ret,
                inlateout("rdi") args[0] => _, inlateout("rsi") args[1] => _, inlateout("rdx") args[2] => _,
                inlateout("r10") args[3] => _, inlateout("r8") args[4] => _,
                lateout("rcx") _, lateout("r11") _,
                options(nostack),
            );
        }
        ret
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = (number, args);
        abi::Errno::ENOSYS.code()
    }
}

/// The time stamp counter, without ordering.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a register that every vCPU may read.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What the hypervisor says a CPUID leaf is (EAX, EBX, ECX, EDX), by the forced prefix. On a host,
/// zeros.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    #[cfg(target_os = "none")]
    {
        let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
        // SAFETY: the prefix makes `ud2` a request to emulate; only the four registers change.
        unsafe {
            core::arch::asm!(
                "mov {saved}, rbx",
                ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e",
                "cpuid",
                "xchg {saved}, rbx",
                saved = out(reg) ebx,
                inlateout("eax") leaf => eax,
                inlateout("ecx") subleaf => ecx,
                lateout("edx") edx,
                options(nostack, preserves_flags),
            );
        }
        [eax, ebx as u32, ecx, edx]
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = (leaf, subleaf);
        [0; 4]
    }
}
