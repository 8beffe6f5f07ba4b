//! dom0's shell at the other end of the serial line, as a person would use it.

use crate::qemu::Running;
use anyhow::{Result, bail};
use std::time::Duration;

/// What the shell prints when it waits for a command.
pub const PROMPT: &str = "dom0# ";

/// A machine whose serial line ends at dom0's shell.
pub struct Shell {
    /// The machine.
    pub machine: Running,
    /// Lines before this one belong to commands that are done.
    read: usize,
}

impl Shell {
    /// Waits for the first prompt. On failure the machine is given back.
    pub fn attach(mut machine: Running, limit: Duration) -> std::result::Result<Shell, Running> {
        match wait_prompt(&mut machine, 0, limit) {
            true => {
                let read = machine.lines().len();
                Ok(Shell { machine, read })
            }
            false => Err(machine),
        }
    }

    /// Types a command and returns what it printed, without its echo. Lines of other domains may stand between.
    pub fn command(&mut self, line: &str, limit: Duration) -> Result<Vec<String>> {
        self.read = self.machine.lines().len();
        self.machine.send(format!("{line}\r").as_bytes())?;
        // The echo ends the line that the prompt began; then comes the output, then the next prompt.
        if !wait_prompt(&mut self.machine, self.read + 1, limit) {
            let last = self.machine.lines().last().map_or("", |line| line.text.as_str());
            bail!("no prompt {} s after {line:?}; the last line: {last}", limit.as_secs());
        }
        let lines = self.machine.lines().get(self.read + 1..).unwrap_or_default();
        self.read = self.machine.lines().len();
        Ok(lines.iter().map(|line| line.text.clone()).collect())
    }
}

/// Waits until a prompt stands unfinished after at least `lines` whole lines.
fn wait_prompt(machine: &mut Running, lines: usize, limit: Duration) -> bool {
    let end = machine.elapsed() + limit;
    while machine.elapsed() < end {
        let prompt =
            |_: &[crate::qemu::Line], partial: &str| partial.trim_end().ends_with(PROMPT.trim_end()).then_some(0);
        let left = end.saturating_sub(machine.elapsed());
        if machine.wait_for(0, left, prompt).is_none() {
            return false;
        }
        if machine.lines().len() >= lines {
            return true;
        }
        machine.read(Duration::from_millis(10));
    }
    false
}
