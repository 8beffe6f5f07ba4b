//! Who may import whom: ARCHITECTURE.md's picture as a table, checked against `cargo metadata`.

use crate::metadata::{Metadata, Package};

/// A crate and the local crates it may depend on. Test dependencies are free: only tests see both halves of a ring.
const ALLOWED: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("pvimage", &["abi"]),
    ("ring-proto", &["abi"]),
    ("ferrule-core", &["abi", "pvimage"]),
    ("ferrule", &["abi", "ferrule-core", "pvimage"]),
    ("domain-rt", &["abi", "ring-proto"]),
    ("netback", &["abi", "ring-proto", "domain-rt"]),
    ("blkback", &["abi", "ring-proto", "domain-rt"]),
    ("frontends", &["abi", "ring-proto", "domain-rt"]),
    ("dom0", &["abi", "pvimage", "ring-proto", "domain-rt"]),
    ("conformance-guests", &["abi", "pvimage", "ring-proto", "domain-rt"]),
    // The one thing that stands on dom0: `check` reads a manifest with dom0's own parser, on the host. Inputs of fuzz
    // targets are packed by what unpacks them.
    ("xtask", &["dom0", "fuzz"]),
];

/// What crates under examples/ may use: what a newcomer's guest may.
const EXAMPLES: &[&str] = &["abi", "ring-proto", "domain-rt", "frontends"];
/// What crates under tests/ may use: everything but the tools.
const TESTS: &[&str] =
    &["abi", "pvimage", "ring-proto", "ferrule-core", "domain-rt", "netback", "blkback", "frontends", "dom0"];

/// Crates from outside that must not come in: the core does no I/O, and its logic knows no machine.
const BARRED: &[(&str, &[&str])] =
    &[("ferrule", &["virtio-drivers"]), ("ferrule-core", &["virtio-drivers", "x86_64", "spin"])];

fn find<'a>(table: &'a [(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(package, _)| *package == name).map(|(_, list)| *list)
}

fn allowed(package: &Package) -> Option<&'static [&'static str]> {
    let under = |folder: &str| package.dir().components().any(|part| part.as_os_str() == folder);
    find(ALLOWED, &package.name)
        .or_else(|| under("examples").then_some(EXAMPLES))
        .or_else(|| under("tests").then_some(TESTS))
}

/// Every edge that the table does not allow.
pub fn check(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = &package.name;
        let Some(allowed) = allowed(package) else {
            findings.push(format!("{name}: a new crate; say in xtask/src/lint/directions.rs what it may import"));
            continue;
        };
        let barred = find(BARRED, name).unwrap_or_default();
        for dependency in package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev")) {
            let to = dependency.name.as_str();
            if metadata.package(to).is_some() && !allowed.contains(&to) {
                findings.push(format!("{name} -> {to}: not a direction of ARCHITECTURE.md"));
            }
            if barred.contains(&to) {
                findings.push(format!("{name} -> {to}: must not come into this crate"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, dir: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependency =
            |(name, kind): &(&str, Option<&str>)| Dependency { name: name.to_string(), kind: kind.map(str::to_string) };
        Package {
            name: name.into(),
            manifest_path: format!("/w/{dir}/Cargo.toml").into(),
            dependencies: dependencies.iter().map(dependency).collect(),
            targets: Vec::new(),
        }
    }

    fn findings(packages: Vec<Package>) -> Vec<String> {
        check(&Metadata { packages })
    }

    #[test]
    fn the_design_s_own_edges_are_allowed() {
        let packages = vec![
            package("abi", "abi", &[("zerocopy", None)]),
            package("ring-proto", "ring-proto", &[("abi", None), ("loom", Some("dev"))]),
            package("domain-rt", "domain-rt", &[("abi", None), ("ring-proto", None)]),
            package("netback", "netback", &[("domain-rt", None), ("frontends", Some("dev"))]),
            package("frontends", "frontends", &[("domain-rt", None)]),
            package("hello", "examples/guests/hello", &[("frontends", None)]),
        ];
        assert_eq!(findings(packages), Vec::<String>::new());
    }

    #[test]
    fn each_forbidden_edge_is_found() {
        let edges = [
            ("abi", "abi", "ring-proto"),
            ("ferrule", "kernel", "ring-proto"),
            ("ferrule", "kernel", "domain-rt"),
            ("ferrule-core", "kernel/core", "domain-rt"),
            ("netback", "netback", "frontends"),
            ("frontends", "frontends", "blkback"),
            ("netback", "netback", "blkback"),
            ("domain-rt", "domain-rt", "dom0"),
            ("dom0", "dom0", "xtask"),
            ("hello", "examples/guests/hello", "netback"),
            ("end-to-end", "tests/end-to-end", "xtask"),
        ];
        for (name, dir, to) in edges {
            let found = findings(vec![package(name, dir, &[(to, None)]), package(to, to, &[])]);
            assert!(
                found.iter().any(|line| line.starts_with(&format!("{name} -> {to}:"))),
                "{name} -> {to}: {found:?}"
            );
        }
    }

    #[test]
    fn barred_crates_and_unknown_ones_are_found() {
        for (name, to) in [("ferrule", "virtio-drivers"), ("ferrule-core", "x86_64"), ("ferrule-core", "spin")] {
            assert_eq!(findings(vec![package(name, "kernel", &[(to, None)])]).len(), 1, "{name} -> {to}");
        }
        assert_eq!(findings(vec![package("newcomer", "newcomer", &[])]).len(), 1);
    }
}
