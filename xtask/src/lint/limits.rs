//! Figures that must not grow: ring-0 lines, image sizes. And names that must not be written down.

use super::source::{lines, test_modules, without_tests};
use std::path::Path;

/// Lines of code in ring 0, tests, comments and empty lines left out: what it should come down to.
pub const RING0_GOAL: usize = 9_000;
/// Lines of code in ring 0 that pass: what it has come down to so far. This figure only falls.
pub const RING0_LINES: usize = 11_268;
/// Bytes that an image loads.
pub const IMAGE_BYTES: u64 = 512 << 10;
/// The crates that run in ring 0 and hold code; abi's declarations are printed beside.
pub const RING0: [&str; 3] = ["kernel/", "kernel/core/", "pvimage/"];

/// A source file: its path from the workspace root, and its text.
pub type Source = (String, String);

/// Lines of code under `folders` that are not tests, file by file.
pub fn code_lines<'a>(sources: &'a [Source], folders: &[&str]) -> Vec<(&'a str, usize)> {
    let inside = |path: &str| folders.iter().any(|folder| path.starts_with(folder));
    let mine: Vec<&Source> = sources.iter().filter(|(path, _)| inside(path)).collect();
    let mut tests: Vec<String> = Vec::new();
    for (path, text) in &mine {
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        // `mod x;` in lib.rs or mod.rs means a file beside it, elsewhere one in a folder of its name.
        let stem = Path::new(path).file_stem().unwrap_or_default();
        let home =
            if ["lib", "main", "mod"].iter().any(|name| stem == *name) { folder.into() } else { folder.join(stem) };
        for module in test_modules(&lines(text)) {
            tests.push(home.join(&module).with_extension("rs").display().to_string());
            tests.push(format!("{}/", home.join(&module).display()));
        }
    }
    let is_test = |path: &str| {
        tests.iter().any(|test| path == test || (test.ends_with('/') && path.starts_with(test.as_str())))
            || path.contains("/tests/")
            || path.contains("/benches/")
            || path.ends_with("/build.rs")
    };
    let count = |(path, text): &&Source| match path.rsplit('.').next() {
        Some("rs") => without_tests(&lines(text)).into_iter().filter(|line| line.is_code()).count(),
        Some("s" | "S") => text.lines().filter(|line| !line.split('#').next().unwrap_or("").trim().is_empty()).count(),
        _ => 0,
    };
    let code = mine.iter().filter(|(path, _)| !is_test(path));
    code.map(|source| (source.0.as_str(), count(source))).filter(|(_, lines)| *lines > 0).collect()
}

/// Whether ring 0 has grown too long.
pub fn check_lines(count: usize) -> Vec<String> {
    let over = count > RING0_LINES;
    over.then(|| format!("ring 0 has {count} lines of code, more than {RING0_LINES}")).into_iter().collect()
}

/// Whether an image has grown too large.
pub fn check_size(name: &str, bytes: u64) -> Vec<String> {
    let over = bytes > IMAGE_BYTES;
    over.then(|| format!("{name} loads {bytes} bytes, more than {IMAGE_BYTES}")).into_iter().collect()
}

/// Hosts of package registries; in pieces, so that this file passes its own rule.
const HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("static.rust-", "lang.org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("deb.debian", ".org"),
    concat!("security.debian", ".org"),
    concat!("proxy.golang", ".org"),
];

/// Registry hosts named in a file. Cargo.lock is cargo's own.
pub fn check_hosts(path: &str, text: &str) -> Vec<String> {
    if path == "Cargo.lock" || path.ends_with("/Cargo.lock") {
        return Vec::new();
    }
    let numbered = text.lines().enumerate();
    let named = numbered.filter(|(_, line)| HOSTS.iter().any(|host| line.contains(host)));
    named.map(|(index, _)| format!("{path}:{}: names a registry's host", index + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        (path.into(), text.into())
    }

    #[test]
    fn only_code_of_ring_0_is_counted() {
        let sources = [
            source(
                "kernel/src/main.rs",
                "//! Docs.\n\nfn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n#[cfg(test)]\nmod model;",
            ),
            source("kernel/src/model.rs", "fn c() {}"),
            source("kernel/src/model/deep.rs", "fn c() {}"),
            source("kernel/core/src/frame.rs", "fn d() {}\n#[cfg(test)]\nmod walk;"),
            source("kernel/core/src/frame/walk.rs", "fn e() {}"),
            source("kernel/core/tests/all.rs", "fn f() {}"),
            source("kernel/src/boot.s", "# comment\n    cli  # why\n"),
            source("dom0/src/lib.rs", "fn g() {}"),
        ];
        let counted = [("kernel/src/main.rs", 1), ("kernel/core/src/frame.rs", 1), ("kernel/src/boot.s", 1)];
        assert_eq!(code_lines(&sources, &RING0), counted);
    }

    #[test]
    fn too_long_and_too_large_are_found() {
        assert_eq!(check_lines(RING0_LINES), Vec::<String>::new());
        assert_eq!(check_lines(RING0_LINES + 1).len(), 1);
        assert_eq!(check_size("netback", IMAGE_BYTES), Vec::<String>::new());
        assert_eq!(check_size("netback", IMAGE_BYTES + 1).len(), 1);
    }

    #[test]
    fn a_registry_s_host_is_found_with_its_line() {
        let text = format!("first\nsee https://{}/x", HOSTS[0]);
        assert_eq!(check_hosts("README.md", &text), ["README.md:2: names a registry's host"]);
        assert_eq!(check_hosts("Cargo.lock", &text), Vec::<String>::new());
    }
}
