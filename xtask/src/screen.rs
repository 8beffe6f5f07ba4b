//! What a line of terminal output looks like in the end: enough of a terminal for one line.

/// A line after its carriage returns, backspaces and escape sequences (ECMA-48: CSI n C, D, K) have done their work.
pub fn line(text: &str) -> String {
    let mut shown: Vec<char> = Vec::new();
    let mut at = 0_usize;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => at = 0,
            '\x08' => at = at.saturating_sub(1),
            '\x1b' => sequence(&mut chars, &mut shown, &mut at),
            c if c.is_control() && c != '\t' => {}
            c => {
                if at >= shown.len() {
                    shown.resize(at + 1, ' ');
                }
                shown[at] = c;
                at += 1;
            }
        }
    }
    shown.into_iter().collect()
}

/// The rest of an escape sequence; any that is not known does nothing.
fn sequence(chars: &mut std::str::Chars<'_>, shown: &mut Vec<char>, at: &mut usize) {
    if chars.next() != Some('[') {
        return;
    }
    let mut number = String::new();
    let last = loop {
        match chars.next() {
            Some(c @ '\x40'..='\x7e') => break c,
            Some(c) => number.push(c),
            None => return,
        }
    };
    let count = number.parse::<usize>().ok();
    match last {
        'C' => *at = (*at + count.unwrap_or(1)).min(shown.len()),
        'D' => *at = at.saturating_sub(count.unwrap_or(1)),
        'K' if count == Some(2) => shown.clear(),
        'K' => shown.truncate(*at),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_line_is_what_stands_there_in_the_end() {
        assert_eq!(line("\x1b[0K\x1b[1;32mone\x1b[0m\r"), "one");
        assert_eq!(line("dom0# ab\r\x1b[K[ 1.0] log"), "[ 1.0] log");
        assert_eq!(line("uptime\x08\x08\x08\x1b[K"), "upt");
        assert_eq!(line("ac\x1b[Dbc"), "abc");
        assert_eq!(line("abc\rx"), "xbc");
        assert_eq!(line("tab\tstays\x07"), "tab\tstays");
    }
}
