//! The core's own lines on the console.

use alloc::vec::Vec;
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

    /// Writes one line to the console as it is: in the place of what the console's owner has begun, which then follows.
    pub fn log_bare(&self, words: fmt::Arguments<'_>) {
        let mut line = Line::new();
        // A line that is too long is cut: the newline below always finds its place.
        let _ = line.write_fmt(words);
        line.len = line.len.min(line.text.len() - 1);
        line.push(b'\n');
        let mut messages = self.messages.lock();
        messages.write(line.as_bytes());
        let begun = messages.begun.as_bytes();
        if !begun.is_empty() {
            self.platform.console_write(b"\r\x1b[K");
        }
        self.platform.console_write(line.as_bytes());
        self.platform.console_write(begun);
    }

    /// Writes what the console's owner has to say.
    pub fn owner_writes(&self, text: &[u8]) {
        let begun = &mut self.messages.lock().begun;
        for &byte in text {
            match byte {
                b'\n' | b'\r' => begun.len = 0,
                byte => {
                    begun.push(byte);
                }
            }
        }
        self.platform.console_write(text);
    }
}

/// The last of what was printed, for whoever asks later.
#[derive(Default)]
pub struct Ring {
    text: Vec<u8>,
    /// Bytes ever printed; the ring holds the last of them.
    end: u32,
    /// Where what is kept begins.
    start: u32,
    /// What the console's owner has written of a line.
    begun: Line,
}

impl Ring {
    /// Bytes kept: a power of two.
    const SIZE: u32 = 1 << 14;

    /// Keeps bytes; nothing where there is no memory for a ring.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.text.is_empty() && self.text.try_reserve_exact(Self::SIZE as usize).is_err() {
            return;
        }
        self.text.resize(Self::SIZE as usize, 0);
        for &byte in bytes {
            if let Some(slot) = self.text.get_mut((self.end % Self::SIZE) as usize) {
                *slot = byte;
            }
            self.end = self.end.wrapping_add(1);
            if self.end.wrapping_sub(self.start) > Self::SIZE {
                self.start = self.end.wrapping_sub(Self::SIZE);
            }
        }
    }

    /// Reads on from `at`, or from the oldest byte if that is gone: where to go on, and how many bytes.
    pub fn read(&self, at: u32, to: &mut [u8]) -> (u32, usize) {
        let kept = self.end.wrapping_sub(self.start);
        let at = if self.end.wrapping_sub(at) > kept { self.start } else { at };
        let count = (self.end.wrapping_sub(at) as usize).min(to.len());
        for (n, slot) in (0..count as u32).zip(to.iter_mut()) {
            *slot = self.text.get((at.wrapping_add(n) % Self::SIZE) as usize).copied().unwrap_or(0);
        }
        (at.wrapping_add(count as u32), count)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.start = self.end;
    }
}
