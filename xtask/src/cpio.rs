//! The ramdisk: a cpio archive of the "new ASCII" kind (magic 070701), which every tool of the field reads.

/// Packs files, in the order given, under their names.
pub fn pack<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut archive = Vec::new();
    for (index, (name, bytes)) in files.into_iter().enumerate() {
        entry(&mut archive, index as u32 + 1, name, bytes);
    }
    entry(&mut archive, 0, "TRAILER!!!", &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, inode: u32, name: &str, bytes: &[u8]) {
    const REGULAR_FILE: u32 = 0o100644;
    let mode = if inode == 0 { 0 } else { REGULAR_FILE };
    let name_len = name.len() as u32 + 1;
    archive.extend(b"070701");
    // inode, mode, uid, gid, links, time, size, device and its own (two each), length of the name, checksum
    for field in [inode, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, name_len, 0] {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
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
