//! `cargo xtask fuzz --coverage`, in a copy of the workspace: it builds, plays the committed inputs, and finds what is broken.

use super::e2e::{Case, Setting};
use super::tool::{Said, say, xtask_at};
use crate::planted;
use anyhow::{Context, Result, ensure};
use fuzz::corpus;
use std::path::PathBuf;

pub const CASES: &[Case] = &[("fuzz-coverage", fuzz_coverage)];

/// The target that is built the fastest and has a bug to plant that the committed inputs find: a fragment may reach beyond its page.
const TARGET: &str = "rings";
const BUG: &str = "24-fragment-beyond-page";

/// A copy of the workspace, and what is built of it.
struct Copy<'a> {
    setting: &'a Setting<'a>,
    root: PathBuf,
}

impl Copy<'_> {
    /// `cargo xtask fuzz ARGS` there, neither optimized nor for a debugger: it builds in half the time.
    fn fuzz(&self, args: &[&str]) -> Result<Said> {
        let mut command = xtask_at(self.setting.place, &self.root, &[&["fuzz"], args].concat())?;
        command.env("CARGO_TARGET_DIR", self.setting.place.target.join("guided"));
        command.env("CARGO_PROFILE_FUZZ_OPT_LEVEL", "0").env("CARGO_PROFILE_FUZZ_DEBUG", "false");
        say(&mut command, &self.setting.log)
    }

    /// Edges that the committed inputs reach.
    fn edges(&self) -> Result<u64> {
        let said = self.fuzz(&[TARGET, "--coverage", "--minutes", "0"])?;
        said.expect(0, &[])?;
        let line = said.text.lines().find_map(|line| line.strip_prefix("ok     rings: "));
        let edges = line.and_then(|line| line.strip_suffix(" of them at the start")).and_then(|line| {
            let (edges, began) = line.split_once(" edges, ")?;
            edges.parse().ok().filter(|_| edges == began)
        });
        edges.with_context(|| format!("no number of edges, all at the start:\n{}", said.text))
    }
}

fn fuzz_coverage(setting: &Setting<'_>) -> Result<()> {
    let copy = Copy { setting, root: setting.place.target.join("guided-tree") };
    planted::copy(setting.place, &copy.root)?;
    copy.fuzz(&[TARGET, "--coverage", "--ops", "5"])?.expect(2, &["--coverage", "cannot be used with", "--ops"])?;
    copy.fuzz(&[TARGET, "--minutes", "1"])?.expect(2, &["required", "--coverage"])?;
    copy.fuzz(&["ring", "--coverage"])?.expect(2, &["no target ring; there are: ", "rings"])?;

    let inputs = corpus::file(&copy.root, TARGET);
    let packed = std::fs::read(&inputs)?;
    let edges = copy.edges()?;
    std::fs::write(&inputs, corpus::pack([]).context("no inputs")?)?;
    let without = copy.edges()?;
    ensure!(without < edges, "{edges} edges by the committed inputs, {without} without them");
    std::fs::write(&inputs, packed.split_last().context("inputs")?.1)?;
    copy.fuzz(&[TARGET, "--coverage", "--minutes", "0"])?.expect(1, &["tests/fuzz/corpus/rings is cut off"])?;
    std::fs::write(&inputs, &packed)?;

    planted::plant(setting.place, &copy.root, BUG)?;
    let said = copy.fuzz(&[TARGET, "--coverage", "--minutes", "0"])?;
    said.expect(1, &["VIOLATION by ", "again by: cargo xtask fuzz rings --input ", "FAILED rings"])?;
    let input = said.text.split("--input ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    ensure!(copy.root.join(input).is_file(), "there is no file {input:?}");
    Ok(())
}
