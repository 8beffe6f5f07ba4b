//! The serial line at the person's terminal: what the machine says is shown, what is typed is passed on.

use crate::qemu::{Ending, Running};
use crate::terminal;
use anyhow::Result;
use std::io::{Read, Write};
use std::time::Duration;

/// Passes everything both ways until the machine ends. Ctrl-C ends it (see process.rs).
pub fn until_end(running: &mut Running) -> Result<Ending> {
    if terminal::is_interactive() {
        terminal::character_mode()?;
    }
    if terminal::is_interactive()
        && let Some(mut input) = running.take_input()
    {
        std::thread::spawn(move || {
            let mut byte = [0; 64];
            while let Ok(len @ 1..) = std::io::stdin().read(&mut byte) {
                if input.write_all(&byte[..len]).and_then(|()| input.flush()).is_err() {
                    break;
                }
            }
        });
    }
    let show = |chunk: &[u8]| {
        let mut out = std::io::stdout();
        let _ = out.write_all(chunk).and_then(|()| out.flush());
    };
    loop {
        match running.read(Duration::from_millis(50)) {
            Some(chunk) => show(&chunk),
            None if running.ended() => break,
            None => {}
        }
    }
    while let Some(chunk) = running.read(Duration::from_millis(5)) {
        show(&chunk);
    }
    terminal::restore();
    running.finish(Duration::ZERO)
}
