//! `cargo xtask guest`: what Linux guests start from, made of Debian's packages into target/ferrule/guests/.

mod mini;

use crate::place::Place;
use anyhow::Result;
use std::path::PathBuf;

/// A Linux guest that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Guest {
    /// Debian's kernel, busybox and the two frontend modules: boots in seconds
    Mini,
}

/// Makes it anew.
pub fn command(place: &Place, guest: Guest) -> Result<()> {
    match guest {
        Guest::Mini => mini::make(place)?,
    }
    println!("made in {}; boot it: cargo xtask run --config examples/linux-mini.toml", place.show(&dir(place)));
    Ok(())
}

/// A file that a manifest names and a guest of ours is made of; made first if it is not there, or older than its parts.
pub fn file(place: &Place, name: &str) -> Result<Option<PathBuf>> {
    if !mini::FILES.contains(&name) {
        return Ok(None);
    }
    if mini::is_stale(place) {
        mini::make(place)?;
    }
    Ok(Some(dir(place).join(name)))
}

fn dir(place: &Place) -> PathBuf {
    place.out().join("guests")
}
