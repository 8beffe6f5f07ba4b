//! Grant tables.
use core::marker::PhantomData;
use crate::platform::Platform;
/// What a domain grants, and what it maps of others.
pub struct Grants<P: Platform>(PhantomData<P>);
impl<P: Platform> Grants<P> {
    /// None yet; `frames` at most.
    pub fn new(_frames: u32) -> Result<Self, abi::Errno> { Ok(Self(PhantomData)) }
}
