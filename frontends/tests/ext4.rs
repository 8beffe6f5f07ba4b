//! Files of a file system that `mke2fs` made, on a disk that answers asynchronously, through a cache too small for it.

use aligned::{A1, Aligned};
use block_device_driver::{BlockDevice, blocks_to_slice_mut};
use embassy_futures::{block_on, yield_now};
use frontends::files::{Entry, Files, FilesError, SECTOR};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

struct RamDisk {
    bytes: Vec<u8>,
    reads: Rc<Cell<usize>>,
}

impl BlockDevice<SECTOR> for RamDisk {
    type Error = ();
    type Align = A1;

    async fn read(&mut self, sector: u32, data: &mut [Aligned<A1, [u8; SECTOR]>]) -> Result<(), ()> {
        yield_now().await;
        self.reads.set(self.reads.get() + 1);
        let data = blocks_to_slice_mut(data);
        let start = sector as usize * SECTOR;
        data.copy_from_slice(self.bytes.get(start..start + data.len()).ok_or(())?);
        Ok(())
    }

    async fn write(&mut self, _sector: u32, _data: &[Aligned<A1, [u8; SECTOR]>]) -> Result<(), ()> {
        Err(())
    }

    async fn size(&mut self) -> Result<u64, ()> {
        Ok(self.bytes.len() as u64)
    }
}

/// Bytes that differ from place to place.
fn content(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn image(name: &str) -> Vec<u8> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let tree = directory.join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("hello.txt"), "hello, file\n").unwrap();
    std::fs::write(tree.join("big.bin"), content(3_000_001)).unwrap();
    std::fs::write(tree.join("sub/inner"), "inner").unwrap();
    let disk = directory.join("disk.img");
    let _ = std::fs::remove_file(&disk);
    let path = std::env::var("PATH").unwrap_or_default();
    let made = Command::new("mke2fs")
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .args(["-q", "-t", "ext4", "-d"])
        .args([Path::new(&tree), &disk])
        .arg("8M")
        .status()
        .expect("mke2fs of e2fsprogs");
    assert!(made.success());
    std::fs::read(disk).unwrap()
}

fn open(name: &str, capacity: usize) -> (Files<RamDisk>, Rc<Cell<usize>>) {
    let reads = Rc::new(Cell::new(0));
    let disk = RamDisk { bytes: image(name), reads: reads.clone() };
    (block_on(Files::open(disk, capacity)).unwrap(), reads)
}

fn read_all(files: &mut Files<RamDisk>, path: &str, from: u64) -> Vec<u8> {
    block_on(async {
        let (mut file, size) = files.open_file(path).await.unwrap();
        files.seek(&mut file, from).await.unwrap();
        let mut all = Vec::new();
        let mut buffer = vec![0; 5000];
        loop {
            match files.read(&mut file, &mut buffer).await.unwrap() {
                0 => break,
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(all.len() as u64, size - from);
        all
    })
}

#[test]
fn files_come_out_as_they_went_in() {
    let (mut files, reads) = open("exact", 64);
    assert_eq!(read_all(&mut files, "/hello.txt", 0), b"hello, file\n");
    assert_eq!(read_all(&mut files, "/sub/inner", 2), b"ner");
    let before = reads.get();
    assert_eq!(read_all(&mut files, "/big.bin", 0), content(3_000_001));
    let fetches = reads.get() - before;
    assert!(fetches <= 60, "3 MB in {fetches} reads of the disk");
    assert_eq!(read_all(&mut files, "/big.bin", 1_234_567), content(3_000_001)[1_234_567..]);
}

#[test]
fn a_directory_is_listed() {
    let (mut files, _) = open("list", 64);
    let list = block_on(files.list("/")).unwrap();
    let entry = |name: &str, directory, size| Entry { name: name.into(), directory, size };
    assert!(list.contains(&entry("hello.txt", false, 12)));
    assert!(list.contains(&entry("big.bin", false, 3_000_001)));
    assert!(list.iter().any(|entry| entry.name == "sub" && entry.directory));
}

#[test]
fn what_is_not_there_is_an_error_and_not_a_wait() {
    let (mut files, _) = open("missing", 64);
    assert!(matches!(block_on(files.open_file("/nothing")), Err(FilesError::FileSystem(_))));
    assert!(matches!(block_on(files.open_file("/hello.txt/x")), Err(FilesError::FileSystem(_))));
    assert!(block_on(Files::open(RamDisk { bytes: vec![7; 1 << 20], reads: Rc::default() }, 64)).is_err());
}
