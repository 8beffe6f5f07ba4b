//! Hypercall numbers (`xen.h`).
//!
//! The calling convention on x86-64 is `syscall` with the number in `rax` and up to five
//! arguments in `rdi`, `rsi`, `rdx`, `r10`, `r8`; the result comes back in `rax`, and `rcx` and
//! `r11` are lost. Every other register keeps its value.

open_enum! {
    /// A hypercall number.
    pub struct Hypercall(u32) {
        /// Sets exception handlers.
        SET_TRAP_TABLE = 0;
        /// Writes page-table entries in a batch.
        MMU_UPDATE = 1;
        /// Sets the frames of the GDT.
        SET_GDT = 2;
        /// Sets the stack for entries to kernel mode.
        STACK_SWITCH = 3;
        /// Sets event, failsafe and system call entry points at once.
        SET_CALLBACKS = 4;
        /// Sets or clears the vCPU's CR0.TS.
        FPU_TASKSWITCH = 5;
        /// The scheduler call of old guests.
        SCHED_OP_COMPAT = 6;
        /// Platform control, for the initial domain.
        PLATFORM_OP = 7;
        /// Writes a debug register.
        SET_DEBUGREG = 8;
        /// Reads a debug register.
        GET_DEBUGREG = 9;
        /// Writes one segment descriptor.
        UPDATE_DESCRIPTOR = 10;
        /// Memory reservations and maps.
        MEMORY_OP = 12;
        /// Several hypercalls in one.
        MULTICALL = 13;
        /// Writes the L1 entry that maps an address.
        UPDATE_VA_MAPPING = 14;
        /// Sets the vCPU's timer.
        SET_TIMER_OP = 15;
        /// The event channel call of old guests.
        EVENT_CHANNEL_OP_COMPAT = 16;
        /// Version and features.
        XEN_VERSION = 17;
        /// The emergency console.
        CONSOLE_IO = 18;
        /// The device call of old guests.
        PHYSDEV_OP_COMPAT = 19;
        /// Grant table operations.
        GRANT_TABLE_OP = 20;
        /// Switches the ABI's optional behaviours.
        VM_ASSIST = 21;
        /// As UPDATE_VA_MAPPING, with a foreign frame.
        UPDATE_VA_MAPPING_OTHERDOMAIN = 22;
        /// Returns from a handler.
        IRET = 23;
        /// vCPU life, timers and shared areas.
        VCPU_OP = 24;
        /// Sets FS or GS.
        SET_SEGMENT_BASE = 25;
        /// Pins, flushes, base pointers, LDT.
        MMUEXT_OP = 26;
        /// Security module.
        XSM_OP = 27;
        /// NMI callback of old guests.
        NMI_OP = 28;
        /// Yield, block, poll, shutdown.
        SCHED_OP = 29;
        /// Registers callbacks.
        CALLBACK_OP = 30;
        /// Profiler.
        XENOPROF_OP = 31;
        /// Event channels.
        EVENT_CHANNEL_OP = 32;
        /// Interrupts, ports and PCI devices.
        PHYSDEV_OP = 33;
        /// Hardware guests.
        HVM_OP = 34;
        /// System control, for the toolstack.
        SYSCTL = 35;
        /// Domain control, for the toolstack.
        DOMCTL = 36;
        /// Crash kernel.
        KEXEC_OP = 37;
        /// Transcendent memory; gone.
        TMEM_OP = 38;
        /// Argo messages.
        ARGO_OP = 39;
        /// Performance counters.
        XENPMU_OP = 40;
        /// Device models.
        DM_OP = 41;
        /// The hypervisor's file system.
        HYPFS_OP = 42;
        /// Architecture-defined: machine checks.
        ARCH_0 = 48;
        /// Architecture-defined: the old paging control.
        ARCH_1 = 49;
    }
}

impl Hypercall {
    /// Numbers at or above this exist in no version (and a table of this size covers all).
    pub const LIMIT: u32 = 64;
}
