//! dom0's shell at the other end of the serial line, as a person would use it (docs/console-protocol.md).

use super::log::Entry;
use crate::qemu::{Line, Running};
use anyhow::{Result, bail};
use std::time::Duration;

/// What the shell prints when it waits for a command.
const PROMPT: &str = "dom0# ";

/// Waits for the first prompt.
pub fn attach(machine: &mut Running, limit: Duration) -> Result<()> {
    match machine.wait_for(0, limit, |lines, partial| is_idle(lines, partial).then_some(0)) {
        Some(_) => Ok(()),
        None => bail!("no prompt of dom0 {}", machine.missed(limit)),
    }
}

/// Types a command and returns what it printed, without its echo and without lines of the log and of the core.
///
/// # Errors
/// If no prompt comes within `limit`, or if the command itself fails: it prints one line then, `error: ` and why.
pub fn command(machine: &mut Running, line: &str, limit: Duration) -> Result<Vec<String>> {
    let printed = with_core(machine, line, limit)?;
    Ok(printed.into_iter().filter(|line| !is_of_the_core(line)).collect())
}

/// The same with the core's lines left in: for `dmesg`, which prints such.
pub fn with_core(machine: &mut Running, line: &str, limit: Duration) -> Result<Vec<String>> {
    let from = machine.lines().len();
    machine.send(format!("{line}\n").as_bytes())?;
    // Where the core printed behind the prompt, the echo stands alone.
    let is_echo =
        |printed: &Line| printed.text.trim_end().strip_prefix(PROMPT).unwrap_or(printed.text.trim_end()) == line;
    let done = machine.wait_for(from, limit, |lines, partial| {
        let echoed = lines.iter().position(is_echo)?;
        is_idle(lines.get(echoed + 1..).unwrap_or_default(), partial).then_some(echoed)
    });
    let Some(echoed) = done else {
        let missed = machine.missed(limit);
        let last = machine.lines().last().map_or("", |line| line.text.as_str());
        bail!("no answer to {line:?} {missed}; the last line: {last}");
    };
    let printed = machine.lines().get(echoed + 1..).unwrap_or_default().iter().map(|line| line.text.clone());
    let is_result = |line: &String| Entry::parse(line).is_none() && !line.starts_with(PROMPT);
    let printed: Vec<String> = printed.filter(is_result).collect();
    match printed.iter().find(|line| !is_of_the_core(line)).and_then(|first| first.strip_prefix("error: ")) {
        Some(why) => bail!("{line}: {why}"),
        None => Ok(printed),
    }
}

/// Whether dom0 reads input: its prompt stands there, or stood where the core then printed a line of its own.
fn is_idle(lines: &[Line], partial: &str) -> bool {
    partial.trim_end() == PROMPT.trim_end() || lines.iter().any(|line| line.text.starts_with(PROMPT))
}

/// The core's own lines (or Xen's), and what domains say to it rather than to their console: `(core) ...`, `(d3) ...`.
fn is_of_the_core(line: &str) -> bool {
    let who = line.strip_prefix('(').and_then(|rest| rest.split_once(") "));
    let is_core = |who| who == "core" || who == "XEN";
    who.is_some_and(|(who, _)| is_core(who) || who.strip_prefix('d').is_some_and(|id| id.parse::<u16>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script in the machine's place.
    fn machine(script: &str) -> Running {
        let log = std::env::temp_dir().join(format!("ferrule-console-{}-{}.log", std::process::id(), script.len()));
        let machine = Running::start("sh", &["-c".into(), script.into()], &log).unwrap();
        std::fs::remove_file(log).unwrap();
        machine
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_command_s_lines_come_without_echo_log_and_prompt() {
        let mut machine = machine(
            r#"printf '[  0.100] dom0: ready\r\ndom0# \r\033[K[  0.200] web: up\r\ndom0# '; read line
            printf 'list\r\none\r\n[  0.300] web: console: x\r\ntwo\r\ndom0# (core) a word\r\n'; read line
            printf 'dmesg\r\n(core) said\r\n[  0.400] web: up\r\ndom0# '; read line
            printf 'nonsense\r\nerror: no such command\r\ndom0# '; read line"#,
        );
        attach(&mut machine, SOON).unwrap();
        assert_eq!(command(&mut machine, "list", SOON).unwrap(), ["one", "two"]);
        assert_eq!(with_core(&mut machine, "dmesg", SOON).unwrap(), ["(core) said"]);
        let error = command(&mut machine, "nonsense", SOON).unwrap_err();
        assert_eq!(error.to_string(), "nonsense: no such command");
        assert!(command(&mut machine, "list", SOON).is_err(), "the machine has ended");
    }

    #[test]
    fn a_machine_that_says_nothing_is_given_up() {
        let limit = Duration::from_millis(50);
        let error = attach(&mut machine("printf 'no prompt'; sleep 5"), limit).unwrap_err();
        assert!(error.to_string().ends_with("within 0 s"), "{error}");
        let error = attach(&mut machine("echo 'that port is taken' >&2"), SOON).unwrap_err();
        assert!(error.to_string().contains("that port is taken"), "{error}");
        let mut silent = machine("printf 'dom0# '; sleep 5");
        attach(&mut silent, SOON).unwrap();
        assert!(command(&mut silent, "list", limit).is_err());
    }
}
