//! The hypercalls, typed. A function is `unsafe` where the call can change memory or control flow
//! under the program; the others pass arguments through a copy, so that no answer of the
//! hypervisor reaches past the argument's type.

use crate::arch;
use crate::counts::{GRANT_CALLS, HYPERCALLS};
use abi::callback::{CallbackOp, CallbackRegister};
use abi::console::ConsoleOp;
use abi::domctl::Domctl;
use abi::event::EvtchnOp;
use abi::grant::GrantOp;
use abi::hypercall::Hypercall;
use abi::memory::MemoryOp;
use abi::mmu::{MmuUpdate, MmuextOp};
use abi::multicall::MulticallEntry;
use abi::physdev::PhysdevOp;
use abi::sched::{SchedOp, Shutdown, ShutdownReason};
use abi::sysctl::Sysctl;
use abi::trap::TrapInfo;
use abi::vcpu::{AssistCmd, AssistType, SegmentBase, VcpuOp};
use abi::version::XenVersionOp;
use abi::{DomId, Errno, Mfn, Pte, Vaddr, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What plain data passed to the hypervisor must be.
pub trait Argument: FromBytes + IntoBytes + Immutable {}
impl<T: FromBytes + IntoBytes + Immutable> Argument for T {}

/// Calls with up to five words.
///
/// # Safety
/// As [`arch::hypercall`].
#[inline]
unsafe fn call<const N: usize>(number: Hypercall, args: [u64; N]) -> Result<u64, Errno> {
    const { assert!(N <= 5) };
    let mut all = [0; 5];
    all[..N].copy_from_slice(&args);
    HYPERCALLS.add(1);
    // SAFETY: the caller's.
    Errno::check(unsafe { arch::hypercall(number.0, all) })
}

/// Calls `op(first.., &argument)` with a copy of the argument in `SPACE` bytes, which is as much
/// as any such operation reads or writes, and copies the answer back.
fn call_by_copy<T: Argument, const SPACE: usize>(
    number: Hypercall,
    words: &[u64],
    argument: &mut T,
) -> Result<u64, Errno> {
    #[repr(C, align(8))]
    struct Buffer<const SPACE: usize>([u8; SPACE]);
    const { assert!(size_of::<T>() <= SPACE) };
    let mut buffer = Buffer([0; SPACE]);
    let size = size_of::<T>();
    buffer.0[..size].copy_from_slice(argument.as_bytes());
    let mut args = [0; 5];
    args[..words.len()].copy_from_slice(words);
    args[words.len()] = &raw mut buffer as u64;
    HYPERCALLS.add(1);
    // SAFETY: the operations called this way touch memory only through the argument, and the
    // buffer has room for the longest.
    let ret = Errno::check(unsafe { arch::hypercall(number.0, args) });
    if let Ok(answer) = T::read_from_bytes(&buffer.0[..size]) {
        *argument = answer;
    }
    ret
}

/// Writes to the emergency console.
pub fn console_write(bytes: &[u8]) -> Result<(), Errno> {
    let args: [u64; 3] = [ConsoleOp::WRITE.0.into(), bytes.len() as u64, bytes.as_ptr() as u64];
    // SAFETY: the hypervisor reads the slice.
    unsafe { call(Hypercall::CONSOLE_IO, args).map(drop) }
}

/// Reads what was typed on the emergency console; returns how many bytes.
pub fn console_read(bytes: &mut [u8]) -> Result<usize, Errno> {
    let args: [u64; 3] = [ConsoleOp::READ.0.into(), bytes.len() as u64, bytes.as_mut_ptr() as u64];
    // SAFETY: the hypervisor writes the slice and no more.
    unsafe { call(Hypercall::CONSOLE_IO, args).map(|n| n as usize) }
}

/// Version, features and texts. The longest answer is 1024 bytes.
pub fn xen_version<T: Argument>(op: XenVersionOp, argument: &mut T) -> Result<u64, Errno> {
    match op {
        // Its length is the argument's to say; the null handle asks for it.
        XenVersionOp::BUILD_ID => Err(Errno::EINVAL),
        // These take none, and PAGESIZE refuses one.
        XenVersionOp::VERSION | XenVersionOp::PAGESIZE => {
            // SAFETY: no memory is involved.
            unsafe { call(Hypercall::XEN_VERSION, [op.0.into(), 0]) }
        }
        _ => call_by_copy::<T, 1024>(Hypercall::XEN_VERSION, &[op.0.into()], argument),
    }
}

/// Yield, block, poll and the like. Ports of a poll are only read.
pub fn sched_op<T: Argument>(op: SchedOp, argument: &mut T) -> Result<u64, Errno> {
    call_by_copy::<T, 32>(Hypercall::SCHED_OP, &[op.0.into()], argument)
}

/// Ends the domain.
pub fn shutdown(reason: ShutdownReason) -> ! {
    loop {
        let _ = sched_op(SchedOp::SHUTDOWN, &mut Shutdown { reason });
        core::hint::spin_loop();
    }
}

/// Event channels. Those that give the hypervisor memory for good (the FIFO layout) need
/// [`event_channel_op_memory`].
pub fn event_channel_op<T: Argument>(op: EvtchnOp, argument: &mut T) -> Result<u64, Errno> {
    match op {
        EvtchnOp::INIT_CONTROL | EvtchnOp::EXPAND_ARRAY => Err(Errno::EINVAL),
        _ => call_by_copy::<T, 32>(Hypercall::EVENT_CHANNEL_OP, &[op.0.into()], argument),
    }
}

/// Gives the hypervisor a frame for events.
///
/// # Safety
/// The frame is used for nothing else from here on.
pub unsafe fn event_channel_op_memory<T: Argument>(op: EvtchnOp, argument: &mut T) -> Result<u64, Errno> {
    call_by_copy::<T, 32>(Hypercall::EVENT_CHANNEL_OP, &[op.0.into()], argument)
}

/// Timers and states of vCPUs. Those that take memory need [`vcpu_op_memory`].
pub fn vcpu_op<T: Argument>(op: VcpuOp, vcpu: VcpuId, argument: &mut T) -> Result<u64, Errno> {
    match op {
        VcpuOp::INITIALISE
        | VcpuOp::REGISTER_VCPU_INFO
        | VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA
        | VcpuOp::REGISTER_VCPU_TIME_MEMORY_AREA => Err(Errno::EINVAL),
        _ => call_by_copy::<T, 64>(Hypercall::VCPU_OP, &[op.0.into(), vcpu.0.into()], argument),
    }
}

/// Starts a vCPU or gives the hypervisor memory to write to.
///
/// # Safety
/// The new vCPU's state, or the area that is written from here on, breaks nobody's memory.
pub unsafe fn vcpu_op_memory<T: Argument>(op: VcpuOp, vcpu: VcpuId, argument: &mut T) -> Result<u64, Errno> {
    let argument = core::ptr::from_mut(argument) as u64;
    // SAFETY: the caller's.
    unsafe { call(Hypercall::VCPU_OP, [op.0.into(), vcpu.0.into(), argument]) }
}

/// Sets the vCPU's timer: absolute system time in ns, 0 for never.
pub fn set_timer_op(deadline: u64) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    unsafe { call(Hypercall::SET_TIMER_OP, [deadline]).map(drop) }
}

/// Switches an optional behaviour.
pub fn vm_assist(cmd: AssistCmd, kind: AssistType) -> Result<(), Errno> {
    // SAFETY: the behaviours change how page tables and areas already given are handled.
    unsafe { call(Hypercall::VM_ASSIST, [cmd.0.into(), kind.0.into()]).map(drop) }
}

/// Device calls with an argument. PIRQ pages and bitmaps are the caller's to keep.
pub fn physdev_op<T: Argument>(op: PhysdevOp, argument: &mut T) -> Result<u64, Errno> {
    call_by_copy::<T, 64>(Hypercall::PHYSDEV_OP, &[op.0.into()], argument)
}

/// Sets exception handlers. The table ends with an entry of address 0, which is added for a
/// caller who leaves it out.
///
/// # Safety
/// Each address is a handler that deals with its vector's frame.
pub unsafe fn set_trap_table(table: &[TrapInfo]) -> Result<(), Errno> {
    if table.last().is_none_or(|last| last.address != Vaddr::NULL) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's; the table ends.
    unsafe { call(Hypercall::SET_TRAP_TABLE, [table.as_ptr() as u64]).map(drop) }
}

/// Sets the event, failsafe and system call entries.
///
/// # Safety
/// Each is a handler that deals with its frame.
pub unsafe fn set_callbacks(event: usize, failsafe: usize, syscall: usize) -> Result<(), Errno> {
    let args = [event as u64, failsafe as u64, syscall as u64];
    // SAFETY: the caller's.
    unsafe { call(Hypercall::SET_CALLBACKS, args).map(drop) }
}

/// Registers one entry.
///
/// # Safety
/// The address is a handler that deals with its frame.
pub unsafe fn callback_register(mut argument: CallbackRegister) -> Result<(), Errno> {
    let argument = &raw mut argument as u64;
    // SAFETY: the caller's.
    unsafe { call(Hypercall::CALLBACK_OP, [CallbackOp::REGISTER.0.into(), argument]).map(drop) }
}

/// Sets the stack that entries from user mode start on.
///
/// # Safety
/// The stack is mapped and free.
pub unsafe fn stack_switch(ss: u16, sp: Vaddr) -> Result<(), Errno> {
    // SAFETY: the caller's.
    unsafe { call(Hypercall::STACK_SWITCH, [ss.into(), sp.0]).map(drop) }
}

/// Sets FS or GS.
///
/// # Safety
/// No code relies on the old value.
pub unsafe fn set_segment_base(which: SegmentBase, base: u64) -> Result<(), Errno> {
    // SAFETY: the caller's.
    unsafe { call(Hypercall::SET_SEGMENT_BASE, [which.0.into(), base]).map(drop) }
}

/// Writes page-table entries.
///
/// # Safety
/// The new mappings agree with what Rust knows of the memory.
pub unsafe fn mmu_update(updates: &[MmuUpdate], domain: DomId) -> Result<(), Errno> {
    let args = [updates.as_ptr() as u64, updates.len() as u64, 0, domain.0.into()];
    // SAFETY: the caller's.
    unsafe { call(Hypercall::MMU_UPDATE, args).map(drop) }
}

/// Pins, flushes, base pointers, LDT.
///
/// # Safety
/// As [`mmu_update`].
pub unsafe fn mmuext_op(ops: &[MmuextOp], domain: DomId) -> Result<(), Errno> {
    let args = [ops.as_ptr() as u64, ops.len() as u64, 0, domain.0.into()];
    // SAFETY: the caller's.
    unsafe { call(Hypercall::MMUEXT_OP, args).map(drop) }
}

/// Writes the entry that maps an address; `flags` as in [`abi::mmu::uvmf`].
///
/// # Safety
/// As [`mmu_update`].
pub unsafe fn update_va_mapping(va: Vaddr, entry: Pte, flags: u64) -> Result<(), Errno> {
    // SAFETY: the caller's.
    unsafe { call(Hypercall::UPDATE_VA_MAPPING, [va.0, entry.0, flags]).map(drop) }
}

/// Sets the frames of the GDT.
///
/// # Safety
/// The selectors in use keep their meaning.
pub unsafe fn set_gdt(frames: &[Mfn], entries: u32) -> Result<(), Errno> {
    // SAFETY: the caller's.
    unsafe { call(Hypercall::SET_GDT, [frames.as_ptr() as u64, entries.into()]).map(drop) }
}

/// Memory reservations and maps. Returns what the operation returns, which for reservations is
/// the number of extents done.
///
/// # Safety
/// Frames given back are used no more, and addresses in the argument point to memory that may be
/// written.
pub unsafe fn memory_op<T: Argument>(op: MemoryOp, argument: &mut T) -> Result<u64, Errno> {
    let argument = core::ptr::from_mut(argument) as u64;
    // SAFETY: the caller's.
    unsafe { call(Hypercall::MEMORY_OP, [op.0.into(), argument]) }
}

/// Grant operations, one argument each.
///
/// # Safety
/// `T` is the operation's structure, and what it maps, unmaps or copies to is free.
pub unsafe fn grant_table_op<T: Argument>(op: GrantOp, args: &mut [T]) -> Result<(), Errno> {
    let args: [u64; 3] = [op.0.into(), args.as_mut_ptr() as u64, args.len() as u64];
    GRANT_CALLS.add(1);
    // SAFETY: the caller's.
    unsafe { call(Hypercall::GRANT_TABLE_OP, args).map(drop) }
}

/// Several calls at once; each entry gets its result.
///
/// # Safety
/// As each call in it.
pub unsafe fn multicall(entries: &mut [MulticallEntry]) -> Result<(), Errno> {
    let args = [entries.as_mut_ptr() as u64, entries.len() as u64];
    // SAFETY: the caller's.
    unsafe { call(Hypercall::MULTICALL, args).map(drop) }
}

/// Domain control.
///
/// # Safety
/// Addresses in the payload point to memory that may be read and written.
pub unsafe fn domctl(argument: &mut Domctl) -> Result<u64, Errno> {
    // SAFETY: the caller's.
    unsafe { call(Hypercall::DOMCTL, [core::ptr::from_mut(argument) as u64]) }
}

/// System control.
///
/// # Safety
/// As [`domctl`].
pub unsafe fn sysctl(argument: &mut Sysctl) -> Result<u64, Errno> {
    // SAFETY: the caller's.
    unsafe { call(Hypercall::SYSCTL, [core::ptr::from_mut(argument) as u64]) }
}
