//! `domctl`: not here yet.
use crate::dispatch::{Args, Caller, HcResult};
use crate::platform::Platform;

/// The hypercall.
pub fn call<P: Platform>(_: &mut Caller<'_, P>, _: &mut Args) -> HcResult {
    Err(abi::Errno::ENOSYS.into())
}
