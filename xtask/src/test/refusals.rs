//! What cannot begin says why and ends in exit code 2, with nothing left running.

use super::e2e::{Case, Setting, shown};
use super::tool::{Said, expect_nothing_left, run};
use crate::qemu::Accel;
use anyhow::Result;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

pub const CASES: &[Case] = &[
    ("port-in-use", port_in_use),
    ("manifest-key", manifest_key),
    ("missing-image", missing_image),
    ("too-little-memory", too_little_memory),
    ("no-such-option", no_such_option),
    ("failing-step", failing_step),
];

/// `run` with a folder of the case's own, which must refuse with these words.
fn refused(setting: &Setting<'_>, args: &[&str], words: &[&str]) -> Result<()> {
    let dir = shown(&setting.dir());
    let said = run(setting, &[&["run", "--dir", &dir], args].concat())?;
    said.expect(2, words)?;
    expect_nothing_left(&setting.dir())
}

/// A file in the case's folder.
fn file(setting: &Setting<'_>, name: &str, text: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(setting.dir())?;
    let path = setting.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

fn port_in_use(setting: &Setting<'_>) -> Result<()> {
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = held.local_addr()?.port().to_string();
    refused(setting, &["--http-port", &port], &[&format!("port {port}"), "in use", "--http-port"])
}

/// A wrong key is shown with file, line, excerpt, caret and the nearest right one, by `run` and by `check`.
fn manifest_key(setting: &Setting<'_>) -> Result<()> {
    let bad = shown(&file(setting, "bad.toml", "name = \"web\"\nkernel = \"web\"\nmemry = 32\n")?);
    let words = [&bad, "line 3", "memry = 32", "^^^^^", "did you mean `memory`?"];
    refused(setting, &["--config", &bad, "--http-port", "0"], &words)?;
    run(setting, &["check", &bad])?.expect(2, &words)?;
    run(setting, &["check", &shown(&setting.place.root.join("examples/tour.toml"))])?
        .expect(0, &["web", "32 MiB", "good"])?;
    run(setting, &["check", "/no/such/file.toml"])?.expect(2, &["/no/such/file.toml"])
}

fn missing_image(setting: &Setting<'_>) -> Result<()> {
    let config = shown(&file(setting, "m.toml", "name = \"web\"\nkernel = \"nowhere\"\n")?);
    refused(setting, &["--config", &config, "--http-port", "0"], &["no image nowhere"])?;
    refused(setting, &["--dom0", "/no/such/image"], &["no image /no/such/image"])?;
    refused(setting, &["--add", "/no/such/folder", "--http-port", "0"], &["no folder /no/such/folder"])
}

fn too_little_memory(setting: &Setting<'_>) -> Result<()> {
    refused(setting, &["--mem", "100", "--http-port", "0"], &["--mem 100", "want 224 MiB"])?;
    refused(setting, &["--mem", "0", "--http-port", "0"], &["--mem"])?;
    refused(setting, &["--mem", "99999999", "--http-port", "0"], &["QEMU would not start"])
}

fn no_such_option(setting: &Setting<'_>) -> Result<()> {
    refused(setting, &["--http-port", "0", "--", "-no-such-option"], &["QEMU would not start", "no-such-option"])?;
    refused(setting, &["--step", "dance"], &["no step dance", "ping"])?;
    refused(setting, &["--smp", "0"], &["--smp"])?;
    run(setting, &["runn"])?.expect(2, &["runn", "run"])?;
    if Accel::Auto.resolve()? == Accel::Tcg {
        refused(setting, &["--accel", "kvm", "--http-port", "0"], &["no usable KVM", "--accel tcg"])?;
    }
    Ok(())
}

/// A step that fails says why, shows the log of the domain at fault and a command; that command takes this step alone.
fn failing_step(setting: &Setting<'_>) -> Result<()> {
    // `client` finds that the file it fetches is not the one it was told of; everything else holds.
    let tour = std::fs::read_to_string(setting.place.root.join("examples/tour.toml"))?;
    let config = shown(&file(setting, "other.toml", &tour.replace("web=10.0.2.15", "web=10.0.2.15 sha256=00"))?);
    let dir = shown(&setting.dir());
    let args = ["run", "--config", &config, "--http-port", "0", "--dir", &dir, "--smp", "2"];
    let failed = |said: &Said| -> Result<String> {
        said.expect(1, &["FAIL fetch: ", "       | [", "client: console: FAIL client fetches"])?;
        let again =
            said.text.lines().find_map(|line| line.trim().strip_prefix("again: cargo xtask ")).unwrap_or_default();
        Ok(again.to_string())
    };
    let again = failed(&run(setting, &args)?)?;
    anyhow::ensure!(again.ends_with("--step fetch") && again.contains("other.toml"), "again: {again}");
    let said = run(setting, &again.split(' ').skip_while(|word| *word != "run").collect::<Vec<_>>())?;
    failed(&said)?;
    anyhow::ensure!(!said.text.contains("host reads"), "other steps were taken too:\n{}", said.text);
    expect_nothing_left(&setting.dir())
}
