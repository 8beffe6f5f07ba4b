//! `callback_op` (30): registers one callback. [`nmi_op`] (28): the older way for the NMI's.
//!
//! - Arguments: the command (0 register, 1 unregister); the address of a `callback_register` or
//!   `callback_unregister`.
//! - Returns: 0.
//! - Faults: EFAULT: the argument cannot be read. EINVAL: an address is not canonical; a type other than NMI cannot
//!   be unregistered. ENOSYS: no such command, no such type (the deprecated sysenter among them).
//! - Notes: `CALLBACKF_mask_events` masks events on entry; the event and NMI callbacks always do.
//! - Source: `callback.h`, `nmi.h`.

use crate::trap::Callback;
use crate::{Args, Caller, HcResult, Platform, Run, refuse_if};
use abi::Errno;
use abi::callback::{CallbackOp, CallbackRegister, CallbackType, CallbackUnregister, MASK_EVENTS};
use abi::layout::FLAT_RING3_CS64;
use abi::nmi::{NmiCallback, NmiOp};
use abi::trap::{TrapInfo, vector};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, argument, ..] = *a;
    match CallbackOp(op as u32) {
        CallbackOp::REGISTER => register(c, c.get(argument)?),
        CallbackOp::UNREGISTER => unregister(c, c.get::<CallbackUnregister>(argument)?.kind),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `nmi_op` (28): the older way to register (0: `xennmi_callback`) or unregister (1) the NMI's callback.
pub fn nmi_op<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, argument, ..] = *a;
    match NmiOp(op as u32) {
        NmiOp::REGISTER_CALLBACK => {
            let address = c.get::<NmiCallback>(argument)?.handler_address;
            register(c, CallbackRegister { kind: CallbackType::NMI, address, ..Default::default() })
        }
        NmiOp::UNREGISTER_CALLBACK => unregister(c, CallbackType::NMI),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn register<P: Platform>(c: &mut Caller<'_, P>, r: CallbackRegister) -> HcResult {
    refuse_if(!r.address.is_canonical(), Errno::EINVAL)?;
    if r.kind == CallbackType::NMI {
        let handler = TrapInfo { vector: vector::NMI, flags: TrapInfo::MASK_EVENTS, ..Default::default() };
        c.run.traps.set(TrapInfo { cs: FLAT_RING3_CS64, address: r.address, ..handler });
    } else {
        *slot(c.run, r.kind)? = Callback { address: r.address.0, masks: r.flags & MASK_EVENTS != 0 };
    }
    Ok(0)
}

fn unregister<P: Platform>(c: &mut Caller<'_, P>, kind: CallbackType) -> HcResult {
    if kind != CallbackType::NMI {
        slot(c.run, kind)?;
        return Err(Errno::EINVAL.into());
    }
    c.run.traps.set(TrapInfo { vector: vector::NMI, ..Default::default() });
    Ok(0)
}

/// Where a callback of a type other than NMI is.
fn slot(run: &mut Run, kind: CallbackType) -> Result<&mut Callback, Errno> {
    match kind {
        CallbackType::EVENT => Ok(&mut run.callbacks.event),
        CallbackType::FAILSAFE => Ok(&mut run.callbacks.failsafe),
        CallbackType::SYSCALL => Ok(&mut run.callbacks.syscall),
        CallbackType::SYSCALL32 => Ok(&mut run.callbacks.syscall32),
        CallbackType::SYSENTER => Ok(&mut run.callbacks.sysenter),
        _ => Err(Errno::ENOSYS),
    }
}
