//! Rust source with comments and literals taken out, enough to count lines and find keywords.

/// One line: its code with literals emptied, and whether it had a comment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Line {
    /// What is left without comments and the inside of literals.
    pub code: String,
    /// The text of the comments on it.
    pub comment: String,
}

impl Line {
    /// Whether there is code on it.
    pub fn is_code(&self) -> bool {
        !self.code.trim().is_empty()
    }

    /// Whether `word` stands in the code as a word of its own.
    pub fn has_word(&self, word: &str) -> bool {
        let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        self.code.match_indices(word).any(|(at, _)| {
            let before = self.code[..at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    /// Nested so deep.
    BlockComment(u32),
    /// Ended by a quote and so many `#`; `None` for an ordinary literal, with escapes.
    Text(Option<usize>),
}

/// Splits a file into lines.
pub fn lines(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        if c == '\n' {
            lines.push(Line::default());
            state = if state == State::LineComment { State::Code } else { state };
            at += 1;
            continue;
        }
        let Some(line) = lines.last_mut() else { break };
        let mut step = 1;
        match (state, c) {
            (State::Code, '/') if next == Some('/') => state = State::LineComment,
            (State::Code, '/') if next == Some('*') => (state, step) = (State::BlockComment(1), 2),
            (State::Code, '"') => {
                line.code.push('"');
                state = State::Text(None);
            }
            (State::Code, 'r') if raw_hashes(&chars, at).is_some() => {
                let hashes = raw_hashes(&chars, at).unwrap_or(0);
                (state, step) = (State::Text(Some(hashes)), hashes + 2);
                line.code.push('"');
            }
            (State::Code, '\'') => {
                step = char_literal(&chars, at).unwrap_or(1);
                line.code.push('\'');
            }
            (State::Code, c) => line.code.push(c),
            (State::LineComment, c) => line.comment.push(c),
            (State::BlockComment(depth), '*') if next == Some('/') => {
                (state, step) = (if depth == 1 { State::Code } else { State::BlockComment(depth - 1) }, 2);
            }
            (State::BlockComment(depth), '/') if next == Some('*') => {
                (state, step) = (State::BlockComment(depth + 1), 2)
            }
            (State::BlockComment(_), c) => line.comment.push(c),
            // An escaped line end must still end the line.
            (State::Text(None), '\\') => step = if next == Some('\n') { 1 } else { 2 },
            (State::Text(None), '"') => {
                line.code.push('"');
                state = State::Code;
            }
            (State::Text(Some(hashes)), '"') if chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes => {
                line.code.push('"');
                (state, step) = (State::Code, hashes + 1);
            }
            (State::Text(_), _) => {}
        }
        at += step;
    }
    lines
}

/// The number of `#` if a raw string begins at `at` and is not the end of a name.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).and_then(|at| chars.get(at));
    if before.is_some_and(|c| (c.is_alphanumeric() && *c != 'b' && *c != 'c') || *c == '_') {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// The length of the character literal at `at`; `None` for a lifetime.
fn char_literal(chars: &[char], at: usize) -> Option<usize> {
    match (chars.get(at + 1)?, chars.get(at + 2)?) {
        ('\\', _) => chars[at + 3..].iter().position(|c| *c == '\'').map(|len| len + 4),
        (_, '\'') => Some(3),
        _ => None,
    }
}

/// Whether an attribute keeps an item out of images: `#[cfg(test)]`, `any(test, feature = "testing")`, `all(test, ...)`.
fn is_for_tests(code: &str) -> bool {
    let code = code.trim();
    ["#[cfg(test)]", "#[cfg(any(test,", "#[cfg(all(test,"].iter().any(|start| code.starts_with(start))
}

/// The lines that are not tests: without each item [for tests](is_for_tests), as far as its braces or its `;` go.
pub fn without_tests(lines: &[Line]) -> Vec<&Line> {
    let mut kept = Vec::new();
    let mut rest = lines.iter();
    while let Some(line) = rest.next() {
        if !is_for_tests(&line.code) {
            kept.push(line);
            continue;
        }
        let mut depth = 0i64;
        for line in std::iter::once(line).chain(rest.by_ref()) {
            let count = |c: char| line.code.matches(c).count() as i64;
            depth += count('{') - count('}');
            let ended = line.code.contains('}') || line.code.trim_end().ends_with(';');
            if depth <= 0 && ended {
                break;
            }
        }
    }
    kept
}

/// The modules of other files that a file declares for tests only.
pub fn test_modules(lines: &[Line]) -> Vec<String> {
    let mut modules = Vec::new();
    for (line, next) in lines.iter().zip(lines.iter().skip(1)) {
        let declared = next.code.trim().strip_suffix(';').and_then(|words| words.rsplit_once(' '));
        if is_for_tests(&line.code)
            && let Some((words, module)) = declared
            && words.split(' ').next_back() == Some("mod")
        {
            modules.push(module.to_string());
        }
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        lines(text).into_iter().map(|line| line.code.trim().to_string()).collect()
    }

    #[test]
    fn comments_and_literals_leave_no_code() {
        assert_eq!(code("a // unsafe\n/* unsafe\n unsafe */ b"), ["a", "", "b"]);
        assert_eq!(code(r#"let s = "unsafe { \" // ";"#), [r#"let s = "";"#]);
        assert_eq!(code("let s = r#\"a \" unsafe\"#; x"), ["let s = \"\"; x"]);
        assert_eq!(code("f('\"', '\\'', b'{') ; &'a str"), ["f(', ', b') ; &'a str"]);
        assert_eq!(code("\"one \\\n unsafe\" two"), ["\"", "\" two"]);
    }

    #[test]
    fn a_word_is_not_a_part_of_a_name() {
        let line = |text| lines(text).remove(0);
        assert!(line("unsafe { x }").has_word("unsafe"));
        assert!(!line("forbid(unsafe_code)").has_word("unsafe"));
        assert!(!line("not_unsafe()").has_word("unsafe"));
    }

    #[test]
    fn test_items_are_left_out_and_nothing_else() {
        let text = "a\n#[cfg(test)]\nmod tests {\n fn b() { x }\n}\nc\n#[cfg(test)]\nmod far;\nd\n#[cfg(test)] use e;\nf\n\
                    #[cfg(any(test, feature = \"testing\"))]\npub mod kit;\n#[cfg(test)]\npub(crate) mod sim;\n#[cfg(not(test))]\ng";
        let lines = lines(text);
        let kept: Vec<_> = without_tests(&lines).into_iter().map(|line| line.code.as_str()).collect();
        assert_eq!(kept, ["a", "c", "d", "f", "#[cfg(not(test))]", "g"]);
        assert_eq!(test_modules(&lines), ["far", "kit", "sim"]);
    }
}
