//! What a target did, and what came of it, counted.

use std::fmt::Write as _;

/// How often each operation had each outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(Vec<(String, Vec<(String, u64)>)>);

impl Tally {
    /// The outcome of an operation that succeeded.
    pub const OK: &'static str = "ok";

    /// An operation was done, with this outcome.
    #[inline]
    pub fn note(&mut self, operation: &str, outcome: &str) {
        self.add(operation, outcome, 1);
    }

    /// The same, of a result whose error has a name.
    pub fn note_result<T, E>(&mut self, operation: &str, result: &Result<T, E>, name: impl FnOnce(&E) -> &'static str) {
        self.note(operation, result.as_ref().err().map_or(Self::OK, name));
    }

    /// What another counted as well.
    #[cfg(fuzzing_libfuzzer)]
    pub(crate) fn add_all(&mut self, other: &Self) {
        for (operation, outcomes) in &other.0 {
            outcomes.iter().for_each(|(outcome, times)| self.add(operation, outcome, *times));
        }
    }

    fn add(&mut self, operation: &str, outcome: &str, times: u64) {
        let outcomes = match self.0.iter().position(|(name, _)| name == operation) {
            Some(at) => &mut self.0[at].1,
            None => {
                self.0.push((operation.into(), Vec::new()));
                &mut self.0.last_mut().expect("just pushed").1
            }
        };
        match outcomes.iter_mut().find(|(name, _)| name == outcome) {
            Some((_, count)) => *count += times,
            None => outcomes.push((outcome.into(), times)),
        }
    }

    /// How often this came of that.
    pub fn count(&self, operation: &str, outcome: &str) -> u64 {
        let outcomes = self.0.iter().find(|(name, _)| name == operation).map(|(_, outcomes)| outcomes);
        outcomes.into_iter().flatten().find(|(name, _)| name == outcome).map_or(0, |(_, count)| *count)
    }

    fn sum(&self, of: impl Fn(&str) -> bool) -> u64 {
        self.0.iter().flat_map(|(_, outcomes)| outcomes).filter(|(name, _)| of(name)).map(|(_, count)| count).sum()
    }

    /// Operations.
    pub fn operations(&self) -> u64 {
        self.sum(|_| true)
    }

    /// Operations that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.sum(|outcome| outcome == Self::OK)
    }

    /// All that was counted: a line an operation, the outcomes behind it.
    pub fn table(&self) -> String {
        let mut rows = self.clone().0;
        rows.sort();
        let mut text = String::new();
        for (operation, mut outcomes) in rows {
            outcomes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let outcomes: Vec<String> = outcomes.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let _ = writeln!(text, "  {operation:24} {}", outcomes.join(", "));
        }
        text
    }

    /// As it is kept in a file.
    pub(crate) fn store(&self) -> String {
        let mut text = String::new();
        for (operation, outcomes) in &self.0 {
            outcomes
                .iter()
                .for_each(|(name, count)| writeln!(text, "{count}\t{operation}\t{name}").unwrap_or_default());
        }
        text
    }

    /// What was kept.
    pub(crate) fn load<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut tally = Self::default();
        for line in lines {
            let mut fields = line.split('\t');
            let count = fields.next()?.parse().ok()?;
            tally.add(fields.next()?, fields.next()?, count);
        }
        Some(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn it_counts_and_is_kept() {
        let mut tally = Tally::default();
        tally.note("pin", Tally::OK);
        tally.note("pin", "EINVAL");
        tally.note("pin", "EINVAL");
        tally.note_result("unpin", &Ok::<(), ()>(()), |()| "never");
        assert_eq!((tally.operations(), tally.succeeded()), (4, 2));
        assert_eq!((tally.count("pin", "EINVAL"), tally.count("pin", "EBUSY"), tally.count("x", "y")), (2, 0, 0));
        assert_eq!(Tally::load(tally.store().lines()), Some(tally));
        assert_eq!(Tally::load(["1\tx"].into_iter()), None);
    }
}
