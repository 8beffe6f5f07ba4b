//! `vcpu_op(op, vcpu, arg)`, hypercall 24: the caller's own vCPUs.
//!
//! - Arguments: the operation and the vCPU's number (low halves of the registers), and the address of the operation's
//!   structure, see [`abi::vcpu`].
//! - Returns: 0; `is_up` 1 or 0.
//! - Faults: ENOENT: no such vCPU. EFAULT: the structure cannot be copied. `initialise`: EEXIST if it has a context,
//!   else as [`Core::set_context`](crate::Core::set_context). `up`: EINVAL without a context. `set_periodic_timer`:
//!   EINVAL below 1 ms or above 2^63 ns. Single-shot timers: EINVAL for another vCPU than the calling one. Areas: EFAULT
//!   for an address that is not the guest's. `register_vcpu_info`: ENXIO for a place that crosses the end of the frame
//!   or is not 8-byte aligned; EINVAL the second time, for a frame that is not the domain's own or cannot be writable,
//!   and for a vCPU that is up and not the caller. `get_physid`: EINVAL, no vCPU is pinned for good. `send_nmi`: EINVAL
//!   with an argument. ENOSYS: an operation that does not exist.
//! - Notes: taking down the last vCPU that is up powers the domain off. VCPU_SSHOTTMR_future is ignored, as by Xen
//!   4.17: a deadline in the past fires at once.
//! - Source: `vcpu.h`.

use abi::sched::ShutdownReason;
use abi::vcpu::{
    RegisterArea, RegisterVcpuInfo, SetPeriodicTimer, SetSingleshotTimer, VcpuGuestContext, VcpuInfo, VcpuOp,
};
use abi::{Errno, PAGE_SIZE, VcpuId};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use crate::time::NEVER;
use crate::{Args, Caller, HcResult, Platform, Stop, Vcpu, refuse_if};

/// The shortest period of a periodic timer, in nanoseconds.
const SHORTEST: u64 = 1_000_000;

/// See the head of this file.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, vcpu, arg, ..] = *a;
    let op = VcpuOp(op as u32);
    let vcpu = &c.domain.vcpu(VcpuId(vcpu as u32)).ok_or(Errno::ENOENT)?.clone();
    let own = Arc::ptr_eq(vcpu, c.vcpu);
    let inval = Err(Errno::EINVAL.into());
    match op {
        VcpuOp::INITIALISE => initialise(c, vcpu, arg)?,
        VcpuOp::UP if !own && !vcpu.run.try_lock().is_none_or(|run| run.initialised) => return inval,
        VcpuOp::UP => c.core.bring_up(vcpu),
        VcpuOp::DOWN => take_down(c, vcpu),
        VcpuOp::IS_UP => return Ok(i64::from(!vcpu.sched.state.view().down())),
        VcpuOp::GET_RUNSTATE_INFO => c.put(arg, &c.core.run_times(vcpu, c.core.platform.now()))?,
        VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA => c.core.set_runstate_area(c, vcpu, area(c, arg)?),
        VcpuOp::REGISTER_VCPU_TIME_MEMORY_AREA => c.core.set_time_area(c, vcpu, area(c, arg)?),
        VcpuOp::SET_PERIODIC_TIMER => {
            let SetPeriodicTimer { period_ns } = c.get(arg)?;
            if !(SHORTEST..=i64::MAX as u64).contains(&period_ns) {
                return inval;
            }
            c.core.set_periodic(vcpu, period_ns);
        }
        VcpuOp::STOP_PERIODIC_TIMER => c.core.set_periodic(vcpu, 0),
        VcpuOp::SET_SINGLESHOT_TIMER | VcpuOp::STOP_SINGLESHOT_TIMER if !own => return inval,
        VcpuOp::SET_SINGLESHOT_TIMER => {
            let SetSingleshotTimer { timeout_abs_ns, .. } = c.get(arg)?;
            c.core.set_timer(c.cpu, &vcpu.time.singleshot, timeout_abs_ns);
        }
        VcpuOp::STOP_SINGLESHOT_TIMER => c.core.set_timer(c.cpu, &vcpu.time.singleshot, NEVER),
        VcpuOp::REGISTER_VCPU_INFO => register_vcpu_info(c, vcpu, own, arg)?,
        VcpuOp::SEND_NMI if arg != 0 => return inval,
        VcpuOp::SEND_NMI => {
            if !vcpu.sched.nmi.swap(true, SeqCst) {
                c.core.kick(vcpu);
            }
        }
        VcpuOp::GET_PHYSID => return inval,
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// The address of an area that is to be registered.
fn area<P: Platform>(c: &Caller<'_, P>, arg: u64) -> Result<u64, Stop> {
    let RegisterArea { addr } = c.get(arg)?;
    if crate::mm::is_guest_address(addr) { Ok(addr.0) } else { Err(Errno::EFAULT.into()) }
}

fn initialise<P: Platform>(c: &mut Caller<'_, P>, vcpu: &Arc<Vcpu<P>>, arg: u64) -> Result<(), Stop> {
    let context: VcpuGuestContext = c.get(arg)?;
    // A vCPU that runs, the caller among them, has its Run locked, and has a context.
    refuse_if(vcpu.run.try_lock().is_none_or(|run| run.initialised), Errno::EEXIST)?;
    c.core.set_context(c.domain, vcpu, &context)
}

fn take_down<P: Platform>(c: &mut Caller<'_, P>, vcpu: &Arc<Vcpu<P>>) {
    let last = c.domain.vcpus.iter().all(|v| Arc::ptr_eq(v, vcpu) || v.sched.state.view().down());
    if last {
        c.core.shutdown(c.domain, ShutdownReason::POWEROFF);
    } else {
        c.core.take_down(vcpu);
    }
}

fn register_vcpu_info<P: Platform>(c: &Caller<'_, P>, vcpu: &Vcpu<P>, own: bool, arg: u64) -> Result<(), Stop> {
    let RegisterVcpuInfo { mfn, offset, .. } = c.get(arg)?;
    let offset = offset as usize;
    refuse_if(offset > PAGE_SIZE - size_of::<VcpuInfo>() || !offset.is_multiple_of(8), Errno::ENXIO)?;
    refuse_if(!own && !vcpu.sched.state.view().down(), Errno::EINVAL)?;
    c.core.move_vcpu_info(c.domain, vcpu, mfn, offset)?;
    if own {
        c.core.write_time_area(c.domain, vcpu, c.run);
    }
    Ok(())
}
