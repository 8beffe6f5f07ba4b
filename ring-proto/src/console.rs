//! The console page of Xen's `io/console.h`: bytes to the guest and bytes from it.

use crate::memory::RingMemory;
use crate::stream::{Consumer, Producer, StreamLayout, Wake};

/// Keystrokes, towards the guest: 1024 bytes.
pub const IN: StreamLayout = StreamLayout { data: 0, size: 1024, cons: 3072, prod: 3076 };
/// Output of the guest: 2048 bytes.
pub const OUT: StreamLayout = StreamLayout { data: 1024, size: 2048, cons: 3080, prod: 3084 };

const _: () = assert!(OUT.data == IN.data + IN.size as usize && IN.cons == OUT.data + OUT.size as usize);
const _: () = assert!(IN.end() == 3080 && OUT.end() == 3088);

/// The guest's end of a console page.
#[derive(Debug)]
pub struct Front<M> {
    /// What was typed.
    pub input: Consumer<M>,
    /// What the guest prints.
    pub output: Producer<M>,
}

/// The console daemon's end of a console page.
#[derive(Debug)]
pub struct Back<M> {
    /// What is typed.
    pub input: Producer<M>,
    /// What the guest printed.
    pub output: Consumer<M>,
}

impl<M: RingMemory + Clone> Front<M> {
    /// Takes the guest's end. Every change is announced: foreign daemons do not look again before they sleep.
    pub fn new(page: M) -> Self {
        Self { input: Consumer::new(page.clone(), IN, Wake::Always), output: Producer::new(page, OUT, Wake::Always) }
    }
}

impl<M: RingMemory + Clone> Back<M> {
    /// Takes the daemon's end. Typed bytes are always announced; space only to a guest that had filled the ring.
    pub fn new(page: M) -> Self {
        Self { input: Producer::new(page.clone(), IN, Wake::Always), output: Consumer::new(page, OUT, Wake::WhenIdle) }
    }
}
