//! cpio archives of the "new ASCII" kind (magic 070701), which every tool of the field reads: dom0's ramdisk, and the
//! initial file systems of Linux guests.

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// Types of file, in a mode (cpio(5)).
const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR_FILE: u32 = 0o100_000;

impl Archive {
    /// Adds a file with its permissions.
    pub fn file(mut self, name: &str, permissions: u32, bytes: &[u8]) -> Self {
        self.entry(name, REGULAR_FILE | permissions, (0, 0), bytes);
        self
    }

    /// Adds a folder.
    pub fn folder(mut self, name: &str) -> Self {
        self.entry(name, FOLDER | 0o755, (0, 0), &[]);
        self
    }

    /// Adds a character device by its numbers.
    pub fn device(mut self, name: &str, numbers: (u32, u32)) -> Self {
        self.entry(name, CHARACTER_DEVICE | 0o600, numbers, &[]);
        self
    }

    /// The archive, with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.entries += 1;
        let archive = &mut self.bytes;
        let name_len = name.len() as u32 + 1;
        archive.extend(b"070701");
        // inode, mode, uid, gid, links, time, size, device it is on, device it is, length of the name, checksum
        let (major, minor) = device;
        for field in [self.entries, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, major, minor, name_len, 0] {
            archive.extend(format!("{field:08x}").bytes());
        }
        archive.extend(name.bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

/// Packs files, in the order given, under their names.
pub fn pack<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    files.into_iter().fold(Archive::default(), |archive, (name, bytes)| archive.file(name, 0o644, bytes)).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_layout_is_the_one_written_down() {
        let archive = pack([("a", &b"hello"[..])]);
        assert_eq!(&archive[..14], b"07070100000001");
        assert_eq!(&archive[110..112], b"a\0");
        assert_eq!(&archive[112..117], b"hello");
        assert_eq!(&archive[120..126], b"070701");
        assert_eq!(archive.len() % 4, 0);
    }

    #[test]
    fn the_field_s_own_tool_reads_it() {
        if crate::process::which("cpio").is_none() {
            return; // the layout test stands alone there
        }
        let archive = pack([("one", &b"1"[..]), ("dir/two", &b"22"[..])]);
        let mut cpio = Command::new("cpio");
        let mut child =
            cpio.arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "one\ndir/two\n");
    }
}
