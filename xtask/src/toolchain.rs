//! Which compiler builds the bare-metal images, and the cargo command that does it.
//!
//! In this order: the active toolchain if it has the target, rustup's `target add`, Debian's rustc with its own source
//! of the standard library. All link with GNU ld: one linker, whichever compiler.

use crate::place::Place;
use crate::process::{quiet, which};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The target of the ring-0 image and of every Rust domain.
pub const TARGET: &str = "x86_64-unknown-none";
/// Debian's packages of the last route.
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];
/// rustup may wait for ever for a host it cannot reach; where it can, this is ample.
const RUSTUP_LIMIT: Duration = Duration::from_secs(40);

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";

/// A compiler that can build the images as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The active toolchain, which has the target.
    Active,
    /// Debian's rustc and cargo, building core and alloc from Debian's source.
    Debian,
}

impl Route {
    /// The compiler that is there now, best first; `None` if something must be installed.
    ///
    /// `FERRULE_TOOLCHAIN=active|debian` looks for that one only (for tests of the routes).
    pub fn ready() -> Option<Route> {
        let wanted = std::env::var("FERRULE_TOOLCHAIN").unwrap_or_default();
        let active = ["", "active"].contains(&wanted.as_str()) && active_has_target();
        let debian = ["", "debian"].contains(&wanted.as_str()) && debian_is_there();
        match (active, debian) {
            (true, _) => Some(Route::Active),
            (false, true) => Some(Route::Debian),
            (false, false) => None,
        }
    }

    /// One line for people.
    pub fn describe(self) -> String {
        let version = |program: PathBuf| {
            let out = quiet(Command::new(program).arg("-V"), Duration::from_secs(20));
            out.map(|out| out.text.trim().to_string()).unwrap_or_default()
        };
        match self {
            Route::Active => format!("{} with target {TARGET}", version("rustc".into())),
            Route::Debian => format!("{} of Debian, building core from source", version(debian(DEBIAN_RUSTC))),
        }
    }

    /// `cargo build` for the bare-metal target, profile `image`; the caller adds packages.
    pub fn cargo_build(self, place: &Place) -> Command {
        let mut cargo = match self {
            Route::Active => Command::new("cargo"),
            Route::Debian => Command::new(debian(DEBIAN_CARGO)),
        };
        cargo.current_dir(&place.root).args(["build", "--profile", "image", "--target", TARGET]);
        // What the outer cargo and rustup set for this program must not leak into another toolchain.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC", "CARGO", "LD_LIBRARY_PATH"] {
            cargo.env_remove(name);
        }
        cargo.env("CARGO_TARGET_DIR", place.image_target().join(self.folder()));
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS", "-C linker=ld -C linker-flavor=ld");
        if self == Route::Debian {
            cargo.env("RUSTC", debian(DEBIAN_RUSTC)).env("RUSTC_BOOTSTRAP", "1");
            cargo.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
        }
        cargo
    }

    /// Where [`Route::cargo_build`] leaves an executable of that name.
    pub fn artefact(self, place: &Place, bin: &str) -> PathBuf {
        place.image_target().join(self.folder()).join(TARGET).join("image").join(bin)
    }

    /// A folder for each compiler: they do not share artefacts.
    fn folder(self) -> &'static str {
        match self {
            Route::Active => "active",
            Route::Debian => "debian",
        }
    }
}

fn active_has_target() -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    let Ok(out) = quiet(&mut rustc, Duration::from_secs(20)) else {
        return false;
    };
    let has_core = |dir: &Path| {
        std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("libcore-")
        })
    };
    out.ok && out.text.lines().next().is_some_and(|dir| has_core(Path::new(dir)))
}

fn debian_is_there() -> bool {
    let files = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_SOURCE];
    if !files.iter().all(|file| debian(file).exists()) {
        return false;
    }
    let version = quiet(Command::new(debian(DEBIAN_RUSTC)).arg("-V"), Duration::from_secs(20));
    version.is_ok_and(|out| out.ok && minor(&out.text) >= minor(env!("CARGO_PKG_RUST_VERSION")))
}

/// A file of Debian's toolchain; below `FERRULE_DEBIAN_ROOT` if that is set (for tests of the routes).
fn debian(file: &str) -> PathBuf {
    match std::env::var_os("FERRULE_DEBIAN_ROOT") {
        Some(root) => Path::new(&root).join(file.trim_start_matches('/')),
        None => file.into(),
    }
}

/// The minor number of the first `1.N` in a version line.
fn minor(text: &str) -> u32 {
    let version = text.split_whitespace().find(|word| word.starts_with("1.")).unwrap_or("1.0");
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// Lets rustup fetch the target, within a time-out; whether the target is there afterwards.
pub fn add_by_rustup() -> Result<bool> {
    if which("rustup").is_none() || std::env::var("FERRULE_TOOLCHAIN").is_ok_and(|wanted| wanted == "debian") {
        return Ok(false);
    }
    println!(
        "installing: rustup target add {TARGET}  (12 MB, some seconds; given up after {} s)",
        RUSTUP_LIMIT.as_secs()
    );
    let added = quiet(Command::new("rustup").args(["target", "add", TARGET]), RUSTUP_LIMIT)?;
    if !added.ok {
        let reason = added.text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        println!("  rustup could not: {}", reason.trim());
    }
    Ok(added.ok && active_has_target())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_either_kind_of_line() {
        assert_eq!(minor("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"), 96);
        assert_eq!(minor("1.95"), 95);
        assert_eq!(minor("no version here"), 0);
    }
}
