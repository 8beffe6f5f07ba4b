//! Files of an ext4 file system on an asynchronous disk.

use crate::cache::{BLOCK, Cache};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use block_device_driver::{BlockDevice, slice_to_blocks_mut};
use core::error::Error;
use core::fmt;
use ext4_view::{Ext4, Ext4Error, Ext4Read, File};

/// Bytes of a sector of the disks taken.
pub const SECTOR: usize = 512;
/// Blocks fetched at a time.
const AHEAD: u64 = 32;
/// Most fetches that one operation may need.
const MAX_FETCHES: usize = 4096;

/// Why something cannot be read.
#[derive(Debug)]
pub enum FilesError<E> {
    /// The file system says so.
    FileSystem(Ext4Error),
    /// The disk failed.
    Disk(E),
    /// One operation needed more blocks at a time than the cache holds.
    TooLarge,
}

impl<E: fmt::Debug> fmt::Display for FilesError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileSystem(error) => write!(f, "{error}"),
            Self::Disk(error) => write!(f, "disk: {error:?}"),
            Self::TooLarge => f.write_str("too large for the cache"),
        }
    }
}

/// The file system's view of the cache.
struct Reader(Cache);

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, out: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.0.read(start, out)??)
    }
}

/// A file or directory as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// Bytes of a file.
    pub size: u64,
}

/// A file system, read only.
pub struct Files<D> {
    disk: D,
    cache: Cache,
    fs: Ext4,
}

impl<D> fmt::Debug for Files<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Files({} blocks cached)", self.cache.len())
    }
}

/// Runs `read` until it needs no block that is not in the cache.
async fn read_with<D: BlockDevice<SECTOR>, T>(
    disk: &mut D,
    cache: &Cache,
    mut read: impl FnMut() -> Result<T, Ext4Error>,
) -> Result<T, FilesError<D::Error>> {
    for _ in 0..MAX_FETCHES {
        cache.take_missing();
        let error = match read() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Some(missing) = cache.take_missing() else { return Err(FilesError::FileSystem(error)) };
        let wanted = cache.plan(missing, AHEAD);
        let start = wanted.start * BLOCK as u64;
        let bytes = (wanted.end * BLOCK as u64).min(cache.size()).saturating_sub(start) as usize;
        let mut buffer = vec![0; bytes.next_multiple_of(SECTOR)];
        let sector = u32::try_from(start / SECTOR as u64).map_err(|_| FilesError::TooLarge)?;
        disk.read(sector, slice_to_blocks_mut(&mut buffer)).await.map_err(FilesError::Disk)?;
        cache.insert(wanted.start, buffer.get(..bytes).unwrap_or(&[]));
    }
    Err(FilesError::TooLarge)
}

impl<D: BlockDevice<SECTOR>> Files<D> {
    /// Opens the file system on `disk`, with a cache of `capacity` blocks of 4 KiB.
    pub async fn open(mut disk: D, capacity: usize) -> Result<Self, FilesError<D::Error>> {
        let size = disk.size().await.map_err(FilesError::Disk)?;
        let cache = Cache::new(capacity, size);
        let load = || Ext4::load(Box::new(Reader(cache.clone())));
        let fs = read_with(&mut disk, &cache, load).await?;
        Ok(Self { disk, cache, fs })
    }

    /// What a directory holds, without `.` and `..`.
    pub async fn list(&mut self, path: &str) -> Result<Vec<Entry>, FilesError<D::Error>> {
        let fs = &self.fs;
        let list = || {
            let mut entries = Vec::new();
            for entry in fs.read_dir(path)? {
                let entry = entry?;
                let name = String::from_utf8_lossy(entry.file_name().as_ref()).into_owned();
                if name != "." && name != ".." {
                    let metadata = entry.metadata()?;
                    entries.push(Entry { name, directory: metadata.is_dir(), size: metadata.len() });
                }
            }
            Ok(entries)
        };
        read_with(&mut self.disk, &self.cache, list).await
    }

    /// Opens a file; its size in bytes.
    pub async fn open_file(&mut self, path: &str) -> Result<(File, u64), FilesError<D::Error>> {
        let fs = &self.fs;
        let file = read_with(&mut self.disk, &self.cache, || fs.open(path)).await?;
        let size = file.metadata().len();
        Ok((file, size))
    }

    /// Moves to a position in a file.
    pub async fn seek(&mut self, file: &mut File, position: u64) -> Result<(), FilesError<D::Error>> {
        read_with(&mut self.disk, &self.cache, || file.seek_to(position)).await
    }

    /// Reads on from the file's position; 0 bytes only at its end.
    pub async fn read(&mut self, file: &mut File, out: &mut [u8]) -> Result<usize, FilesError<D::Error>> {
        let position = file.position();
        let mut again = false;
        let mut read = || {
            if again {
                // A read that failed half-way may have lost its place among the file's blocks.
                file.seek_to(position)?;
            }
            again = true;
            file.read_bytes(out)
        };
        read_with(&mut self.disk, &self.cache, &mut read).await
    }
}
