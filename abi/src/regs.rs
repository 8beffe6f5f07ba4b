//! Register files (`arch-x86/xen-x86_64.h`).

wire_struct! {
    /// A vCPU's registers (`cpu_user_regs`), in the order of the public header.
    pub struct CpuUserRegs {
        /// R15.
        pub r15: u64,
        /// R14.
        pub r14: u64,
        /// R13.
        pub r13: u64,
        /// R12.
        pub r12: u64,
        /// RBP.
        pub rbp: u64,
        /// RBX.
        pub rbx: u64,
        /// R11.
        pub r11: u64,
        /// R10.
        pub r10: u64,
        /// R9.
        pub r9: u64,
        /// R8.
        pub r8: u64,
        /// RAX.
        pub rax: u64,
        /// RCX.
        pub rcx: u64,
        /// RDX.
        pub rdx: u64,
        /// RSI.
        pub rsi: u64,
        /// RDI.
        pub rdi: u64,
        /// Error code of the entry; private to the hypervisor.
        pub error_code: u32,
        /// Vector of the entry; private to the hypervisor.
        pub entry_vector: u32,
        /// Instruction pointer.
        pub rip: u64,
        /// Code selector.
        pub cs: u16,
        /// Padding.
        pub _pad0: u16,
        /// The event mask the interrupted code had.
        pub saved_upcall_mask: u8,
        /// Padding.
        pub _pad1: [u8; 3],
        /// Flags; IF is the inverse of the saved mask.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Stack selector.
        pub ss: u16,
        /// Padding.
        pub _pad2: [u16; 3],
        /// ES selector.
        pub es: u16,
        /// Padding.
        pub _pad3: [u16; 3],
        /// DS selector.
        pub ds: u16,
        /// Padding.
        pub _pad4: [u16; 3],
        /// FS selector; its base is elsewhere.
        pub fs: u16,
        /// Padding.
        pub _pad5: [u16; 3],
        /// GS selector; its base is elsewhere.
        pub gs: u16,
        /// Padding.
        pub _pad6: [u16; 3],
    }
}
layout!(CpuUserRegs: 200;
    r15 @ 0, r12 @ 24, rbp @ 32, rbx @ 40, r11 @ 48, r8 @ 72, rax @ 80, rdi @ 112,
    error_code @ 120, entry_vector @ 124, rip @ 128, cs @ 136, saved_upcall_mask @ 140,
    rflags @ 144, rsp @ 152, ss @ 160, es @ 168, ds @ 176, fs @ 184, gs @ 192);

wire_struct! {
    /// What the `iret` hypercall finds on the caller's stack (`iret_context`).
    pub struct IretContext {
        /// RAX to return with.
        pub rax: u64,
        /// R11 to return with.
        pub r11: u64,
        /// RCX to return with, unless [`IretContext::IN_SYSCALL`].
        pub rcx: u64,
        /// [`IretContext::IN_SYSCALL`] or 0.
        pub flags: u64,
        /// Instruction pointer.
        pub rip: u64,
        /// Code selector; RPL 3 means user mode.
        pub cs: u64,
        /// Flags; IF set unmasks events.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Stack selector.
        pub ss: u64,
    }
}
layout!(IretContext: 72; flags @ 24, rip @ 32, rsp @ 56);

impl IretContext {
    /// `VGCF_in_syscall`: return the way `sysret` does, without restoring RCX and R11.
    pub const IN_SYSCALL: u64 = 1 << 8;
}

/// Bits of RFLAGS.
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Always one.
    pub const RESERVED1: u64 = 1 << 1;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts; to a PV guest, events.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual 8086.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
    /// Virtual IF.
    pub const VIF: u64 = 1 << 19;
    /// Virtual interrupt pending.
    pub const VIP: u64 = 1 << 20;
    /// CPUID exists.
    pub const ID: u64 = 1 << 21;
}

/// Model-specific registers that a guest's kernel can see, by number.
pub mod msr {
    /// The TSC.
    pub const TSC: u32 = 0x10;
    /// Where the local APIC is.
    pub const APIC_BASE: u32 = 0x1b;
    /// The revision of the microcode.
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    /// Frequencies.
    pub const PLATFORM_INFO: u32 = 0xce;
    /// CPUID faulting and others.
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    /// What there is of machine checks.
    pub const MCG_CAP: u32 = 0x179;
    /// The state of machine checks.
    pub const MCG_STATUS: u32 = 0x17a;
    /// Which machine checks are reported.
    pub const MCG_CTL: u32 = 0x17b;
    /// Features that can be switched off.
    pub const MISC_ENABLE: u32 = 0x1a0;
    /// Page attributes.
    pub const PAT: u32 = 0x277;
    /// What performance monitoring can do.
    pub const PERF_CAPABILITIES: u32 = 0x345;
    /// The first bank of machine checks: four registers each (control, status, address, more).
    pub const MC0_CTL: u32 = 0x400;
    /// The second.
    pub const MC1_CTL: u32 = 0x404;
    /// Xen's own: a frame that is to become a hypercall page (`arch-x86/cpuid.h`).
    pub const HYPERCALL_PAGE: u32 = 0x4000_0000;
    /// Long mode and its relatives.
    pub const EFER: u32 = 0xc000_0080;
    /// Base of FS.
    pub const FS_BASE: u32 = 0xc000_0100;
    /// Base of GS.
    pub const GS_BASE: u32 = 0xc000_0101;
    /// What SWAPGS makes the base of GS.
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
}
