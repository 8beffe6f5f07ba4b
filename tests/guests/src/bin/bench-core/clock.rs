//! Rows: an operation's name, its number for marks, and how long each of its measurements took.

use conformance_guests::domain_rt::arch::rdtsc;
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe;

/// Times an operation is measured.
pub const TIMES: usize = 101;

/// What the clock itself takes, and the rows so far.
pub struct Clock {
    base: u64,
    rows: u64,
}

/// An operation.
pub struct Row {
    name: &'static str,
    number: u64,
    base: u64,
    ticks: [u64; TIMES],
    count: usize,
}

impl Clock {
    /// Measures the clock.
    pub fn new() -> Clock {
        let mut row = Row { name: "", number: 0, base: 0, ticks: [0; TIMES], count: 0 };
        row.repeat(|| {});
        Clock { base: row.middle(), rows: 0 }
    }

    /// The next row.
    pub fn row(&mut self, name: &'static str) -> Row {
        self.rows += 1;
        Row { name, number: self.rows, base: self.base, ticks: [0; TIMES], count: 0 }
    }

    /// A row that is one operation, over and over.
    pub fn median(&mut self, name: &'static str, op: impl FnMut()) {
        let mut row = self.row(name);
        row.repeat(op);
        row.each_of(1);
    }
}

impl Row {
    /// The same row, by another clock that takes so many ticks itself.
    pub fn over(self, base: u64) -> Row {
        Row { base, ..self }
    }

    /// Measures one operation.
    #[inline(always)]
    pub fn time(&mut self, op: impl FnOnce()) {
        probe::mark(0);
        let start = rdtsc();
        op();
        let ticks = rdtsc() - start;
        probe::mark(self.number);
        self.add(ticks);
    }

    /// Measures an operation many times.
    #[inline(always)]
    pub fn repeat(&mut self, mut op: impl FnMut()) {
        for _ in 0..TIMES {
            self.time(&mut op);
        }
    }

    /// Adds what was measured elsewhere.
    pub fn add(&mut self, ticks: u64) {
        if let Some(slot) = self.ticks.get_mut(self.count) {
            *slot = ticks;
            self.count += 1;
        }
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    fn middle(&mut self) -> u64 {
        let ticks = self.ticks.get_mut(..self.count).unwrap_or(&mut []);
        ticks.sort_unstable();
        ticks.get(ticks.len() / 2).map_or(0, |middle| middle.saturating_sub(self.base))
    }

    /// Prints the median, of one part where the operation is made of several.
    pub fn each_of(mut self, parts: u64) {
        let tenths = self.middle() * 10 / parts;
        println!("BENCH {} {} {parts} {}.{}", self.name, self.number, tenths / 10, tenths % 10);
    }
}
