//! The rings between split device halves, as Xen's public headers lay them out, without unsafe code.
//!
//! - [`ring`]: request/response rings, [`Front`](ring::Front) and [`Back`](ring::Back), over any
//!   [`RingMemory`](memory::RingMemory); [`stream`]: the byte rings of console and store.
//! - one file a device class: [`net`] (with [`net_tx`] and [`net_rx`]), [`blk`], [`console`], [`store`], [`pciif`].
//!   Wire structures are open, as a peer may send anything; what a driver works on are checked types of their own.
//! - [`xenbus`], [`keys`], [`net_keys`], [`blk_keys`], [`path`]: how two halves meet through the store.
//! - `peers` (feature `peers`): heap ring memory, polite and hostile peers for every class, for everyone's tests.
//!
//! The rules throughout: cursors are private; a peer's index is read once and bounded once; an entry is copied out,
//! then checked; corruption ends that connection and nothing else; what must be announced is a `#[must_use]` value.
//!
//! # Ordering, and how it is tested
//! Entries are copied without ordering; the producer index is stored with release and loaded with acquire. "Nobody
//! sleeps over work" is a store-then-load handshake on both sides, each with a full fence between. loom checks both
//! for the request ring and the byte rings, over every interleaving:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p ring-proto --release --lib loom
//! ```

#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "peers"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod blk;
pub mod blk_keys;
pub mod console;
pub mod keys;
pub mod memory;
pub mod net;
pub mod net_keys;
pub mod net_rx;
pub mod net_tx;
pub mod path;
pub mod pciif;
pub mod ring;
pub mod store;
pub mod stream;
pub mod sync;
pub mod xenbus;

#[cfg(any(test, feature = "peers"))]
pub mod words;

#[cfg(all(any(test, feature = "peers"), not(loom)))]
pub mod peers;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;
