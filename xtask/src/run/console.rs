//! dom0's shell at the other end of the serial line, as a person would use it (docs/console-protocol.md).

use super::log::Entry;
use crate::qemu::Running;
use anyhow::{Result, bail};
use std::time::Duration;

/// What the shell prints when it waits for a command.
const PROMPT: &str = "dom0# ";

/// Waits for the first prompt.
pub fn attach(machine: &mut Running, limit: Duration) -> Result<()> {
    match machine.wait_for(0, limit, |_, partial| is_prompt(partial).then_some(0)) {
        Some(_) => Ok(()),
        None => bail!("no prompt of dom0 within {} s", limit.as_secs()),
    }
}

/// Types a command and returns what it printed, without its echo and without lines of the log.
///
/// # Errors
/// If no prompt comes within `limit`, or if the command itself fails: it prints one line then, `error: ` and why.
pub fn command(machine: &mut Running, line: &str, limit: Duration) -> Result<Vec<String>> {
    let from = machine.lines().len();
    machine.send(format!("{line}\r").as_bytes())?;
    let echo = format!("{PROMPT}{line}");
    let done = machine.wait_for(from, limit, |lines, partial| {
        let echoed = lines.iter().position(|printed| printed.text.trim_end() == echo);
        echoed.filter(|_| is_prompt(partial))
    });
    let Some(echoed) = done else {
        let last = machine.lines().last().map_or("", |line| line.text.as_str());
        bail!("no answer to {line:?} within {} s; the last line: {last}", limit.as_secs());
    };
    let printed = machine.lines().get(echoed + 1..).unwrap_or_default().iter().map(|line| line.text.clone());
    let printed: Vec<String> = printed.filter(|line| Entry::parse(line).is_none()).collect();
    match printed.first().and_then(|first| first.strip_prefix("error: ")) {
        Some(why) => bail!("{line}: {why}"),
        None => Ok(printed),
    }
}

fn is_prompt(partial: &str) -> bool {
    partial.trim_end() == PROMPT.trim_end()
}
