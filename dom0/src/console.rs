//! What the domains print: the last of it is kept for each, to be shown when a person looks.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// The byte that leaves a console: Ctrl-].
pub const ESCAPE: u8 = 0x1d;
/// Bytes kept.
const KEPT: usize = 16 << 10;
/// A line longer than this is logged in pieces.
const LINE_MAX: usize = 256;

/// The last bytes a domain printed.
#[derive(Clone, Debug, Default)]
pub struct Scrollback {
    bytes: VecDeque<u8>,
    /// What was printed of a line that has not ended.
    line: Vec<u8>,
}

impl Scrollback {
    /// Keeps `bytes`; returns the lines that are complete now, with nothing in them that could drive a terminal.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(bytes.iter().skip(bytes.len().saturating_sub(KEPT)));
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() >= LINE_MAX {
                let line = core::mem::take(&mut self.line);
                lines.push(printable(line.strip_suffix(b"\r").unwrap_or(&line)));
            }
        }
        lines
    }

    /// All that is kept, raw, from the first whole line on.
    pub fn all(&self) -> Vec<u8> {
        let cut = self.bytes.len() == KEPT;
        let first = self.bytes.iter().position(|byte| *byte == b'\n').filter(|_| cut).map_or(0, |end| end + 1);
        self.bytes.iter().copied().skip(first).collect()
    }
}

fn printable(line: &[u8]) -> String {
    let shown = |c: char| if c.is_control() && c != '\t' { '.' } else { c };
    String::from_utf8_lossy(line).chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn the_last_is_kept() {
        let mut scrollback = Scrollback::default();
        scrollback.push(&vec![b'x'; 3 * KEPT]);
        scrollback.push(b"end");
        assert_eq!((scrollback.all().len(), &scrollback.all()[KEPT - 4..]), (KEPT, &b"xend"[..]));
        scrollback.push(b"\nnext");
        assert_eq!(scrollback.all(), b"next", "what is cut off is not shown");
    }

    #[test]
    fn lines_come_whole_and_harmless() {
        let mut scrollback = Scrollback::default();
        assert!(scrollback.push(b"hel").is_empty());
        assert_eq!(scrollback.push(b"lo\r\n\x1b[2Jx\nrest"), ["hello", ".[2Jx"]);
        assert_eq!(scrollback.push(&[b'y'; 600]).len(), 2, "a line without end comes in pieces");
    }
}
