//! What a campaign has seen so far, in a file: each row as soon as it is over.

use super::Sitting;
use crate::bench::report::Origin;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a row went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Took {
    /// Whether it held.
    pub ok: bool,
    /// What it saw, or why it failed.
    pub said: String,
    /// Wall time.
    pub seconds: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    commit: String,
    seed: u64,
    short: bool,
    rows: BTreeMap<String, Took>,
}

/// The rows so far.
pub struct Record {
    path: PathBuf,
    stored: Stored,
    /// Rows of an earlier run count.
    resume: bool,
}

impl Record {
    /// What is there of this commit, seed and length, if the campaign is resumed; else nothing.
    pub fn open(sitting: &Sitting) -> Result<Record> {
        let options = &sitting.options;
        let path = sitting.dir.join("rows.json");
        let commit = Origin::here(&sitting.place).commit;
        let new = Stored { commit, seed: options.seed, short: options.short, rows: BTreeMap::new() };
        let before = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
        let same = |old: &Stored| (&old.commit, old.seed, old.short) == (&new.commit, new.seed, new.short);
        let stored = match before.filter(|_| options.resume) {
            Some(old) if same(&old) => old,
            Some(old) => {
                let length = if old.short { "short" } else { "of full length" };
                println!("not resumed: the rows there are of commit {}, seed {}, {length}", old.commit, old.seed);
                new
            }
            None => new,
        };
        Ok(Record { path, stored, resume: options.resume })
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a row said that held in an earlier run.
    pub fn held(&self, name: &str) -> Option<&str> {
        let row = self.stored.rows.get(name).filter(|row| self.resume && row.ok)?;
        Some(&row.said)
    }

    /// Keeps a row. Written beside and renamed: a campaign that is stopped loses no row.
    pub fn put(&mut self, name: &str, took: Took) -> Result<()> {
        self.stored.rows.insert(name.to_string(), took);
        let part = self.path.with_extension("part");
        std::fs::write(&part, serde_json::to_vec_pretty(&self.stored)?)?;
        std::fs::rename(&part, &self.path).with_context(|| format!("writing {}", self.path.display()))
    }
}
