//! Machine frames: what each is, who owns it, and which are free.
use abi::Mfn;
use crate::platform::Platform;
use crate::sync::Lock;

/// A machine frame that is known to be in the frame table: RAM, so that its contents can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame(u32);

impl Frame {
    /// Its number.
    pub fn mfn(self) -> Mfn {
        Mfn(u64::from(self.0))
    }
}

/// The frame table.
pub struct FrameTable;

/// The free frames.
pub struct Allocator<P: Platform>(Lock<P, ()>);
