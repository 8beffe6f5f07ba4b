//! The core's own lines on the console.

use core::fmt::{self, Write};

use crate::Core;
use crate::platform::Platform;

/// A line of bounded length; what does not fit is dropped.
pub struct Line {
    text: [u8; 200],
    len: usize,
}

impl Line {
    /// Empty.
    pub const fn new() -> Self {
        Self { text: [0; 200], len: 0 }
    }

    /// What is in it.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or(&[])
    }

    /// Appends a byte; false where there is no room.
    pub fn push(&mut self, byte: u8) -> bool {
        let Some(slot) = self.text.get_mut(self.len) else { return false };
        *slot = byte;
        self.len += 1;
        true
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|b| self.push(b)) { Ok(()) } else { Err(fmt::Error) }
    }
}

impl<P: Platform> Core<P> {
    /// Writes one line to the console, marked as the core's.
    pub fn log(&self, words: fmt::Arguments<'_>) {
        self.log_bare(format_args!("(core) {words}"));
    }

    /// Writes one line to the console as it is.
    pub fn log_bare(&self, words: fmt::Arguments<'_>) {
        let mut line = Line::new();
        // A line that is too long is cut: the newline below always finds its place.
        let _ = line.write_fmt(words);
        line.len = line.len.min(line.text.len() - 1);
        line.push(b'\n');
        self.platform.console_write(line.as_bytes());
    }
}
