//! What the machine finds when it starts: a disk with files to serve, a ramdisk with dom0's manifest and images.

use crate::build::{Part, built};
use crate::cpio;
use crate::disk::{Partition, create, noise};
use crate::place::Place;
use crate::run::http::sha256;
use anyhow::{Context, Result};
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
    /// Files to fetch and compare.
    pub served: Vec<Served>,
}

/// Makes target/ferrule/run/disk.img anew: `web` with a file system and files, `client` empty.
pub fn disk(place: &Place) -> Result<Disk> {
    let dir = place.out().join("run");
    let files = dir.join("www");
    std::fs::create_dir_all(files.join("deep/er"))?;
    let noise = noise(64 * MIB);
    let text = b"A file from an ext4 file system, through blkback and netback.\n".repeat(3);
    let contents: [(&str, &[u8]); 4] =
        [("/8m.bin", &noise[..8 * MIB]), ("/64m.bin", &noise), ("/hello.txt", &text), ("/deep/er/file.txt", b"deep\n")];
    let mut served = Vec::new();
    for (path, bytes) in contents {
        std::fs::write(files.join(path.trim_start_matches('/')), bytes)?;
        served.push(Served { path, bytes: bytes.len(), sha256: sha256(bytes) });
    }
    let image = dir.join("disk.img");
    let partitions = [
        Partition { name: "web", bytes: 96 << 20, files: Some(files) },
        Partition { name: "client", bytes: 16 << 20, files: None },
    ];
    create(&image, &partitions)?;
    Ok(Disk { image, served })
}

/// Makes target/ferrule/ferrule-ramdisk: the manifest, the images it may name, and the files of `add`.
pub fn ramdisk(place: &Place, manifest: &Path, images: &[String], add: &[PathBuf]) -> Result<PathBuf> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut files = vec![(MANIFEST.to_string(), read(manifest)?)];
    for name in images {
        let image = built(place, Part::Domains, name).with_context(|| format!("no image {name}"))?;
        files.push((name.clone(), read(&image)?));
    }
    for dir in add {
        let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                files.push((name, read(&path)?));
            }
        }
    }
    let to = place.out().join("ferrule-ramdisk");
    std::fs::write(&to, cpio::pack(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))))?;
    Ok(to)
}
