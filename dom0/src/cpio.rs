//! The ramdisk: a cpio archive in the `newc` format, read in place.

/// One file of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Its path, without a leading `./` or `/`.
    pub name: &'a str,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// Where the archive is broken, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub usize);

/// Bytes of a header: a magic of 6 and 13 hexadecimal numbers of 8 digits.
const HEADER: usize = 6 + 13 * 8;
const TRAILER: &str = "TRAILER!!!";
/// File type bits of a mode, and the regular file among them.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// The regular files of an archive, in its order; ends after an error.
#[derive(Clone, Debug)]
pub struct Files<'a> {
    archive: &'a [u8],
    at: Option<usize>,
}

/// The files of `archive`. No bytes at all are an archive without files.
pub const fn files(archive: &[u8]) -> Files<'_> {
    Files { archive, at: if archive.is_empty() { None } else { Some(0) } }
}

/// The contents of the file `name`; of the last one, as unpacking would have it.
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    files(archive).flatten().filter(|file| file.name == name).last().map(|file| file.bytes)
}

impl<'a> Files<'a> {
    /// The entry at `at`: whether it is a regular file, what it is, and where the next one starts.
    fn entry(&self, at: usize) -> Option<(bool, File<'a>, usize)> {
        let header = self.archive.get(at..at.checked_add(HEADER)?)?;
        let magic = header.get(..6)?;
        if magic != b"070701" && magic != b"070702" {
            return None;
        }
        let field = |index: usize| {
            let digits = header.get(6 + index * 8..14 + index * 8)?;
            let digits = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u32::from_str_radix(digits, 16).ok()
        };
        let (mode, size, name_size) = (field(1)?, field(6)? as usize, field(11)? as usize);
        let name_end = (at + HEADER).checked_add(name_size)?;
        let name = self.archive.get(at + HEADER..name_end)?.strip_suffix(b"\0")?;
        let start = name_end.checked_next_multiple_of(4)?;
        let end = start.checked_add(size)?;
        let bytes = self.archive.get(start..end)?;
        let name = str::from_utf8(name).ok()?.trim_start_matches("./").trim_start_matches('/');
        Some((mode & TYPE_MASK == REGULAR, File { name, bytes }, end.checked_next_multiple_of(4)?))
    }
}

impl<'a> Iterator for Files<'a> {
    type Item = Result<File<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.at.take()?;
            let Some((regular, file, next)) = self.entry(at) else { return Some(Err(Broken(at))) };
            if file.name == TRAILER {
                return None;
            }
            self.at = Some(next);
            if regular {
                return Some(Ok(file));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn entry(name: &str, mode: u32, bytes: &[u8]) -> Vec<u8> {
        let numbers = [0, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let mut entry = Vec::from(*b"070701");
        numbers.iter().for_each(|number| entry.extend(format!("{number:08x}").bytes()));
        entry.extend(name.bytes());
        entry.push(0);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry.extend(bytes);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    }

    fn archive() -> Vec<u8> {
        [
            entry("./a", REGULAR | 0o644, b"first"),
            entry("dir", 0o040_755, b""),
            entry("dir/b", REGULAR, b"12345678"),
            entry("a", REGULAR, b"second"),
            entry(TRAILER, 0, b""),
        ]
        .concat()
    }

    #[test]
    fn files_are_found() {
        let archive = archive();
        let names: Vec<&str> = files(&archive).map(|file| file.unwrap().name).collect();
        assert_eq!(names, ["a", "dir/b", "a"]);
        assert_eq!(find(&archive, "dir/b"), Some(&b"12345678"[..]));
        assert_eq!(find(&archive, "a"), Some(&b"second"[..]));
        assert_eq!((find(&archive, "dir"), find(b"", "a")), (None, None));
    }

    #[test]
    fn damage_has_a_place_and_ends_the_archive() {
        let mut archive = archive();
        let second = entry("./a", 0, b"first").len();
        archive[second] = b'x';
        let found: Vec<_> = files(&archive).collect();
        assert_eq!(found[1..], [Err(Broken(second))]);
        assert_eq!(files(b"070701").collect::<Vec<_>>(), [Err(Broken(0))]);
    }

    proptest! {
        #[test]
        fn any_damage_is_survived(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut archive = archive();
            let at = at.index(archive.len());
            archive[at] = byte;
            prop_assert!(files(&archive).count() < 100);
            prop_assert!(files(&archive[..cut.index(archive.len())]).count() < 100);
        }
    }
}
