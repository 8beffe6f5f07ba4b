//! What a machine under icount executes, counted by a plugin of QEMU (`plugin.c`): by row of a bench guest, or by block
//! of code. The same for every kernel: nothing in the core counts for it.

use crate::place::Place;
use crate::process::stdout_of;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("plugin.c");

/// Columns of a row, in the plugin's order: instructions with a lock (or XCHG with memory), loads of CR3, writes of CR4
/// (which Xen toggles to flush), INVLPG; all in ring 0.
pub const KINDS: [&str; 4] = ["locked", "cr3_loads", "cr4_writes", "invlpg"];

/// Columns behind those: all instructions of ring 0, of our domains, and the rest, which is Linux's.
pub const WHOSE: [&str; 3] = ["hypervisor", "domains", "linux"];

/// Which blocks of code to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// None.
    None,
    /// What is executed while a row is measured.
    Row(u64),
    /// Everything.
    All,
}

/// Counts of a row: of one measurement.
pub type Row = [f64; KINDS.len() + WHOSE.len()];

/// A stretch of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub va: u64,
    /// Times it was entered.
    pub count: u64,
    /// Size of each of its instructions.
    pub sizes: Vec<u8>,
    /// Its first bytes: which image's it is.
    pub bytes: Vec<u8>,
}

/// The plugin, compiled when it changed.
pub fn plugin(place: &Place) -> Result<PathBuf> {
    let dir = place.out().join("bench");
    std::fs::create_dir_all(&dir)?;
    let (source, object) = (dir.join("plugin.c"), dir.join("plugin.so"));
    if object.is_file() && std::fs::read_to_string(&source).is_ok_and(|text| text == SOURCE) {
        return Ok(object);
    }
    std::fs::write(&source, SOURCE)?;
    let part = object.with_extension("part");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden", "-o"]).arg(&part).arg(&source);
    stdout_of(&mut cc).context("compiling the plugin that counts")?;
    std::fs::rename(part, &object)?;
    Ok(object)
}

/// QEMU's arguments.
pub fn args(plugin: &Path, out: &Path, blocks: Blocks) -> [String; 2] {
    let blocks = match blocks {
        Blocks::None => String::new(),
        Blocks::Row(row) => format!(",blocks={row}"),
        Blocks::All => ",blocks=all".into(),
    };
    ["-plugin".into(), format!("{},out={}{blocks}", plugin.display(), out.display())]
}

/// The rows of the plugin's output, by number.
pub fn rows(text: &str) -> BTreeMap<u64, Row> {
    let row = |line: &str| {
        let mut words = line.strip_prefix("row ")?.split(' ').map(|word| word.parse::<u64>().ok());
        let (number, times) = (words.next()??, words.next()??.max(1));
        let mut counts = Row::default();
        for count in &mut counts {
            *count = words.next()?? as f64 / times as f64;
        }
        Some((number, counts))
    };
    text.lines().filter_map(row).collect()
}

/// The blocks of the plugin's output.
pub fn blocks(text: &str) -> Vec<Block> {
    let block = |line: &str| {
        let mut words = line.strip_prefix("block ")?.split(' ');
        let va = u64::from_str_radix(words.next()?, 16).ok()?;
        let count = words.next()?.parse().ok()?;
        let sizes =
            words.next()?.chars().map(|digit| digit.to_digit(16).map(|size| size as u8)).collect::<Option<_>>()?;
        let hex = words.next()?.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = hex.chunks_exact(2).map(byte).collect::<Option<_>>()?;
        Some(Block { va, count, sizes, bytes })
    };
    text.lines().filter_map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_by_one_measurement() {
        let text = "row 3 100 250 100 0 7 900 0 100\nrow 4 1 2\nblock 1 2 3 00\n";
        assert_eq!(rows(text).into_iter().collect::<Vec<_>>(), [(3, [2.5, 1.0, 0.0, 0.07, 9.0, 0.0, 1.0])]);
    }

    #[test]
    fn blocks_have_where_how_often_how_long_and_whose() {
        let text = "row 3 100 250 100 0 7\nblock ffff82c000001000 12 3f 48890f\nblock xyz 1 1 00\n";
        let block = Block { va: 0xffff_82c0_0000_1000, count: 12, sizes: vec![3, 15], bytes: vec![0x48, 0x89, 0x0f] };
        assert_eq!(blocks(text), [block]);
    }
}
