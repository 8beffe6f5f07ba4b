//! Where all that is random comes from.

/// An endless source of choices: pseudo-random numbers from a seed, or given bytes and zeros behind them.
#[derive(Clone, Debug)]
pub struct Choices<'a>(Source<'a>);

#[derive(Clone, Debug)]
enum Source<'a> {
    Seed(u64),
    Bytes(&'a [u8]),
}

impl<'a> Choices<'a> {
    /// By splitmix64.
    pub const fn seeded(seed: u64) -> Self {
        Self(Source::Seed(seed))
    }

    /// By these bytes: one for each choice among at most 256, more for more.
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self(Source::Bytes(bytes))
    }

    /// Are the bytes used up? Never so of a seed.
    pub const fn is_over(&self) -> bool {
        matches!(self.0, Source::Bytes([]))
    }

    /// 64 bits.
    #[inline]
    pub fn word(&mut self) -> u64 {
        match &mut self.0 {
            Source::Seed(seed) => {
                *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
            Source::Bytes(_) => (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte())),
        }
    }

    /// 8 bits.
    #[inline]
    pub fn byte(&mut self) -> u8 {
        match &mut self.0 {
            Source::Seed(_) => (self.word() >> 32) as u8,
            Source::Bytes(bytes) => bytes.split_off_first().copied().unwrap_or(0),
        }
    }

    /// A number below `limit`; 0 if that is 0.
    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = limit.max(1);
        match &mut self.0 {
            // The high half of a product, which costs no division.
            Source::Seed(_) => ((u128::from(self.word()) * limit as u128) >> 64) as usize,
            Source::Bytes(_) if limit <= 256 => usize::from(self.byte()) % limit,
            Source::Bytes(_) => (self.word() % limit as u64) as usize,
        }
    }

    /// True once in `n` times.
    #[inline]
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these; the default of nothing.
    #[inline]
    pub fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        let at = self.below(from.len());
        from.get(at).copied().unwrap_or_default()
    }

    /// The place of one of these weights: each as likely as it is heavy.
    #[inline]
    pub fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (place, weight) in weights.iter().enumerate() {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return place,
            }
        }
        0
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.byte());
    }

    /// A number as somebody hostile likes it: small, at an edge of a power of two, or anything.
    pub fn edgy(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(16) as u64,
            1 => (1u64 << self.below(64)).wrapping_add(self.below(3) as u64).wrapping_sub(1),
            2 => (self.below(3) as u64).wrapping_sub(2),
            _ => self.word() >> self.below(64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Choices;

    #[test]
    fn a_seed_gives_the_same_again_and_numbers_stay_below_their_limit() {
        let draw = |seed| {
            let mut c = Choices::seeded(seed);
            (0..1000).map(|n| c.below(n)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().enumerate().all(|(limit, n)| *n < limit.max(1)));
    }

    #[test]
    fn bytes_are_used_one_a_choice_and_then_zeros() {
        let mut c = Choices::of(&[3, 200, 1]);
        assert_eq!((c.below(10), c.below(256), c.one_in(2), c.is_over()), (3, 200, false, true));
        assert_eq!((c.below(10), c.word(), c.pick::<u8>(&[]), c.pick(&[5])), (0, 0, 0, 5));
    }

    #[test]
    fn weights_are_kept() {
        let mut c = Choices::seeded(1);
        let mut seen = [0; 3];
        (0..4000).for_each(|_| seen[c.weighted(&[1, 0, 3])] += 1);
        assert_eq!(seen[1], 0);
        assert!((800..1200).contains(&seen[0]), "{seen:?}");
    }
}
