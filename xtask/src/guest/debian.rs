//! Debian as a guest: its own packages, nothing rebuilt, on a disk with systemd, servers and load generators.
//!
//! Made in steps that are each kept: the packages downloaded, the root unpacked and configured, the disk written.

use super::dir;
use crate::disk::noise;
use crate::place::Place;
use crate::process::{Guarded, is_root, quiet, stdout_of};
use crate::run::http::sha256;
use crate::setup::{self, Need};
use crate::unable;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What it is made of, as a manifest names it.
pub const FILES: [&str; 3] = ["debian.img", "debian.vmlinuz", "debian.initrd"];
/// A copy of the disk for a second guest.
pub const SECOND: &str = "debian2.img";
/// The key that opens it over SSH.
pub const KEY: &str = "debian-key";
/// What to say of [`NOISE`]: its SHA-256.
pub const NOISE_HASH: &str = "debian.sha256";
/// The hash of what it was made of.
const RECIPE: &str = "debian.recipe";
const NOISE: usize = 100_000_000;

/// Debian's release.
const SUITE: &str = "bookworm";
const PACKAGES: [&str; 18] = [
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "netbase",
    "initramfs-tools",
    "busybox",
    "linux-image-amd64",
    "nginx-light",
    "postgresql",
    "postgresql-contrib",
    "openssh-server",
    "iperf3",
    "fio",
    "stress-ng",
];
/// What every root has, in apt's own terms.
const BASE: [&str; 3] = ["apt", "?essential", "?priority(required)"];
/// Size of the disk: what is written is not more than a gigabyte and a half.
const DISK: u64 = 4 << 30;
/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(1800);
/// examples/debian: what runs in the root before and after its packages are configured.
const SCRIPTS: [&str; 2] = ["initramfs", "setup"];

/// What making it needs.
const NEEDS: [Need; 3] =
    [Need::Program("mmdebstrap", "mmdebstrap"), Need::Program("ssh-keygen", "openssh-client"), setup::MKE2FS];

/// Copies the disk as it is now for a second guest, if that has none; holes stay holes.
pub fn second(place: &Place) -> Result<()> {
    let (from, to) = (dir(place).join(FILES[0]), dir(place).join(SECOND));
    if !to.is_file() {
        let part = dir(place).join("debian2.img.part");
        stdout_of(Command::new("cp").arg("--sparse=always").arg(from).arg(&part))?;
        fs::rename(part, to)?;
    }
    Ok(())
}

/// Whether it was never made, or of other parts.
pub fn is_stale(place: &Place) -> bool {
    let there = FILES.iter().all(|name| dir(place).join(name).is_file());
    !there || fs::read_to_string(dir(place).join(RECIPE)).ok() != recipe(place).ok()
}

/// What it is made of, as a hash.
fn recipe(place: &Place) -> Result<String> {
    let mut parts = PACKAGES.join(" ").into_bytes();
    for name in SCRIPTS {
        parts.extend(fs::read(scripts(place).join(name)).with_context(|| format!("examples/debian/{name}"))?);
    }
    Ok(sha256(&parts))
}

/// Makes it.
pub fn make(place: &Place) -> Result<()> {
    setup::ensure(&NEEDS, place.no_install)?;
    let begin = Instant::now();
    let work = place.target.join("debian/guest");
    println!(
        "making Debian's disk: about 225 MB to download once, 2 GB of room in {}, some minutes",
        place.show(&work)
    );
    fs::create_dir_all(dir(place))?;
    let archives = work.join("archives");
    download(&archives)?;
    let root = work.join("root");
    install(place, &archives, &root, &work)?;
    write_disk(place, &root)?;
    discard(&root)?;
    fs::write(dir(place).join(RECIPE), recipe(place)?)?;
    println!("Debian's disk is made, in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn scripts(place: &Place) -> PathBuf {
    place.root.join("examples/debian")
}

/// All packages that it is made of, downloaded. One that is there already is not fetched again.
fn download(archives: &Path) -> Result<()> {
    fs::create_dir_all(archives.join("partial"))?;
    let apt = |more: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-y", "-q", "--no-install-recommends", "-o", "Dir::State::status=/dev/null"]);
        command.args(["-o", "Debug::NoLocking=1", "-o", &format!("Dir::Cache::archives={}/", archives.display())]);
        command.args(more).arg("install").args(BASE).args(PACKAGES);
        command
    };
    let listed = stdout_of(&mut apt(&["--print-uris"])).context("asking apt; `sudo apt-get update` may help")?;
    let wanted = listed.lines().filter(|line| line.starts_with('\'')).count();
    if wanted == 0 {
        return Ok(());
    }
    let before = debs(archives);
    let mut progress = Progress::new("download", "packages", wanted);
    let thread = {
        let mut command = apt(&["--download-only"]);
        std::thread::spawn(move || quiet(&mut command, LIMIT))
    };
    while !thread.is_finished() {
        progress.show(debs(archives) - before.min(debs(archives)));
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = thread.join().map_err(|_| anyhow::anyhow!("apt's thread panicked"))??;
    progress.end();
    if !said.ok {
        unable!("apt-get could not download:\n{}\nagain: cargo xtask guest debian", said.text.trim());
    }
    Ok(())
}

fn debs(archives: &Path) -> usize {
    let entries = fs::read_dir(archives).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "deb")).count()
}

/// Unpacks and configures the packages in a folder, as root or in a user namespace.
fn install(place: &Place, archives: &Path, root: &Path, work: &Path) -> Result<()> {
    discard(root)?;
    let (noise_file, key) = (work.join("noise"), dir(place).join(KEY));
    let bytes = noise(NOISE);
    fs::write(&noise_file, &bytes)?;
    fs::write(dir(place).join(NOISE_HASH), sha256(&bytes))?;
    if !key.is_file() {
        let mut keygen = Command::new("ssh-keygen");
        stdout_of(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "ferrule-guest", "-f"]).arg(&key))?;
    }
    let hook = |name: &str| format!("{} \"$1\"", scripts(place).join(name).display());
    let mut args = vec![
        "--variant=minbase".to_string(),
        format!("--mode={}", if is_root() { "root" } else { "unshare" }),
        "--format=directory".to_string(),
        "--aptopt=APT::Install-Recommends \"false\"".to_string(),
        // The packages are there already.
        "--skip=download/empty".to_string(),
        "--skip=essential/unlink".to_string(),
        "--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives".to_string(),
        format!("--setup-hook=sync-in {} /var/cache/apt/archives", archives.display()),
        format!("--essential-hook={}", hook(SCRIPTS[0])),
        format!("--customize-hook={}", hook(SCRIPTS[1])),
        format!("--include={}", PACKAGES.join(",")),
        SUITE.to_string(),
        root.display().to_string(),
    ];
    args.extend(sources()?);
    let log = work.join("mmdebstrap.log");
    let output = fs::File::create(&log)?;
    let errors = output.try_clone()?;
    let child = Guarded::spawn("mmdebstrap", &args, |command| {
        command.env("KEY", &key).env("NOISE", &noise_file).env("PATH", path());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
    })?;
    let mut progress = Progress::new("install", "packages configured", 0);
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.wait(Duration::from_millis(500))? {
            break status;
        }
        ensure!(Instant::now() < end, "mmdebstrap takes more than {} s: {}", LIMIT.as_secs(), place.show(&log));
        progress.show(configured(root));
    };
    progress.end();
    let said = fs::read_to_string(&log).unwrap_or_default();
    if !status.success() {
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("E: ")).collect();
        unable!("mmdebstrap failed:\n{}\nall it said: {}", lines.join("\n"), place.show(&log));
    }
    fs::remove_file(&noise_file)?;
    Ok(())
}

/// How many packages of a root are configured.
fn configured(root: &Path) -> usize {
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap_or_default();
    status.lines().filter(|line| *line == "Status: install ok installed").count()
}

/// The files from which this machine's apt reads its sources.
fn sources() -> Result<Vec<String>> {
    let entries = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "list" || kind == "sources");
    let all = [PathBuf::from("/etc/apt/sources.list")].into_iter().chain(entries.filter(is_one));
    let with_debian = all.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(SUITE)));
    let found: Vec<String> = with_debian.map(|path| path.display().to_string()).collect();
    if found.is_empty() {
        unable!("none of apt's sources in /etc/apt has {SUITE}: is this Debian 12?");
    }
    Ok(found)
}

/// PATH with the system's folders, where plain users lack them.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// A command as the owner of the root: plain for root, else in the namespace that mmdebstrap made it in.
fn as_owner(program: &str) -> Command {
    let mut command = Command::new(if is_root() { program } else { "mmdebstrap" });
    if !is_root() {
        command.args(["--unshare-helper", program]);
    }
    command.env("PATH", path());
    command
}

fn discard(root: &Path) -> Result<()> {
    if root.exists() {
        stdout_of(as_owner("rm").arg("-rf").arg(root))?;
    }
    Ok(())
}

/// The root as an ext4 file system, and beside it the kernel and its initramfs.
fn write_disk(place: &Place, root: &Path) -> Result<()> {
    println!("  writing the disk");
    for (link, to) in [("vmlinuz", FILES[1]), ("initrd.img", FILES[2])] {
        let from = root.join(fs::read_link(root.join(link)).with_context(|| format!("the root's {link}"))?);
        fs::write(dir(place).join(to), fs::read(&from).with_context(|| format!("reading {}", from.display()))?)?;
    }
    // Beside and renamed: a stopped run leaves no half of it.
    let part = dir(place).join("debian.img.part");
    let file = fs::File::create(&part)?;
    file.set_len(DISK)?;
    if !is_root() {
        // In the namespace this user is another one.
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o666))?;
    }
    drop(file);
    let mut mkfs = as_owner("mkfs.ext4");
    mkfs.args(["-q", "-F", "-L", "debian", "-O", "^metadata_csum_seed,^orphan_file", "-d"]).arg(root).arg(&part);
    stdout_of(&mut mkfs)?;
    fs::rename(&part, dir(place).join(FILES[0]))?;
    // Its copy is of the one before.
    let _ = fs::remove_file(dir(place).join(SECOND));
    Ok(())
}

/// A line that counts: over itself on a terminal, every ten seconds elsewhere.
struct Progress {
    what: &'static str,
    of: &'static str,
    total: usize,
    begin: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new(what: &'static str, of: &'static str, total: usize) -> Self {
        Progress { what, of, total, begin: Instant::now(), shown: None }
    }

    fn show(&mut self, count: usize) {
        let terminal = crate::terminal::is_interactive();
        let pause = Duration::from_millis(if terminal { 500 } else { 10_000 });
        if self.shown.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let total = if self.total > 0 { format!(" of {}", self.total) } else { String::new() };
        let seconds = self.begin.elapsed().as_secs();
        print!(
            "{}  {}: {count}{total} {}, {seconds} s{}",
            if terminal { "\r" } else { "" },
            self.what,
            self.of,
            if terminal { "" } else { "\n" }
        );
        let _ = std::io::stdout().flush();
    }

    fn end(&self) {
        if crate::terminal::is_interactive() {
            println!();
        }
    }
}
