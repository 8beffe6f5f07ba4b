//! Text output: to the domain's console once that is set up, else by `console_io`, the emergency console, which is
//! all that the initial domain has.

use crate::hypercall;
use core::fmt::{self, Write};

/// Collects text, so that a line is one hypercall and not one a piece.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    fn flush(&mut self) {
        write(self.bytes.get(..self.len).unwrap_or_default());
        self.len = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len == self.bytes.len() {
                self.flush();
            }
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    if !crate::pvconsole::write_now(bytes) {
        // Nobody is left to tell if the console refuses.
        let _ = hypercall::console_write(bytes);
    }
}

/// Prints; [`print!`](crate::print) and [`println!`](crate::println) are the usual way.
pub fn print(args: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 256], len: 0 };
    let _ = line.write_fmt(args);
    line.flush();
}

/// Prints.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(::core::format_args!($($arg)*)) };
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($arg)*))) };
}
