//! Tests of this crate's halves against each other, the model, and the peers.

mod classes;
mod hostile;
mod protocol;
mod rings;
mod streams;
mod values;
