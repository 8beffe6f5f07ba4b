//! What somebody may have meant who wrote a name wrong.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// `; did you mean ...?` with the nearest of `valid`, or what there is to choose from.
pub fn suggestion(word: &str, valid: &[&str]) -> String {
    match nearest(word, valid) {
        Some(name) => format!("; did you mean `{name}`?"),
        None if valid.is_empty() => String::new(),
        None => format!("; valid: {}", valid.join(", ")),
    }
}

/// The name most like `word`, if at most half of its letters differ.
pub fn nearest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let (distance, name) = valid.iter().map(|name| (distance(word, name), *name)).min()?;
    (distance <= word.len().max(name.len()) / 2).then_some(name)
}

/// How many letters to put in, take out, replace or swap with the next.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    let mut last = None;
    for (i, a) in left.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX - 1);
            let mut least = (at(&row, j) + usize::from(a != *b)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = last == Some(*b) && j > 0 && right.get(j - 1) == Some(&a);
            if swapped {
                least = least.min(at(&before, j - 1) + 1);
            }
            next.push(least);
        }
        before = core::mem::replace(&mut row, next);
        last = Some(a);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let cases =
            [("", "abc", 3), ("memry", "memory", 1), ("kitten", "sitting", 3), ("a", "a", 0), ("lsit", "list", 1)];
        for (left, right, expected) in cases {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn suggestions() {
        assert_eq!(suggestion("vpcus", &["memory", "vcpus"]), "; did you mean `vcpus`?");
        assert_eq!(suggestion("zzz", &["memory", "vcpus"]), "; valid: memory, vcpus");
        assert_eq!(suggestion("zzz", &[]), "");
        assert_eq!(nearest("x", &["y", "yy"]), None);
    }
}
