//! `cargo xtask new-guest NAME` and `new-driver NAME`: a Rust guest or a split driver of one's own, made from the example
//! that the tests run.

use crate::metadata::{Metadata, Package};
use crate::place::Place;
use crate::unable;
use anyhow::{Context, Result};
use dom0::manifest::Class;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The guest to start from, and the driver.
const GUEST: &str = "first";
const DRIVER: &str = "echo";

/// What stands in an example, and what it becomes; the first that fits holds.
type Words = Vec<(String, String)>;

/// Makes examples/guests/NAME.
pub fn guest(place: &Place, name: &str) -> Result<()> {
    let to = room(place, "guests", name, &[name])?;
    copy(&place.root.join("examples/guests").join(GUEST), &to, &guest_words(name))?;
    println!("made {}", place.show(&to));
    println!("  its code      {}", place.show(&to.join("src/main.rs")));
    println!("  build it      cargo xtask build {name}");
    println!("  boot it       cargo xtask run --dom0 {}", place.show(&place.out().join(name)));
    Ok(())
}

/// Makes examples/drivers/NAME: both halves, their tests, a manifest.
pub fn driver(place: &Place, name: &str) -> Result<()> {
    let package = format!("{name}-driver");
    let to = room(place, "drivers", name, &[name, &format!("{name}back"), &package])?;
    if Class::parse(name).is_none_or(|class| [Class::VIF, Class::VBD, Class::PCI, Class::CONSOLE].contains(&class)) {
        unable!("{name:?} cannot be a new device class: at most {} letters, and none that there is", Class::MAX);
    }
    let examples = place.root.join("examples");
    copy(&examples.join("drivers").join(DRIVER), &to, &driver_words(name))?;
    let manifest = to.join(format!("{name}.toml"));
    copy_file(&examples.join(format!("{DRIVER}.toml")), &manifest, &driver_words(name))?;
    // Another name, another order of imports and another length of lines. Where there is no rustfmt it is only less neat.
    let format =
        Command::new("cargo").args(["fmt", "-p", &package]).current_dir(&place.root).stderr(Stdio::null()).status();
    let neat = format.is_ok_and(|status| status.success());
    println!("made {}", place.show(&to));
    println!("  what both halves say, and the backend's logic    {}", place.show(&to.join("src/lib.rs")));
    println!("  the driver domain, and a guest with a frontend   {}", place.show(&to.join("src/bin")));
    println!("  test it       cargo test -p {package}");
    println!("  boot both     cargo xtask run --config {}", place.show(&manifest));
    println!("  what is what  docs/adding-a-driver.md");
    if !neat {
        println!(
            "  `cargo fmt` found no rustfmt: `rustup component add rustfmt`, and again, before `cargo xtask lint`"
        );
    }
    Ok(())
}

/// Where the new one goes, if nothing there or in the workspace has one of its names.
fn room(place: &Place, folder: &str, name: &str, names: &[&str]) -> Result<PathBuf> {
    if let Some(reason) = unfit(name) {
        unable!("{name:?} cannot be the name of one of the {folder}: {reason}");
    }
    let metadata = Metadata::read(place)?;
    let to = place.root.join("examples").join(folder).join(name);
    let has = |package: &Package, name: &str| package.name == name || package.bins().any(|bin| bin == name);
    let taken = names.iter().find(|name| metadata.packages.iter().any(|package| has(package, name)));
    if let Some(taken) = taken.copied().or(to.exists().then_some(name)) {
        unable!("there is `{taken}` already; take another name");
    }
    Ok(to)
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

fn guest_words(name: &str) -> Words {
    vec![(GUEST.into(), name.into())]
}

/// As its crate, its types, and everywhere else.
fn driver_words(name: &str) -> Words {
    let mut kind = String::new();
    for part in name.split('-') {
        kind.extend(part.chars().take(1).map(|first| first.to_ascii_uppercase()));
        kind.extend(part.chars().skip(1));
    }
    let krate = format!("{}_driver", name.replace('-', "_"));
    vec![(format!("{DRIVER}_driver"), krate), ("Echo".into(), kind), (DRIVER.into(), name.into())]
}

/// `text` with every word of the example replaced.
fn renamed(text: &str, words: &Words) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let step = match words.iter().find(|(word, _)| rest.starts_with(word.as_str())) {
            Some((word, new)) => {
                done.push_str(new);
                word.len()
            }
            None => {
                done.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[step..];
    }
    done
}

/// Copies a folder, with the example's words replaced in every file and file name.
fn copy(from: &Path, to: &Path, words: &Words) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let to = to.join(renamed(&entry.file_name().to_string_lossy(), words));
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to, words)?,
            false => copy_file(&entry.path(), &to, words)?,
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, words: &Words) -> Result<()> {
    let text = std::fs::read_to_string(from).with_context(|| format!("reading {}", from.display()))?;
    std::fs::write(to, renamed(&text, words)).with_context(|| format!("writing {}", to.display()))
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

    /// What an example becomes, file by file.
    fn made(example: &str, words: &Words) -> Vec<(PathBuf, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
        let to = std::env::temp_dir().join(format!("ferrule-{}-{}", example.replace('/', "-"), std::process::id()));
        copy(&root, &to, words).unwrap();
        let (mut files, mut folders) = (Vec::new(), vec![to.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        files.push((path.strip_prefix(&to).unwrap().into(), std::fs::read_to_string(&path).unwrap()))
                    }
                }
            }
        }
        std::fs::remove_dir_all(to).unwrap();
        files
    }

    #[test]
    fn the_example_s_name_is_replaced_everywhere() {
        for (example, words, old) in
            [("guests/first", guest_words("zebra"), "first"), ("drivers/echo", driver_words("zebra"), "echo")]
        {
            let files = made(example, &words);
            for (path, text) in &files {
                assert!(!text.to_lowercase().contains(old), "{}: {text}", path.display());
                assert!(!path.to_string_lossy().contains(old), "{}", path.display());
            }
            let manifest = files.iter().find(|(path, _)| path == Path::new("Cargo.toml"));
            assert!(manifest.is_some_and(|(_, text)| text.contains("name = \"zebra")), "{files:?}");
        }
        assert!(
            made("drivers/echo", &driver_words("zebra"))
                .iter()
                .any(|(path, _)| path == Path::new("src/bin/zebraback.rs"))
        );
    }

    #[test]
    fn a_name_of_two_words_is_spelt_as_each_place_wants_it() {
        let text = "use echo_driver::Echo; // the class `echo`, EchoBack of echoback";
        let new = "use big_cat_driver::BigCat; // the class `big-cat`, BigCatBack of big-catback";
        assert_eq!(renamed(text, &driver_words("big-cat")), new);
    }
}
