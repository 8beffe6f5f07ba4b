//! The boot page tables, described without being stored. They map consecutive virtual pages to the domain's first
//! frames, and lie behind one another, the L4 first; so all of it is arithmetic.

use core::ops::Range;

use crate::PAGE;

/// The tables that map `pages` pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    /// First virtual page, of the 2^36 of a 48-bit address space.
    first: u64,
    /// How many pages they map; not 0.
    pub(crate) pages: u64,
    /// Frame of the L4.
    pub(crate) root: u64,
}

impl Tables {
    pub(crate) const fn new(vaddr: u64, pages: u64, root: u64) -> Self {
        Self { first: vaddr / PAGE % (1 << 36), pages, root }
    }

    /// Numbers of the tables of `level` (1 to 4), counted through the whole address space; of the pages, for level 0.
    pub(crate) const fn numbers(&self, level: u32) -> Range<u64> {
        self.first >> (9 * level)..((self.first + self.pages - 1) >> (9 * level)) + 1
    }

    /// The frames of the tables of `level`; of the pages, for level 0.
    pub(crate) fn frames(&self, level: u32) -> Range<u64> {
        let count = |level: u32| self.numbers(level).count() as u64;
        let first = if level == 0 { 0 } else { self.root + (level + 1..=4).map(count).sum::<u64>() };
        first..first + count(level)
    }

    /// The frames of all tables.
    pub(crate) fn all(&self) -> Range<u64> {
        self.root..self.frames(1).end
    }
}
