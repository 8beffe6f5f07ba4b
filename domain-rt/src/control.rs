//! Control of other domains and of the machine, for the toolstack: the calls whose arguments carry addresses, made safe
//! by taking what the addresses point to.

use crate::hypercall;
use abi::domctl::{Domctl, DomctlOp, GetDomainInfo, VcpuContext};
use abi::event::{AllocUnbound, EvtchnOp};
use abi::memory::{MemoryOp, MemoryReservation};
use abi::mmu::{MmuextCmd, MmuextOp};
use abi::sysctl::{AvailHeap, GetCpuInfo, PhysInfo, ReadConsole, Sysctl, SysctlOp};
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Mfn, Port, Vaddr, VcpuId};

/// A call whose payload holds no address; returns the domain's number, which creation chooses.
pub fn domctl<T: hypercall::Argument>(cmd: DomctlOp, domain: DomId, payload: &mut T) -> Result<DomId, Errno> {
    if matches!(cmd, DomctlOp::SETVCPUCONTEXT | DomctlOp::GETVCPUCONTEXT | DomctlOp::GETPAGEFRAMEINFO3) {
        return Err(Errno::EINVAL);
    }
    let mut call = Domctl::new(cmd, domain, payload);
    loop {
        // SAFETY: those that take addresses are refused above; `abi` has no others.
        match unsafe { hypercall::domctl(&mut call) } {
            // Destruction goes in steps.
            Err(Errno::EAGAIN) if cmd == DomctlOp::DESTROYDOMAIN => {}
            result => {
                *payload = call.payload.get();
                return result.map(|_| call.domain);
            }
        }
    }
}

/// A call without payload.
pub fn command(cmd: DomctlOp, domain: DomId) -> Result<(), Errno> {
    domctl(cmd, domain, &mut 0u64).map(drop)
}

/// How `domain` is, or the next higher one there is.
pub fn info(domain: DomId) -> Result<GetDomainInfo, Errno> {
    let mut info = GetDomainInfo::default();
    domctl(DomctlOp::GETDOMAININFO, domain, &mut info)?;
    Ok(info)
}

/// Sets the state of a vCPU.
pub fn set_context(domain: DomId, vcpu: VcpuId, context: &VcpuGuestContext) -> Result<(), Errno> {
    let ctxt = Vaddr(core::ptr::from_ref(context) as u64);
    let mut call = Domctl::new(DomctlOp::SETVCPUCONTEXT, domain, &VcpuContext { vcpu, ctxt, ..VcpuContext::default() });
    // SAFETY: the hypervisor reads the context, which is borrowed.
    unsafe { hypercall::domctl(&mut call).map(drop) }
}

/// Gives memory to `domain`, in extents of `1 << order` pages: `extents` holds the first frame number of each, and then,
/// of those done, the first machine frame. Returns how many were done.
pub fn populate(domain: DomId, extents: &mut [u64], order: u32) -> Result<usize, Errno> {
    let mut reservation = MemoryReservation {
        extent_start: Vaddr(extents.as_mut_ptr() as u64),
        nr_extents: extents.len() as u64,
        extent_order: order,
        domid: domain,
        ..MemoryReservation::default()
    };
    // SAFETY: the hypervisor reads and writes the extents, which are borrowed; the memory is another domain's.
    unsafe { hypercall::memory_op(MemoryOp::POPULATE_PHYSMAP, &mut reservation).map(|done| done as usize) }
}

/// Pins a frame of `domain` as an L4.
pub fn pin_root(domain: DomId, root: Mfn) -> Result<(), Errno> {
    let op = MmuextOp::new(MmuextCmd::PIN_L4_TABLE, root.0, 0);
    // SAFETY: the tables are another domain's; none of them is mapped here, or the hypervisor refuses.
    unsafe { hypercall::mmuext_op(&[op], domain) }
}

/// Makes a port of `domain` that this domain may bind.
pub fn alloc_unbound(domain: DomId) -> Result<Port, Errno> {
    let mut args = AllocUnbound { dom: domain, remote_dom: DomId::SELF, port: Port(0) };
    hypercall::event_channel_op(EvtchnOp::ALLOC_UNBOUND, &mut args)?;
    Ok(args.port)
}

/// The machine: CPUs, memory.
pub fn machine() -> Result<PhysInfo, Errno> {
    let mut call = Sysctl::new(SysctlOp::PHYSINFO, &PhysInfo::default());
    // SAFETY: the payload holds no address.
    unsafe { hypercall::sysctl(&mut call)? };
    Ok(call.payload.get())
}

/// Nanoseconds that all CPUs together were idle.
pub fn idle() -> Result<u64, Errno> {
    let mut times = [0u64; 256];
    let all =
        GetCpuInfo { max_cpus: times.len() as u32, info: Vaddr(times.as_mut_ptr() as u64), ..GetCpuInfo::default() };
    let mut call = Sysctl::new(SysctlOp::GETCPUINFO, &all);
    // SAFETY: the hypervisor writes at most `max_cpus` words, which are borrowed.
    unsafe { hypercall::sysctl(&mut call)? };
    Ok(times.iter().sum())
}

/// Bytes of memory that nobody has.
pub fn free_memory() -> Result<u64, Errno> {
    let all = AvailHeap { min_bitwidth: 0, max_bitwidth: 0, node: -1, ..AvailHeap::default() };
    let mut call = Sysctl::new(SysctlOp::AVAILHEAP, &all);
    // SAFETY: the payload holds no address.
    unsafe { hypercall::sysctl(&mut call)? };
    let answer: AvailHeap = call.payload.get();
    Ok(answer.avail_bytes)
}

/// Copies the hypervisor's log from position `index` on; returns how many bytes, and the position after them.
pub fn read_log(index: u32, buffer: &mut [u8]) -> Result<(usize, u32), Errno> {
    let request = ReadConsole {
        incremental: 1,
        index,
        buffer: Vaddr(buffer.as_mut_ptr() as u64),
        count: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
        ..ReadConsole::default()
    };
    let mut call = Sysctl::new(SysctlOp::READCONSOLE, &request);
    // SAFETY: the hypervisor writes at most `count` bytes of the buffer, which is borrowed.
    unsafe { hypercall::sysctl(&mut call)? };
    let answer: ReadConsole = call.payload.get();
    Ok(((answer.count as usize).min(buffer.len()), answer.index))
}
