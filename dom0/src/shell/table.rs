//! Tables: columns as wide as their widest cell, numbers to the right.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// A table with a head.
#[derive(Clone, Debug)]
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table without rows.
    pub fn new(head: &[&str; N]) -> Self {
        Self { rows: Vec::from([head.map(str::to_string)]) }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Whether it has only a head.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

fn is_number(cell: &str) -> bool {
    cell.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Lines without blanks at their ends; no line end after the last.
impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = |at: usize| self.rows.iter().filter_map(move |row| row.get(at));
        let widths: Vec<usize> =
            (0..N).map(|at| column(at).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
        let numeric: Vec<bool> =
            (0..N).map(|at| !self.is_empty() && column(at).skip(1).all(|cell| is_number(cell))).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, width), numeric) in row.iter().zip(&widths).zip(&numeric) {
                let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
                line += &if *numeric { blanks + cell } else { cell.clone() + &blanks };
                line += "  ";
            }
            write!(f, "{}{}", if index == 0 { "" } else { "\n" }, line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "id", "state"]);
        assert_eq!(table.to_string(), "name  id  state");
        table.row(["web".into(), "12".into(), "r-----".into()]);
        table.row(["netback".into(), "3".into(), "".into()]);
        assert_eq!(table.to_string(), "name     id  state\nweb      12  r-----\nnetback   3");
    }
}
