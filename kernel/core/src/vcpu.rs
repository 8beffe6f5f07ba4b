//! A virtual CPU: what only the CPU that runs it may touch ([`Run`]), and what everybody sees ([`Vcpu`]).

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};

use abi::regs::CpuUserRegs;
use abi::{Errno, VcpuId};

use crate::frame::Place;
use crate::trap::TrapTable;
use crate::{AddressSpace, Domain, Frame, Lock, Platform};

/// Frames that a guest's descriptor table can have: `FIRST_RESERVED_GDT_PAGE` of the public headers.
pub const GDT_FRAMES: usize = 14;
/// Frames that a guest's LDT can have: 8192 entries.
pub const LDT_FRAMES: usize = 16;

/// The machine state of a vCPU, as `vcpu_guest_context` describes it.
///
/// Whoever holds its lock owns it: the CPU that runs the vCPU, for as long as it does; else whoever creates, inspects
/// or changes it. The entry code stores registers straight into `regs`, where they stay: that ends on a 16-byte boundary
/// behind `ss`, as the hardware's stack switch wants it.
#[derive(Default)]
#[repr(C, align(16))]
pub struct Run {
    /// Room for the frame of a fault that the return to the guest itself raises, which lands below `regs.rip`.
    pub headroom: [u64; 17],
    /// The guest's registers, stored here by the entry code and loaded from here at the exit.
    pub regs: CpuUserRegs,
    /// Is the guest in kernel mode? Its own flag, not a matter of CS.
    pub kernel_mode: bool,
    /// Has a context been set (by the builder or VCPUOP_initialise)?
    pub initialised: bool,
    /// The page table of kernel mode, one type and one general reference held.
    pub kernel_root: Option<Frame>,
    /// The page table of user mode, likewise; none is legal.
    pub user_root: Option<Frame>,
    /// What the hardware walks. The same as the guest's root now; another once tables are shadowed.
    pub hardware_root: Option<Frame>,
    /// The stack that kernel mode is entered on from user mode.
    pub kernel_ss: u64,
    /// The stack pointer that goes with it.
    pub kernel_sp: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base of kernel mode.
    pub gs_base_kernel: u64,
    /// GS base of user mode.
    pub gs_base_user: u64,
    /// Where exceptions go, by vector.
    pub traps: Box<TrapTable>,
    /// Where events, faults of the return path and system calls go.
    pub callbacks: crate::trap::Callbacks,
    /// DR0-DR3, DR6 and DR7 as the guest sees them.
    pub debug: [u64; 8],
    /// The guest's descriptor-table frames, each with a segment-descriptor type reference held.
    pub gdt: [Option<Frame>; GDT_FRAMES],
    /// How many entries of them are in use.
    pub gdt_entries: u32,
    /// The LDT's frames, each with a segment-descriptor type reference held.
    pub ldt: [Option<Frame>; LDT_FRAMES],
    /// The LDT's address in the guest and its number of entries.
    pub ldt_base: u64,
    /// See `ldt_base`.
    pub ldt_entries: u32,
    /// CR0 bits that are the guest's own (TS).
    pub cr0: u64,
    /// CR4 bits that the guest has set.
    pub cr4: u64,
    /// XCR0, where XSAVE is shown.
    pub xcr0: u64,
    /// The I/O privilege level that set_iopl gave.
    pub iopl: u8,
    /// Enabled kinds of vm_assist are the domain's; see [`Domain::assist`].
    pub fpu: Box<FpuState>,
    /// The last eight hypercalls, newest in the lowest byte, for the story of a crash.
    pub recent: u64,
}

const _: () = assert!((core::mem::offset_of!(Run, regs) + core::mem::offset_of!(CpuUserRegs, es)).is_multiple_of(16));

/// The FPU and vector state in the form of XSAVE (legacy area first).
#[repr(C, align(64))]
pub struct FpuState {
    /// The area, as the CPU writes it.
    pub area: [u8; 2752],
}

impl Default for FpuState {
    /// As after FNINIT, with SSE exceptions masked: FCW 37f, MXCSR 1f80, nothing else in use.
    fn default() -> Self {
        let mut area = [0; 2752];
        (area[0], area[1]) = (0x7f, 0x03);
        (area[24], area[25]) = (0x80, 0x1f);
        Self { area }
    }
}

impl FpuState {
    /// Takes the legacy area in, in the form of FXSAVE; vector state beyond it becomes initial.
    pub fn set_legacy(&mut self, from: &[u8; 512]) {
        // MXCSR's reserved bits would fault when it is loaded.
        const MXCSR: u32 = 0xffbf;
        *self = Self::default();
        self.area[..512].copy_from_slice(from);
        let mxcsr = u32::from_le_bytes([from[24], from[25], from[26], from[27]]) & MXCSR;
        self.area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        // XSTATE_BV: x87 and SSE.
        self.area[512] = 3;
    }
}

impl Run {
    /// That of a vCPU which has no context yet: in kernel mode, all else zero. ENOMEM where there is no memory for it.
    pub fn new() -> Result<Self, Errno> {
        crate::headroom::<(FpuState, TrapTable)>(1)?;
        Ok(Self { kernel_mode: true, xcr0: 3, recent: u64::MAX, ..Self::default() })
    }

    /// The guest root of the mode that the vCPU is in.
    pub fn root(&self) -> Option<Frame> {
        if self.kernel_mode { self.kernel_root } else { self.user_root }
    }

    /// The address space that the hardware walks for this vCPU, if it has any.
    pub fn space(&self) -> Option<AddressSpace> {
        self.hardware_root.map(|root| AddressSpace { root })
    }

    /// The GS base of the mode that the vCPU is in.
    pub fn gs_base(&self) -> u64 {
        if self.kernel_mode { self.gs_base_kernel } else { self.gs_base_user }
    }
}

/// A vCPU, as other vCPUs, the scheduler and timers see it.
pub struct Vcpu<P: Platform> {
    /// Its number in its domain.
    pub id: VcpuId,
    /// The domain it belongs to.
    pub domain: Weak<Domain<P>>,
    /// Its machine state; see [`Run`].
    pub run: Arc<Lock<P, Run>>,
    /// Where its `vcpu_info` is: in shared_info at first, then where it was registered. To move it, the caller has copied
    /// it, and holds a writable reference on the frame.
    pub info: Place,
    /// What the scheduler knows of it.
    pub sched: crate::sched::VcpuSched,
    /// Its timers and its runstate.
    pub time: crate::time::VcpuTime<P>,
    /// Its virtual interrupts.
    pub events: crate::event::VcpuEvents,
}

impl<P: Platform> Vcpu<P> {
    /// A vCPU that is down and has no context yet.
    pub fn new(id: VcpuId, domain: Weak<Domain<P>>, run: Run, info: Place) -> Self {
        Self {
            id,
            domain,
            run: Arc::new(Lock::<P, Run>::new(run)),
            info,
            sched: crate::sched::VcpuSched::new(),
            time: crate::time::VcpuTime::new(),
            events: crate::event::VcpuEvents::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_state_is_made_loadable() {
        let mut fpu = FpuState { area: [0x55; 2752] };
        fpu.set_legacy(&[0xff; 512]);
        assert_eq!(fpu.area[24..28], [0xbf, 0xff, 0, 0], "of MXCSR what is not reserved");
        assert_eq!((fpu.area[23], fpu.area[28], fpu.area[512]), (0xff, 0xff, 3));
        assert!(fpu.area[513..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn each_mode_has_its_gs_base() {
        let mut run = Run::new().unwrap();
        (run.gs_base_kernel, run.gs_base_user) = (0x1000, 0x2000);
        let kernel = run.gs_base();
        run.kernel_mode = false;
        assert_eq!([kernel, run.gs_base()], [0x1000, 0x2000]);
    }
}
