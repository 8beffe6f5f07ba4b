//! What the core asks of a machine. The only seam between logic and hardware.

use core::ops::{Range, RangeInclusive};
use core::sync::atomic::AtomicU64;

use abi::{Mfn, Vaddr};

use crate::irq::{Line, PciDevice};
use crate::{CpuId, CpuSet, Frame, Run};

/// How a guest address could not be reached: the guest's own page tables do not allow it.
///
/// Handlers turn it into EFAULT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// What to drop from a TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything that is not global.
    All,
    /// The translation of one address.
    Page(Vaddr),
}

/// Which address space guest memory is reached through.
///
/// A copy names it, instead of taking whatever happens to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// The L4 frame that the hardware walks for it.
    pub root: Frame,
}

/// Why the machine stops. Each has its own last line on the console and its own exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The initial domain asked for power-off.
    PowerOff,
    /// The initial domain asked for a reboot.
    Reboot,
    /// The initial domain crashed.
    DomainCrash,
}

/// The machine.
///
/// All methods may be called on any CPU and with locks held, but [`flush`](Self::flush) waits for other CPUs, which
/// serve it even while they spin on a lock.
pub trait Platform: Sized + Send + Sync + 'static {
    /// The lock below [`Lock`](crate::sync::Lock).
    type RawMutex: lock_api::RawMutex + Send + Sync + 'static;
    /// The lock below [`RwLock`](crate::sync::RwLock).
    type RawRwLock: lock_api::RawRwLockUpgrade + Send + Sync + 'static;
    /// Entries of a page table: fewer than the hardware's in a model alone, so that its tables collide.
    const ENTRIES: usize = abi::TABLE_ENTRIES;
    /// The L4 slots that are the core's.
    const CORE_SLOTS: RangeInclusive<usize> = abi::layout::FIRST_XEN_SLOT..=abi::layout::LAST_XEN_SLOT;

    // ---- Frames, through the core's own mapping -----------------------------------------------------------------

    /// The 64-bit word `index & 511` of a frame. Guests may write it at any time.
    ///
    /// Only [`guest`](crate::guest) calls it: every write of the core into a frame a guest can see goes through there.
    fn word(&self, frame: Frame, index: usize) -> &AtomicU64;
    /// Copies out of a frame. What does not fit behind `offset` in the frame is left as it was.
    fn read(&self, frame: Frame, offset: usize, to: &mut [u8]);
    /// Copies into a frame. What does not fit behind `offset` in the frame is dropped.
    fn write(&self, frame: Frame, offset: usize, from: &[u8]);
    /// Copies `len` bytes from one frame into another, cut to what fits in both.
    fn copy(&self, from: (Frame, usize), to: (Frame, usize), len: usize);
    /// Fills a frame with zeros.
    fn clear(&self, frame: Frame);
    /// Sets the machine-to-physical entry of a frame, which every guest can read.
    fn set_m2p(&self, mfn: Mfn, pfn: u64);

    // ---- Guest virtual memory -----------------------------------------------------------------------------------

    /// Copies in from a guest's address. Addresses in the core's own range are a fault, but for the M2P's.
    fn copy_from_guest(&self, space: AddressSpace, from: Vaddr, to: &mut [u8]) -> Result<(), Fault>;
    /// Copies out to a guest's address. Every page touched is writable for the guest, or it is a fault.
    fn copy_to_guest(&self, space: AddressSpace, to: Vaddr, from: &[u8]) -> Result<(), Fault>;

    // ---- Translations -------------------------------------------------------------------------------------------

    /// Flushes the TLBs of `cpus`, this one's among them if named, and returns when all have done so. Without any it does
    /// nothing.
    fn flush(&self, cpus: CpuSet, what: Flush);
    /// Makes `run`'s hardware root the one this CPU walks (a CR3 load: flushes all that is not global).
    fn load_root(&self, run: &Run);
    /// The core's own 16 entries for slots 256-271 of every L4, as raw page-table entries.
    fn hypervisor_slots(&self) -> [u64; 16];

    // ---- The vCPU that runs on this CPU -------------------------------------------------------------------------

    /// Takes `run`'s descriptor-table frames and LDT into the hardware.
    fn load_tables(&self, run: &Run);
    /// Reads the segment registers' bases, which a guest may change by loads of its own, back into `run`.
    fn save_bases(&self, run: &mut Run);
    /// The byte of the guest's LDT that a faulting address stands for, if it is where this CPU maps that.
    fn ldt_offset(&self, address: u64) -> Option<u64>;
    /// Takes `run`'s FS base and its mode's GS base into the hardware.
    fn load_bases(&self, run: &Run);
    /// `run`'s mode is about to change: keeps the GS base of the mode it leaves, and loads that of the other.
    fn swap_gs(&self, run: &mut Run);
    /// Loads GS with a selector for user mode, 0 where that faults; its base becomes `run.gs_base_user`. The GS base of
    /// kernel mode, which `run` is in, stays.
    fn load_user_gs(&self, run: &mut Run, selector: u16);
    /// Takes the CR4 bits that are the guest's own (TSD, DE, FSGSBASE) into the hardware.
    fn load_control(&self, run: &Run);
    /// Sets or clears CR0.TS, and keeps the FPU state right.
    fn set_task_switched(&self, run: &mut Run, set: bool);
    /// Takes `run`'s debug registers into the hardware.
    fn load_debug_registers(&self, run: &Run);
    /// The hardware's own CPUID answer: eax, ebx, ecx, edx.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Reads a model-specific register, if the CPU has it.
    fn rdmsr(&self, msr: u32) -> Option<u64>;
    /// The state components that vCPU switches keep by XSAVE, as bits of XCR0; 0 where they do not use it. Only those
    /// are shown to guests.
    fn xcr0_offered(&self) -> u64;
    /// Sets XCR0 to a value that the architecture allows, of what is offered.
    fn set_xcr0(&self, value: u64);
    /// IN of 1, 2 or 4 bytes, for a domain that was given the port.
    fn port_in(&self, port: u16, bytes: u8) -> u32;
    /// OUT of 1, 2 or 4 bytes, for a domain that was given the port.
    fn port_out(&self, port: u16, bytes: u8, value: u32);

    // ---- Time, CPUs, interrupts ---------------------------------------------------------------------------------

    /// System time: nanoseconds since the core started. Never goes back, the same on all CPUs.
    fn now(&self) -> u64;
    /// The TSC at this moment.
    fn tsc(&self) -> u64;
    /// How a guest turns TSC ticks into nanoseconds: `(tsc_to_system_mul, tsc_shift)` of `vcpu_time_info`.
    fn tsc_scale(&self) -> (u32, i8);
    /// Wall-clock time at system time 0: seconds since 1970.
    fn wall_clock(&self) -> u64;
    /// Asks for a timer interrupt on this CPU at system time `deadline`; `u64::MAX` for none.
    fn set_timer(&self, deadline: u64);
    /// Makes another CPU look at its flags ([`Cpu::pending`](crate::cpu::Cpu)).
    fn kick(&self, cpu: CpuId);
    /// The CPU this runs on.
    fn this_cpu(&self) -> CpuId;
    /// Does work wait that a long operation should make room for: an interrupt, a need to reschedule?
    fn preempt(&self) -> bool;
    /// Masks an interrupt line, or lets it through (again, where it is level-triggered); see [`crate::irq`].
    fn irq_mask(&self, line: Line, masked: bool);
    /// The frames in which a PCI function's MSI-X table is, if it has one.
    fn msix_table(&self, device: PciDevice) -> Option<Range<u64>>;
    /// Masks an MSI or MSI-X entry of a PCI function, for good until it is enabled again.
    fn msi_disable(&self, device: PciDevice, entry: Option<u16>);
    /// Programs an MSI or MSI-X entry of a PCI function to raise `line`; false if it cannot.
    fn msi_enable(&self, device: PciDevice, entry: Option<u16>, line: Line) -> bool;

    // ---- Console and end ----------------------------------------------------------------------------------------

    /// Writes to the console, whole.
    fn console_write(&self, text: &[u8]);
    /// Does what a debug key does.
    fn debug_key(&self, key: u8);
    /// Takes what was typed on the console.
    fn console_read(&self, to: &mut [u8]) -> usize;
    /// Stops the machine. May return on a test's machine only.
    fn halt(&self, why: Halt);
}
