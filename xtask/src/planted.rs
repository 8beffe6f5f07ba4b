//! `cargo xtask planted`: bugs put into our code on purpose, one by one, each of which a test must notice.
//!
//! `tests/planted/NN-name.patch` begins with three lines: `Lesson:`, whose class of bug it is; `Package:` and `Found-by:`,
//! the test that has to fail. It is applied to a copy of the sources under target/, which is built in a folder of its own.

use crate::place::Place;
use crate::process::quiet;
use crate::unable;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What to plant.
#[derive(clap::Args)]
pub struct Options {
    /// Only the patches whose name has this in it
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// See that every patch still applies, and build nothing
    #[arg(long)]
    check: bool,
}

/// What a bug may take to be found, building left out.
const LIMIT: Duration = Duration::from_secs(60);
const BUILD: Duration = Duration::from_secs(1800);

/// A bug to plant.
struct Planted {
    name: String,
    path: PathBuf,
    lesson: String,
    package: String,
    test: String,
}

impl Planted {
    fn read(path: PathBuf) -> Result<Planted> {
        let text = std::fs::read_to_string(&path)?;
        let field = |name: &str| {
            let line =
                text.lines().take_while(|line| !line.starts_with("--- ")).find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_string()).with_context(|| format!("{}: no line {name}", path.display()))
        };
        let (lesson, package, test) = (field("Lesson:")?, field("Package:")?, field("Found-by:")?);
        let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        Ok(Planted { name, path, lesson, package, test })
    }
}

/// Every patch, in order.
fn all(place: &Place) -> Result<Vec<Planted>> {
    let dir = place.root.join("tests/planted");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    paths.sort();
    paths.into_iter().map(Planted::read).collect()
}

/// Plants them, and shows what found each; an error unless all were found.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    let all = all(place)?;
    let wanted = |planted: &&Planted| options.only.as_ref().is_none_or(|part| planted.name.contains(part.as_str()));
    let chosen: Vec<&Planted> = all.iter().filter(wanted).collect();
    if chosen.is_empty() {
        unable!("no patch has {} in its name", options.only.as_deref().unwrap_or(""));
    }
    let tree = place.target.join("planted/tree");
    copy(place, &tree)?;
    let mut missed = 0;
    for planted in &chosen {
        let applied = git_apply(&tree, &planted.path, false);
        let said = match &applied {
            Err(error) => Err(format!("does not apply: {error:#}")),
            Ok(()) if options.check => Ok("applies".into()),
            Ok(()) => find(place, &tree, planted).map_err(|error| format!("{error:#}")),
        };
        if applied.is_ok() {
            git_apply(&tree, &planted.path, true)?;
        }
        missed += usize::from(said.is_err());
        let mark = if said.is_ok() { "ok" } else { "FAILED" };
        let (Ok(said) | Err(said)) = said;
        println!("{mark:6} {:28} {said}   (lesson {})", planted.name, planted.lesson);
    }
    println!(
        "{} of {} planted bugs {}",
        chosen.len() - missed,
        chosen.len(),
        if options.check { "apply" } else { "found" }
    );
    if missed > 0 {
        return Err(crate::fail::Said.into());
    }
    Ok(())
}

/// Those that no longer apply.
pub fn check(place: &Place) -> Result<Vec<String>> {
    let tree = place.target.join("planted/tree");
    copy(place, &tree)?;
    let mut findings = Vec::new();
    for planted in all(place)? {
        match git_apply(&tree, &planted.path, false) {
            Ok(()) => git_apply(&tree, &planted.path, true)?,
            Err(error) => findings.push(format!("tests/planted/{}.patch no longer applies: {error:#}", planted.name)),
        }
    }
    Ok(findings)
}

/// Brings the copy of the sources up to date. Files that are the same stay untouched, so that cargo builds little.
pub fn copy(place: &Place, tree: &Path) -> Result<()> {
    let files = place.files()?;
    for file in &files {
        let (from, to) = (place.root.join(file), tree.join(file));
        let bytes = std::fs::read(&from).with_context(|| format!("reading {file}"))?;
        if std::fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        std::fs::create_dir_all(to.parent().context("a folder")?)?;
        std::fs::write(&to, bytes)?;
    }
    // What is gone from the workspace goes from the copy.
    let copied = Place { root: tree.to_path_buf(), target: tree.join("target"), ..place.clone() };
    for stale in copied.files()?.iter().filter(|file| !files.contains(file)) {
        std::fs::remove_file(tree.join(stale))?;
    }
    Ok(())
}

/// Plants one in a copy of the sources.
pub fn plant(place: &Place, tree: &Path, name: &str) -> Result<()> {
    git_apply(tree, &place.root.join("tests/planted").join(name).with_extension("patch"), false)
}

/// Applies a patch to the copy, or takes it back.
fn git_apply(tree: &Path, patch: &Path, back: bool) -> Result<()> {
    let mut git = Command::new("git");
    // The copy lies inside a repository that has nothing to do with it.
    git.current_dir(tree).env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree)).arg("apply");
    if back {
        git.arg("-R");
    }
    let out = quiet(git.arg(patch), LIMIT)?;
    if !out.ok {
        bail!("{}", out.text.trim());
    }
    Ok(())
}

/// Builds the copy and runs the test that has to fail.
fn find(place: &Place, tree: &Path, planted: &Planted) -> Result<String> {
    let cargo = |more: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(tree).env("CARGO_TARGET_DIR", place.target.join("planted/target"));
        cargo.args(["test", "--quiet", "--lib", "-p", &planted.package]).args(more).env("RUST_BACKTRACE", "0");
        cargo
    };
    let begin = Instant::now();
    let built = quiet(&mut cargo(&["--no-run"]), BUILD)?;
    if !built.ok {
        bail!("does not build: {}", built.text.lines().find(|line| line.starts_with("error")).unwrap_or("?"));
    }
    let building = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let run = quiet(&mut cargo(&["--", "--exact", &planted.test]), LIMIT)?;
    let seconds = begin.elapsed().as_secs_f64();
    let failed = run.text.contains("test result: FAILED") || run.text.contains("SIGABRT");
    if run.ok || !failed || seconds >= LIMIT.as_secs_f64() {
        bail!("not found by {} in {seconds:.1} s (built in {building:.0} s)", planted.test);
    }
    Ok(format!("found by {} in {seconds:.1} s (built in {building:.0} s)", planted.test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_what_it_is_and_what_finds_it() {
        let path = std::env::temp_dir().join(format!("ferrule-{}-01-x.patch", std::process::id()));
        std::fs::write(&path, "Lesson: 2\nPackage: ferrule-core\nFound-by: a::b\n\n--- a/x\n+++ b/x\n").unwrap();
        let planted = Planted::read(path.clone()).unwrap();
        assert_eq!((&*planted.lesson, &*planted.package, &*planted.test), ("2", "ferrule-core", "a::b"));
        std::fs::write(&path, "Lesson: 2\n--- a/x\nPackage: y\n").unwrap();
        assert!(Planted::read(path.clone()).is_err(), "a line of the patch itself is no field");
        std::fs::remove_file(path).unwrap();
    }
}
