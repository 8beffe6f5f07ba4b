//! `cargo xtask iso`: an image that boots by itself, from a BIOS or from UEFI: GRUB, the core, dom0 and its ramdisk.

mod bochs;
pub mod boot;
pub mod tour;

pub use bochs::{NEEDS as BOCHS, said};

use crate::build::{CORE, Part, build, built};
use crate::place::Place;
use crate::process::quiet;
use crate::qemu::Machine;
use crate::run::system::{Plan, images};
use crate::setup::Need;
use crate::unable;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What makes it: GRUB for both kinds of firmware, and what its `grub-mkrescue` calls.
pub const NEEDS: [Need; 5] = [
    Need::Program("grub-mkrescue", "grub-common"),
    Need::File("/usr/lib/grub/i386-pc/multiboot2.mod", "grub-pc-bin"),
    Need::File("/usr/lib/grub/x86_64-efi/multiboot2.mod", "grub-efi-amd64-bin"),
    Need::Program("xorriso", "xorriso"),
    Need::Program("mformat", "mtools"),
];

/// What to put on it.
#[derive(clap::Args)]
pub struct Options {
    /// The manifest dom0 starts its domains from [default: examples/tour.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only this PV64 image as the initial domain; arguments follow it, in the same quotes
    #[arg(long, value_name = "IMAGE", conflicts_with = "config")]
    dom0: Option<String>,
    /// Options of the core, as docs/options.md has them
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    core: String,
    /// Where to write it [default: target/ferrule/ferrule.iso]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Makes it and says how to boot it.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    let out = options.out.clone().unwrap_or_else(|| place.out().join("ferrule.iso"));
    let machine = match &options.dom0 {
        Some(image) => {
            let path = image.split(' ').next().unwrap_or(image);
            if !Path::new(path).is_file() {
                unable!("no image {path}");
            }
            build(place, &[Part::Core])?;
            Machine::new(&built(place, Part::Core, "").context("the core did not build")?, &options.core, image)
        }
        None => {
            build(place, &[Part::Core, Part::Domains])?;
            let config = options.config.clone().unwrap_or_else(|| place.root.join("examples/tour.toml"));
            let dir = place.out().join("iso");
            images(place, &Plan { core: &options.core, ..Plan::of(&config, &dir) })?
        }
    };
    make(&machine, &out)?;
    println!("{}", place.show(&out));
    println!("qemu-system-x86_64 -m 512 -serial stdio -cdrom {}", place.show(&out));
    println!("  for UEFI also: -bios {}   (Debian's package ovmf)", boot::OVMF);
    Ok(())
}

/// An image that starts what this machine would start.
pub fn make(machine: &Machine, out: &Path) -> Result<()> {
    let root = out.with_extension("files");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(root.join("boot/grub")).with_context(|| format!("making {}", root.display()))?;
    let mut commands = vec![format!("multiboot2 /boot/{CORE} {}", quoted(&machine.append))];
    let mut files = vec![(machine.kernel.as_path(), CORE.to_string())];
    for (number, module) in machine.initrd.split(',').enumerate() {
        let (file, arguments) = module.split_once(' ').unwrap_or((module, ""));
        commands.push(format!("module2 /boot/module{number} {}", quoted(arguments)));
        files.push((Path::new(file), format!("module{number}")));
    }
    for (file, name) in files {
        std::fs::copy(file, root.join("boot").join(name)).with_context(|| format!("reading {}", file.display()))?;
    }
    std::fs::write(root.join("boot/grub/grub.cfg"), menu(&commands))?;
    let mut mkrescue = Command::new("grub-mkrescue");
    let said = quiet(mkrescue.arg("-o").arg(out).arg(&root), Duration::from_secs(120))?;
    if !said.ok {
        unable!("grub-mkrescue failed:\n{}", said.text.trim());
    }
    std::fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
}

/// GRUB's menu: one entry, taken at once. By multiboot 2, whose command lines begin with their first word (by multiboot 1
/// GRUB leaves the image's name out, which other loaders put first), and which says where UEFI has its tables.
fn menu(commands: &[String]) -> String {
    format!(
        "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\nset timeout=0\n\
         menuentry Ferrule {{\n  {}\n}}\n",
        commands.join("\n  ")
    )
}

/// Words as GRUB's shell takes them: what it would expand is in quotes.
fn quoted(words: &str) -> String {
    let word = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    words.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_starts_what_the_machine_does() {
        let commands = ["multiboot2 /boot/x".to_string(), format!("module2 /boot/module0 {}", quoted("log=$a  it's"))];
        let menu = menu(&commands);
        assert!(
            menu.ends_with("Ferrule {\n  multiboot2 /boot/x\n  module2 /boot/module0 'log=$a' 'it'\\''s'\n}\n"),
            "{menu}"
        );
    }
}
