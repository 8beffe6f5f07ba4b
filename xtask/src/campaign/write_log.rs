//! What QEMU's `blklogwrites` records: every write of a disk in order, with the flushes between them, in the format of
//! Linux' dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst).

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The format's unit; QEMU's `log-sector-size` is the same.
pub const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// First sector of the disk.
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data begins in the log.
    data: u64,
}

impl Entry {
    /// Where the next entry begins.
    fn end(&self) -> u64 {
        let len = if self.flags & DISCARD != 0 { 0 } else { self.sectors * SECTOR };
        self.data + len
    }
}

/// A log.
pub struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the entries that are whole. The count in its head may be old: QEMU was killed.
    pub fn open(path: &Path) -> Result<WriteLog> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let len = file.metadata()?.len();
        let mut head = [0; 32];
        file.read_exact_at(&mut head, 0).context("a log of writes without a head")?;
        let is_ours = word(&head, 0) == MAGIC && word(&head, 1) == VERSION && word(&head, 3) as u32 == SECTOR as u32;
        // QEMU writes the head with the first flush.
        ensure!(is_ours || head == [0; 32], "{} is no log of writes by sectors of {SECTOR}", path.display());
        let mut entries = Vec::new();
        let mut at = SECTOR;
        while at + SECTOR <= len {
            file.read_exact_at(&mut head, at)?;
            let entry =
                Entry { sector: word(&head, 0), sectors: word(&head, 1), flags: word(&head, 2), data: at + SECTOR };
            let end = entry.end();
            if end > len || (entry.sectors == 0 && entry.flags == 0) {
                break;
            }
            entries.push(entry);
            at = end;
        }
        Ok(WriteLog { file, entries })
    }

    /// Where its last whole entry ends. What is behind that is not known.
    pub fn end(&self) -> u64 {
        self.entries.last().map_or(SECTOR, Entry::end)
    }

    /// How many flushes it has.
    pub fn flushes(&self) -> usize {
        self.entries.iter().filter(|entry| entry.flags & FLUSH != 0).count()
    }

    /// What a disk that was empty at the beginning holds, at the least, once the log had `len` bytes: all writes before
    /// the last flush in them, none after. Returns the number of writes, and of those dropped.
    pub fn replay(&self, len: u64, disk: &File) -> Result<(usize, usize)> {
        let recorded = self.entries.iter().take_while(|entry| entry.end() <= len).count();
        let (mut done, mut dropped) = (0, 0);
        let kept = self.entries.iter().take(recorded).rposition(|entry| entry.flags & FLUSH != 0).unwrap_or(0);
        for (at, entry) in self.entries.iter().take(recorded).enumerate() {
            if entry.sectors == 0 || entry.flags & DISCARD != 0 {
                continue;
            }
            if at > kept {
                dropped += 1;
                continue;
            }
            let mut data = vec![0; (entry.sectors * SECTOR) as usize];
            self.file.read_exact_at(&mut data, entry.data)?;
            disk.write_all_at(&data, entry.sector * SECTOR)?;
            done += 1;
        }
        Ok((done, dropped))
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at * 8..at * 8 + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(u64, u64, u64, u8)]) -> Vec<u8> {
        let sector = |words: [u64; 4]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.resize(SECTOR as usize, 0);
            bytes
        };
        let mut log = sector([MAGIC, VERSION, 0, SECTOR]);
        for (at, sectors, flags, byte) in entries {
            let len = if flags & DISCARD != 0 { 0 } else { sectors * SECTOR };
            log.extend(sector([*at, *sectors, *flags, len]));
            log.extend(vec![*byte; len as usize]);
        }
        log
    }

    fn replayed(name: &str, log: &[u8], len: u64) -> (usize, usize, Vec<u8>) {
        let dir = std::env::temp_dir();
        let (from, to) =
            (dir.join(format!("ferrule-log-{name}-{len}")), dir.join(format!("ferrule-disk-{name}-{len}")));
        std::fs::write(&from, log).unwrap();
        let disk = File::create(&to).unwrap();
        disk.set_len(4 * SECTOR).unwrap();
        let (done, dropped) = WriteLog::open(&from).unwrap().replay(len, &disk).unwrap();
        let bytes = std::fs::read(&to).unwrap().chunks(SECTOR as usize).map(|sector| sector[0]).collect();
        std::fs::remove_file(from).unwrap();
        std::fs::remove_file(to).unwrap();
        (done, dropped, bytes)
    }

    #[test]
    fn what_came_after_the_last_flush_is_lost_and_nothing_else() {
        let log = log(&[(0, 2, 0, 1), (0, 0, FLUSH, 0), (1, 1, 0, 2), (3, 1, FLUSH, 3), (2, 1, 0, 4)]);
        let all = log.len() as u64;
        // The flush that comes with a write comes after it.
        assert_eq!(replayed("all", &log, all), (3, 1, vec![1, 2, 0, 3]));
        // Head, the first write's head and data, the flush; the second write is there, and lost.
        assert_eq!(replayed("first", &log, SECTOR * 7), (1, 1, vec![1, 1, 0, 0]));
    }

    #[test]
    fn without_a_flush_nothing_is_sure() {
        let log = log(&[(0, 1, 0, 1), (1, 1, 0, 2)]);
        let (_, dropped, bytes) = replayed("none", &log, log.len() as u64);
        assert_eq!((dropped, bytes[1]), (1, 0));
    }

    #[test]
    fn a_log_cut_in_the_middle_ends_with_its_last_whole_entry() {
        let log = log(&[(0, 1, FLUSH, 1), (1, 2, 0, 2)]);
        let cut = &log[..log.len() - 10];
        let whole = SECTOR * 3;
        assert_eq!(replayed("cut", cut, whole), (1, 0, vec![1, 0, 0, 0]));
        assert_eq!(replayed("cut", cut, u64::MAX), (1, 0, vec![1, 0, 0, 0]));
    }
}
