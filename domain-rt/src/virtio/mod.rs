//! virtio devices behind PCI: virtio-drivers' transport, and a split queue of our own.
//!
//! A queue's descriptors are (machine address, length, direction) and can only name memory that a device may use:
//! own [`Pages`](crate::page::Pages) or a peer's page mapped for devices
//! ([`DeviceGrant`](crate::grant::DeviceGrant)).

mod buffer;
mod device;
mod hal;
mod queue;

pub use buffer::{Buffer, Direction};
pub use device::{Features, OpenError, VirtioPci};
pub use queue::{Queue, QueueError, Used};
pub use virtio_drivers::transport::DeviceType;
