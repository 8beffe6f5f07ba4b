//! `cargo xtask guest`: what Linux guests start from, made of Debian's packages into target/ferrule/guests/.

pub mod debian;
pub mod load;
mod mini;
pub mod native;
pub mod xen_dom0;

use crate::packages::{Package, behind, unpacked};
use crate::place::Place;
use anyhow::Result;
use std::path::PathBuf;

/// A Linux guest that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Guest {
    /// Debian's kernel, busybox and the two frontend modules: boots in seconds
    Mini,
    /// Debian 12 with systemd, nginx, PostgreSQL, sshd and load generators: a disk of 4 GiB, about 2 of them written
    Debian,
    /// The initial domain of the peer, Debian's Xen: Debian's kernel, xl and busybox
    XenDom0,
}

/// Makes it anew.
pub fn command(place: &Place, guest: Guest) -> Result<()> {
    let boot = match guest {
        Guest::Mini => mini::make(place).map(|()| "run --config examples/linux-mini.toml")?,
        Guest::Debian => debian::make(place).map(|()| "run --config examples/debian.toml")?,
        Guest::XenDom0 => xen_dom0::make(place).map(|()| "peer")?,
    };
    println!("made in {}; boot it: cargo xtask {boot}", place.show(&dir(place)));
    Ok(())
}

/// A file that a manifest names and a guest of ours is made of; made first if it is not there, or older than its parts.
pub fn file(place: &Place, name: &str) -> Result<Option<PathBuf>> {
    if mini::FILES.contains(&name) {
        if mini::is_stale(place) {
            mini::make(place)?;
        }
    } else if load::FILES.contains(&name) {
        if load::is_stale(place) {
            load::make(place)?;
        }
    } else if debian::FILES.contains(&name) || name == debian::SECOND {
        if debian::is_stale(place) {
            debian::make(place)?;
        }
        if name == debian::SECOND {
            debian::second(place)?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(dir(place).join(name)))
}

/// The files of Debian's kernel package.
fn kernel(place: &Place) -> Result<PathBuf> {
    let name = behind("linux-image-amd64", "linux-image-")?;
    unpacked(place, Package { name: &name, megabytes: 71 })
}

/// Where what is made lies.
pub fn dir(place: &Place) -> PathBuf {
    place.out().join("guests")
}
