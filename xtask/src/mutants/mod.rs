//! `cargo xtask mutants`: small changes to our code, one by one, each of which a unit test must notice.
//!
//! What is changed how is cargo-mutants' list (what is left out of it: `.cargo/mutants.toml`). All changes that can be
//! branches are built at once ([`weave`]), in a copy of the sources ([`build`]); so a mutant costs no build, and meets
//! only tests that come by it ([`run`]). What became of each is kept under target/, so that a run goes on where it was
//! stopped; survivors are tried again. Those that are listed in docs/mutants.md with a reason are expected.

mod build;
mod run;
mod weave;

use crate::place::Place;
use crate::process::which;
use crate::unable;
use anyhow::{Context, Result, bail};
use build::Tree;
use run::Suite;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use weave::Mutant;

/// What to mutate.
#[derive(clap::Args)]
pub struct Options {
    /// Only files whose path begins so: `ring-proto`, `kernel/core/src/mm/`; all of both crates if none is given
    files: Vec<String>,
    /// One part of so many: `1/8` is the second of eight
    #[arg(long, value_name = "N/ALL")]
    shard: Option<String>,
    /// Only mutants of which docs/mutants.md would name this part: `replace < with <= in Core<P>::add_free`
    #[arg(long, value_name = "PART")]
    named: Option<String>,
    /// Only mutants that cannot be branches of one program, and take a build each
    #[arg(long)]
    built_alone: bool,
    /// Begin anew
    #[arg(long)]
    anew: bool,
    /// Try nothing; say what is known
    #[arg(long, conflicts_with = "anew")]
    report: bool,
    /// A command through which each build and each run of tests goes, such as `nice`
    #[arg(long, value_name = "COMMAND")]
    through: Option<String>,
}

impl Options {
    /// Leaves those that are asked for.
    fn retain(&self, mutants: &mut Vec<Mutant>) -> Result<()> {
        if !self.files.is_empty() {
            mutants.retain(|mutant| self.files.iter().any(|begin| mutant.file.starts_with(begin.as_str())));
        }
        if let Some(part) = &self.named {
            mutants.retain(|mutant| without_place(&mutant.name).contains(part.as_str()));
        }
        if let Some(shard) = &self.shard {
            let (number, all) = shard.split_once('/').context("a shard is N/ALL")?;
            let (number, all): (u32, u32) = (number.parse()?, all.parse()?);
            mutants.retain(|mutant| mutant.id % all.max(1) == number);
        }
        Ok(())
    }
}

/// The packages that are mutated, and where they are.
const PACKAGES: [(&str, &str); 2] = [("ring-proto", "ring-proto/"), ("ferrule-core", "kernel/core/")];
/// Where survivors are listed with their reasons.
const REASONS: &str = "docs/mutants.md";

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// A test failed, or the tests did not end.
    Caught,
    /// It does not compile.
    NotBuilt,
    /// All tests passed.
    Survived,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 3] =
        [(Outcome::Caught, "caught"), (Outcome::NotBuilt, "not built"), (Outcome::Survived, "survived")];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(outcome, _)| *outcome == self).map_or("", |(_, word)| word)
    }
}

/// Mutates; an error if a mutant survives that is not listed with a reason.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    if which("cargo-mutants").is_none() {
        unable!("cargo-mutants is missing; install it with: cargo install --locked cargo-mutants");
    }
    let reasons = std::fs::read_to_string(place.root.join(REASONS)).unwrap_or_default();
    let mut unexpected = 0;
    for (package, folder) in PACKAGES {
        let mut mutants = list(place, package)?;
        options.retain(&mut mutants)?;
        if mutants.is_empty() {
            continue;
        }
        let mut record = Record::open(place, package, options.anew)?;
        record.forget_what_changed(place, &mutants)?;
        if !options.report {
            let through = options.through.as_deref().unwrap_or("env");
            examine(&Tree::new(place, package, folder, through)?, &mutants, &mut record, options.built_alone)?;
        }
        unexpected += report(&mutants, &record, &reasons);
    }
    if unexpected > 0 {
        println!("{unexpected} survived without a reason in {REASONS}");
        return Err(crate::fail::Said.into());
    }
    Ok(())
}

/// Finds out about the mutants of which nothing is known, and tries survivors again; of those that are built alone, if
/// nothing else is asked for. (Which those are, only the build of all says.)
fn examine(tree: &Tree<'_>, mutants: &[Mutant], record: &mut Record, built_alone: bool) -> Result<()> {
    let open: Vec<&Mutant> =
        mutants.iter().filter(|m| !matches!(record.get(m), Some(Outcome::Caught | Outcome::NotBuilt))).collect();
    if open.is_empty() {
        return Ok(());
    }
    println!("{}: {} mutants, {} of them to be tried", tree.package, mutants.len(), open.len());
    let built = tree.build_all(&open)?;
    for mutant in open.iter().filter(|mutant| built.refused.contains(&mutant.id)) {
        record.note(mutant, Outcome::NotBuilt)?;
    }
    let suite_of = |program: &Path| Suite::find(program, &tree.scratch(), tree.through);
    if !built_alone {
        let suite = suite_of(&built.program)?;
        for mutant in open.iter().filter(|mutant| built.woven.contains(&mutant.id)) {
            record.note(mutant, suite.meets(mutant.id)?)?;
        }
    }
    let left: Vec<_> = open.iter().filter(|mutant| built.left.contains(&mutant.id)).collect();
    if left.is_empty() {
        return Ok(());
    }
    println!("{} of them are built alone", left.len());
    let suite = suite_of(&tree.build_unchanged()?)?;
    for mutant in left {
        let outcome = match tree.build_one(mutant)? {
            None => Outcome::NotBuilt,
            Some(program) => suite.all_on(&program)?,
        };
        record.note(mutant, outcome)?;
    }
    Ok(())
}

/// What became of the mutants of a package so far; a line each, of which the last counts.
struct Record {
    file: File,
    path: PathBuf,
    known: HashMap<String, Outcome>,
}

impl Record {
    fn open(place: &Place, package: &str, anew: bool) -> Result<Record> {
        let dir = place.target.join("mutants");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{package}.outcomes"));
        if anew && path.exists() {
            std::fs::remove_file(&path)?;
        }
        let mut known = HashMap::new();
        for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
            let Some((word, name)) = line.split_once('\t') else { continue };
            match Outcome::ALL.iter().find(|(_, known)| *known == word) {
                Some((outcome, _)) => known.insert(name.to_string(), *outcome),
                None => known.remove(name),
            };
        }
        let file = File::options().create(true).append(true).open(&path)?;
        Ok(Record { file, path, known })
    }

    fn get(&self, mutant: &Mutant) -> Option<Outcome> {
        self.known.get(&mutant.name).copied()
    }

    fn note(&mut self, mutant: &Mutant, outcome: Outcome) -> Result<()> {
        if outcome == Outcome::Survived {
            println!("survived: {}", mutant.name);
        }
        self.known.insert(mutant.name.clone(), outcome);
        Ok(writeln!(self.file, "{}\t{}", outcome.word(), mutant.name)?)
    }

    /// Names have line numbers, which mean something in one version of a file only.
    fn forget_what_changed(&mut self, place: &Place, mutants: &[Mutant]) -> Result<()> {
        let dir = self.path.with_extension("sources");
        std::fs::create_dir_all(&dir)?;
        let mut files: Vec<&str> = mutants.iter().map(|mutant| mutant.file.as_str()).collect();
        files.dedup();
        for file in files {
            let mut hasher = DefaultHasher::new();
            std::fs::read(place.root.join(file))?.hash(&mut hasher);
            let (hash, kept) = (hasher.finish().to_string(), dir.join(file.replace('/', "-")));
            if std::fs::read_to_string(&kept).is_ok_and(|old| old == hash) {
                continue;
            }
            let changed: Vec<String> =
                self.known.keys().filter(|name| name.starts_with(&format!("{file}:"))).cloned().collect();
            for name in changed {
                writeln!(self.file, "changed\t{name}")?;
                self.known.remove(&name);
            }
            std::fs::write(kept, hash)?;
        }
        Ok(())
    }
}

/// A row for each file, for docs/mutants.md; returns how many survived that are not expected.
fn report(mutants: &[Mutant], record: &Record, reasons: &str) -> usize {
    let mut files: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    mutants.iter().for_each(|mutant| files.entry(&mutant.file).or_default().push(mutant));
    let survives = |mutant: &&Mutant| record.get(mutant) == Some(Outcome::Survived);
    let unexpected: Vec<&str> = mutants
        .iter()
        .filter(survives)
        .map(|mutant| mutant.name.as_str())
        .filter(|name| !is_expected(name, reasons))
        .collect();
    unexpected.iter().for_each(|name| println!("no reason: {name}"));
    println!("| file | mutants | do not build | caught | survived |\n|---|---|---|---|---|");
    let (mut all, mut not_run) = ([0; 3], Vec::new());
    for (file, mutants) in files {
        let outcomes: Vec<Outcome> = mutants.iter().filter_map(|mutant| record.get(mutant)).collect();
        if outcomes.len() < mutants.len() {
            not_run.push(format!("{file} ({} of {})", mutants.len() - outcomes.len(), mutants.len()));
            continue;
        }
        let counts = Outcome::ALL.map(|(outcome, _)| outcomes.iter().filter(|it| **it == outcome).count());
        println!("{}", row(file, &counts));
        all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    println!("{}", row("all of these", &all));
    if !not_run.is_empty() {
        println!("not run: {}", not_run.join(", "));
    }
    unexpected.len()
}

fn row(name: &str, [caught, not_built, survived]: &[usize; 3]) -> String {
    let (all, percent) = (caught + not_built + survived, *survived as f64 * 100.0 / (caught + survived).max(1) as f64);
    format!("| {name} | {all} | {not_built} | {caught} | {survived} ({percent:.1} %) |")
}

/// Is a survivor listed? There it is named without line and column, which change.
fn is_expected(name: &str, reasons: &str) -> bool {
    reasons.contains(&format!("`{}`", without_place(name)))
}

fn without_place(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(change)) => format!("{file}:{change}"),
        _ => name.to_string(),
    }
}

#[derive(serde::Deserialize)]
struct Listed {
    name: String,
    file: String,
    genre: String,
    replacement: String,
    span: Span,
}

#[derive(serde::Deserialize)]
struct Span {
    start: Position,
    end: Position,
}

#[derive(serde::Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

/// What cargo-mutants would do to a package.
fn list(place: &Place, package: &str) -> Result<Vec<Mutant>> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&place.root).args(["mutants", "--list", "--json", "-p", package]);
    let listed: Vec<Listed> = serde_json::from_str(&crate::process::stdout_of(&mut cargo)?)?;
    let mut sources: HashMap<String, String> = HashMap::new();
    let mut mutants = Vec::new();
    // Modules of tests under a condition of their own are listed too.
    for (id, it) in (1..).zip(listed.into_iter().filter(|it| !it.name.contains(" tests::"))) {
        if !sources.contains_key(&it.file) {
            sources.insert(it.file.clone(), std::fs::read_to_string(place.root.join(&it.file))?);
        }
        let Some(source) = sources.get(&it.file) else { bail!("no source") };
        let offset = |at: &Position| weave::offset(source, at.line, at.column);
        let span = offset(&it.span.start)..offset(&it.span.end);
        mutants.push(Mutant { id, name: it.name, file: it.file, genre: it.genre, replacement: it.replacement, span });
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(id: u32, name: &str) -> Mutant {
        let file = name.split(':').next().unwrap_or("").into();
        let (genre, replacement) = (String::new(), String::new());
        Mutant { id, name: name.into(), file, genre, replacement, span: 0..0 }
    }

    #[test]
    fn mutants_are_picked_by_file_name_and_shard() {
        let all = [
            (1, "a/x.rs:17:40: replace < with <= in f"),
            (2, "a/y.rs:7:4: replace < with == in f"),
            (3, "b/x.rs:1:1: replace < with <= in f"),
        ];
        let picked = |files: &[&str], named: Option<&str>, shard: Option<&str>| {
            let (files, [named, shard]) =
                (files.iter().map(|it| it.to_string()).collect(), [named, shard].map(|it| it.map(String::from)));
            let options =
                Options { files, named, shard, built_alone: false, anew: false, report: false, through: None };
            let mut mutants: Vec<Mutant> = all.map(|(id, name)| mutant(id, name)).into();
            options.retain(&mut mutants).expect("good options");
            mutants.iter().map(|mutant| mutant.id).collect::<Vec<u32>>()
        };
        assert_eq!(picked(&[], None, None), [1, 2, 3]);
        assert_eq!(picked(&["a/", "b/y"], None, None), [1, 2]);
        assert_eq!(picked(&[], Some("replace < with <= in f"), None), [1, 3]);
        assert_eq!(picked(&["a/"], Some("x.rs: replace"), None), [1]);
        assert_eq!(picked(&[], None, Some("1/2")), [1, 3]);
    }

    #[test]
    fn survivors_are_known_by_what_they_change() {
        let name = "ring-proto/src/blk.rs:17:40: replace / with % in f";
        assert_eq!(without_place(name), "ring-proto/src/blk.rs: replace / with % in f");
        assert!(is_expected(name, "- `ring-proto/src/blk.rs: replace / with % in f`: why"));
        assert!(!is_expected(name, "- `ring-proto/src/blk.rs: replace / with % in g`: why"));
        assert_eq!(row("f", &[97, 5, 3]), "| f | 105 | 5 | 97 | 3 (3.0 %) |");
    }
}
