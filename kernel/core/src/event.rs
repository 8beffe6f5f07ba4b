//! Event channels.
use core::marker::PhantomData;
use crate::platform::Platform;
/// A domain's event channels.
pub struct Events<P: Platform>(PhantomData<P>);
/// A vCPU's queues of FIFO events.
pub struct VcpuFifo<P: Platform>(PhantomData<P>);
impl<P: Platform> VcpuFifo<P> {
    /// None.
    pub fn new() -> Self { Self(PhantomData) }
}
