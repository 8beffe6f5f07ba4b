//! libFuzzer makes the bytes: it changes those that reached something, and keeps what reaches more.

use crate::campaign::{SHOW, Wanted, keep, line, load, play, steps};
use crate::{Tally, Target};
use bolero_engine::{Engine as _, driver::Options};
use bolero_libfuzzer::LibFuzzerEngine;
use std::time::{Duration, Instant};

/// How often the state is kept: what libFuzzer's end, which is the process's, loses of the counts.
const KEEP: Duration = Duration::from_secs(1);

/// An edge of its own, whatever the compiler makes of the branches that come here.
#[inline(never)]
fn seen<const N: usize>() {
    std::hint::black_box(N);
}

macro_rules! eight {
    ($($first:expr)*) => {
        [$([
            seen::<{ $first }>, seen::<{ $first + 1 }>, seen::<{ $first + 2 }>, seen::<{ $first + 3 }>,
            seen::<{ $first + 4 }>, seen::<{ $first + 5 }>, seen::<{ $first + 6 }>, seen::<{ $first + 7 }>,
        ]),*]
    };
}

/// An edge for each outcome that a campaign asks for.
static SEEN: [[fn(); 8]; 12] = eight!(0 8 16 24 32 40 48 56 64 72 80 88);

/// Takes each outcome that was reached over its edge: inputs that reach one are kept.
fn show<T: Target>(tally: &Tally) {
    const { assert!(T::REACHED.len() <= SEEN.len() * 8) };
    let edges = T::REACHED.iter().zip(SEEN.iter().flatten());
    edges.filter(|((operation, outcome), _)| tally.count(operation, outcome) > 0).for_each(|(_, edge)| edge());
}

/// Runs a target as BOLERO_LIBFUZZER_ARGS says. Does not return: at the end libFuzzer exits, with 0 if nothing broke.
///
/// Its edges are those of worlds made by seed if `blind`, and then what it makes of bytes is not used.
pub(crate) fn guided<T: Target>(wanted: &Wanted, blind: bool) {
    let (seed, state) = (wanted.seed, wanted.state.clone());
    let (mut next, before, mut tally) =
        state.as_deref().and_then(|path| load(path, seed)).unwrap_or((0, 0, Tally::default()));
    let begin = Instant::now();
    let (mut shown, mut kept) = (begin, begin);
    let input = move |bytes: &[u8]| {
        let mut one = Tally::default();
        match blind {
            true => play::<T>(seed, next, &mut one),
            false => steps::<T>(bytes, &mut one),
        }
        show::<T>(&one);
        tally.add_all(&one);
        next += 1;
        let seconds = before + begin.elapsed().as_secs();
        if kept.elapsed() >= KEEP {
            kept = Instant::now();
            keep(state.as_deref(), seed, next, seconds, &tally);
        }
        if shown.elapsed() >= SHOW {
            shown = Instant::now();
            eprintln!("{}", line::<T>(&tally, 0, seconds));
        }
    };
    LibFuzzerEngine::default().run(input, Options::default());
}
