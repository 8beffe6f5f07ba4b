//! Timers, runstate, time pages.
use core::marker::PhantomData;
use crate::platform::Platform;
/// A CPU's timer queue.
pub struct Timers<P: Platform>(PhantomData<P>);
impl<P: Platform> Timers<P> {
    /// Empty.
    pub fn new() -> Self { Self(PhantomData) }
}
/// A vCPU's timers and runstate.
pub struct VcpuTime<P: Platform>(PhantomData<P>);
impl<P: Platform> VcpuTime<P> {
    /// None.
    pub fn new() -> Self { Self(PhantomData) }
}
/// A domain's clock.
pub struct DomainClock;
