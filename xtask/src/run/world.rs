//! What the machine finds when it starts: a disk with files to serve, a ramdisk with dom0's manifest and images.

use crate::build::{Part, built};
use crate::cpio;
use crate::disk::{Partition, create, noise};
use crate::guest;
use crate::place::Place;
use crate::run::http::sha256;
use crate::unable;
use anyhow::{Context, Result};
use dom0::manifest::{Domain, Manifest};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;
/// The manifest's name in the ramdisk.
const MANIFEST: &str = "ferrule.toml";

/// A file on the disk's file system.
pub struct Served {
    /// Its path for the web server.
    pub path: &'static str,
    /// Its size.
    pub bytes: usize,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// The disk: its image, and what is on it.
pub struct Disk {
    /// The image.
    pub image: PathBuf,
    /// Files to fetch and compare; they are also in [`FILES`] beside the image.
    pub served: Vec<Served>,
    /// First byte of the partition `client`.
    client: u64,
}

/// The image's name.
pub const IMAGE: &str = "disk.img";
/// The folder of the files, beside the image.
pub const FILES: &str = "www";
/// The first of the files served.
pub const FIRST: &str = "/8m.bin";

impl Disk {
    /// What is in the partition `client` now.
    pub fn read_client(&self, start: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        File::open(&self.image)?.read_exact_at(&mut bytes, self.client + start)?;
        Ok(bytes)
    }
}

/// Makes `disk.img` in a folder anew: the partition `web` with a file system and files, `client` empty.
pub fn disk(dir: &Path) -> Result<Disk> {
    let files = dir.join(FILES);
    std::fs::create_dir_all(files.join("deep/er"))?;
    let noise = noise(64 * MIB);
    let text = b"A file from an ext4 file system, through blkback and netback.\n".repeat(3);
    let contents: [(&str, &[u8]); 4] =
        [(FIRST, &noise[..8 * MIB]), ("/64m.bin", &noise), ("/hello.txt", &text), ("/deep/er/file.txt", b"deep\n")];
    let mut served = Vec::new();
    for (path, bytes) in contents {
        std::fs::write(files.join(path.trim_start_matches('/')), bytes)?;
        served.push(Served { path, bytes: bytes.len(), sha256: sha256(bytes) });
    }
    let image = dir.join(IMAGE);
    let partitions = [
        Partition { name: "web", bytes: 96 << 20, files: Some(files) },
        Partition { name: "client", bytes: 16 << 20, files: None },
    ];
    let offsets = create(&image, &partitions)?;
    let client = *offsets.last().context("a partition `client`")?;
    Ok(Disk { image, served, client })
}

/// Writes a ramdisk for dom0: the manifest, then files by the names dom0 finds them under.
pub fn ramdisk(to: &Path, manifest: &[u8], files: &[(String, PathBuf)]) -> Result<()> {
    let mut contents = vec![(MANIFEST, manifest.to_vec())];
    for (name, path) in files {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        contents.push((name, bytes));
    }
    let archive = cpio::pack(contents.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
    std::fs::write(to, archive).with_context(|| format!("writing {}", to.display()))
}

/// The disk image that a manifest names: the tour's, one of a guest of ours, or a file beside the manifest.
pub fn image(place: &Place, name: &str, beside: &Path, tour: &Path) -> Result<PathBuf> {
    if name == IMAGE {
        return Ok(tour.to_path_buf());
    }
    let beside_it = Some(beside.join(name)).filter(|path| path.is_file());
    match beside_it.map_or_else(|| guest::file(place, name), |path| Ok(Some(path)))? {
        Some(path) => Ok(path),
        None => unable!("no disk image {name}: neither made by `cargo xtask guest` nor in {}", beside.display()),
    }
}

/// The files that a manifest names: images of ours, or files beside the manifest.
pub fn named(place: &Place, manifest: &Manifest, beside: &Path) -> Result<Vec<(String, PathBuf)>> {
    let named = |domain: &Domain| [Some(domain.kernel.clone()), domain.ramdisk.clone()];
    let mut names: Vec<String> = manifest.domains.iter().flat_map(named).flatten().collect();
    names.sort();
    names.dedup();
    let find = |name: String| {
        let own = built(place, Part::Domains, &name);
        let beside_it = || Some(beside.join(&name)).filter(|path| path.is_file());
        let found = match own.or_else(beside_it) {
            None => guest::file(place, &name)?,
            found => found,
        };
        match found {
            Some(path) => Ok((name, path)),
            None => unable!("no image {name}: neither built by us nor in {}", beside.display()),
        }
    };
    names.into_iter().map(find).collect()
}

/// The files of folders, by their names.
pub fn added(folders: &[PathBuf]) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { unable!("--add: no folder {}", folder.display()) };
        for entry in entries {
            let path = entry?.path();
            if path.is_file() {
                files.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path));
            }
        }
    }
    files.sort();
    Ok(files)
}
