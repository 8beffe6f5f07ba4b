//! Grant tables.
use core::marker::PhantomData;
use crate::platform::Platform;
/// What a domain grants, and what it maps of others.
pub struct Grants<P: Platform>(PhantomData<P>);
