//! Inputs that are worth playing again, many to a file: `corpus/TARGET` beside this crate's sources.

use std::path::{Path, PathBuf};

/// The file of a target's committed inputs, by the folder of the workspace.
pub fn file(workspace: &Path, target: &str) -> PathBuf {
    workspace.join("tests/fuzz/corpus").join(target)
}

/// Each input behind its length, which is 16 bits, little-endian. `None` if one is longer.
pub fn pack<'a>(inputs: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    for input in inputs {
        packed.extend(u16::try_from(input.len()).ok()?.to_le_bytes());
        packed.extend(input);
    }
    Some(packed)
}

/// The inputs again. `None` if the last is cut off.
pub fn unpack(mut packed: &[u8]) -> Option<Vec<&[u8]>> {
    let mut inputs = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk()?;
        let (input, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        inputs.push(input);
        packed = rest;
    }
    Some(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again_and_a_cut_file_is_noticed() {
        let long = vec![7; 300];
        let inputs = [&b"ab"[..], b"", &long];
        let packed = pack(inputs).unwrap();
        assert_eq!(packed.len(), 2 * 3 + 302);
        assert_eq!(unpack(&packed), Some(inputs.to_vec()));
        assert_eq!(unpack(&packed[..packed.len() - 1]), None);
        assert_eq!(unpack(&packed[..5]), None);
        assert_eq!(unpack(&[]), Some(vec![]));
        assert_eq!(pack([&[0; 65_536][..]]), None);
    }
}
