//! What a vbd is made of, as the toolstack's `params` and `mode` keys say it.

use crate::ram::parse_size;
use ring_proto::path::decimal;

/// What `params` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `ram:SIZE`: a RAM disk of so many bytes.
    Ram(u64),
    /// `NAME`: a whole disk.
    Whole(&'a str),
    /// `NAME:N`: its partition N, from 1.
    Number(&'a str, u32),
    /// `NAME:LABEL`: its partition with that name in the table.
    Label(&'a str, &'a str),
}

impl<'a> Target<'a> {
    /// Reads `params`.
    pub fn parse(params: &'a str) -> Option<Self> {
        let Some((disk, part)) = params.split_once(':') else {
            return (!params.is_empty()).then_some(Self::Whole(params));
        };
        if disk == "ram" {
            return parse_size(part).map(Self::Ram);
        }
        match decimal(part) {
            _ if disk.is_empty() || part.is_empty() => None,
            Some(0) => None,
            Some(number) => Some(Self::Number(disk, number)),
            None => Some(Self::Label(disk, part)),
        }
    }
}

/// What `mode` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// No writes.
    pub read_only: bool,
    /// Others may have the same sectors, writers among them.
    pub shared: bool,
}

impl Mode {
    /// Reads `mode`: `r`, `w`, or with `!` behind it to share.
    pub fn parse(mode: &str) -> Option<Self> {
        let (letter, shared) = match mode.strip_suffix('!') {
            Some(letter) => (letter, true),
            None => (mode, false),
        };
        match letter {
            "r" => Some(Self { read_only: true, shared }),
            "w" => Some(Self { read_only: false, shared }),
            _ => None,
        }
    }
}
