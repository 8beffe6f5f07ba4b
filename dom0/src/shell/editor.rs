//! A line editor for a serial terminal: bytes in, what to print out.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::complete::{Names, candidates};

/// Lines remembered.
const HISTORY: usize = 64;
/// Longest line; more is not taken.
const LINE_MAX: usize = 1024;

/// What a byte led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// A line is complete.
    Line(String),
    /// Ctrl-C: the line was dropped.
    Interrupt,
}

/// Where in an escape sequence the input is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Bracket,
    /// A number was read, as in `ESC [ 3 ~`.
    Number(u8),
}

/// The editor. The line is ASCII; other bytes are not taken.
#[derive(Debug, Default)]
pub struct Editor {
    prompt: &'static str,
    line: String,
    cursor: usize,
    history: Vec<String>,
    /// Which line of the history is shown, and what was typed before it.
    browsing: Option<(usize, String)>,
    escape: Escape,
    /// The byte before was a carriage return: a line feed after it means nothing.
    after_return: bool,
}

impl Editor {
    /// An editor with its prompt.
    pub fn new(prompt: &'static str) -> Self {
        Self { prompt, ..Self::default() }
    }

    /// Draws prompt and line afresh, as at the start of a line.
    pub fn draw(&self) -> String {
        let back = self.line.len() - self.cursor;
        let mut out = String::from(self.prompt) + &self.line;
        (0..back).for_each(|_| out.push('\x08'));
        out
    }

    /// Clears the line drawn, so that something else can be printed; then [`draw`](Self::draw) again.
    pub fn hide(&self) -> &'static str {
        "\r\x1b[K"
    }

    /// Takes a byte; `out` gets what to print.
    pub fn input(&mut self, byte: u8, names: &mut impl Names, out: &mut String) -> Option<Entered> {
        let after_return = core::mem::take(&mut self.after_return);
        if self.escape != Escape::None {
            self.escape(byte, out);
            return None;
        }
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                return Some(self.enter(out));
            }
            0x03 => {
                *out += "^C\n";
                self.line.clear();
                self.cursor = 0;
                self.browsing = None;
                return Some(Entered::Interrupt);
            }
            0x1b => self.escape = Escape::Started,
            b'\t' => self.complete(names, out),
            0x7f | 0x08 => self.erase(self.cursor.saturating_sub(1), out),
            0x01 => self.go(0, out),
            0x05 => self.go(self.line.len(), out),
            0x02 => self.go(self.cursor.saturating_sub(1), out),
            0x06 => self.go(self.cursor + 1, out),
            0x0b => self.replace(self.cursor, self.line.len(), "", out),
            0x15 => self.erase(0, out),
            0x17 => {
                let before = self.line.get(..self.cursor).unwrap_or_default();
                let word = before.trim_end().rfind(' ').map_or(0, |at| at + 1);
                self.erase(word, out);
            }
            0x10 => self.browse(true, out),
            0x0e => self.browse(false, out),
            0x0c => {
                *out += "\x1b[H\x1b[2J";
                *out += &self.draw();
            }
            b' '..=b'~' if self.line.len() < LINE_MAX => {
                let text = char::from(byte).to_string();
                self.replace(self.cursor, self.cursor, &text, out);
            }
            _ => {}
        }
        None
    }

    fn escape(&mut self, byte: u8, out: &mut String) {
        self.escape = match (self.escape, byte) {
            (Escape::Started, b'[' | b'O') => Escape::Bracket,
            (Escape::Bracket, b'0'..=b'9') => Escape::Number(byte),
            _ => Escape::None,
        };
        if self.escape != Escape::None {
            return;
        }
        match byte {
            b'A' => self.browse(true, out),
            b'B' => self.browse(false, out),
            b'C' => self.go(self.cursor + 1, out),
            b'D' => self.go(self.cursor.saturating_sub(1), out),
            b'H' => self.go(0, out),
            b'F' => self.go(self.line.len(), out),
            b'~' => self.replace(self.cursor, self.cursor + 1, "", out), // Delete; others of the form do the same harm
            _ => {}
        }
    }

    fn enter(&mut self, out: &mut String) -> Entered {
        out.push('\n');
        let line = core::mem::take(&mut self.line);
        (self.cursor, self.browsing) = (0, None);
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            self.history.push(line.clone());
            if self.history.len() > HISTORY {
                self.history.remove(0);
            }
        }
        Entered::Line(line)
    }

    /// Replaces a part of the line, and leaves the cursor behind what is new.
    fn replace(&mut self, start: usize, end: usize, text: &str, out: &mut String) {
        let end = end.min(self.line.len());
        if start > end {
            return;
        }
        self.go(start, out);
        self.line.replace_range(start..end, text);
        let rest = self.line.get(start..).unwrap_or_default();
        *out += rest;
        if end - start > text.len() {
            *out += "\x1b[K";
        }
        self.cursor = start + text.len();
        (self.cursor..self.line.len()).for_each(|_| out.push('\x08'));
    }

    fn erase(&mut self, start: usize, out: &mut String) {
        self.replace(start, self.cursor, "", out);
    }

    fn go(&mut self, to: usize, out: &mut String) {
        let to = to.min(self.line.len());
        (to..self.cursor).for_each(|_| out.push('\x08'));
        *out += self.line.get(self.cursor..to).unwrap_or_default();
        self.cursor = to;
    }

    fn browse(&mut self, back: bool, out: &mut String) {
        let at = self.browsing.as_ref().map_or(self.history.len(), |(at, _)| *at);
        let to = if back { at.checked_sub(1) } else { Some(at + 1) };
        let Some(to) = to.filter(|to| *to <= self.history.len()) else { return };
        let typed = self.browsing.take().map_or_else(|| self.line.clone(), |(_, typed)| typed);
        let shown = self.history.get(to).cloned();
        self.browsing = shown.is_some().then(|| (to, typed.clone()));
        self.replace(0, self.line.len(), &shown.unwrap_or(typed), out);
    }

    /// Completes the word before the cursor as far as it is certain; shows the choice if there is one.
    fn complete(&mut self, names: &mut impl Names, out: &mut String) {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let word = before.len() - before.rfind(' ').map_or(0, |at| at + 1);
        let found = candidates(before, names);
        let Some(first) = found.first() else { return };
        let common = found.iter().fold(first.as_str(), |common, other| {
            let same = common.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            common.get(..same).unwrap_or_default()
        });
        let more = common.get(word..).unwrap_or_default().to_string();
        if more.is_empty() && found.len() > 1 {
            out.push('\n');
            *out += &found.iter().map(|name| name.trim_end()).collect::<Vec<_>>().join("  ");
            out.push('\n');
            *out += &self.draw();
        }
        self.replace(self.cursor, self.cursor, &more, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal of one line.
    #[derive(Default)]
    struct Terminal {
        cells: Vec<char>,
        at: usize,
        lines: Vec<String>,
    }

    impl Terminal {
        fn print(&mut self, text: &str) {
            let mut chars = text.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\x08' => self.at -= 1,
                    '\r' => self.at = 0,
                    '\n' => {
                        self.lines.push(self.cells.drain(..).collect());
                        self.at = 0;
                    }
                    '\x1b' => {
                        assert_eq!((chars.next(), chars.next()), (Some('['), Some('K')));
                        self.cells.truncate(self.at);
                    }
                    c => {
                        if self.at < self.cells.len() {
                            self.cells[self.at] = c;
                        } else {
                            self.cells.push(c);
                        }
                        self.at += 1;
                    }
                }
            }
        }
    }

    struct Some3;
    impl Names for Some3 {
        fn domains(&mut self) -> Vec<String> {
            ["web", "web2", "client"].map(str::to_string).to_vec()
        }
        fn startable(&mut self) -> Vec<String> {
            Vec::from(["db".to_string()])
        }
        fn children(&mut self, path: &str) -> Vec<String> {
            let children: &[&str] = match path {
                "/" => &["local", "tool"],
                "/local" => &["domain"],
                "/local/domain" => &["0", "12"],
                _ => &[],
            };
            children.iter().map(|name| name.to_string()).collect()
        }
    }

    /// Types bytes; the lines entered, and what the terminal shows of the current one. What is shown must be the line.
    fn type_in(bytes: &[u8]) -> (Vec<Entered>, String) {
        let (mut editor, mut terminal, mut entered) = (Editor::new("> "), Terminal::default(), Vec::new());
        terminal.print(&editor.draw());
        for byte in bytes {
            let mut out = String::new();
            let result = editor.input(*byte, &mut Some3, &mut out);
            terminal.print(&out);
            if let Some(result) = result {
                entered.push(result);
                terminal.print(&editor.draw());
            }
            let shown: String = terminal.cells.iter().collect();
            assert_eq!(shown, format!("> {}", editor.line));
            assert_eq!(terminal.at, 2 + editor.cursor);
        }
        (entered, editor.line)
    }
    use alloc::format;

    #[test]
    fn typing_and_editing() {
        assert_eq!(type_in(b"lisx\x7ft\r").0, [Entered::Line("list".into())]);
        assert_eq!(type_in(b"ist\x01l\x05 x\x08\x08").1, "list");
        assert_eq!(type_in(b"abc\x1b[D\x1b[DX\x1b[3~").1, "aXc");
        assert_eq!(type_in(b"one two  \x17").1, "one ");
        assert_eq!(type_in(b"one two\x02\x02\x0b").1, "one t");
        assert_eq!(type_in(b"one\x15two\x1b[Hx\x1b[F\x1b[Cy").1, "xtwoy");
        assert_eq!(type_in(b"a\r\nb\n\n").0.len(), 3, "CR LF is one end");
        assert_eq!(type_in(b"junk\x03").0, [Entered::Interrupt]);
        assert_eq!(type_in(b"\x00\xff\x80ok").1, "ok");
    }

    #[test]
    fn history() {
        let up = b"\x1b[A";
        assert_eq!(type_in(&[b"one\rtwo\rthr", &up[..], up].concat()).1, "one");
        assert_eq!(type_in(&[b"one\rtwo\rthr", &up[..], up, up, b"\x1b[B\x1b[B\x1b[B"].concat()).1, "thr");
        assert_eq!(
            type_in(&[b"one\r\r \rone\r", &up[..], up].concat()).1,
            "one",
            "blank lines and repeats are not kept"
        );
        assert_eq!(type_in(&[b"list x\r", &up[..], b"\x7f\x7f\r"].concat()).0[1], Entered::Line("list".into()));
    }

    #[test]
    fn completion() {
        assert_eq!(type_in(b"des\t").1, "destroy ");
        assert_eq!(type_in(b"destroy w\t").1, "destroy web");
        assert_eq!(type_in(b"destroy web2\t").1, "destroy web2 ");
        assert_eq!(type_in(b"destroy w\t\t").1, "destroy web", "a second Tab shows the choice");
        assert_eq!(type_in(b"create \t").1, "create db ");
        assert_eq!(type_in(b"sto\tls /lo\tdo\t1\t").1, "store ls /local/domain/12 ");
        assert_eq!(type_in(b"store l\t").1, "store ls ");
        assert_eq!(type_in(b"list \t").1, "list ");
        assert_eq!(type_in(b"xyz\t").1, "xyz");
    }

    proptest::proptest! {
        #[test]
        fn the_screen_shows_the_line_whatever_is_typed(bytes in proptest::collection::vec(
            proptest::sample::select(&b"ab /\t\r\x7f\x01\x05\x0b\x15\x17\x10\x0e\x02\x06\x1b[ABCD3~\x03des\xff"[..]), 0..60)) {
            type_in(&bytes);
        }
    }
}
