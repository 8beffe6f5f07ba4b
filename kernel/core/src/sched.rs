//! Who runs where.
use core::marker::PhantomData;
use crate::platform::Platform;
/// A CPU's run queue.
pub struct Queue<P: Platform>(PhantomData<P>);
impl<P: Platform> Queue<P> {
    /// Empty.
    pub fn new() -> Self { Self(PhantomData) }
}
/// What the scheduler knows of a vCPU.
pub struct VcpuSched<P: Platform>(PhantomData<P>);
impl<P: Platform> VcpuSched<P> {
    /// Down.
    pub fn new() -> Self { Self(PhantomData) }
}
