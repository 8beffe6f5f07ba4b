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
use crate::{Args, Caller, HcResult, Platform, refuse_if};
use abi::Errno;
use abi::callback::{CallbackOp, CallbackRegister, CallbackType, CallbackUnregister, MASK_EVENTS};
use abi::layout::FLAT_RING3_CS64;
use abi::nmi::{NmiCallback, NmiOp};
use abi::trap::{TrapInfo, vector};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, argument, ..] = a.0;
    match CallbackOp(op as u32) {
        CallbackOp::REGISTER => register(c, c.get(argument)?),
        CallbackOp::UNREGISTER => unregister(c, c.get(argument)?),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `nmi_op` (28): the older way to register (0: `xennmi_callback`) or unregister (1) the NMI's callback.
pub fn nmi_op<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, argument, ..] = a.0;
    match NmiOp(op as u32) {
        NmiOp::REGISTER_CALLBACK => {
            let address = c.get::<NmiCallback>(argument)?.handler_address;
            register(c, CallbackRegister { kind: CallbackType::NMI, address, ..Default::default() })
        }
        NmiOp::UNREGISTER_CALLBACK => unregister(c, CallbackUnregister { kind: CallbackType::NMI, _unused: 0 }),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn register<P: Platform>(c: &mut Caller<'_, P>, r: CallbackRegister) -> HcResult {
    refuse_if(!r.address.is_canonical(), Errno::EINVAL)?;
    let callbacks = &mut c.run.callbacks;
    let slot = match r.kind {
        CallbackType::EVENT => &mut callbacks.event,
        CallbackType::FAILSAFE => &mut callbacks.failsafe,
        CallbackType::SYSCALL => &mut callbacks.syscall,
        CallbackType::SYSCALL32 => &mut callbacks.syscall32,
        CallbackType::SYSENTER => &mut callbacks.sysenter,
        CallbackType::NMI => {
            let handler = TrapInfo { vector: vector::NMI, flags: TrapInfo::MASK_EVENTS, ..Default::default() };
            c.run.traps.set(TrapInfo { cs: FLAT_RING3_CS64, address: r.address, ..handler });
            return Ok(0);
        }
        _ => return Err(Errno::ENOSYS.into()),
    };
    *slot = Callback { address: r.address.0, masks: r.flags & MASK_EVENTS != 0 };
    Ok(0)
}

fn unregister<P: Platform>(c: &mut Caller<'_, P>, r: CallbackUnregister) -> HcResult {
    match r.kind {
        CallbackType::NMI => {
            c.run.traps.set(TrapInfo { vector: vector::NMI, ..Default::default() });
            Ok(0)
        }
        CallbackType::EVENT
        | CallbackType::FAILSAFE
        | CallbackType::SYSCALL
        | CallbackType::SYSCALL32
        | CallbackType::SYSENTER => Err(Errno::EINVAL.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}
