//! The boot page tables, described without being stored: which tables there are, in which frames, and what each entry
//! holds. A start-of-day address space is one or two contiguous spans, so all of it is arithmetic.

use core::ops::Range;

use crate::PAGE;

/// Entries of a table.
pub(crate) const ENTRIES: u64 = 512;

/// Virtual pages that map consecutive frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// First virtual page, of the 2^36 of a 48-bit address space.
    page: u64,
    /// Length in pages; 0 for no span.
    pub(crate) len: u64,
    /// Frame of the first page.
    pub(crate) pfn: u64,
}

impl Span {
    /// The span of `len` pages from virtual address `vaddr` on.
    pub(crate) const fn new(vaddr: u64, len: u64, pfn: u64) -> Self {
        Self { page: vaddr / PAGE % (1 << 36), len, pfn }
    }

    /// Numbers of the tables of `level` (1 to 3) that map this span, counted through the whole address space.
    const fn tables(&self, level: u32) -> Range<u64> {
        if self.len == 0 {
            return 0..0;
        }
        self.page >> (9 * level)..((self.page + self.len - 1) >> (9 * level)) + 1
    }

    /// How many tables below the root the span needs.
    pub(crate) fn table_count(&self) -> u64 {
        (1..=3).map(|level| count(&self.tables(level))).sum()
    }

    fn frame(&self, page: u64) -> Option<u64> {
        let offset = page.checked_sub(self.page)?;
        (offset < self.len).then(|| self.pfn + offset)
    }
}

/// What an entry refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The next table.
    Table(u64),
    /// A page, to be mapped writable.
    Page(u64),
    /// A page that is one of the tables, to be mapped read-only.
    ReadOnly(u64),
}

/// The tables of a kernel span and a span for a p2m list elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    kernel: Span,
    p2m: Span,
    /// Frame of the L4; the kernel span's L3, L2 and L1 tables follow it.
    root: u64,
    /// First frame of the tables only the p2m span needs.
    p2m_tables: u64,
}

impl Tables {
    pub(crate) const fn new(kernel: Span, root: u64, p2m: Span, p2m_tables: u64) -> Self {
        Self { kernel, p2m, root, p2m_tables }
    }

    /// Tables of `level` that only the p2m span needs.
    ///
    /// The spans are disjoint, so at most one table of a level serves both, and it stands at an end of the range.
    fn own(&self, level: u32) -> Range<u64> {
        let (kernel, mut p2m) = (self.kernel.tables(level), self.p2m.tables(level));
        if kernel.contains(&p2m.start) {
            p2m.start += 1;
        } else if !p2m.is_empty() && kernel.contains(&(p2m.end - 1)) {
            p2m.end -= 1;
        }
        p2m
    }

    /// Frames of the kernel span's tables, the root included.
    pub(crate) fn kernel_frames(&self) -> Range<u64> {
        self.root..self.root + 1 + self.kernel.table_count()
    }

    /// Frames of the tables only the p2m span needs.
    pub(crate) fn p2m_frames(&self) -> Range<u64> {
        let frames: u64 = (1..=3).map(|level| count(&self.own(level))).sum();
        self.p2m_tables..self.p2m_tables + frames
    }

    /// Every table: its level, its number in that level and its frame, by ascending frame.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        let this = *self;
        let kernel = (1..=3).rev().flat_map(move |level| this.kernel.tables(level).map(move |table| (level, table)));
        let own = (1..=3).rev().flat_map(move |level| this.own(level).map(move |table| (level, table)));
        let root = core::iter::once((4, 0));
        let kernel = root.chain(kernel).zip(self.kernel_frames());
        kernel.chain(own.zip(self.p2m_frames())).map(|((level, table), frame)| (level, table, frame))
    }

    /// Entry `slot` of table number `table` of `level` (1 to 4); `None` when it is not present.
    pub(crate) fn entry(&self, level: u32, table: u64, slot: u64) -> Option<Entry> {
        let child = table * ENTRIES + slot;
        if level > 1 {
            return self.table_frame(level - 1, child).map(Entry::Table);
        }
        if let Some(frame) = self.kernel.frame(child) {
            let read_only = self.kernel_frames().contains(&frame);
            return Some(if read_only { Entry::ReadOnly(frame) } else { Entry::Page(frame) });
        }
        self.p2m.frame(child).map(Entry::Page)
    }

    fn table_frame(&self, level: u32, table: u64) -> Option<u64> {
        let place = |first: u64, ranges: fn(&Self, u32) -> Range<u64>| {
            let above: u64 = (level + 1..=3).map(|level| count(&ranges(self, level))).sum();
            let range = ranges(self, level);
            range.contains(&table).then(|| first + above + table - range.start)
        };
        place(self.root + 1, |this, level| this.kernel.tables(level)).or_else(|| place(self.p2m_tables, Self::own))
    }
}

const fn count(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeMap;

    use super::*;

    /// Walks the tables for `vaddr` as the processor would.
    fn walk(tables: &Tables, vaddr: u64) -> Option<Entry> {
        let frames: BTreeMap<u64, (u32, u64)> =
            tables.iter().map(|(level, table, frame)| (frame, (level, table))).collect();
        let mut frame = tables.root;
        for level in (1..=4).rev() {
            let (at, table) = frames[&frame];
            assert_eq!(at, level, "a level-{level} entry leads to a level-{at} table");
            match tables.entry(level, table, vaddr >> (3 + 9 * level) & 511)? {
                Entry::Table(next) => frame = next,
                leaf => return Some(leaf),
            }
        }
        None
    }

    fn check(kernel: Span, kernel_va: u64, p2m: Span, p2m_va: u64) {
        let tables = Tables::new(kernel, 600, p2m, 5000);
        for page in 0..kernel.len {
            let read_only = tables.kernel_frames().contains(&page);
            let want = if read_only { Entry::ReadOnly(page) } else { Entry::Page(page) };
            assert_eq!(walk(&tables, kernel_va + page * PAGE), Some(want));
        }
        for page in 0..p2m.len {
            assert_eq!(walk(&tables, p2m_va + page * PAGE), Some(Entry::Page(p2m.pfn + page)));
        }
        assert_eq!(walk(&tables, kernel_va.wrapping_sub(PAGE)), None);
        assert_eq!(walk(&tables, kernel_va + kernel.len * PAGE), None);
    }

    #[test]
    fn every_page_is_reached_and_no_other() {
        let linux = 0xffff_ffff_8000_0000;
        check(Span::new(linux, 1024, 0), linux, Span::default(), 0);
        let mini = 0x1ff_f000; // neither aligned to a table nor within one
        check(Span::new(mini, 2049, 0), mini, Span::default(), 0);
    }

    #[test]
    fn a_p2m_elsewhere_shares_what_it_can() {
        let linux = 0xffff_ffff_8000_0000;
        for p2m in [0x80_0000_0000, linux - 600 * PAGE, linux + 1024 * PAGE + PAGE, linux - (1 << 30)] {
            check(Span::new(linux, 1024, 0), linux, Span::new(p2m, 513, 4096), p2m);
        }
    }
}
