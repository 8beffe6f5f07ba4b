//! `unsafe` stands only in kernel/ (not kernel/core) and domain-rt/, and each use of it says why it holds.

use super::source::{Line, lines};

/// Whether a file may hold unsafe code.
fn may_hold(path: &str) -> bool {
    path.starts_with("domain-rt/") || (path.starts_with("kernel/") && !path.starts_with("kernel/core/"))
}

/// Findings of one Rust file, given by its path from the workspace root.
pub fn check(path: &str, text: &str, is_crate_root: bool) -> Vec<String> {
    let lines = lines(text);
    let mut findings = Vec::new();
    if !may_hold(path) && is_crate_root && !lines.iter().any(|line| line.code.contains("#![forbid(unsafe_code)]")) {
        findings.push(format!("{path}: no #![forbid(unsafe_code)]"));
    }
    for (index, line) in lines.iter().enumerate() {
        let at = format!("{path}:{}", index + 1);
        if line.has_word("unsafe") && !may_hold(path) {
            findings.push(format!("{at}: unsafe outside kernel/ and domain-rt/"));
        } else if needs_reason(line) && !has_reason(&lines[..=index]) {
            findings.push(format!("{at}: no SAFETY line says why this holds"));
        }
    }
    findings
}

/// How many blocks and impls a file has.
pub fn claims(text: &str) -> usize {
    lines(text).iter().filter(|line| needs_reason(line)).count()
}

/// Blocks and impls make a claim; `unsafe fn` and `unsafe extern` only pass one on.
fn needs_reason(line: &Line) -> bool {
    let words = line.code.replace('{', " { ");
    let mut words = words.split_whitespace().skip_while(|word| !word.ends_with("unsafe"));
    words.next().is_some() && matches!(words.next(), Some("{" | "impl"))
}

/// Looks up from the last line to the beginning of its statement and over the comment above it.
fn has_reason(lines: &[Line]) -> bool {
    let Some((last, above)) = lines.split_last() else {
        return false;
    };
    if last.comment.contains("SAFETY:") {
        return true;
    }
    for line in above.iter().rev() {
        if line.comment.contains("SAFETY:") {
            return true;
        }
        let code = line.code.trim_end();
        let is_comment = code.is_empty() && !line.comment.is_empty();
        let is_open = !code.is_empty() && !code.ends_with([';', '{', '}']);
        if !is_comment && !is_open {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_found_where_it_must_not_be() {
        let text = "#![forbid(unsafe_code)]\nfn f() { unsafe { g() } }";
        assert_eq!(check("dom0/src/lib.rs", text, true).len(), 1);
        assert_eq!(check("kernel/core/src/lib.rs", text, true).len(), 1);
        assert_eq!(check("dom0/src/x.rs", "// unsafe\nlet unsafe_count = \"unsafe\";", false), Vec::<String>::new());
    }

    #[test]
    fn a_crate_root_must_forbid_it() {
        assert_eq!(check("abi/src/lib.rs", "#![no_std]", true).len(), 1);
        assert_eq!(check("abi/src/other.rs", "", false), Vec::<String>::new());
        assert_eq!(check("kernel/src/main.rs", "#![no_std]", true), Vec::<String>::new());
    }

    #[test]
    fn each_block_and_impl_needs_its_reason() {
        for bad in [
            "unsafe { f() }",
            "unsafe impl Send for X {}",
            "// SAFETY: of another\nlet a = 1;\nlet b = unsafe { f() };",
        ] {
            assert_eq!(check("kernel/src/a.rs", bad, false).len(), 1, "{bad}");
        }
    }

    #[test]
    fn blocks_and_impls_are_counted() {
        assert_eq!(claims("unsafe fn f() {\n unsafe { g() }\n}\nunsafe impl Send for X {}\n// unsafe {"), 2);
    }

    #[test]
    fn reasons_are_found_where_people_write_them() {
        let good = [
            "// SAFETY: owned\nunsafe { f() }",
            "// SAFETY: owned,\n// and mapped\nlet a =\n    g(unsafe { f() });",
            "let a = unsafe { f() }; // SAFETY: owned",
            "/// Docs.\nunsafe fn f() {}",
            "unsafe extern \"C\" { fn f(); }",
            "// SAFETY: no threads yet\n#[allow(x)]\nunsafe impl Send for X {}",
        ];
        for good in good {
            assert_eq!(check("domain-rt/src/a.rs", good, false), Vec::<String>::new(), "{good}");
        }
    }
}
