//! `grant_table_op(op, args, count)`, hypercall 20: not here yet.

use crate::dispatch::{Args, Caller, HcResult};
use crate::platform::Platform;

/// See the head of this file.
pub fn call<P: Platform>(_c: &mut Caller<'_, P>, _a: &mut Args) -> HcResult {
    Err(abi::Errno::ENOSYS.into())
}
