//! `cargo xtask fuzz --coverage`: libFuzzer over the same targets. It keeps what reaches new code, and changes that.
//!
//! The programs are the same tests, built with counters on every edge (LLVM's SanitizerCoverage, which rustc's stable
//! options reach; those are the options that cargo-fuzz gives) and with libFuzzer linked in
//! ([`fuzz::campaign`](../../../tests/fuzz/src/guided.rs)).

use super::minimize::{self, Reached};
use super::{Options, Target, campaign, executable};
use crate::fail::Said;
use crate::place::Place;
use crate::process::{Guarded, stdout_of};
use crate::setup::Need;
use anyhow::{Context, Result, bail};
use fuzz::{Choices, corpus};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What libFuzzer, which comes as C++ sources, needs.
pub const NEEDS: [Need; 1] = [Need::Program("c++", "g++")];

/// A counter on each edge, and a look at what is compared.
const FLAGS: &str = "--cfg fuzzing_libfuzzer -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Named, so that the flags are not for build scripts and macros.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// The longest input, in bytes.
const LONGEST: usize = 4096;
/// Inputs by seed that a run begins with, beside the committed ones.
const RANDOM: usize = 32;

/// How lines of libFuzzer's begin that tell nobody anything.
const USUAL: [&str; 11] =
    ["#", "NEW_FUNC", "WARNING: ", "INFO: ", "MERGE-", "\"", "==", "NOTE: ", "0x", "artifact_prefix=", "Base64: "];

/// A target with its program and its folders.
struct Run<'a> {
    place: &'a Place,
    target: &'a Target,
    options: &'a Options,
    program: PathBuf,
    /// Where libFuzzer runs.
    dir: PathBuf,
    /// The folder of inputs in there, of this target and this way to run it.
    inputs: String,
}

/// What libFuzzer said.
#[derive(Default)]
struct Heard {
    /// Edges after the inputs it began with.
    began: u64,
    /// Edges.
    edges: u64,
    /// What is none of its usual lines.
    rest: Vec<String>,
    /// The input that broke something.
    broke: Option<String>,
}

/// Runs one target; what it says of itself in the end, if it held.
pub(super) fn run(place: &Place, target: &Target, options: &Options) -> Result<Option<String>> {
    let dir = place.target.join("fuzz-corpus");
    let program = build(place, target.package)?;
    let Options { blind, minutes, seed, .. } = *options;
    let inputs = match () {
        _ if blind => format!("{}.blind", target.name),
        _ if minutes == 0 && !options.resume => format!("{}.committed", target.name),
        _ => target.name.to_string(),
    };
    let run = Run { place, target, options, program, dir, inputs: inputs.clone() };
    let state = run.dir.join(format!("{inputs}.state"));
    run.begin(&state)?;
    let length = if minutes == 0 { "-runs=0".into() } else { format!("-max_total_time={}", minutes * 60) };
    let most = if blind { 1 } else { LONGEST };
    let args = format!(
        "{inputs} -artifact_prefix={}- -timeout=600 -len_control=0 -seed={seed} -max_len={most} {length}",
        target.name
    );
    let Some(heard) = run.libfuzzer(&args, Some(&state))? else { return Ok(None) };
    if options.minimize {
        run.minimize()?;
    }
    let (edges, began) = (heard.edges, heard.began);
    let edges = match blind {
        true => format!("{edges} edges without a guide"),
        false => format!("{edges} edges, {began} of them at the start"),
    };
    if minutes == 0 {
        return Ok(Some(format!("{}: {edges}", target.name)));
    }
    let said =
        campaign(&run.program, target, options, &[("FUZZ_OPS", "0".as_ref()), ("FUZZ_STATE", state.as_os_str())])?;
    Ok(said.map(|said| format!("{said}; {edges}")))
}

/// The unit tests of a package, with counters and libFuzzer.
fn build(place: &Place, package: &str) -> Result<PathBuf> {
    println!("building the tests of {package} for coverage");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&place.root).args(["test", "--quiet", "--profile", "fuzz", "--lib", "--no-run", "-p", package]);
    cargo.args(["--target", HOST, "--message-format=json"]);
    cargo.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", place.target.join("coverage"));
    executable(&stdout_of(&mut cargo)?).with_context(|| format!("cargo names no tests of {package}"))
}

impl Run<'_> {
    /// The committed inputs, some by seed, and with `--resume` what earlier runs left.
    fn begin(&self, state: &Path) -> Result<()> {
        let grown = self.dir.join(&self.inputs);
        if !self.options.resume {
            let _ = std::fs::remove_dir_all(&grown);
            let _ = std::fs::remove_file(state);
        }
        std::fs::create_dir_all(&grown)?;
        if self.options.blind {
            return Ok(());
        }
        let file = corpus::file(&self.place.root, self.target.name);
        let packed = std::fs::read(&file).unwrap_or_default();
        let inputs = corpus::unpack(&packed).with_context(|| format!("{} is cut off", self.place.show(&file)))?;
        for (number, input) in inputs.iter().enumerate() {
            std::fs::write(grown.join(format!("committed-{number}")), input)?;
        }
        let mut choices = Choices::seeded(self.options.seed);
        for number in 0..if self.options.minutes == 0 { 0 } else { RANDOM } {
            let mut input = [0; LONGEST];
            choices.fill(&mut input);
            std::fs::write(grown.join(format!("random-{number}")), input)?;
        }
        Ok(())
    }

    /// Runs libFuzzer to its end. `None` if something broke, which is shown.
    fn libfuzzer(&self, args: &str, state: Option<&Path>) -> Result<Option<Heard>> {
        let harness = ["--ignored", "--nocapture", "--exact", self.target.test].map(String::from);
        let child = Guarded::spawn(&self.program.display().to_string(), &harness, |command| {
            command.current_dir(&self.dir).env("BOLERO_LIBFUZZER_ARGS", args).env("RUST_BACKTRACE", "0");
            command.env("FUZZ_GUIDE", if self.options.blind { "seeds" } else { "coverage" });
            command.env("FUZZ_SEED", self.options.seed.to_string());
            state.map(|state| command.env("FUZZ_STATE", state));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        })?;
        let output = child.child().stderr.take().context("its output")?;
        let mut heard = Heard::default();
        for line in BufReader::new(output).split(b'\n') {
            self.hear(&String::from_utf8_lossy(&line?), &mut heard);
        }
        if child.wait(Duration::from_secs(60))?.is_some_and(|status| status.success()) {
            return Ok(Some(heard));
        }
        println!("{}", heard.rest.join("\n"));
        let Some(broke) = heard.broke else { bail!("libFuzzer ended without a finding") };
        let path = self.dir.join(broke);
        let path = self.place.show(&path);
        println!("VIOLATION by {path}; again by: cargo xtask fuzz {} --input {path}", self.target.name);
        Ok(None)
    }

    /// Takes in one line of what libFuzzer says; shows it if it tells how far things are.
    fn hear(&self, line: &str, heard: &mut Heard) {
        if let Some(edges) = number_after(line, "cov: ") {
            heard.edges = edges;
            if line.contains("\tINITED") {
                heard.began = edges;
            }
        } else if line.starts_with(&format!("{}: ", self.target.name)) {
            println!("{line}, {} edges", heard.edges);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            heard.broke = Some(path.into());
        } else if !USUAL.iter().any(|usual| line.trim_start().starts_with(usual)) {
            heard.rest.push(line.into());
        }
    }

    /// Writes what reaches the most edges for its bytes, of all inputs and their beginnings, into the committed file.
    fn minimize(&self) -> Result<()> {
        let name = self.target.name;
        let cuts = self.dir.join(format!("{name}.cuts"));
        let _ = std::fs::remove_dir_all(&cuts);
        std::fs::create_dir_all(&cuts)?;
        // The first world of a process takes edges that no other does: it is made of the empty input.
        let mut inputs = vec![Vec::new()];
        for entry in std::fs::read_dir(self.dir.join(&self.inputs))? {
            let input = std::fs::read(entry?.path())?;
            inputs.extend((0..4).map(|quarters| input[..input.len() >> (2 * quarters)].to_vec()));
        }
        let files: Vec<String> = (0..inputs.len()).map(|number| format!("{name}.cuts/{number}")).collect();
        for (file, input) in files.iter().zip(&inputs) {
            std::fs::write(self.dir.join(file), input)?;
        }
        let control = self.dir.join(format!("{name}.control"));
        std::fs::write(&control, minimize::question(&files))?;
        // An edge is reached or not, how often is all the same; 2 is for all edges of each, not the new ones.
        if self
            .libfuzzer(&format!("-merge_control_file={name}.control -merge_inner=2 -use_counters=0"), None)?
            .is_none()
        {
            return Err(Said.into());
        }
        let answer = std::fs::read_to_string(&control)?;
        let edges = minimize::answer(&answer, files.len()).context("libFuzzer's control file is another's")?;
        let reached = inputs.into_iter().zip(edges).map(|(input, edges)| Reached { input, edges }).skip(1);
        let mut chosen = minimize::choose(reached.collect());
        chosen.sort_by_key(|input| (input.len(), input.clone()));
        let packed = corpus::pack(chosen.iter().map(Vec::as_slice)).context("an input is too long")?;
        let file = corpus::file(&self.place.root, name);
        std::fs::create_dir_all(file.parent().context("a folder")?)?;
        std::fs::write(&file, &packed)?;
        println!("{name}: {} inputs in {} bytes: {}", chosen.len(), packed.len(), self.place.show(&file));
        Ok(())
    }
}

/// The number behind these words.
fn number_after(line: &str, words: &str) -> Option<u64> {
    let (_, rest) = line.split_once(words)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_read_in_libfuzzer_s_lines() {
        let line = "#108\tDONE   cov: 584 ft: 1901 corp: 104/104b lim: 1 exec/s: 5 rss: 45Mb";
        assert_eq!(number_after(line, "cov: "), Some(584));
        assert_eq!(number_after("INFO: seed corpus: files: 3", "cov: "), None);
    }

    #[test]
    fn committed_corpora_are_whole_and_small() {
        use minimize::MOST;
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for target in &super::super::TARGETS {
            let packed = std::fs::read(corpus::file(workspace, target.name)).unwrap();
            let inputs = corpus::unpack(&packed).unwrap();
            assert!((1..=MOST.0).contains(&inputs.len()) && packed.len() <= MOST.1, "{}", target.name);
        }
    }
}
