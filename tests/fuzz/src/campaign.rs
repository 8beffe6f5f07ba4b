//! Long runs of a target, which can be resumed, and short ones.

use crate::{Choices, Tally, Target, corpus};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks of a campaign at what it has done so far, which it keeps and shows.
pub(crate) const SHOW: Duration = Duration::from_secs(5);

/// Steps made from bytes, until those are used up: for property tests, and fuzzers that mutate bytes.
pub fn run<T: Target>(bytes: &[u8]) {
    steps::<T>(bytes, &mut Tally::default());
}

/// The same, counted.
pub(crate) fn steps<T: Target>(bytes: &[u8], tally: &mut Tally) {
    let mut choices = Choices::of(bytes);
    let mut world = T::new(&mut choices);
    while !choices.is_over() {
        world.step(&mut choices, tally);
    }
    world.end();
}

/// The committed inputs of a target, which coverage found. They are few: enough must succeed in them, and of ten
/// outcomes that a campaign must see they reach nine.
pub fn replay<T: Target>() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/fuzz is in a workspace");
    let packed = std::fs::read(corpus::file(workspace, T::NAME)).expect("a file of inputs");
    let mut tally = Tally::default();
    corpus::unpack(&packed).expect("whole inputs").iter().for_each(|bytes| steps::<T>(bytes, &mut tally));
    let lacks = [lacks::<T>(&tally, |_| false), lacks::<T>(&tally, |_| true)];
    let renew = format!("if the target changed: cargo xtask fuzz {} --coverage --minimize", T::NAME);
    let enough = lacks[0].is_empty() && lacks[1].len() * 10 <= T::REACHED.len();
    assert!(enough, "{}\n{renew}\n{}", lacks[1].join("; "), tally.table());
}

/// So many operations of a target by a fixed seed, and its committed inputs ([`replay`]): what the tests run. Enough
/// must succeed by seed, and each operation at least once; a campaign asks for more.
pub fn slice<T: Target>(operations: u64) {
    let mut tally = Tally::default();
    let mut episode = 0;
    while tally.operations() < operations {
        play::<T>(1, episode, &mut tally);
        episode += 1;
    }
    assert_eq!(lacks::<T>(&tally, |outcome| outcome == Tally::OK), Vec::<String>::new(), "\n{}", tally.table());
    replay::<T>();
}

/// One world, from its making to its end.
pub(crate) fn play<T: Target>(seed: u64, episode: u64, tally: &mut Tally) {
    let mut choices = Choices::seeded(Choices::seeded(seed ^ episode.wrapping_mul(0xd134_2543_de82_ef95)).word());
    let mut world = T::new(&mut choices);
    (0..T::EPISODE).for_each(|_| world.step(&mut choices, tally));
    world.end();
}

/// What was not seen and should have been, of the outcomes that are asked for.
fn lacks<T: Target>(tally: &Tally, asked: impl Fn(&str) -> bool) -> Vec<String> {
    let asked = T::REACHED.iter().filter(|(_, outcome)| asked(outcome));
    let never = asked.filter(|(operation, outcome)| tally.count(operation, outcome) == 0);
    let mut lacks: Vec<String> =
        never.map(|(operation, outcome)| format!("never reached: {operation} {outcome}")).collect();
    let (all, good) = (tally.operations(), tally.succeeded());
    if good * 100 < all * T::SUCCEED {
        lacks.push(format!("{good} of {all} operations succeeded, fewer than {} in 100", T::SUCCEED));
    }
    lacks
}

/// What is asked of a campaign, by the environment, which is how it reaches a test.
pub(crate) struct Wanted {
    /// FUZZ_OPS: operations.
    operations: u64,
    /// FUZZ_SEED: all that is random is made from it.
    pub(crate) seed: u64,
    /// FUZZ_EPISODE: one world alone.
    episode: Option<u64>,
    /// FUZZ_INPUT: a file whose bytes make one world alone.
    input: Option<PathBuf>,
    /// FUZZ_STATE: where what was done so far is kept, and found if it is resumed.
    pub(crate) state: Option<PathBuf>,
    /// FUZZ_GUIDE: what libFuzzer is there for, in a program that has it: `coverage` guides, or it only counts.
    #[cfg(fuzzing_libfuzzer)]
    guide: Option<String>,
}

impl Wanted {
    fn read() -> Self {
        let number = |name| std::env::var(name).ok().map(|text: String| text.parse().expect("a number"));
        Self {
            operations: number("FUZZ_OPS").unwrap_or(100_000),
            seed: number("FUZZ_SEED").unwrap_or(1),
            episode: number("FUZZ_EPISODE"),
            input: std::env::var_os("FUZZ_INPUT").map(Into::into),
            state: std::env::var_os("FUZZ_STATE").map(Into::into),
            #[cfg(fuzzing_libfuzzer)]
            guide: std::env::var("FUZZ_GUIDE").ok(),
        }
    }
}

/// Runs a target for as long as the environment says (see the command `cargo xtask fuzz`). Panics unless it held.
pub fn campaign<T: Target>() {
    let wanted = Wanted::read();
    #[cfg(fuzzing_libfuzzer)]
    if let Some(guide) = &wanted.guide {
        return crate::guided::guided::<T>(&wanted, guide != "coverage");
    }
    let Wanted { operations, seed, episode, input, state, .. } = wanted;
    if let Some(episode) = episode {
        return play::<T>(seed, episode, &mut Tally::default());
    }
    if let Some(input) = input {
        return run::<T>(&std::fs::read(input).expect("a file of bytes"));
    }
    let (mut next, mut before, mut tally) = state.as_deref().and_then(|path| load(path, seed)).unwrap_or_default();
    let begin = Instant::now();
    let mut shown = begin;
    while tally.operations() < operations {
        let played = catch_unwind(AssertUnwindSafe(|| play::<T>(seed, next, &mut tally)));
        assert!(played.is_ok(), "VIOLATION; again by: cargo xtask fuzz {} --seed {seed} --episode {next}", T::NAME);
        next += 1;
        if shown.elapsed() >= SHOW {
            shown = Instant::now();
            println!("{}", line::<T>(&tally, operations, before + begin.elapsed().as_secs()));
            keep(state.as_deref(), seed, next, before + begin.elapsed().as_secs(), &tally);
        }
    }
    before += begin.elapsed().as_secs();
    keep(state.as_deref(), seed, next, before, &tally);
    println!("{}\n{}", line::<T>(&tally, operations, before), tally.table().trim_end());
    let lacks = lacks::<T>(&tally, |_| true);
    assert!(lacks.is_empty(), "FAILED: {}", lacks.join("; "));
    println!("{}: 0 violations in {} operations, {} of them succeeded", T::NAME, tally.operations(), tally.succeeded());
}

/// How far a run is, of so many operations, or of as many as there is time for if that is 0.
pub(crate) fn line<T: Target>(tally: &Tally, wanted: u64, seconds: u64) -> String {
    let (all, good) = (tally.operations(), tally.succeeded());
    let percent = |part: u64, of: u64| part.saturating_mul(100) / of.max(1);
    let of = match wanted {
        0 => " operations".into(),
        _ => format!(" of {wanted} operations ({} %)", percent(all, wanted).min(100)),
    };
    format!("{}: {all}{of}, {} % succeeded, {seconds} s", T::NAME, percent(good, all))
}

/// Written beside and renamed: a campaign that is stopped loses five seconds.
pub(crate) fn keep(path: Option<&Path>, seed: u64, next: u64, seconds: u64, tally: &Tally) {
    let Some(path) = path else { return };
    let part = path.with_extension("part");
    std::fs::write(&part, format!("{seed}\t{next}\t{seconds}\n{}", tally.store())).expect("a file for the state");
    std::fs::rename(&part, path).expect("a file for the state");
}

pub(crate) fn load(path: &Path, seed: u64) -> Option<(u64, u64, Tally)> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let head: Vec<u64> = lines.next()?.split('\t').map_while(|field| field.parse().ok()).collect();
    let [of, next, seconds] = head[..] else { return None };
    (of == seed).then_some((next, seconds, Tally::load(lines)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts, and breaks on a certain byte.
    struct Sum(u64);

    impl Target for Sum {
        const NAME: &'static str = "sum";
        const EPISODE: u64 = 10;
        const SUCCEED: u64 = 60;
        const REACHED: &'static [(&'static str, &'static str)] = &[("add", "ok"), ("add", "odd")];

        fn new(_: &mut Choices<'_>) -> Self {
            Self(0)
        }

        fn step(&mut self, choices: &mut Choices<'_>, tally: &mut Tally) {
            let byte = choices.byte();
            assert_ne!(byte, 77, "broken");
            self.0 += 1;
            tally.note("add", if byte.is_multiple_of(4) { "odd" } else { Tally::OK });
        }
    }

    #[test]
    fn bytes_make_steps_until_they_are_over() {
        run::<Sum>(&[1, 2, 3]);
        assert!(catch_unwind(|| run::<Sum>(&[1, 77, 3])).is_err());
    }

    #[test]
    fn what_is_lacking_is_said() {
        let mut tally = Tally::default();
        assert_eq!(lacks::<Sum>(&tally, |_| true).len(), 2, "nothing was reached");
        tally.note("add", "odd");
        tally.note("add", Tally::OK);
        assert_eq!(lacks::<Sum>(&tally, |_| true), ["1 of 2 operations succeeded, fewer than 60 in 100"]);
        tally.note("add", Tally::OK);
        assert_eq!(lacks::<Sum>(&tally, |_| true), Vec::<String>::new());
    }

    #[test]
    fn a_state_is_kept_for_its_seed() {
        let path = std::env::temp_dir().join(format!("ferrule-fuzz-{}", std::process::id()));
        let mut tally = Tally::default();
        tally.note("add", Tally::OK);
        keep(Some(&path), 5, 7, 9, &tally);
        assert_eq!(load(&path, 5), Some((7, 9, tally)));
        assert_eq!(load(&path, 6), None, "of another seed");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(load(&path, 5), None);
    }
}
