//! The core's debug keys at the other end of the serial line: Ctrl-A three times, a key, Ctrl-A three times.

use super::log::number_before;
use crate::qemu::{KEYS, Running};
use anyhow::{Context, Result};
use std::time::Duration;

/// How long an answer may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a key prints.
pub fn press(machine: &mut Running, key: u8) -> Result<Vec<String>> {
    let from = machine.lines().len();
    machine.send(&[KEYS, &[key], KEYS].concat())?;
    let end = machine.wait_line(from, PATIENCE, |line| line.contains("debug keys off"));
    let end = end.context("the debug keys stay on")?;
    let lines = machine.lines().get(from..end).unwrap_or_default();
    Ok(lines.iter().map(|line| line.text.clone()).collect())
}

/// A moment as the core has it, of its first CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Microseconds since the core started.
    pub time: f64,
    /// Microseconds of them that the CPU was not idle.
    pub busy: f64,
    /// Frames of 4 KiB that nobody has.
    pub free: f64,
    /// KiB that the core has.
    pub own: f64,
}

/// Asks the core what is used.
pub fn usage(machine: &mut Running) -> Result<Usage> {
    let said = press(machine, b'q')?;
    read(&said).with_context(|| format!("the core does not say what is used: {said:?}"))
}

fn read(said: &[String]) -> Option<Usage> {
    let free =
        said.iter().find(|line| line.contains("frames are free")).and_then(|line| number_before(line, "frames"))?;
    let own = said.iter().find_map(|line| number_before(line.split_once("the core has ")?.1, "KiB"))?;
    let (idle, rest) = said.iter().find_map(|line| line.split_once("CPU 0: idle ")?.1.split_once(" of "))?;
    let time = number_before(rest, "us")?;
    Some(Usage { time, busy: time - idle.parse::<f64>().ok()?, free, own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_read_off_the_key_s_lines() {
        let said = [
            "(core) the core has 700 KiB; its heap uses 109 of 1024 KiB",
            "(core) 500 frames are free",
            "(core) CPU 0: idle 60 of 100 us, 3 switches",
            "(core) d0: Alive, 32 of 32 pages, 19 KiB of the core, 2 pages among it, on CPUs 0x0",
        ];
        let said = said.map(str::to_string);
        assert_eq!(read(&said), Some(Usage { time: 100.0, busy: 40.0, free: 500.0, own: 700.0 }));
        assert_eq!(read(&said[1..]), None);
    }
}
