//! What `cargo metadata` says of the workspace.

use crate::place::Place;
use crate::process::stdout_of;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::process::Command;

/// The workspace's packages.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// Every member.
    pub packages: Vec<Package>,
}

/// One member.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name in Cargo.toml.
    pub name: String,
    /// The path of its Cargo.toml.
    pub manifest_path: std::path::PathBuf,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
    /// Its libraries, executables and tests.
    pub targets: Vec<Target>,
}

/// One dependency, local or not.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The package's own name, whatever it is renamed to.
    pub name: String,
    /// `None` for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
}

/// One build target.
#[derive(Debug, Deserialize)]
pub struct Target {
    /// Its name: an executable's file name.
    pub name: String,
    /// `bin`, `lib`, `test` and so on.
    pub kind: Vec<String>,
    /// The file the compiler starts at.
    pub src_path: std::path::PathBuf,
}

impl Metadata {
    /// Asks cargo; reads no registry.
    pub fn read(place: &Place) -> Result<Metadata> {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&place.root).args(["metadata", "--no-deps", "--format-version", "1"]);
        serde_json::from_str(&stdout_of(&mut cargo)?).context("reading cargo metadata")
    }

    /// A member by name.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

impl Package {
    /// Its folder.
    pub fn dir(&self) -> &std::path::Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }

    /// The files where its libraries and executables begin.
    pub fn crate_roots(&self) -> impl Iterator<Item = &std::path::Path> {
        let counts = |kind: &String| kind == "bin" || kind == "lib" || kind == "proc-macro";
        self.targets.iter().filter(move |target| target.kind.iter().any(counts)).map(|t| t.src_path.as_path())
    }

    /// The names of its executables.
    pub fn bins(&self) -> impl Iterator<Item = &str> {
        let is_bin = |target: &&Target| target.kind.iter().any(|kind| kind == "bin");
        self.targets.iter().filter(is_bin).map(|target| target.name.as_str())
    }
}
