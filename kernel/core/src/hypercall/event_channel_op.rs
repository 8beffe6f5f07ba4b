//! `event_channel_op(op, arg)`, hypercall 32: event channels.
//!
//! - Arguments: the operation (low half of the register), and the address of its structure, see [`abi::event`].
//! - Returns: 0, the port (or what else is asked for) in the structure.
//! - Faults: EFAULT where the structure cannot be copied in or out; what was bound by then stays bound, as in Xen.
//!   ENOSYS: an operation that does not exist, and those of the FIFO layout, which is not there: guests fall back to the
//!   2-level one. ESRCH, EPERM: a domain that does not exist or is not the caller's business. Else as the operation's
//!   function in [`crate::event`] says.
//! - Notes: `reset` is preemptible; it goes on as operation 14 from where the domain's ports remember.
//! - Source: `event_channel.h`.

use abi::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVcpu, BindVirq, EvtchnOp, PortArg, Reset, Status,
};
use abi::hypercall::Hypercall;
use abi::{DomId, Errno};
use core::sync::atomic::Ordering;

use crate::{Args, Caller, Counter, HcResult, Platform, Stop};

/// `EVTCHNOP_reset_cont` of `event_channel.h`: a reset that goes on.
const RESET_GOES_ON: EvtchnOp = EvtchnOp(14);

/// See the head of this file.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, arg, ..] = a.0;
    let op = EvtchnOp(op as u32);
    c.core.count(c.cpu, Counter::Sub(Hypercall::EVENT_CHANNEL_OP.0, op.0));
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
    let [_, arg, ..] = a.0;
    match op {
        EvtchnOp::UNMASK => {
            let PortArg { port } = c.get(arg)?;
            c.core.unmask_port(c.domain, port)?;
        }
        EvtchnOp::CLOSE => {
            let PortArg { port } = c.get(arg)?;
            c.core.close(c.domain, port)?;
        }
        EvtchnOp::BIND_VCPU => {
            let BindVcpu { port, vcpu } = c.get(arg)?;
            c.core.bind_vcpu(c.domain, port, vcpu)?;
        }
        EvtchnOp::STATUS => status(c, arg)?,
        EvtchnOp::RESET | RESET_GOES_ON => {
            let Reset { dom } = c.get(arg)?;
            let domain = c.target(dom)?;
            if domain.id != c.domain.id && domain.paused.load(Ordering::SeqCst) == 0 {
                return Err(Errno::EINVAL.into());
            }
            let done = c.core.reset_ports(&domain, op == RESET_GOES_ON);
            if done == Err(Stop::Preempted) {
                a.0[0] = u64::from(RESET_GOES_ON.0);
            }
            done?;
        }
        _ => bind(c, op, arg)?,
    }
    Ok(0)
}

/// The operations that make a port, and answer it.
fn bind<P: Platform>(c: &mut Caller<'_, P>, op: EvtchnOp, arg: u64) -> Result<(), Stop> {
    match op {
        EvtchnOp::ALLOC_UNBOUND => {
            let mut it: AllocUnbound = c.get(arg)?;
            let domain = c.target(it.dom)?;
            it.port = c.core.alloc_unbound(&domain, named(c, it.remote_dom))?;
            c.put(arg, &it)
        }
        EvtchnOp::BIND_INTERDOMAIN => {
            let mut it: BindInterdomain = c.get(arg)?;
            let far = c.core.domains.get(named(c, it.remote_dom)).ok_or(Errno::ESRCH)?;
            it.local_port = c.core.bind_interdomain(c.domain, &far, it.remote_port)?;
            c.put(arg, &it)
        }
        EvtchnOp::BIND_VIRQ => {
            let mut it: BindVirq = c.get(arg)?;
            it.port = c.core.bind_virq(c.domain, it.virq, it.vcpu)?;
            c.put(arg, &it)
        }
        EvtchnOp::BIND_IPI => {
            let mut it: BindIpi = c.get(arg)?;
            it.port = c.core.bind_ipi(c.domain, it.vcpu)?;
            c.put(arg, &it)
        }
        EvtchnOp::BIND_PIRQ => {
            let mut it: BindPirq = c.get(arg)?;
            it.port = c.core.bind_pirq(c.domain, it.pirq, it.flags & BindPirq::WILL_SHARE != 0)?;
            c.put(arg, &it)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn status<P: Platform>(c: &mut Caller<'_, P>, arg: u64) -> Result<(), Stop> {
    let mut it: Status = c.get(arg)?;
    let info = c.core.port_info(&*c.target(it.dom)?, it.port)?;
    (it.status, it.vcpu, it.detail, it.remote_port) = (info.status, info.vcpu, info.detail, info.remote_port);
    c.put(arg, &it)
}

/// The domain that an argument names: DOMID_SELF is the caller.
fn named<P: Platform>(c: &Caller<'_, P>, id: DomId) -> DomId {
    if id == DomId::SELF { c.domain.id } else { id }
}
