//! Where things are: the workspace, the target folder, and what this program writes into it.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The folders every command works with.
#[derive(Clone, Debug)]
pub struct Place {
    /// The workspace root.
    pub root: PathBuf,
    /// cargo's target folder: `target`, or what CARGO_TARGET_DIR says.
    pub target: PathBuf,
    /// Take the images in it as they are.
    pub as_built: bool,
    /// Install nothing on this machine.
    pub no_install: bool,
}

impl Place {
    /// The workspace this program was built from.
    pub fn find(as_built: bool, no_install: bool) -> Result<Place> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let xtask = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = xtask.parent().context("xtask has a parent folder")?.to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Place { root, target, as_built, no_install })
    }

    /// What `build` puts out: `ferrule.elf`, the domains' images, the ramdisk.
    pub fn out(&self) -> PathBuf {
        self.target.join("ferrule")
    }

    /// The bare-metal builds' own target folder, so that they and the host's do not evict each other.
    pub fn image_target(&self) -> PathBuf {
        self.target.join("image")
    }

    /// Serial logs, one folder a kind of run. They stay for whoever wants to read them.
    pub fn logs(&self, kind: &str) -> Result<PathBuf> {
        let dir = self.out().join("logs").join(kind);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// The workspace's own files, from its root: all but what git keeps and what was built.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
                let path = entry?.path();
                let is_left_out =
                    [".git", "target"].iter().any(|name| path.file_name().is_some_and(|file| file == *name));
                match path.is_dir() {
                    true if is_left_out || path == self.target => {}
                    true => folders.push(path),
                    false => files.push(self.show(&path).to_string()),
                }
            }
        }
        Ok(files)
    }

    /// A path as people want to read it: from the workspace root where it lies inside.
    pub fn show<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}
