//! `cargo xtask check FILE`: a manifest, judged on the host by dom0's own reader.

use crate::unable;
use anyhow::Result;
use dom0::manifest::{Manifest, parse};
use std::path::Path;

/// Reads a manifest, or says what is wrong with it, where, and what may have been meant.
pub fn read(path: &Path) -> Result<Manifest> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => unable!("{}: {error}", path.display()),
    };
    match parse(&text) {
        Ok(manifest) => Ok(manifest),
        Err(error) => unable!("{}: {}\n{error}", path.display(), mistakes(error.mistakes.len())),
    }
}

fn mistakes(count: usize) -> String {
    if count == 1 { "1 mistake".into() } else { format!("{count} mistakes") }
}

/// Reads it and says what it describes.
pub fn command(path: &Path) -> Result<()> {
    let manifest = read(path)?;
    for domain in &manifest.domains {
        let (vifs, disks) = (domain.vifs.len(), domain.disks.len());
        println!("{:16} {:5} MiB  {} vcpus  {vifs} vif  {disks} disk", domain.name, domain.memory, domain.vcpus);
    }
    println!("{}: good", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_shown_with_file_line_caret_and_the_nearest_key() {
        let path = std::env::temp_dir().join(format!("ferrule-check-{}.toml", std::process::id()));
        std::fs::write(&path, "name = \"web\"\nkernel = \"web\"\nmemry = 32\n").unwrap();
        let error = read(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(crate::fail::code(&error), 2);
        let text = error.to_string();
        for part in [&*path.display().to_string(), "line 3", "memry = 32", "^^^^^", "memory"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(crate::fail::code(&read(Path::new("/no/such/file")).unwrap_err()), 2);
    }
}
