//! What fuzz targets stand on.
//!
//! A [`Target`] is a world, and a way to take one more hostile step in it. All that is random about it comes from
//! [`Choices`], and that is the one seam: choices come from a seed (a campaign: [`campaign`]) or from bytes (a property
//! test, which shrinks them, or libFuzzer, which coverage guides: [`run`], [`replay`]). A target panics where something
//! is wrong, and counts in a [`Tally`] what it did and what came of it; a campaign fails if too little of that
//! succeeded, or if something that the target names was never reached.
//!
//! `cargo xtask fuzz` runs the campaigns, by seed or (`--coverage`) by libFuzzer. Each is a test of its crate that is
//! ignored otherwise, named `campaign_TARGET`.

#![forbid(unsafe_code)]

mod campaign;
mod choices;
pub mod corpus;
#[cfg(fuzzing_libfuzzer)]
mod guided;
mod tally;

pub use campaign::{campaign, replay, run, slice};
pub use choices::Choices;
pub use tally::Tally;

/// A world, and hostile steps in it.
pub trait Target: Sized {
    /// What people call it.
    const NAME: &'static str;
    /// Steps before the world is made anew.
    const EPISODE: u64 = 1000;
    /// Of 100 operations, at least so many succeed.
    const SUCCEED: u64 = 20;
    /// Operations and outcomes that a campaign must have seen, each at least once.
    const REACHED: &'static [(&'static str, &'static str)];

    /// A new world.
    fn new(choices: &mut Choices<'_>) -> Self;

    /// One more operation, counted with what came of it ([`Tally::OK`] if it succeeded). Panics where something is wrong.
    fn step(&mut self, choices: &mut Choices<'_>, tally: &mut Tally);

    /// What must hold when the world ends.
    fn end(self) {}
}
