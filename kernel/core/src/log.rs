//! The core's own lines on the console.

use alloc::collections::VecDeque;
use core::fmt::{self, Write};

use crate::{Core, Platform};

/// A line of bounded length.
pub type Line<const MOST: usize> = heapless::Vec<u8, MOST>;

impl<P: Platform> Core<P> {
    /// Writes one line to the console, marked as the core's.
    pub fn log(&self, words: fmt::Arguments<'_>) {
        self.log_bare(format_args!("(core) {words}"));
    }

    /// Writes one line to the console as it is: in the place of what the console's owner has begun, which then follows.
    pub fn log_bare(&self, words: fmt::Arguments<'_>) {
        let mut line = Line::<200>::new();
        // A line that is too long is cut: the newline below always finds its place.
        let _ = line.write_fmt(words);
        line.truncate(199);
        let _ = line.push(b'\n');
        let mut messages = self.messages.lock();
        messages.write(&line);
        if !messages.begun.is_empty() {
            self.platform.console_write(b"\r\x1b[K");
        }
        self.platform.console_write(&line);
        self.platform.console_write(&messages.begun);
    }

    /// Writes what the console's owner has to say.
    pub fn owner_writes(&self, text: &[u8]) {
        let begun = &mut self.messages.lock().begun;
        for &byte in text {
            match byte {
                b'\n' | b'\r' => begun.clear(),
                byte => drop(begun.push(byte)),
            }
        }
        self.platform.console_write(text);
    }
}

/// The last of what was printed, for whoever asks later.
#[derive(Default)]
pub struct Ring {
    text: VecDeque<u8>,
    /// Bytes ever printed; the ring holds the last of them.
    end: u32,
    /// What the console's owner has written of a line.
    begun: Line<200>,
}

impl Ring {
    /// Bytes kept.
    const SIZE: usize = 1 << 14;

    /// Keeps bytes, [`SIZE`](Self::SIZE) at most; nothing where there is no memory for a ring.
    pub fn write(&mut self, bytes: &[u8]) {
        let room = Self::SIZE - self.text.len();
        if self.text.try_reserve_exact(room).is_ok() {
            self.text.drain(..bytes.len().saturating_sub(room));
            self.text.extend(bytes);
            self.end = self.end.wrapping_add(bytes.len() as u32);
        }
    }

    /// Reads on from `at`, or from the oldest byte if that is gone: where to go on, and how many bytes.
    pub fn read(&self, at: u32, to: &mut [u8]) -> (u32, usize) {
        let behind = (self.end.wrapping_sub(at) as usize).min(self.text.len());
        let rest = self.text.iter().skip(self.text.len() - behind);
        let count = to.iter_mut().zip(rest).map(|(slot, byte)| *slot = *byte).count();
        (self.end.wrapping_sub((behind - count) as u32), count)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.text.clear();
    }
}
