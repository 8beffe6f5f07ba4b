//! What is wrong with a manifest, shown where it is wrong.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Everything that is wrong with a manifest, in the order of the file; never empty.
///
/// `Display` shows each mistake with its line, the line itself and a caret below the mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The mistakes.
    pub mistakes: Vec<Mistake>,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, and what would be right.
    pub message: String,
    /// Line number, from 1.
    pub line: usize,
    /// Column of the first wrong character, from 1.
    pub column: usize,
    /// The line.
    pub excerpt: String,
    /// How many characters of it are wrong, at least 1.
    pub width: usize,
}

impl Mistake {
    /// A mistake at `span` (bytes) of `source`.
    pub(super) fn new(source: &str, span: Range<usize>, message: String) -> Self {
        let boundary =
            |at: usize| (0..=at.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
        let (start, end) = (boundary(span.start), boundary(span.end.max(span.start)));
        let (before, after) = source.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(source.len(), |at| start + at);
        let characters = |range: Range<usize>| source.get(range).map_or(0, |text| text.chars().count());
        Self {
            message,
            line: before.matches('\n').count() + 1,
            column: characters(line_start..start) + 1,
            excerpt: source.get(line_start..line_end).unwrap_or_default().trim_end().to_string(),
            width: characters(start..end.min(line_end)).max(1),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the caret stands below whatever the terminal makes of them.
        let blank = |c: char| if c == '\t' { '\t' } else { ' ' };
        let indent: String = self.excerpt.chars().take(self.column - 1).map(blank).collect();
        writeln!(f, "line {}, column {}: {}", self.line, self.column, self.message)?;
        writeln!(f, "  {number} | {}", self.excerpt)?;
        write!(f, "  {margin} | {indent}{}", "^".repeat(self.width))
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.mistakes.iter().enumerate() {
            write!(f, "{}{mistake}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl core::error::Error for ManifestError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_is_under_the_mistake() {
        let source = "a = 1\n\tö = \"x\"\nb";
        let at = source.find("ö").unwrap();
        let mistake = Mistake::new(source, at..at + 2, "bad".into());
        assert_eq!(mistake.to_string(), "line 2, column 2: bad\n  2 | \tö = \"x\"\n    | \t^");
        let end = Mistake::new(source, source.len()..source.len() + 9, "end".into());
        assert_eq!((end.line, end.column, end.width), (3, 2, 1));
    }
}
