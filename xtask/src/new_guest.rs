//! `cargo xtask new-guest NAME`: a Rust guest of one's own, made from the example that the tests run.

use crate::metadata::Metadata;
use crate::place::Place;
use crate::unable;
use anyhow::{Context, Result};
use std::path::Path;

/// The example, and the name in it that becomes the new one.
const TEMPLATE: &str = "first";

/// Makes examples/guests/NAME.
pub fn command(place: &Place, name: &str) -> Result<()> {
    if let Some(reason) = unfit(name) {
        unable!("{name:?} cannot be a guest's name: {reason}");
    }
    let metadata = Metadata::read(place)?;
    let taken = |package: &crate::metadata::Package| package.name == name || package.bins().any(|bin| bin == name);
    let to = place.root.join("examples/guests").join(name);
    if to.exists() || metadata.packages.iter().any(taken) {
        unable!("there is a {name} already; take another name");
    }
    copy(&place.root.join("examples/guests").join(TEMPLATE), &to, name)?;
    println!("made {}", place.show(&to));
    println!("  its code      {}", place.show(&to.join("src/main.rs")));
    println!("  build it      cargo xtask build {name}");
    println!("  boot it       cargo xtask run --dom0 {}", place.show(&place.out().join(name)));
    Ok(())
}

/// Why a name will not do for a package, a file and a domain at once.
fn unfit(name: &str) -> Option<&'static str> {
    let mut chars = name.chars();
    if !chars.next().is_some_and(|c| c.is_ascii_lowercase()) {
        return Some("it must begin with a lower-case letter");
    }
    if !chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Some("only lower-case letters, digits and '-'");
    }
    (name.len() > 30).then_some("more than 30 characters")
}

/// Copies a folder, with the template's name replaced in every file and file name.
fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().replace(TEMPLATE, name);
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(file), name)?;
        } else {
            let text = std::fs::read_to_string(entry.path())?;
            std::fs::write(to.join(file), text.replace(TEMPLATE, name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cargo_or_dom0_would_refuse_are_refused_here() {
        for bad in ["", "Web", "1st", "a_b", "a/b", "-x", "../x", "a b", &"x".repeat(31)] {
            assert!(unfit(bad).is_some(), "{bad:?}");
        }
        for good in ["web", "my-guest2"] {
            assert_eq!(unfit(good), None, "{good:?}");
        }
    }

    #[test]
    fn the_template_s_name_is_replaced_everywhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/guests").join(TEMPLATE);
        let to = std::env::temp_dir().join(format!("ferrule-new-guest-{}", std::process::id()));
        copy(&root, &to, "zebra").unwrap();
        let main = std::fs::read_to_string(to.join("src/main.rs")).unwrap();
        let manifest = std::fs::read_to_string(to.join("Cargo.toml")).unwrap();
        std::fs::remove_dir_all(to).unwrap();
        assert!(main.contains("zebra") && !main.contains(TEMPLATE), "{main}");
        assert!(manifest.contains("name = \"zebra\""), "{manifest}");
    }
}
