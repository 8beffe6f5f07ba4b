//! Disk images: a GPT disk with file systems in its partitions, made without a mount and without root.

use crate::process::stdout_of;
use anyhow::{Context, Result, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECTOR: u64 = 512;
/// Partitions start and end on this.
const ALIGN: u64 = 1 << 20;

/// A partition to be.
pub struct Partition {
    /// Its name in the GPT.
    pub name: &'static str,
    /// Its size; a multiple of 1 MiB.
    pub bytes: u64,
    /// A folder whose files go into an ext4 file system; `None` leaves the partition as zeroes.
    pub files: Option<PathBuf>,
}

/// Writes a disk image with these partitions, in this order; the partitions' first bytes.
pub fn create(path: &Path, partitions: &[Partition]) -> Result<Vec<u64>> {
    let content: u64 = partitions.iter().map(|partition| partition.bytes).sum();
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    // The first and the last MiB hold the two copies of the table.
    let size = content + 2 * ALIGN;
    file.set_len(size)?;
    drop(file);
    let offsets = table(path, size, partitions)?;
    for (partition, offset) in partitions.iter().zip(&offsets) {
        if let Some(files) = &partition.files {
            ext4(path, *offset, partition, files)?;
        }
    }
    Ok(offsets)
}

/// Writes the partition table; the partitions' first bytes.
fn table(path: &Path, size: u64, partitions: &[Partition]) -> Result<Vec<u64>> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let last = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(last).overwrite_lba0(&mut file)?;
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, None)?;
    let mut offsets = Vec::new();
    for partition in partitions {
        ensure!(partition.bytes.is_multiple_of(ALIGN), "{}: a size in whole MiB", partition.name);
        let kind = gpt::partition_types::LINUX_FS;
        let id = disk.add_partition(partition.name, partition.bytes, kind, 0, Some(ALIGN / SECTOR))?;
        let made = disk.partitions().get(&id).context("the partition just added")?;
        offsets.push(made.first_lba * SECTOR);
    }
    disk.write()?;
    Ok(offsets)
}

fn ext4(disk: &Path, offset: u64, partition: &Partition, files: &Path) -> Result<()> {
    let mut mke2fs = Command::new(crate::process::which("mke2fs").context("mke2fs is not there")?);
    // A file system that every reader of ext4 knows; the same bytes for the same files.
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"]);
    mke2fs.args(["-O", "^has_journal,^metadata_csum_seed,^orphan_file", "-L", partition.name]);
    mke2fs.args(["-E", &format!("offset={offset},root_owner=0:0,hash_seed={ID}"), "-U", ID]);
    mke2fs.arg("-d").arg(files).arg(disk).arg(format!("{}k", partition.bytes / 1024));
    mke2fs.env("E2FSPROGS_FAKE_TIME", "1577836800"); // 2020-01-01
    stdout_of(&mut mke2fs).with_context(|| format!("making the file system {}", partition.name))?;
    Ok(())
}

/// Any fixed identity will do: the image lives and dies with its machine.
const ID: &str = "fe44013e-0000-4000-8000-000000000001";

/// `len` bytes that do not compress and are the same every time (xorshift64, Marsaglia 2003).
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::which;

    #[test]
    fn noise_is_the_same_each_time_and_of_any_length() {
        assert_eq!(noise(13), noise(16)[..13]);
        assert_ne!(noise(16)[..8], noise(16)[8..]);
    }

    /// Needs e2fsprogs, which `cargo xtask test` installs before it runs the unit tests.
    #[test]
    fn a_disk_holds_its_files_where_its_table_says() {
        let (Some(_), Some(debugfs)) = (which("mke2fs"), which("debugfs")) else {
            return;
        };
        let dir = std::env::temp_dir().join(format!("ferrule-disk-{}", std::process::id()));
        let files = dir.join("files/deep");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("hello.txt"), "hello from the image").unwrap();
        let image = dir.join("disk.img");
        let partitions = [
            Partition { name: "scratch", bytes: ALIGN, files: None },
            Partition { name: "www", bytes: 8 * ALIGN, files: Some(dir.join("files")) },
        ];
        create(&image, &partitions).unwrap();
        let disk = gpt::GptConfig::new().open(&image).unwrap();
        let www = disk.partitions().values().find(|p| p.name == "www").unwrap();
        assert_eq!(www.bytes_len(LogicalBlockSize::Lb512).unwrap(), 8 * ALIGN);
        let offset = www.first_lba * SECTOR;
        let bytes = std::fs::read(&image).unwrap();
        std::fs::write(dir.join("part"), &bytes[offset as usize..]).unwrap();
        let cat = Command::new(debugfs).args(["-R", "cat /deep/hello.txt"]).arg(dir.join("part")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&cat.stdout), "hello from the image");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
