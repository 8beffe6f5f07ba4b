//! The commands, named as xl names them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::nearest::nearest;

/// A command with its arguments, checked for number and form only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described in WORDS")]
pub enum Command {
    List,
    Info(Option<String>),
    Create(String),
    Destroy(String),
    Shutdown(String),
    Reboot(String),
    Pause(String),
    Unpause(String),
    Console(String),
    MemSet(String, u32),
    NetworkList { domain: Option<String>, verbose: bool },
    BlockList { domain: Option<String>, verbose: bool },
    Store(StoreCommand),
    Dmesg,
    Uptime,
    Help(Option<String>),
    PowerOff,
}

/// What `store` does; all paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described in WORDS")]
pub enum StoreCommand {
    Ls(String),
    Read(String),
    Write(String, String),
    Rm(String),
    Watch(String),
}

/// What the next argument of a command is, for completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nothing to complete.
    Nothing,
    /// A domain's name.
    Domain,
    /// A domain of the manifest that does not run, or a manifest in the ramdisk.
    Startable,
    /// A word of `store`, then a path.
    Store,
    /// A command.
    Command,
}

/// Every command: its name, its arguments, what it does, what its first argument is.
pub const WORDS: [(&str, &str, &str, Wants); 17] = [
    ("list", "", "all domains: memory, vCPUs, state, CPU time", Wants::Nothing),
    ("info", "[DOMAIN]", "the machine, or one domain", Wants::Domain),
    ("create", "NAME|FILE", "start one of the manifest, or all of a file", Wants::Startable),
    ("destroy", "DOMAIN", "end it at once; a driver domain starts again", Wants::Domain),
    ("shutdown", "DOMAIN", "ask a domain to power off", Wants::Domain),
    ("reboot", "DOMAIN", "ask a domain to reboot", Wants::Domain),
    ("pause", "DOMAIN", "stop a domain's vCPUs", Wants::Domain),
    ("unpause", "DOMAIN", "let them go on", Wants::Domain),
    ("console", "DOMAIN", "its console; leave with Ctrl-]", Wants::Domain),
    ("mem-set", "DOMAIN MIB", "how much memory it is to have, at most its own", Wants::Domain),
    ("network-list", "[-v] [DOMAIN]", "network interfaces; -v: what they moved", Wants::Domain),
    ("block-list", "[-v] [DOMAIN]", "disks; -v: what they moved", Wants::Domain),
    ("store", "VERB PATH [VALUE]", "ls, read, write, rm, watch (ends with Ctrl-C)", Wants::Store),
    ("dmesg", "", "the hypervisor's log", Wants::Nothing),
    ("uptime", "", "since when everything runs", Wants::Nothing),
    ("help", "[COMMAND]", "this list, or one command", Wants::Command),
    ("poweroff", "", "end all domains, guests first, and the machine", Wants::Nothing),
];
/// The words of `store`.
pub const STORE_WORDS: [&str; 5] = ["ls", "read", "write", "rm", "watch"];

/// Reads a line; `None` for an empty one.
///
/// # Errors
/// What is wrong with it, in a line.
pub fn parse(line: &str) -> Result<Option<Command>, String> {
    let mut words = split(line)?.into_iter();
    let Some(verb) = words.next() else { return Ok(None) };
    let words: Vec<String> = words.collect();
    let domain = || one(&verb, &words);
    let command = match verb.as_str() {
        "list" => none(&verb, &words, Command::List)?,
        "info" => Command::Info(at_most_one(&verb, &words)?),
        "create" => Command::Create(domain()?),
        "destroy" => Command::Destroy(domain()?),
        "shutdown" => Command::Shutdown(domain()?),
        "reboot" => Command::Reboot(domain()?),
        "pause" => Command::Pause(domain()?),
        "unpause" => Command::Unpause(domain()?),
        "console" => Command::Console(domain()?),
        "mem-set" => mem_set(&words)?,
        "network-list" | "block-list" => {
            let verbose = words.iter().any(|word| word == "-v");
            let rest: Vec<String> = words.iter().filter(|word| *word != "-v").cloned().collect();
            let domain = at_most_one(&verb, &rest)?;
            match verb.as_str() {
                "network-list" => Command::NetworkList { domain, verbose },
                _ => Command::BlockList { domain, verbose },
            }
        }
        "store" => Command::Store(store(&words)?),
        "dmesg" => none(&verb, &words, Command::Dmesg)?,
        "uptime" => none(&verb, &words, Command::Uptime)?,
        "help" | "?" => Command::Help(at_most_one(&verb, &words)?),
        "poweroff" => none(&verb, &words, Command::PowerOff)?,
        _ => return Err(unknown(&verb)),
    };
    Ok(Some(command))
}

fn mem_set(words: &[String]) -> Result<Command, String> {
    let [domain, mib] = words else { return Err(usage("mem-set")) };
    let mib = ring_proto::path::decimal(mib).ok_or_else(|| usage("mem-set"))?;
    Ok(Command::MemSet(domain.clone(), mib))
}

fn store(words: &[String]) -> Result<StoreCommand, String> {
    let usage = || usage("store");
    match words {
        [word] if word == "ls" => Ok(StoreCommand::Ls("/".to_string())),
        [word, path] => match word.as_str() {
            "ls" => Ok(StoreCommand::Ls(path.clone())),
            "read" => Ok(StoreCommand::Read(path.clone())),
            "rm" => Ok(StoreCommand::Rm(path.clone())),
            "watch" => Ok(StoreCommand::Watch(path.clone())),
            _ => Err(usage()),
        },
        [word, path, value] if word == "write" => Ok(StoreCommand::Write(path.clone(), value.clone())),
        _ => Err(usage()),
    }
}

fn none(verb: &str, words: &[String], command: Command) -> Result<Command, String> {
    if words.is_empty() { Ok(command) } else { Err(usage(verb)) }
}

fn one(verb: &str, words: &[String]) -> Result<String, String> {
    match words {
        [word] => Ok(word.clone()),
        _ => Err(usage(verb)),
    }
}

fn at_most_one(verb: &str, words: &[String]) -> Result<Option<String>, String> {
    match words {
        [] => Ok(None),
        [word] => Ok(Some(word.clone())),
        _ => Err(usage(verb)),
    }
}

fn usage(verb: &str) -> String {
    if verb == "store" {
        return "usage: store ls [PATH], store read|rm|watch PATH, store write PATH VALUE".into();
    }
    let arguments = WORDS.iter().find(|(name, ..)| *name == verb).map_or("", |(_, arguments, ..)| arguments);
    format!("usage: {verb} {arguments}").trim_end().to_string()
}

fn unknown(verb: &str) -> String {
    let verbs = WORDS.map(|(name, ..)| name);
    let meant = nearest(verb, &verbs).map_or_else(|| "try help".into(), |name| format!("did you mean `{name}`?"));
    format!("no command {verb}; {meant}")
}

/// Splits at blanks; text between quotes, double or single, is one word or part of one.
fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote is not closed".to_string()) } else { Ok(words) }
}

/// The text of `help`, or of `help COMMAND`.
///
/// # Errors
/// There is no such command.
pub fn help(of: Option<&str>) -> Result<String, String> {
    let mut table = super::Table::new(&["command", "", ""]);
    for (name, arguments, meaning, _) in WORDS.iter().filter(|(name, ..)| of.is_none_or(|of| of == *name)) {
        table.row([*name, *arguments, *meaning].map(str::to_string));
    }
    match of {
        Some(of) if table.is_empty() => Err(unknown(of)),
        _ => Ok(table.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(line: &str) -> Command {
        parse(line).unwrap().unwrap()
    }

    #[test]
    fn commands() {
        assert_eq!(ok("list"), Command::List);
        assert_eq!(ok("  destroy   web "), Command::Destroy("web".into()));
        assert_eq!(ok("info"), Command::Info(None));
        assert_eq!(ok("network-list -v web"), Command::NetworkList { domain: Some("web".into()), verbose: true });
        assert_eq!(ok("block-list"), Command::BlockList { domain: None, verbose: false });
        assert_eq!(ok("store ls"), Command::Store(StoreCommand::Ls("/".into())));
        let written = StoreCommand::Write("/a".into(), "two  words".into());
        assert_eq!(ok("store write /a 'two  words'"), Command::Store(written));
        assert_eq!(ok("store write /a \"\""), Command::Store(StoreCommand::Write("/a".into(), "".into())));
        assert_eq!(ok("mem-set web 256"), Command::MemSet("web".into(), 256));
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse(" \t"), Ok(None));
    }

    #[test]
    fn mistakes() {
        assert_eq!(parse("lst"), Err("no command lst; did you mean `list`?".into()));
        assert_eq!(parse("frobnicate"), Err("no command frobnicate; try help".into()));
        assert_eq!(parse("list x"), Err("usage: list".into()));
        assert_eq!(parse("destroy"), Err("usage: destroy DOMAIN".into()));
        assert_eq!(parse("mem-set web"), Err("usage: mem-set DOMAIN MIB".into()));
        assert_eq!(parse("mem-set web 256M"), Err("usage: mem-set DOMAIN MIB".into()));
        assert_eq!(parse("create a b"), Err("usage: create NAME|FILE".into()));
        assert_eq!(
            parse("store fly /"),
            Err("usage: store ls [PATH], store read|rm|watch PATH, store write PATH VALUE".into())
        );
        assert_eq!(parse("console 'web"), Err("a quote is not closed".into()));
    }

    #[test]
    fn every_word_of_the_list_is_a_command() {
        for (name, ..) in WORDS {
            assert!(!matches!(parse(name), Err(error) if error.starts_with("no command")), "{name}");
            assert!(help(None).unwrap().contains(name));
            assert!(help(Some(name)).unwrap().lines().count() == 2);
        }
        assert!(help(Some("hlep")).unwrap_err().contains("`help`"));
        assert!(help(None).unwrap().lines().all(|line| line.len() < 80), "one screen");
    }
}
