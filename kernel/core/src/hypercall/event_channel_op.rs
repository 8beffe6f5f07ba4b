//! `event_channel_op(op, arg)`, hypercall 32: event channels.
//!
//! - Arguments: the operation (low half of the register), and the address of its structure, see [`abi::event`].
//! - Returns: 0, the port (or what else is asked for) in the structure.
//! - Faults: EFAULT where the structure cannot be copied in or out; what was bound by then stays bound, as in Xen.
//!   ENOSYS: an operation that does not exist. ESRCH, EPERM: a domain that does not exist or is not the caller's business. Else as the operation's
//!   function in [`crate::event`] says.
//! - Notes: `reset` is preemptible; it goes on as operation 14 from where the domain's ports remember.
//! - Source: `event_channel.h`.

use abi::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVcpu, BindVirq, EvtchnOp, ExpandArray, InitControl, PortArg,
    Reset, SetPriority, Status, fifo,
};
use abi::{DomId, Errno};
use core::sync::atomic::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Args, Caller, HcResult, Platform, Stop, refuse_if};

/// `EVTCHNOP_reset_cont` of `event_channel.h`: a reset that goes on.
const RESET_GOES_ON: EvtchnOp = EvtchnOp(14);

/// See the head of this file.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, arg, ..] = *a;
    let op = EvtchnOp(op as u32);
    // Nearly all calls: apart from the others, so that it saves no more registers than it needs.
    if op == EvtchnOp::SEND {
        let PortArg { port } = c.get(arg)?;
        c.core.send(c.domain, port)?;
        return Ok(0);
    }
    perform(c, a, op)
}

/// All operations but `send`.
#[inline(never)]
fn perform<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args, op: EvtchnOp) -> HcResult {
    let [_, arg, ..] = *a;
    let (core, domain) = (c.core, c.domain);
    match op {
        EvtchnOp::ALLOC_UNBOUND => answer(c, arg, |c, it: AllocUnbound| {
            Ok(AllocUnbound { port: core.alloc_unbound(&*c.target(it.dom)?, named(c, it.remote_dom))?, ..it })
        })?,
        EvtchnOp::BIND_INTERDOMAIN => answer(c, arg, |c, it: BindInterdomain| {
            let far = core.domains.get(named(c, it.remote_dom)).ok_or(Errno::ESRCH)?;
            Ok(BindInterdomain { local_port: core.bind_interdomain(domain, &far, it.remote_port)?, ..it })
        })?,
        EvtchnOp::BIND_VIRQ => {
            answer(c, arg, |_, it: BindVirq| Ok(BindVirq { port: core.bind_virq(domain, it.virq, it.vcpu)?, ..it }))?
        }
        EvtchnOp::BIND_IPI => {
            answer(c, arg, |_, it: BindIpi| Ok(BindIpi { port: core.bind_ipi(domain, it.vcpu)?, ..it }))?
        }
        EvtchnOp::BIND_PIRQ => answer(c, arg, |_, it: BindPirq| {
            let share = it.flags & BindPirq::WILL_SHARE != 0;
            Ok(BindPirq { port: core.bind_pirq(domain, it.pirq, share)?, ..it })
        })?,
        EvtchnOp::STATUS => answer(c, arg, |c, it: Status| {
            let Status { dom, _pad, port, .. } = it;
            Ok(Status { dom, _pad, ..core.port_info(&*c.target(dom)?, port)? })
        })?,
        EvtchnOp::INIT_CONTROL => answer(c, arg, |_, it: InitControl| {
            core.init_control(domain, it.vcpu, it.control_gfn, it.offset)?;
            Ok(InitControl { link_bits: fifo::LINK_MASK.count_ones() as u8, ..it })
        })?,
        EvtchnOp::UNMASK => core.unmask_port(domain, c.get::<PortArg>(arg)?.port)?,
        EvtchnOp::CLOSE => core.close(domain, c.get::<PortArg>(arg)?.port)?,
        EvtchnOp::EXPAND_ARRAY => core.expand_array(domain, c.get::<ExpandArray>(arg)?.array_gfn)?,
        EvtchnOp::BIND_VCPU => {
            let BindVcpu { port, vcpu } = c.get(arg)?;
            core.bind_vcpu(domain, port, vcpu)?;
        }
        EvtchnOp::SET_PRIORITY => {
            let SetPriority { port, priority } = c.get(arg)?;
            core.set_priority(domain, port, priority)?;
        }
        EvtchnOp::RESET | RESET_GOES_ON => {
            let target = c.target(c.get::<Reset>(arg)?.dom)?;
            refuse_if(target.id != domain.id && target.paused.load(Ordering::SeqCst) == 0, Errno::EINVAL)?;
            core.reset_ports(&target, op == RESET_GOES_ON).inspect_err(|stop| {
                if *stop == Stop::PREEMPTED {
                    a[0] = u64::from(RESET_GOES_ON.0);
                }
            })?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// An operation that answers in its structure.
fn answer<P: Platform, T: FromBytes + IntoBytes + Immutable>(
    c: &Caller<'_, P>,
    arg: u64,
    perform: impl FnOnce(&Caller<'_, P>, T) -> Result<T, Stop>,
) -> Result<(), Stop> {
    let answered = perform(c, c.get(arg)?)?;
    c.put(arg, &answered)
}

/// The domain that an argument names: DOMID_SELF is the caller.
fn named<P: Platform>(c: &Caller<'_, P>, id: DomId) -> DomId {
    if id == DomId::SELF { c.domain.id } else { id }
}
