//! Completion with Tab.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::command::{STORE_WORDS, WORDS, Wants};

/// What there is to complete.
pub trait Names {
    /// Names of the domains that run.
    fn domains(&mut self) -> Vec<String>;
    /// Names `create` takes.
    fn startable(&mut self) -> Vec<String>;
    /// Children of a store path.
    fn children(&mut self, path: &str) -> Vec<String>;
}

/// What the last word of `line` may be, as whole words, in order. A word ends with a blank when nothing follows it.
pub fn candidates(line: &str, names: &mut impl Names) -> Vec<String> {
    let start = line.rfind(' ').map_or(0, |at| at + 1);
    let (before, word) = line.split_at(start);
    let words: Vec<&str> = before.split_whitespace().collect();
    let spaced = |name: &str| name.to_string() + " ";
    let mut found: Vec<String> = match words[..] {
        [] => WORDS.iter().map(|(name, ..)| spaced(name)).collect(),
        ["store"] => STORE_WORDS.map(spaced).to_vec(),
        ["store", verb] if STORE_WORDS.contains(&verb) => paths(word, names),
        [verb, ..] => match WORDS.iter().find(|(name, ..)| *name == verb).map(|(.., wants)| *wants) {
            Some(Wants::Domain) => names.domains().iter().map(|name| spaced(name)).collect(),
            Some(Wants::Command) => WORDS.iter().map(|(name, ..)| spaced(name)).collect(),
            Some(Wants::Startable) => names.startable().iter().map(|name| spaced(name)).collect(),
            _ => Vec::new(),
        },
    };
    found.retain(|candidate| candidate.starts_with(word));
    found.sort();
    found
}

fn paths(word: &str, names: &mut impl Names) -> Vec<String> {
    let above = word.rfind('/').map_or("/", |at| if at == 0 { "/" } else { &word[..at] });
    let prefix = if above == "/" { "/".to_string() } else { above.to_string() + "/" };
    let mut found = Vec::new();
    for name in names.children(above) {
        let path = prefix.clone() + &name;
        let end = if names.children(&path).is_empty() { " " } else { "/" };
        found.push(path + end);
    }
    found
}
