//! Counting what passed.

use std::ops::AddAssign;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// So many held.
    pub passed: usize,
    /// So many did not.
    pub failed: usize,
}

impl Tally {
    /// One test.
    pub fn one(held: bool) -> Tally {
        Tally { passed: usize::from(held), failed: usize::from(!held) }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Adds up the `test result:` lines of a `cargo test` run.
pub fn of_cargo_test(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines().filter(|line| line.starts_with("test result: ")) {
        let number = |what: &str| -> usize {
            let part = line.split([';', '.']).find(|part| part.trim_end().ends_with(what));
            part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        tally += Tally { passed: number("passed"), failed: number("failed") };
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_s_lines_are_added_up() {
        let text = "running 3 tests\ntest result: ok. 31 passed; 0 failed; 1 ignored; 0 measured\nnoise\n\
                    test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured\n";
        assert_eq!(of_cargo_test(text), Tally { passed: 33, failed: 4 });
        assert_eq!(of_cargo_test("error: could not compile"), Tally::default());
    }
}
