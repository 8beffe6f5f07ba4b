//! vCPUs: their state, shared areas and `vcpu_op` (`vcpu.h`, `arch-x86/xen.h`, `xen.h`).

use crate::frame::{Mfn, Vaddr};
use crate::regs::CpuUserRegs;
pub use crate::trap::TrapInfo;

wire_struct! {
    /// Everything a vCPU is (`vcpu_guest_context`): creation sets it, tools get and set it.
    pub struct VcpuGuestContext {
        /// FXSAVE image.
        pub fpu_ctxt: [u8; 512],
        /// `VcpuGuestContext::VGCF_*`.
        pub flags: u64,
        /// General registers.
        pub user_regs: CpuUserRegs,
        /// Exception handlers.
        pub trap_ctxt: [TrapInfo; 256],
        /// LDT address.
        pub ldt_base: Vaddr,
        /// LDT entries.
        pub ldt_ents: u64,
        /// Frames of the GDT.
        pub gdt_frames: [Mfn; 16],
        /// Descriptors in the GDT.
        pub gdt_ents: u64,
        /// Stack selector for entries to kernel mode.
        pub kernel_ss: u64,
        /// Stack pointer for entries to kernel mode.
        pub kernel_sp: Vaddr,
        /// CR0..CR7; [3] is the kernel's page-table base as `mfn << 12`, [1] the user's.
        pub ctrlreg: [u64; 8],
        /// DR0..DR7.
        pub debugreg: [u64; 8],
        /// Event upcall.
        pub event_callback_eip: Vaddr,
        /// Failsafe upcall.
        pub failsafe_callback_eip: Vaddr,
        /// System call entry.
        pub syscall_callback_eip: Vaddr,
        /// Enabled assists.
        pub vm_assist: u64,
        /// FS base.
        pub fs_base: u64,
        /// GS base of kernel mode.
        pub gs_base_kernel: u64,
        /// GS base of user mode.
        pub gs_base_user: u64,
    }
}
layout!(VcpuGuestContext: 5168;
    flags @ 512, user_regs @ 520, trap_ctxt @ 720, ldt_base @ 4816, gdt_frames @ 4832,
    gdt_ents @ 4960, kernel_ss @ 4968, kernel_sp @ 4976, ctrlreg @ 4984, debugreg @ 5048,
    event_callback_eip @ 5112, syscall_callback_eip @ 5128, vm_assist @ 5136, fs_base @ 5144,
    gs_base_user @ 5160);

impl VcpuGuestContext {
    /// `fpu_ctxt` holds a state.
    pub const VGCF_I387_VALID: u64 = 1 << 0;
    /// The vCPU is in kernel mode.
    pub const VGCF_IN_KERNEL: u64 = 1 << 2;
    /// The failsafe upcall starts with events masked.
    pub const VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3;
    /// The system call entry starts with events masked.
    pub const VGCF_SYSCALL_DISABLES_EVENTS: u64 = 1 << 4;
    /// The vCPU is up.
    pub const VGCF_ONLINE: u64 = 1 << 5;
    /// The frame came from a system call.
    pub const VGCF_IN_SYSCALL: u64 = 1 << 8;
}

wire_struct! {
    /// A vCPU's clock (`vcpu_time_info`): read under its version, odd while being written.
    ///
    /// Nanoseconds since boot are `system_time + (((tsc - tsc_timestamp) << tsc_shift) *
    /// tsc_to_system_mul) >> 32`; a negative shift is a right shift.
    pub struct VcpuTimeInfo {
        /// Odd while an update runs.
        pub version: u32,
        /// Padding.
        pub _pad0: u32,
        /// TSC at the last update.
        pub tsc_timestamp: u64,
        /// Nanoseconds since boot at the last update.
        pub system_time: u64,
        /// Scale from shifted ticks to nanoseconds, in units of 2^-32. Never 0.
        pub tsc_to_system_mul: u32,
        /// Shift of ticks before the scale.
        pub tsc_shift: i8,
        /// `VcpuTimeInfo::TSC_STABLE` and `GUEST_STOPPED`.
        pub flags: u8,
        /// Padding.
        pub _pad1: [u8; 2],
    }
}
layout!(VcpuTimeInfo: 32;
    version @ 0, tsc_timestamp @ 8, system_time @ 16, tsc_to_system_mul @ 24, tsc_shift @ 28,
    flags @ 29);

impl VcpuTimeInfo {
    /// The TSC is in step across CPUs (`XEN_PVCLOCK_TSC_STABLE_BIT`).
    pub const TSC_STABLE: u8 = 1 << 0;
    /// The guest was stopped by the host (`XEN_PVCLOCK_GUEST_STOPPED`).
    pub const GUEST_STOPPED: u8 = 1 << 1;
}

wire_struct! {
    /// `arch_vcpu_info`.
    pub struct ArchVcpuInfo {
        /// Faulting address of the last #PF delivered.
        pub cr2: u64,
        /// Padding.
        pub _pad: u64,
    }
}
layout!(ArchVcpuInfo: 16; cr2 @ 0);

wire_struct! {
    /// What hypervisor and vCPU share (`vcpu_info`): one cache line.
    pub struct VcpuInfo {
        /// Non-zero: an event waits.
        pub evtchn_upcall_pending: u8,
        /// Non-zero: no upcall is delivered.
        pub evtchn_upcall_mask: u8,
        /// Padding.
        pub _pad: [u8; 6],
        /// One bit a word of the pending bitmap (2-level events).
        pub evtchn_pending_sel: u64,
        /// Architecture's part.
        pub arch: ArchVcpuInfo,
        /// The clock.
        pub time: VcpuTimeInfo,
    }
}
layout!(VcpuInfo: 64;
    evtchn_upcall_pending @ 0, evtchn_upcall_mask @ 1, evtchn_pending_sel @ 8, arch @ 16,
    time @ 32);

open_enum! {
    /// Sub-operations of `vcpu_op(op, vcpu, arg)`.
    pub struct VcpuOp(u32) {
        /// Sets the state of a vCPU that is not up yet; arg: [`VcpuGuestContext`].
        INITIALISE = 0;
        /// Brings a vCPU up.
        UP = 1;
        /// Takes a vCPU down.
        DOWN = 2;
        /// 1 if up, 0 if down, an error past the last vCPU.
        IS_UP = 3;
        /// arg: [`RunstateInfo`], out.
        GET_RUNSTATE_INFO = 4;
        /// arg: [`RegisterArea`], an address of a [`RunstateInfo`].
        REGISTER_RUNSTATE_MEMORY_AREA = 5;
        /// arg: [`SetPeriodicTimer`].
        SET_PERIODIC_TIMER = 6;
        /// Stops it.
        STOP_PERIODIC_TIMER = 7;
        /// arg: [`SetSingleshotTimer`].
        SET_SINGLESHOT_TIMER = 8;
        /// Stops it.
        STOP_SINGLESHOT_TIMER = 9;
        /// arg: [`RegisterVcpuInfo`]. Once a vCPU.
        REGISTER_VCPU_INFO = 10;
        /// Delivers an NMI to the vCPU.
        SEND_NMI = 11;
        /// arg: [`GetPhysid`], for the initial domain with pinned vCPUs.
        GET_PHYSID = 12;
        /// arg: [`RegisterArea`], an address of a [`VcpuTimeInfo`].
        REGISTER_VCPU_TIME_MEMORY_AREA = 13;
    }
}

wire_struct! {
    /// Where a vCPU's time went (`vcpu_runstate_info`).
    pub struct RunstateInfo {
        /// The present state, an index into `time`.
        pub state: i32,
        /// Padding.
        pub _pad: u32,
        /// When it was entered, ns; [`RunstateInfo::UPDATE`] set while an update runs (with
        /// the assist).
        pub state_entry_time: u64,
        /// Nanoseconds in each state: running, runnable, blocked, offline.
        pub time: [u64; 4],
    }
}
layout!(RunstateInfo: 48; state @ 0, state_entry_time @ 8, time @ 16);

impl RunstateInfo {
    /// Runs on a CPU.
    pub const RUNNING: i32 = 0;
    /// Could run.
    pub const RUNNABLE: i32 = 1;
    /// Waits for an event.
    pub const BLOCKED: i32 = 2;
    /// Down or paused.
    pub const OFFLINE: i32 = 3;
    /// `XEN_RUNSTATE_UPDATE`: the area is being written.
    pub const UPDATE: u64 = 1 << 63;
}

wire_struct! {
    /// Registers an area by guest virtual address.
    pub struct RegisterArea {
        /// Where the area is.
        pub addr: Vaddr,
    }
}
layout!(RegisterArea: 8);

wire_struct! {
    /// Period of the periodic timer.
    pub struct SetPeriodicTimer {
        /// At least 1 ms, in nanoseconds.
        pub period_ns: u64,
    }
}
layout!(SetPeriodicTimer: 8);

wire_struct! {
    /// Deadline of the one-shot timer.
    pub struct SetSingleshotTimer {
        /// Absolute system time, ns.
        pub timeout_abs_ns: u64,
        /// [`SetSingleshotTimer::FUTURE`] or 0.
        pub flags: u32,
        /// Padding.
        pub _pad: u32,
    }
}
layout!(SetSingleshotTimer: 16; flags @ 8);

impl SetSingleshotTimer {
    /// `VCPU_SSHOTTMR_future`: a deadline in the past is ETIME.
    pub const FUTURE: u32 = 1 << 0;
}

wire_struct! {
    /// Moves a vCPU's [`VcpuInfo`] to a frame of its domain.
    pub struct RegisterVcpuInfo {
        /// The frame.
        pub mfn: Mfn,
        /// Offset in the frame; the structure must not cross its end.
        pub offset: u32,
        /// Reserved.
        pub _rsvd: u32,
    }
}
layout!(RegisterVcpuInfo: 16; offset @ 8);

wire_struct! {
    /// Physical identity of a pinned vCPU.
    pub struct GetPhysid {
        /// APIC id in the low half, ACPI id in the high half.
        pub phys_id: u64,
    }
}
layout!(GetPhysid: 8);

open_enum! {
    /// First argument of `set_segment_base(which, base)`.
    pub struct SegmentBase(u32) {
        /// FS base.
        FS = 0;
        /// GS base of user mode.
        GS_USER = 1;
        /// GS base of kernel mode.
        GS_KERNEL = 2;
        /// GS selector of user mode; the argument is the selector.
        GS_USER_SEL = 3;
    }
}

open_enum! {
    /// First argument of `vm_assist(cmd, type)`.
    pub struct AssistCmd(u32) {
        /// Turns a behaviour on.
        ENABLE = 0;
        /// Turns it off.
        DISABLE = 1;
    }
}

open_enum! {
    /// A behaviour `vm_assist` switches.
    pub struct AssistType(u32) {
        /// Emulated 4 GiB segments, 32-bit guests only.
        FOUR_GB_SEGMENTS = 0;
        /// Notification of the same.
        FOUR_GB_SEGMENTS_NOTIFY = 1;
        /// Writes to page tables by trap and emulate; always on.
        WRITABLE_PAGETABLES = 2;
        /// CR3 beyond 4 GiB, 32-bit guests only.
        PAE_EXTENDED_CR3 = 3;
        /// IOPL as the architecture has it.
        ARCHITECTURAL_IOPL = 4;
        /// [`RunstateInfo::UPDATE`] is kept.
        RUNSTATE_UPDATE_FLAG = 5;
        /// The M2P is not mapped in user page tables.
        M2P_STRICT = 32;
    }
}
