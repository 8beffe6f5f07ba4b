//! Set-up on machines that lack something: what it says, in which order, and where it stops. The machines are folders
//! with stand-ins for rustc, rustup and apt-get, and nothing else on PATH.

use super::e2e::{Case, Setting, shown};
use super::tool::{Said, say, xtask};
use crate::fuzz::coverage;
use crate::iso;
use crate::setup::Need;
use anyhow::{Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub const CASES: &[Case] = &[
    ("setup-nothing-to-do", nothing_to_do),
    ("setup-no-install", no_install),
    ("setup-without-apt", without_apt),
    ("setup-by-rustup", by_rustup),
    ("setup-by-apt", by_apt),
    ("setup-fails", fails),
];

/// A pretended machine: its programs, and its Debian toolchain.
struct Machine<'a> {
    setting: &'a Setting<'a>,
    root: PathBuf,
}

/// rustc of a toolchain whose targets are in `targets`.
const RUSTC: &str =
    r#"case "$*" in *target-libdir*) echo "$ROOT/targets" ;; *) echo "rustc 1.95.0 (pretended)" ;; esac"#;
const RUSTUP_ADDS: &str =
    r#"echo "$*" >> "$ROOT/rustup.log"; mkdir -p "$ROOT/targets"; : > "$ROOT/targets/libcore-1.rlib""#;
const RUSTUP_FAILS: &str = r#"echo "error: could not download file" >&2; exit 1"#;
/// apt-get that knows sizes and, told to install, puts what it is asked for on PATH. It keeps what was said until then.
const APT: &str = r#"
case "$*" in
*--assume-no*) echo "Need to get 28.5 MB of archives."; echo "After this operation, 142 MB of additional disk space will be used."; exit 1 ;;
*install*)
    echo "$*" >> "$ROOT/apt.log"; cp "$SAID" "$ROOT/said-before"
    case "$*" in *qemu-system-x86*) : > "$ROOT/bin/qemu-system-x86_64" ;; esac
    case "$*" in *binutils*) : > "$ROOT/bin/ld"; : > "$ROOT/bin/objcopy" ;; esac
    case "$*" in *rustc-web*rust-web-src*|*rust-web-src*rustc-web*)
        mkdir -p "$ROOT/debian/usr/bin" "$ROOT/debian/usr/lib/rustlib/src/rust/library/core/src"
        cp "$ROOT/bin/rustc" "$ROOT/debian/usr/bin/rustc"; : > "$ROOT/debian/usr/bin/cargo"
        : > "$ROOT/debian/usr/lib/rustlib/src/rust/library/core/src/lib.rs" ;; esac ;;
esac"#;

impl<'a> Machine<'a> {
    /// rustc without the target, clippy and rustfmt, what makes images for GRUB and what boots them, a C++ compiler; nothing
    /// else.
    fn new(setting: &'a Setting<'a>) -> Result<Machine<'a>> {
        let mut machine = Machine { setting, root: setting.dir() };
        let _ = std::fs::remove_dir_all(&machine.root);
        std::fs::create_dir_all(machine.root.join("bin"))?;
        for need in [&iso::NEEDS[..], &iso::boot::needs(), &coverage::NEEDS].concat() {
            if let Need::Program(name, _) = need {
                machine = machine.with(name, "")?;
            }
        }
        machine.with("rustc", RUSTC)?.with("cargo-clippy", "")?.with("cargo-fmt", "")?.with("sudo", r#"exec env "$@""#)
    }

    /// A program that runs a line of shell.
    fn with(self, name: &str, line: &str) -> Result<Machine<'a>> {
        let path = self.root.join("bin").join(name);
        let root = shown(&self.root);
        let text = format!(
            "#!/bin/sh\nROOT='{root}'; SAID='{}'; PATH=\"/usr/bin:/bin\"\n{line}\n",
            self.setting.log.display()
        );
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(self)
    }

    /// Everything that is not Rust.
    fn with_programs(self) -> Result<Machine<'a>> {
        self.with("ld", "")?.with("objcopy", "")?.with("qemu-system-x86_64", "")
    }

    /// `cargo xtask setup` there.
    fn setup(&self, args: &[&str]) -> Result<Said> {
        let mut command = xtask(self.setting.place, &[args, &["setup"]].concat())?;
        command.env("PATH", self.root.join("bin")).env("FERRULE_DEBIAN_ROOT", self.root.join("debian"));
        command.env_remove("FERRULE_TOOLCHAIN");
        let said = say(&mut command, &self.setting.log)?;
        ensure!(!said.text.contains("error["), "a compiler's error shows:\n{}", said.text);
        Ok(said)
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }
}

fn nothing_to_do(setting: &Setting<'_>) -> Result<()> {
    let machine = Machine::new(setting)?.with_programs()?.with("rustup", RUSTUP_FAILS)?.with("apt-get", "exit 1")?;
    std::fs::create_dir_all(machine.root.join("targets"))?;
    std::fs::write(machine.root.join("targets/libcore-0.rlib"), "")?;
    machine.setup(&["--no-install"])?.expect(0, &["all is there: rustc 1.95.0"])
}

/// The exact commands, and nothing is touched.
fn no_install(setting: &Setting<'_>) -> Result<()> {
    let machine = Machine::new(setting)?.with("rustup", RUSTUP_ADDS)?.with("apt-get", APT)?;
    let said = machine.setup(&["--no-install"])?;
    said.expect(2, &["rustup target add x86_64-unknown-none", "qemu-system-x86_64 (Debian package qemu-system-x86)"])?;
    said.expect(2, &["apt-get install -y --no-install-recommends binutils qemu-system-x86"])?;
    ensure!((machine.file("rustup.log") + &machine.file("apt.log")).is_empty(), "something was installed");
    Ok(())
}

/// Without apt it names the tools, and goes on where they are there.
fn without_apt(setting: &Setting<'_>) -> Result<()> {
    let machine = Machine::new(setting)?.with("rustup", RUSTUP_ADDS)?;
    let said = machine.setup(&[])?;
    said.expect(
        2,
        &["qemu-system-x86_64 (Debian package qemu-system-x86)", "no apt here", "binutils qemu-system-x86"],
    )?;
    machine.with_programs()?.setup(&[])?.expect(0, &["all is there"])
}

/// The target by rustup: said before it is done, and nothing else is installed.
fn by_rustup(setting: &Setting<'_>) -> Result<()> {
    let machine = Machine::new(setting)?.with_programs()?.with("rustup", RUSTUP_ADDS)?.with("apt-get", APT)?;
    machine
        .setup(&[])?
        .expect(0, &["installing: rustup target add x86_64-unknown-none", "MB", "all is there: rustc 1.95.0"])?;
    ensure!(machine.file("rustup.log").trim() == "target add x86_64-unknown-none", "{}", machine.file("rustup.log"));
    ensure!(machine.file("apt.log").is_empty(), "apt was called");
    Ok(())
}

/// Where rustup cannot download, Debian's compiler and its source; packages, megabytes and seconds are said before.
fn by_apt(setting: &Setting<'_>) -> Result<()> {
    let machine = Machine::new(setting)?.with("rustup", RUSTUP_FAILS)?.with("apt-get", APT)?;
    let said = machine.setup(&[])?;
    said.expect(0, &["rustup could not: error: could not download file", "of Debian, building core from source"])?;
    let before = machine.file("said-before");
    for word in [
        "binutils",
        "cargo-web",
        "qemu-system-x86",
        "rust-web-src",
        "rustc-web",
        "28 MB to fetch",
        "142 MB on disk",
        "about 11 s",
    ] {
        ensure!(before.contains(word), "before the installation it did not say {word:?}:\n{before}");
    }
    ensure!(machine.file("apt.log").contains("--no-install-recommends"), "{}", machine.file("apt.log"));
    Ok(())
}

/// An installation that fails shows apt's own words and what to type.
fn fails(setting: &Setting<'_>) -> Result<()> {
    let apt = r#"case "$*" in *--assume-no*) echo "Need to get 1 MB of archives."; echo "After this operation, 2 MB of x"; exit 1 ;; esac
echo "E: the mirror is not there" >&2; exit 100"#;
    let machine = Machine::new(setting)?.with("rustup", RUSTUP_ADDS)?.with("apt-get", apt)?;
    machine.setup(&[])?.expect(2, &["E: the mirror is not there"])?;
    let machine = Machine::new(setting)?.with_programs()?.with("rustup", RUSTUP_FAILS)?;
    machine.setup(&[])?.expect(2, &["a Rust compiler for x86_64-unknown-none", "rustup target add"])
}
