//! The serial line at the person's terminal: what the machine says is shown, what is typed is passed on.

use super::hypervisor::Hypervisor;
use crate::process::end_everything;
use crate::qemu::Running;
use crate::terminal;
use anyhow::Result;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Two of these within [`TWICE`] end the machine; one goes to it, where it ends a `store watch`.
const CTRL_C: u8 = 3;
const TWICE: Duration = Duration::from_secs(1);

/// Passes everything both ways until the machine ends, or its hypervisor halts it.
pub fn until_end(running: &mut Running, hypervisor: Hypervisor) -> Result<()> {
    if terminal::is_interactive()
        && let Some(mut input) = running.take_input()
    {
        terminal::character_mode()?;
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            let mut last_ctrl_c: Option<Instant> = None;
            while let Ok(len @ 1..) = std::io::stdin().read(&mut bytes) {
                for _ in bytes[..len].iter().filter(|byte| **byte == CTRL_C) {
                    if last_ctrl_c.replace(Instant::now()).is_some_and(|last| last.elapsed() < TWICE) {
                        end_everything();
                    }
                }
                if input.write_all(&bytes[..len]).and_then(|()| input.flush()).is_err() {
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
            None if running.ended() || hypervisor.halted(running) => break,
            None => {}
        }
    }
    while let Some(chunk) = running.read(Duration::from_millis(5)) {
        show(&chunk);
    }
    terminal::restore();
    Ok(())
}
