//! `sched_op(op, arg)`, hypercall 29: when the caller runs, and how its domain ends.
//!
//! - Arguments: the operation (low half of the register), and the address of its structure, see [`abi::sched`].
//! - Returns: 0; `watchdog` the number of a new watchdog.
//! - Faults: EFAULT where the structure or the ports of a poll cannot be copied in. EINVAL: a poll of more than 128
//!   ports or of one that is not valid; a watchdog that does not exist. ENOSPC, cut to 32 bits as by Xen 4.17: both
//!   watchdogs are in use. ESRCH, EPERM: remote_shutdown. ENOSYS: an operation that does not exist.
//! - Notes: `block` unmasks the caller's upcalls. A poll returns at once if an upcall is due. No shutdown returns to
//!   the guest but one that was cancelled.
//! - Source: `sched.h`.

use abi::sched::{Poll, RemoteShutdown, SchedOp, Shutdown, Watchdog};
use abi::{Errno, Port};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::cpu::pending;
use crate::time::NEVER;
use crate::{Args, Caller, HcResult, Platform, Privilege, Stop, refuse_if};

/// See the head of this file.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, arg, ..] = *a;
    let op = SchedOp(op as u32);
    match op {
        SchedOp::YIELD => c.core.yield_now(c.cpu, c.vcpu),
        SchedOp::BLOCK => {
            if c.core.block(c.vcpu) {
                c.cpu.post(pending::RESCHEDULE);
            }
        }
        SchedOp::POLL => poll(c, arg)?,
        SchedOp::SHUTDOWN => c.core.shutdown(c.domain, c.get::<Shutdown>(arg)?.reason),
        SchedOp::SHUTDOWN_CODE => {
            let Shutdown { reason } = c.get(arg)?;
            c.domain.latch_shutdown_code(reason);
        }
        SchedOp::REMOTE_SHUTDOWN => {
            let RemoteShutdown { domain_id, reason, .. } = c.get(arg)?;
            let domain = c.core.domains.get(domain_id).ok_or(Errno::ESRCH)?;
            c.need(Privilege::BUILDER)?;
            c.core.shutdown(&domain, reason);
        }
        SchedOp::WATCHDOG => return watchdog(c, arg),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

fn poll<P: Platform>(c: &mut Caller<'_, P>, arg: u64) -> Result<(), Stop> {
    let poll: Poll = c.get(arg)?;
    refuse_if(poll.nr_ports > Poll::MAX_PORTS, Errno::EINVAL)?;
    let only = match poll.nr_ports {
        1 => Some(c.get::<Port>(poll.ports.0)?),
        _ => None,
    };
    c.core.begin_poll(c.domain, c.vcpu, only);
    // From here on every event of this domain looks whether it is polled for: so none is missed.
    let found = poll_finds(c, &poll, only);
    if found == Ok(false) {
        if poll.timeout != 0 {
            c.core.set_timer(c.cpu, &c.vcpu.time.poll, poll.timeout);
        }
        c.cpu.post(pending::RESCHEDULE);
    } else {
        c.core.wake(c.vcpu);
    }
    found.map(|_| ())
}

/// Is there something to return for at once?
fn poll_finds<P: Platform>(c: &Caller<'_, P>, poll: &Poll, only: Option<Port>) -> Result<bool, Stop> {
    if c.core.upcall_due(c.vcpu) {
        return Ok(true);
    }
    for at in 0..poll.nr_ports {
        let port = match only {
            Some(port) => port,
            None => c.get_at::<Port>(poll.ports.0, u64::from(at))?,
        };
        if c.core.poll_port(c.domain, port).ok_or(Errno::EINVAL)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn watchdog<P: Platform>(c: &mut Caller<'_, P>, arg: u64) -> HcResult {
    let Watchdog { id, timeout } = c.get(arg)?;
    let deadline = c.core.platform.now().saturating_add(u64::from(timeout).saturating_mul(1_000_000_000));
    let watchdogs = &c.domain.clock.watchdogs;
    if id == 0 {
        let free = |w: &AtomicU64| w.compare_exchange(NEVER, deadline, SeqCst, SeqCst).is_ok();
        let Some(at) = watchdogs.iter().position(free) else { return Ok(i64::from(Errno::ENOSPC.code() as u32)) };
        c.core.watch_by(c.cpu, c.domain, deadline);
        return Ok(at as i64 + 1);
    }
    let which = watchdogs.get(id as usize - 1).filter(|w| w.load(SeqCst) != NEVER).ok_or(Errno::EINVAL)?;
    let deadline = if timeout == 0 { NEVER } else { deadline };
    which.store(deadline, SeqCst);
    c.core.watch_by(c.cpu, c.domain, deadline);
    Ok(0)
}
