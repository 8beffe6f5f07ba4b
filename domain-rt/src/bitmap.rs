//! Which of a range of pages are free: one bit a page, first fit after the last hit.

/// A set of page numbers `0..capacity`, with room for the bits supplied by the caller.
#[derive(Debug)]
pub struct PageSet<'a> {
    /// A set bit is a free page.
    words: &'a mut [u64],
    /// Word where the last search ended.
    hint: usize,
    free: usize,
}

impl<'a> PageSet<'a> {
    /// An empty set that can hold `words.len() * 64` pages.
    pub fn new(words: &'a mut [u64]) -> Self {
        words.fill(0);
        Self { words, hint: 0, free: 0 }
    }

    /// How many pages the set can hold.
    pub fn capacity(&self) -> usize {
        self.words.len() * 64
    }

    /// How many pages are free.
    pub fn free(&self) -> usize {
        self.free
    }

    fn is_free(&self, page: usize) -> bool {
        self.words.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// Adds `count` pages from `first` on.
    ///
    /// # Panics
    /// If one of them is free already or beyond the capacity: a fault of this program.
    pub fn insert(&mut self, first: usize, count: usize) {
        assert!(first.checked_add(count).is_some_and(|end| end <= self.capacity()), "page out of range");
        for page in first..first + count {
            assert!(!self.is_free(page), "page {page} freed twice");
            self.words[page / 64] |= 1 << (page % 64);
        }
        self.free += count;
    }

    /// Takes `count` consecutive pages; the first of them.
    pub fn take(&mut self, count: usize) -> Option<usize> {
        if count == 0 || count > self.free {
            return None;
        }
        let first = self.find(self.hint * 64, count).or_else(|| self.find(0, count))?;
        for page in first..first + count {
            self.words[page / 64] &= !(1 << (page % 64));
        }
        self.free -= count;
        self.hint = first / 64;
        Some(first)
    }

    /// The first run of `count` free pages at or after `start`.
    fn find(&self, start: usize, count: usize) -> Option<usize> {
        let mut page = start;
        let mut run = 0;
        while page < self.capacity() {
            let word = self.words[page / 64] >> (page % 64);
            if word == 0 {
                run = 0;
                page = (page / 64 + 1) * 64;
                continue;
            }
            if word & 1 == 0 {
                run = 0;
                page += word.trailing_zeros() as usize;
            }
            run += 1;
            page += 1;
            if run == count {
                return Some(page - count);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words() {
        let mut words = [0; 3];
        let mut set = PageSet::new(&mut words);
        set.insert(60, 10);
        set.insert(100, 2);
        assert_eq!(set.take(11), None);
        assert_eq!(set.take(10), Some(60));
        assert_eq!(set.take(2), Some(100));
        assert_eq!(set.take(1), None);
        assert_eq!(set.free(), 0);
    }

    #[test]
    fn a_search_wraps_to_pages_freed_behind_it() {
        let mut words = [0; 2];
        let mut set = PageSet::new(&mut words);
        set.insert(0, 128);
        assert!((0..128).all(|page| set.take(1) == Some(page)));
        set.insert(3, 1);
        assert_eq!(set.take(1), Some(3));
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_double_free_is_caught() {
        let mut words = [0; 1];
        let mut set = PageSet::new(&mut words);
        set.insert(5, 1);
        set.insert(5, 1);
    }
}
