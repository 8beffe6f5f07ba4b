//! A guest's command line: words `key=value`.

/// The value of the last `key=value` in `line`.
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let pairs = line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    pairs.rev().find(|(name, _)| *name == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn the_last_one_counts() {
        let line = " web=10.0.2.15 file=/a=b quiet web=10.0.2.16 ";
        assert_eq!(value(line, "web"), Some("10.0.2.16"));
        assert_eq!(value(line, "file"), Some("/a=b"));
        assert_eq!((value(line, "quiet"), value(line, "fil"), value("", "x")), (None, None, None));
    }
}
