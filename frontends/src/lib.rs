//! Frontends of split devices for Rust guests, in the shapes that the ecosystem's crates expect.
//!
//! - [`net`]: a network interface, an `embassy_net_driver::Driver`; [`stack`]: it under `embassy-net`, by DHCP.
//! - [`blk`]: a disk, a `block_device_driver::BlockDevice`; [`files`] and [`cache`]: an ext4 file system on one.
//! - The console is `domain_rt::pvconsole::Console`, an `embedded_io_async::Read` and `Write`.
//! - [`http`], [`ping`], [`partitions`], [`options`]: what the guests `web` and `client` need besides.
//!
//! No backend is trusted: what it answers is checked by the rings' halves, what it writes is copied out first, and one
//! that dies is met again when it is back.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod blk;
pub mod cache;
pub mod files;
pub mod http;
pub mod net;
pub mod options;
pub mod partitions;
pub mod ping;
pub mod slice;
pub mod stack;

use alloc::format;
use alloc::vec::Vec;
use domain_rt::store::{Error, Store, StoreError};
use domain_rt::xenbus::Half;
use embassy_time::{Duration, Timer};
use ring_proto::path::{Class, decimal};
use ring_proto::xenbus::{FrontStep, State, front_step};

/// How long a frontend whose backend closed waits before it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// What a frontend does now. A backend that has given up before the two met is asked again, after a while.
async fn step(half: &mut Half, peer: State) -> Result<FrontStep, Error> {
    if (half.state(), peer) == (State::Initialising, State::Closed) {
        Timer::after(RETRY).await;
        half.set_state(State::Initialising).await?;
    }
    Ok(front_step(half.state(), peer))
}

/// Waits until the toolstack links a frontend to another backend than `known`, or to none.
async fn moved(store: Store, backend_key: &str, known: &str) -> Result<(), Error> {
    let mut watch = store.watch(backend_key).await?;
    loop {
        watch.changed().await?;
        if store.read_if_there(backend_key).await?.as_deref() != Some(known) {
            return Ok(());
        }
    }
}

/// The numbers of the devices of a class that the toolstack gave this domain, in order.
pub async fn devices(store: Store, class: Class) -> Result<Vec<u32>, Error> {
    let names = match store.list(&format!("device/{}", class.name())).await {
        Err(Error::Store(StoreError::Enoent)) => Vec::new(),
        names => names?,
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| decimal(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
