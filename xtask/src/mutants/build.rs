//! Mutants built: all that can be at once, the others one by one.

use super::weave::{self, Mutant, Woven};
use crate::place::Place;
use crate::planted;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

/// What the mutated crate asks whether a mutant is on. With none on it writes down by whom it was asked; with one on, the
/// tests fail when all their threads wait for each other.
const SWITCH: &str = r#"
/// Which mutant is on: put here by `cargo xtask mutants`.
#[allow(missing_docs)]
pub mod mutant {
    extern crate std;
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
    use std::io::Write;
    static ON: AtomicU32 = AtomicU32::new(u32::MAX);
    static ASKED: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];
    #[inline]
    pub fn on(id: u32) -> bool {
        match ON.load(Relaxed) {
            0 | u32::MAX => ask(id),
            active => active == id,
        }
    }
    #[cold]
    fn ask(id: u32) -> bool {
        let active = std::env::var("MUTANT").ok().and_then(|id| id.parse().ok()).unwrap_or(0);
        if ON.swap(active, Relaxed) == u32::MAX && active != 0 {
            std::thread::spawn(watch);
        }
        if active == 0 && !ASKED[id as usize].swap(true, Relaxed) {
            if let Ok(path) = std::env::var("MUTANTS_ASKED") {
                let file = std::fs::File::options().create(true).append(true).open(path);
                file.and_then(|mut file| file.write_all(std::format!("{id}\n").as_bytes())).expect("to be written");
            }
        }
        active == id
    }
    fn watch() {
        let runs = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a task").path().join("stat")).unwrap_or_default();
            !stat.rsplit(')').next().unwrap_or("").starts_with(" S")
        };
        let mut waited = 0;
        while waited < 20 {
            std::thread::sleep(std::time::Duration::from_millis(250));
            // But for this one.
            let running = std::fs::read_dir("/proc/self/task").expect("tasks").map(runs).filter(|runs| *runs);
            waited = if running.count() > 1 { 0 } else { waited + 1 };
        }
        std::process::exit(99);
    }
}
"#;

/// Errors of rustc's which a mutant's own expression has, however it is built: a type that is another, an operator or
/// a trait that is not there.
const NOT_BUILT: [&str; 9] = ["E0277", "E0308", "E0369", "E0368", "E0600", "E0614", "E0599", "E0282", "E0283"];

/// A copy of the sources, in which one package is mutated.
pub struct Tree<'a> {
    place: &'a Place,
    /// The package.
    pub package: &'a str,
    /// What each command goes through.
    pub through: &'a str,
    root: PathBuf,
    /// The package's lib.rs, which gets the switch.
    lib: String,
}

/// What one build made of many mutants.
pub struct Built {
    /// The package's tests.
    pub program: PathBuf,
    /// Mutants that are branches of it.
    pub woven: BTreeSet<u32>,
    /// Those that do not compile.
    pub refused: BTreeSet<u32>,
    /// Those that may compile by themselves.
    pub left: BTreeSet<u32>,
}

impl<'a> Tree<'a> {
    /// Makes it, or brings it up to date.
    pub fn new(place: &'a Place, package: &'a str, folder: &str, through: &'a str) -> Result<Tree<'a>> {
        let root = place.target.join("mutants/tree").join(package);
        Ok(Tree { place, package, through, root, lib: format!("{folder}src/lib.rs") })
    }

    /// A file that tests may write to.
    pub fn scratch(&self) -> PathBuf {
        self.root.with_extension("asked")
    }

    /// Builds all mutants into one program; those that keep it from being built are taken out until it is.
    pub fn build_all(&self, mutants: &[&Mutant]) -> Result<Built> {
        planted::copy(self.place, &self.root)?;
        let most = mutants.iter().map(|mutant| mutant.id).max().unwrap_or(0) as usize + 1;
        let mut out = LeftOut::default();
        for round in 1..=40 {
            let mut files: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
            files.entry(&self.lib).or_default();
            for &mutant in mutants {
                let there = files.entry(&mutant.file).or_default();
                if !out.refused.contains(&mutant.id) && !out.left.contains(&mutant.id) {
                    there.push(mutant);
                }
            }
            let mut woven: BTreeMap<&str, Woven> = BTreeMap::new();
            for (file, mutants) in files {
                let source = std::fs::read_to_string(self.place.root.join(file))?;
                let mut made = weave::weave(&source, &mutants, out.constant.entry(file.into()).or_default());
                out.left.extend(made.left.drain(..));
                if file == self.lib {
                    made.text.push_str(&SWITCH.replace("COUNT", &most.to_string()));
                }
                self.write(file, &made.text)?;
                woven.insert(file, made);
            }
            match self.cargo(Speed::OfTests)? {
                Ok(program) => {
                    let woven = woven.values().flat_map(|made| made.branches.iter().map(|(id, _)| *id)).collect();
                    return Ok(Built { program, woven, refused: out.refused, left: out.left });
                }
                Err(errors) => {
                    let before = out.count();
                    errors.iter().for_each(|error| error.blame(&woven, &mut out));
                    let mutants = out.refused.len() + out.left.len();
                    println!("build {round}: {} errors, {mutants} mutants left out", errors.len());
                    if out.count() == before {
                        bail!("no mutant is to blame for: {}", errors.first().map_or("", |error| &error.text));
                    }
                }
            }
        }
        bail!("too many builds")
    }

    /// Builds the package as it is, in the way of one mutant.
    pub fn build_unchanged(&self) -> Result<PathBuf> {
        planted::copy(self.place, &self.root)?;
        self.cargo(Speed::OfBuild)?.map_err(|_| anyhow::anyhow!("{} does not compile", self.package))
    }

    /// Builds one mutant; `None` if it does not compile.
    pub fn build_one(&self, mutant: &Mutant) -> Result<Option<PathBuf>> {
        planted::copy(self.place, &self.root)?;
        let source = std::fs::read_to_string(self.place.root.join(&mutant.file))?;
        self.write(&mutant.file, &mutant.apply(&source))?;
        Ok(self.cargo(Speed::OfBuild)?.ok())
    }

    /// Writes a file, unless it is so already.
    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.root.join(file);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Builds the package's unit tests, not to be debugged.
    fn cargo(&self, speed: Speed) -> Result<Result<PathBuf, Vec<CompileError>>> {
        let mut cargo = Command::new(self.through);
        cargo.arg("cargo").current_dir(&self.root).env("CARGO_TARGET_DIR", self.place.target.join("mutants/build"));
        // What is refused by a lint is so by itself too; woven, an allowed one keeps no other mutant from being built.
        let (optimized, lints) = match speed {
            Speed::OfTests => ("1", "--cap-lints allow"),
            Speed::OfBuild => ("0", "-A warnings"),
        };
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_OPT_LEVEL", optimized);
        cargo.env("CARGO_INCREMENTAL", "1").env("RUSTFLAGS", lints);
        // The workspace has a word about some packages of its own.
        let own = format!("profile.dev.package.{}.opt-level={optimized}", self.package);
        cargo.args(["test", "--config", &own, "--lib", "--no-run", "--message-format=json", "-p", self.package]);
        let output = cargo.output().context("starting cargo")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(Ok(crate::fuzz::executable(&said).context("cargo names no tests")?));
        }
        let errors: Vec<CompileError> = said.lines().filter_map(CompileError::read).collect();
        if errors.is_empty() {
            bail!("cargo failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Err(errors))
    }
}

/// What is to be quick.
#[derive(Clone, Copy)]
enum Speed {
    /// The tests, which many mutants meet.
    OfTests,
    /// The build, which is for one mutant: after a change of a constant it takes seconds.
    OfBuild,
}

/// What keeps mutants from being built all at once.
#[derive(Default)]
struct LeftOut {
    /// Mutants that do not compile.
    refused: BTreeSet<u32>,
    /// Mutants that may do so by themselves.
    left: BTreeSet<u32>,
    /// Functions that have to stay constant, by file and where they say so.
    constant: BTreeMap<String, BTreeSet<usize>>,
}

impl LeftOut {
    fn count(&self) -> usize {
        self.refused.len() + self.left.len() + self.constant.values().map(BTreeSet::len).sum::<usize>()
    }
}

/// An error of rustc's.
struct CompileError {
    code: String,
    text: String,
    /// Its places, the main ones first.
    places: Vec<(String, Range<usize>)>,
}

impl CompileError {
    fn read(line: &str) -> Option<CompileError> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let message = line.get("message")?;
        if message.get("level")?.as_str()? != "error" {
            return None;
        }
        let code = message.pointer("/code/code").and_then(|code| code.as_str()).unwrap_or("").to_string();
        let text = message.get("rendered")?.as_str()?.to_string();
        let mut places: Vec<(bool, String, Range<usize>)> = Vec::new();
        let children = message.get("children")?.as_array()?.iter();
        for (depth, part) in [message].into_iter().chain(children).enumerate() {
            for span in part.get("spans")?.as_array()? {
                let number = |name: &str| Some(span.get(name)?.as_u64()? as usize);
                let main = depth == 0 && span.get("is_primary")?.as_bool()?;
                let range = number("byte_start")?..number("byte_end")?;
                places.push((!main, span.get("file_name")?.as_str()?.to_string(), range));
            }
        }
        places.sort_by_key(|(secondary, ..)| *secondary);
        Some(CompileError { code, text, places: places.into_iter().map(|(_, file, range)| (file, range)).collect() })
    }

    /// Finds whose fault it is: the smallest branch around one of its places, else those within one, else the last before.
    ///
    /// But first: a function that was constant and is needed as such.
    fn blame(&self, woven: &BTreeMap<&str, Woven>, out: &mut LeftOut) {
        let LeftOut { refused, left, constant } = out;
        let near = || self.places.iter().filter_map(|(file, range)| Some((woven.get(file.as_str())?, range)));
        if self.code == "E0015" {
            // rustc shows a function from its first word on, which may be the one behind `const`; or says its name alone.
            let called = self.text.split('`').nth(1).and_then(|path| path.rsplit("::").next()).unwrap_or("");
            let shown = |file: &str, at: usize| {
                self.places.iter().any(|(of, range)| of == file && range.start <= at + 1 && at <= range.end)
            };
            for (file, made) in woven {
                let meant = made.constant.iter().filter(|(_, at, name)| shown(file, *at) || name == called);
                let meant: Vec<usize> = meant.map(|(source, ..)| *source).collect();
                constant.entry(file.to_string()).or_default().extend(&meant);
                if !meant.is_empty() {
                    return;
                }
            }
        }
        if self.code == "E0004" {
            // A match that has no arm for everything once arms may be gone: rustc shows what is matched, and its end.
            let Some((made, matched)) = near().next() else { return };
            let end = near().filter(|(there, _)| std::ptr::eq(*there, made)).map(|(_, range)| range.end).max();
            let inside = |at: usize| matched.end <= at && Some(at) <= end;
            let arms =
                made.branches.iter().filter(|(_, it)| inside(it.start) && made.text[it.start..].starts_with(" if !"));
            left.extend(arms.map(|(id, _)| *id));
            return;
        }
        for (made, range) in near() {
            let around = |branch: &Range<usize>| branch.start <= range.start && range.end <= branch.end;
            let branches = made.branches.iter().filter(|(_, branch)| around(branch));
            if let Some((id, _)) = branches.min_by_key(|(_, branch)| branch.len()) {
                let clear = NOT_BUILT.contains(&self.code.as_str());
                if clear {
                    refused.insert(*id)
                } else {
                    left.insert(*id)
                };
                return;
            }
        }
        for (made, range) in near() {
            let inside = |branch: &Range<usize>| range.start <= branch.start && branch.end <= range.end;
            let ids: Vec<u32> = made.branches.iter().filter(|(_, b)| inside(b)).map(|(id, _)| *id).collect();
            if !ids.is_empty() {
                left.extend(ids);
                return;
            }
        }
        // What a function returns instead may have said which type it is, for one that says it nowhere else.
        for (made, range) in near() {
            let returns = |branch: &Range<usize>| made.text[branch.clone()].contains("{return ");
            let before = made.branches.iter().filter(|(_, branch)| branch.end <= range.start && returns(branch));
            if let Some((id, _)) = before.max_by_key(|(_, branch)| branch.end) {
                left.insert(*id);
                return;
            }
        }
    }
}
