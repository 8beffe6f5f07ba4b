//! The person's terminal: typing that goes through a character at a time, and the way back.

use anyhow::Result;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The settings to go back to, as `stty -g` prints them.
static SAVED: Mutex<Option<String>> = Mutex::new(None);

/// Whether a person is at both ends.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

fn stty() -> Command {
    let mut stty = Command::new("stty");
    stty.stdin(Stdio::inherit());
    stty
}

/// Characters go through as they are typed, Ctrl-C among them, and without echo: dom0 edits the line.
pub fn character_mode() -> Result<()> {
    let now = Command::new("stty").arg("-g").stdin(Stdio::inherit()).output()?;
    let now = String::from_utf8_lossy(&now.stdout).trim().to_string();
    if let Ok(mut saved) = SAVED.lock() {
        saved.get_or_insert(now);
    }
    stty().args(["-icanon", "-echo", "-isig", "-icrnl", "-ixon", "min", "1", "time", "0"]).status()?;
    Ok(())
}

/// Back to how it was. Harmless if nothing was changed, and when called twice.
pub fn restore() {
    if let Ok(mut saved) = SAVED.lock()
        && let Some(settings) = saved.take()
    {
        let _ = stty().arg(settings).status();
    }
}
