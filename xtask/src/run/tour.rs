//! The tour: steps that look at a running machine from outside. What they print they have seen.
//!
//! Beside the forms of docs/console-protocol.md the steps look at what the guests say on their consoles: the table there.

use super::console::command;
use super::http;
use super::log::{Entry, last_about, number_before};
use super::ssh::Guest;
use super::world::Disk;
use crate::qemu::{Line, Running};
use crate::unable;
use anyhow::{Context, Result, ensure};
use dom0::manifest::Manifest;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long a step waits for what it looks for, on a loaded machine; and once a step before it has failed.
const PATIENCE: Duration = Duration::from_secs(90);
const PATIENCE_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Log lines shown of the domain at fault.
const SHOWN: usize = 20;
const MIB: f64 = (1 << 20) as f64;
/// The guest of examples/linux-mini.toml.
const LINUX: &str = "linux-mini";
/// The guest of examples/debian.toml, and how long it may take to its login.
const DEBIAN: &str = "debian";
/// A second one on the same bridge, and its address (examples/debian-pair.toml).
const SECOND: &str = "debian2";
const SECOND_ADDRESS: &str = "10.0.2.22";
const DEBIAN_BOOT: Duration = Duration::from_secs(400);
/// Where it writes on its disk: first byte and length (examples/linux-mini/init).
const WRITTEN: (u64, usize) = (1 << 20, 8 << 20);

/// Waits for the separate count of the way to dom0, in instructions.
pub type Count = Box<dyn FnOnce() -> Option<f64>>;

/// A machine on its tour.
pub struct Tour {
    /// The machine, with dom0 at its serial line.
    pub machine: Running,
    disk: Disk,
    http_port: u16,
    /// How a guest with SSH is reached, where the manifest has one.
    guest: Option<Guest>,
    domains: Vec<String>,
    /// How long the next step waits.
    patience: Duration,
    instructions: Count,
}

/// A step: its name, the domain at fault if it fails, and what it looks at.
pub struct Step {
    /// For `--step`.
    pub name: &'static str,
    at_fault: &'static str,
    /// The domains it looks at, each of the image of its name (whatever its extension, or its number).
    of: &'static [&'static str],
    look: fn(&mut Tour) -> Result<String>,
}

impl Step {
    /// Whether a domain is gone after it: nothing for a person who wants to stay.
    pub fn ends_a_domain(&self) -> bool {
        self.name.ends_with("-off")
    }
}

/// In the order of the tour.
pub const STEPS: &[Step] = &[
    Step { name: "core", at_fault: "dom0", of: &[], look: core },
    Step { name: "drivers", at_fault: "netback", of: &["netback", "blkback"], look: drivers },
    Step { name: "domains", at_fault: "dom0", of: &[], look: domains },
    Step { name: "address", at_fault: "web", of: &["web"], look: address },
    Step { name: "ping", at_fault: "client", of: &["client", "web"], look: ping },
    Step { name: "fetch", at_fault: "client", of: &["client", "web"], look: guest_fetches },
    Step { name: "status", at_fault: "web", of: &["web"], look: status },
    Step { name: "download", at_fault: "web", of: &["web"], look: download },
    Step { name: "disk", at_fault: "client", of: &["client"], look: disk },
    Step { name: "linux", at_fault: LINUX, of: &[LINUX], look: linux },
    Step { name: "linux-disk", at_fault: LINUX, of: &[LINUX], look: linux_disk },
    Step { name: "linux-fetch", at_fault: LINUX, of: &[LINUX], look: linux_fetches },
    Step { name: "linux-serve", at_fault: LINUX, of: &[LINUX], look: linux_serves },
    Step { name: "linux-off", at_fault: LINUX, of: &[LINUX], look: |tour| powers_off(tour, LINUX) },
    Step { name: "debian", at_fault: DEBIAN, of: &[DEBIAN], look: debian },
    Step { name: "debian-ssh", at_fault: DEBIAN, of: &[DEBIAN], look: debian_ssh },
    Step { name: "debian-http", at_fault: DEBIAN, of: &[DEBIAN], look: debian_http },
    Step { name: "debian-pair", at_fault: SECOND, of: &[DEBIAN, SECOND, "web"], look: debian_pair },
    Step { name: "debian-off", at_fault: DEBIAN, of: &[DEBIAN], look: |tour| powers_off(tour, DEBIAN) },
];

/// The steps for a manifest: those whose domains it starts; or only the one of that name.
pub fn steps(manifest: &Manifest, only: Option<&str>) -> Result<Vec<&'static Step>> {
    let starts = |name: &&str| {
        // `debian2` is a second `debian`.
        let image = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_of_its_name = |kernel: &str| kernel.split('.').next() == Some(image);
        manifest.domains.iter().any(|domain| domain.name == *name && is_of_its_name(&domain.kernel) && domain.autostart)
    };
    let Some(only) = only else {
        return Ok(STEPS.iter().filter(|step| step.of.iter().all(&starts)).collect());
    };
    let Some(step) = STEPS.iter().find(|step| step.name == only) else {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        unable!("no step {only}; there are: {}", names.join(", "));
    };
    if let Some(missing) = step.of.iter().find(|name| !starts(name)) {
        unable!("step {only} looks at a domain {missing}, which this manifest does not start");
    }
    Ok(vec![step])
}

/// Takes the steps; whether all held. `again` reruns one alone once its name stands where it says STEP.
pub fn take(tour: &mut Tour, steps: &[&Step], again: Option<&str>) -> bool {
    let mut all = true;
    for step in steps {
        match (step.look)(tour) {
            Ok(seen) => println!("{seen}"),
            Err(error) => {
                all = false;
                tour.patience = PATIENCE_AFTER_FAILURE;
                println!("  FAIL {}: {error:#}", step.name);
                for line in last_about(tour.machine.lines(), step.at_fault, SHOWN) {
                    println!("       | {line}");
                }
                if let Some(again) = again {
                    println!("       again: {}", again.replace("STEP", step.name));
                }
            }
        }
    }
    all
}

impl Tour {
    /// A machine whose shell waits; the disk it has, the host's port that leads to `web`, the domains it is to start.
    pub fn new(
        machine: Running,
        disk: Disk,
        http_port: u16,
        guest: Option<Guest>,
        domains: Vec<String>,
        instructions: Count,
    ) -> Tour {
        Tour { machine, disk, http_port, guest, domains, patience: PATIENCE, instructions }
    }

    /// Waits for a log entry about `who` that `found` makes something of.
    fn entry<T>(
        &mut self,
        from: usize,
        who: &str,
        what: &str,
        found: impl Fn(&Entry<'_>) -> Option<T>,
    ) -> Result<(f64, T)> {
        let read = |line: &Line| {
            let entry = Entry::parse(&line.text).filter(|entry| entry.who == who)?;
            Some((entry.at, found(&entry)?))
        };
        let hopeless = |line: &Line| {
            Entry::parse(&line.text).is_some_and(|entry| entry.who == who && entry.what.starts_with("not created"))
        };
        let wanted = |line: &Line| read(line).is_some() || hopeless(line);
        let index = self.machine.wait_for(from, self.patience, |lines, _| lines.iter().position(wanted));
        let index = index.with_context(|| format!("{who}: {what}: not seen within {} s", self.patience.as_secs()))?;
        let line = self.machine.lines().get(index).context("the line just seen")?;
        read(line).with_context(|| line.text.clone())
    }

    /// Waits for a line on a domain's console.
    fn console<T>(&mut self, who: &str, what: &str, found: impl Fn(&str) -> Option<T>) -> Result<(f64, T)> {
        self.entry(0, who, what, |entry| entry.console().and_then(&found))
    }

    fn fetch(&self, path: &str) -> Result<http::Fetched> {
        http::fetch(self.http_port, path, self.patience)
    }
}

/// A row of the boot's timeline.
fn row(seconds: f64, who: &str, what: &str) -> String {
    format!("{seconds:5.1}s {who:8} {what}")
}

/// When dom0 started, what it took to get there and what the core keeps for itself.
fn core(tour: &mut Tour) -> Result<String> {
    let starts = |line: &str| line.contains("d0 starts after") || line.contains("dom0: up");
    let index = tour.machine.wait_line(0, tour.patience, starts).context("the core started no dom0")?;
    let line = tour.machine.lines().get(index).map(|line| line.text.clone()).unwrap_or_default();
    if let Some(entry) = Entry::parse(&line) {
        // Xen does not say when.
        return Ok(row(entry.at, "xen", "the same domains as on Ferrule"));
    }
    let ms = number_before(&line, "ms").context("no time in the core's line")?;
    let kib = number_before(&line, "KiB").context("no memory in the core's line")?;
    let count = std::mem::replace(&mut tour.instructions, Box::new(|| None));
    let instructions = count().map(|count| format!("{:.0} M instructions to dom0, ", count / 1e6)).unwrap_or_default();
    Ok(row(ms / 1000.0, "core", &format!("{instructions}{:.1} MiB", kib / 1024.0)))
}

/// Both driver domains have found their devices: they say at which PCI function.
fn drivers(tour: &mut Tour) -> Result<String> {
    let found = |text: &str| {
        let function = text.split(" at ").nth(1)?.split([' ', ',']).next()?;
        let function = function.strip_prefix("0000:").unwrap_or(function);
        Some(function).filter(|function| function.contains(':') && function.contains('.')).map(str::to_string)
    };
    let (at, net) = tour.console("netback", "its device", found)?;
    let (later, blk) = tour.console("blkback", "its device", found)?;
    Ok(row(at.max(later), "netback", &format!("virtio-net {net}      blkback  virtio-blk {blk}")))
}

/// dom0 lists every domain of the manifest.
fn domains(tour: &mut Tour) -> Result<String> {
    let (at, _) = tour.entry(0, "dom0", "ready", |entry| (entry.what == "ready").then_some(()))?;
    // One that reboots just now is back soon.
    let end = Instant::now() + tour.patience;
    loop {
        let list = command(&mut tour.machine, "list", tour.patience)?;
        let is_listed = |name: &&String| list.iter().any(|line| line.split(' ').next() == Some(name.as_str()));
        let missing: Vec<&str> = tour.domains.iter().filter(|name| !is_listed(name)).map(String::as_str).collect();
        if missing.is_empty() {
            break;
        }
        ensure!(Instant::now() < end, "not running: {}", missing.join(", "));
        tour.machine.read(Duration::from_millis(100));
    }
    Ok(row(at, "dom0", &format!("{} domains: {}", tour.domains.len(), tour.domains.join(", "))))
}

fn address(tour: &mut Tour) -> Result<String> {
    let read = |text: &str| text.split(" has ").nth(1)?.split(['/', ',', ' ']).next()?.parse::<Ipv4Addr>().ok();
    let (at, address) = tour.console("web", "an address", read)?;
    Ok(row(at, "web", &format!("{address:<15} http://127.0.0.1:{}/", tour.http_port)))
}

/// A guest's own report of a step: `ok   STEP   TEXT` or `FAIL STEP   TEXT`.
fn reported(tour: &mut Tour, who: &str, step: &str) -> Result<String> {
    let read = |text: &str| {
        let (mark, rest) = text.split_once(' ')?;
        let said = rest.trim_start().strip_prefix(step)?.trim().to_string();
        (mark == "ok" || mark == "FAIL").then(|| (mark == "ok", said))
    };
    let (_, (good, said)) = tour.console(who, step, read)?;
    ensure!(good, "{step}: {said}");
    Ok(said)
}

fn ping(tour: &mut Tour) -> Result<String> {
    let said = reported(tour, "client", "client pings web")?;
    let counts = said.split([' ', ',']).next().and_then(|counts| counts.split_once('/'));
    ensure!(counts.is_some_and(|(got, sent)| got == sent && sent != "0"), "pings that came back: {said}");
    Ok(format!("  ok   client pings web   {said}"))
}

/// A guest fetches a file from another and sees the bytes of the image.
fn guest_fetches(tour: &mut Tour) -> Result<String> {
    let served = tour.disk.served.first().context("a file on the disk")?;
    let (path, hash, mib) = (served.path, served.sha256.clone(), served.bytes as f64 / MIB);
    let said = reported(tour, "client", &format!("client fetches {path} from web"))?;
    ensure!(said.contains(&hash), "{said}, in the image {hash}");
    let rate = said.split(", ").find(|part| part.ends_with("bit/s")).unwrap_or_default();
    Ok(format!("  ok   client fetches {mib:.0} MiB from web, sha256 {}... = image, {rate}", short(&hash)))
}

fn status(tour: &mut Tour) -> Result<String> {
    let fetched = tour.fetch("/")?;
    ensure!(fetched.status == 200 && fetched.bytes > 0, "status {}, {} bytes", fetched.status, fetched.bytes);
    let absent = tour.fetch("/no-such-file")?;
    ensure!(absent.status == 404, "a file that is not there: status {}", absent.status);
    Ok(format!("  ok   host reads web's status page, {} bytes", fetched.bytes))
}

fn download(tour: &mut Tour) -> Result<String> {
    let served = tour.disk.served.first().context("a file on the disk")?;
    let fetched = tour.fetch(served.path)?;
    ensure!(fetched.status == 200, "{}: status {}", served.path, fetched.status);
    ensure!(fetched.sha256 == served.sha256, "sha256 {}, in the image {}", fetched.sha256, served.sha256);
    let mib = fetched.bytes as f64 / MIB;
    Ok(format!("  ok   host fetches {mib:.0} MiB from web, sha256 {}... = image", short(&fetched.sha256)))
}

/// What `client` wrote to its disk is there after its reboot.
fn disk(tour: &mut Tour) -> Result<String> {
    let said = reported(tour, "client", "client's disk")?;
    ensure!(said.contains("after a reboot"), "read without a reboot: {said}");
    tour.entry(0, "client", "ended: reboot", |entry| entry.what.starts_with("ended: reboot").then_some(()))?;
    Ok(format!("  ok   client's disk: {said}"))
}

/// Debian's kernel as it is reaches its init.
fn linux(tour: &mut Tour) -> Result<String> {
    let (at, _) = tour.entry(0, LINUX, "created", |entry| entry.what.starts_with("created").then_some(()))?;
    let said = reported(tour, LINUX, "linux boots")?;
    let address = reported(tour, LINUX, "linux has an address")?;
    let address: Ipv4Addr = address.parse().with_context(|| format!("its address: {address}"))?;
    let url = format!("http://127.0.0.1:{}/", tour.http_port);
    Ok(row(at, LINUX, &format!("{said}; {address}  {url}")))
}

/// What it wrote it has read back from the disk; and the host finds it in the image.
fn linux_disk(tour: &mut Tour) -> Result<String> {
    let said = reported(tour, LINUX, "linux's disk")?;
    let hash = said.rsplit(' ').next().unwrap_or_default();
    let (start, len) = WRITTEN;
    let found = http::sha256(&tour.disk.read_client(start, len)?);
    ensure!(hash == found, "{said}, but the image has sha256 {found} there");
    Ok(format!("  ok   linux's disk: {} MiB written, synced, read back, sha256 {}... = image", len >> 20, short(hash)))
}

/// It fetches a file that the host offers.
fn linux_fetches(tour: &mut Tour) -> Result<String> {
    let served = tour.disk.served.first().context("a file on the disk")?;
    let (hash, mib) = (served.sha256.clone(), served.bytes as f64 / MIB);
    let said = reported(tour, LINUX, "linux fetches from the host")?;
    ensure!(said.ends_with(&hash), "{said}, in the image {hash}");
    Ok(format!("  ok   linux fetches {mib:.0} MiB from the host, sha256 {}... = image", short(&hash)))
}

/// And the host fetches from it what it has fetched.
fn linux_serves(tour: &mut Tour) -> Result<String> {
    reported(tour, LINUX, "linux serves")?;
    let fetched = tour.fetch("/fetched")?;
    let served = tour.disk.served.first().context("a file on the disk")?;
    ensure!(fetched.status == 200, "/fetched: status {}", fetched.status);
    ensure!(fetched.sha256 == served.sha256, "sha256 {}, in the image {}", fetched.sha256, served.sha256);
    let mib = fetched.bytes as f64 / MIB;
    Ok(format!("  ok   host fetches {mib:.0} MiB from linux, sha256 {}... = image", short(&fetched.sha256)))
}

/// The toolstack's request reaches the guest's init, and it powers off.
fn powers_off(tour: &mut Tour, who: &str) -> Result<String> {
    let from = tour.machine.lines().len();
    command(&mut tour.machine, &format!("shutdown {who}"), tour.patience)?;
    let ended = |entry: &Entry<'_>| entry.what.strip_prefix("ended: ").map(str::to_string);
    let (_, how) = tour.entry(from, who, "its end", ended)?;
    ensure!(how.starts_with("poweroff"), "it ended: {how}");
    Ok(format!("  ok   {who} powers off when told to"))
}

/// systemd reaches its login prompt.
fn debian(tour: &mut Tour) -> Result<String> {
    let patience = std::mem::replace(&mut tour.patience, DEBIAN_BOOT);
    let login =
        tour.console(DEBIAN, "its login prompt", |text| text.starts_with("Debian GNU/Linux").then(|| text.to_string()));
    tour.patience = patience;
    let (at, _) = login?;
    let (created, _) = tour.entry(0, DEBIAN, "created", |entry| entry.what.starts_with("created").then_some(()))?;
    let way = tour.guest.as_ref().context("no way to it")?.shown();
    Ok(row(at, DEBIAN, &format!("login {:.0} s after its start   {way}", at - created)))
}

fn debian_http(tour: &mut Tour) -> Result<String> {
    let hash = tour.guest.as_ref().context("no way to it")?.hash.clone();
    let port = tour.guest.as_ref().and_then(|guest| guest.http).context("no port leads to its nginx")?;
    let fetched = http::fetch(port, "/100m.bin", tour.patience)?;
    ensure!(fetched.status == 200, "/100m.bin: status {}", fetched.status);
    ensure!(fetched.sha256 == hash, "sha256 {}, when made {hash}", fetched.sha256);
    let rate = fetched.bytes as f64 * 8e-6 / fetched.took.as_secs_f64();
    Ok(format!("  ok   host fetches 100 MB from nginx, sha256 {}... as made, {rate:.0} Mbit/s", short(&hash)))
}

/// The first Debian fetches from the second and from `web`, over the bridge.
fn debian_pair(tour: &mut Tour) -> Result<String> {
    let patience = std::mem::replace(&mut tour.patience, DEBIAN_BOOT);
    let login = tour.console(SECOND, "its login prompt", |text| text.starts_with("Debian GNU/Linux").then_some(()));
    tour.patience = patience;
    login?;
    let read = |text: &str| text.split(" has ").nth(1)?.split(['/', ',', ' ']).next()?.parse::<Ipv4Addr>().ok();
    let (_, web) = tour.console("web", "an address", read)?;
    let guest = tour.guest.as_ref().context("no way to it")?;
    let served = tour.disk.served.first().context("a file on the disk")?;
    for (url, hash) in [
        (format!("http://{SECOND_ADDRESS}/100m.bin"), &guest.hash),
        (format!("http://{web}{}", served.path), &served.sha256),
    ] {
        // nginx may start after the login prompt.
        let fetch = format!(
            "for n in $(seq 60); do busybox wget -q -O /tmp/f {url} && break; sleep 1; done; sha256sum < /tmp/f"
        );
        let said = guest.ssh(&fetch)?;
        ensure!(said.split(' ').next() == Some(hash), "{url}: sha256 {said}, as made {hash}");
    }
    Ok(format!("  ok   debian fetches 100 MB from {SECOND} and 8 MiB from web, sha256 as made"))
}

/// Over SSH: systemd says that nothing failed, PostgreSQL commits.
fn debian_ssh(tour: &mut Tour) -> Result<String> {
    let guest = tour.guest.as_ref().context("no way to it")?;
    guest.wait(DEBIAN_BOOT)?;
    let state = guest.ssh("systemctl is-system-running --wait || systemctl --failed --no-legend")?;
    ensure!(state.trim() == "running", "systemd: {state}");
    let sql = "create temp table t as select generate_series(1, 1000) n; select sum(n) from t;";
    let sum = guest.ssh(&format!("cd /; su postgres -c \"psql -qAtc '{sql}'\""))?;
    ensure!(sum.trim() == "500500", "PostgreSQL: {sum}");
    Ok("  ok   over SSH: systemd has no failed unit, PostgreSQL adds up 1000 rows".to_string())
}

fn short(hash: &str) -> &str {
    hash.get(..4).unwrap_or(hash)
}
