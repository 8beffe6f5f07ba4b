//! Whole systems end to end: driver domains, guests with a network and a disk, the host as their client; the examples.

use super::e2e::{Case, PATIENCE, Setting, expect_ending, expect_line, shown};
use super::shell::{expect_log, has, power_off, tell};
use super::tool::{WHOLE, expect_nothing_left, run};
use crate::build::{Part, built};
use crate::qemu::{Ending, Running, free_port};
use crate::run::console::attach;
use crate::run::held::{audited, settled};
use crate::run::http::{Fetched, ask, fetch};
use crate::run::log::{Entry, number_before};
use crate::run::system::{Plan, assemble};
use crate::run::world::{Disk, IMAGE};
use anyhow::{Context, Result, bail, ensure};
use dom0::manifest::Forward;
use std::path::{Path, PathBuf};
use std::thread;

/// On one CPU and on two.
pub const CASES: &[Case] = &[("devices-come-and-go", devices_come_and_go)];
/// On two.
pub const ONCE: &[Case] = &[
    ("large-download", large_download),
    ("second-web", second_web),
    ("audit-under-load", audit_under_load),
    ("example-two-disks", example_two_disks),
    ("example-ramdisk", example_ramdisk),
    ("example-echo", example_echo),
    ("examples", examples),
];

/// Addresses in the order in which QEMU's user network gives them away, and one of a guest's own.
const ADDRESSES: [&str; 3] = ["10.0.2.15", "10.0.2.16", "10.0.2.20"];
/// The head of most manifests here: both drivers, each with its device.
pub const DRIVERS: &str = r#"
[[domain]]
name = "netback"
kernel = "netback"
memory = 16
pci = ["00:02.0"]
serves = ["vif"]
[[domain]]
name = "blkback"
kernel = "blkback"
memory = 32
pci = ["00:03.0"]
serves = ["vbd"]
"#;
/// How often a guest with devices is made and unmade.
const ROUNDS: usize = 50;

/// A system at dom0's first prompt.
pub struct System {
    /// The machine.
    pub machine: Running,
    /// What its disk holds.
    pub disk: Disk,
    /// The host's ports that lead to port 80 of each of [`ADDRESSES`].
    ports: [u16; 3],
}

/// Boots a system of the case's CPUs from a manifest.
pub fn boot(setting: &Setting<'_>, config: &Path) -> Result<System> {
    let ports = [free_port()?, free_port()?, free_port()?];
    let forwards =
        ports.into_iter().zip(ADDRESSES).map(|(host, guest)| Forward { host, guest: guest.parse().ok(), port: 80 });
    let forwards: Vec<Forward> = forwards.collect();
    let dir = setting.dir();
    let plan = Plan { forwards: &forwards, ..Plan::of(config, &dir) };
    let (mut machine, disk) = assemble(setting.place, &plan)?;
    (machine.smp, machine.mem) = (setting.smp, 512);
    let mut machine = setting.start(&machine)?;
    attach(&mut machine, PATIENCE)?;
    Ok(System { machine, disk, ports })
}

fn example(setting: &Setting<'_>, name: &str) -> PathBuf {
    setting.place.root.join("examples").join(name)
}

impl System {
    /// The host's port that leads to a guest, once it serves.
    pub fn port_of(&mut self, name: &str) -> Result<u16> {
        expect_log(&mut self.machine, name, "console: web: serving on port 80")?;
        let entries = self.machine.lines().iter().filter_map(|line| Entry::parse(&line.text));
        let mut said = entries.filter(|entry| entry.who == name).filter_map(|entry| entry.console());
        let address = said.find_map(|text| text.split(" has ").nth(1)?.split('/').next());
        let address = address.with_context(|| format!("{name} has no address"))?;
        let index = ADDRESSES.iter().position(|known| *known == address);
        index.map(|index| self.ports[index]).with_context(|| format!("{name} has {address}"))
    }

    /// A file fetched whole must be that of the image.
    pub fn verify(&self, fetched: &Fetched, path: &str) -> Result<()> {
        let served = self.disk.served.iter().find(|served| served.path == path).context("no such file on the disk")?;
        ensure!(fetched.status == 200, "{path}: status {}", fetched.status);
        let (bytes, hash) = (served.bytes as u64, &served.sha256);
        ensure!(fetched.bytes == bytes && fetched.sha256 == *hash, "{path}: {fetched:?}, in the image {bytes}, {hash}");
        Ok(())
    }
}

/// A transfer that is under way: the head of the answer is here. (A request that is lost is not: QEMU's user network does
/// not send it again in time.)
pub fn under_way(port: u16, path: &str) -> Result<thread::JoinHandle<Result<Fetched>>> {
    let coming = ask(port, path, WHOLE)?;
    Ok(thread::spawn(move || coming.take()))
}

pub fn join(handle: thread::JoinHandle<Result<Fetched>>) -> Result<Fetched> {
    handle.join().unwrap_or_else(|_| bail!("the fetching thread panicked"))
}

/// The host fetches 64 MiB; meanwhile a second connection gets the status page and another file.
fn large_download(setting: &Setting<'_>) -> Result<()> {
    let mut system = boot(setting, &example(setting, "tour.toml"))?;
    let port = system.port_of("web")?;
    let large = under_way(port, "/64m.bin")?;
    let page = fetch(port, "/", PATIENCE)?;
    ensure!(page.status == 200 && page.bytes > 0, "the status page meanwhile: {page:?}");
    let small = fetch(port, "/hello.txt", PATIENCE)?;
    ensure!(!large.is_finished(), "64 MiB were there before a few lines were");
    system.verify(&small, "/hello.txt")?;
    let medium = fetch(port, "/8m.bin", WHOLE)?;
    system.verify(&medium, "/8m.bin")?;
    let large = join(large)?;
    system.verify(&large, "/64m.bin")?;
    power_off(system.machine)
}

/// Each of twenty audits in the middle of a transfer is clean: the machine stands still for them. And goes on after.
fn audit_under_load(setting: &Setting<'_>) -> Result<()> {
    let mut system = boot(setting, &example(setting, "tour.toml"))?;
    let port = system.port_of("web")?;
    let large = under_way(port, "/64m.bin")?;
    ensure!(fetch(port, "/", PATIENCE)?.status == 200, "web does not serve");
    for round in 0..20 {
        audited(&mut system.machine).with_context(|| format!("audit {round}"))?;
    }
    ensure!(!large.is_finished(), "64 MiB were there before twenty audits were");
    let large = join(large)?;
    system.verify(&large, "/64m.bin")?;
    power_off(system.machine)
}

/// Killing `web` while both serve leaves the other at work, transfers included.
fn second_web(setting: &Setting<'_>) -> Result<()> {
    let mut system = boot(setting, &example(setting, "two-webs.toml"))?;
    let (first, second) = (system.port_of("web")?, system.port_of("web2")?);
    ensure!(fetch(first, "/", PATIENCE)?.status == 200, "web does not serve");
    let (lost, kept) = (under_way(first, "/64m.bin")?, under_way(second, "/64m.bin")?);
    ensure!(fetch(second, "/", PATIENCE)?.status == 200, "web2 does not serve");
    ensure!(!lost.is_finished() && !kept.is_finished(), "the transfers were over before the kill");
    tell(&mut system.machine, "destroy web")?;
    ensure!(fetch(second, "/", PATIENCE)?.status == 200, "web2 does not serve after the kill");
    let kept = join(kept)?;
    system.verify(&kept, "/64m.bin")?;
    let list = tell(&mut system.machine, "list")?;
    ensure!(has(&list, "web2") && !list.iter().any(|line| line.starts_with("web ")), "after the kill: {list:?}");
    drop(lost);
    audited(&mut system.machine)?;
    power_off(system.machine)
}

/// A guest with a network interface and a disk, made and unmade again and again, leaves nothing behind: frames, event
/// channels and grants are what they were, and the audit is clean.
fn devices_come_and_go(setting: &Setting<'_>) -> Result<()> {
    let config = setting.dir().join("rounds.toml");
    std::fs::create_dir_all(setting.dir())?;
    let guest = "[[domain]]\nname = 'guest'\nkernel = 'web'\nmemory = 16\nautostart = false\non_crash = 'preserve'\n\
                 vif = [{ mac = '00:16:3e:00:00:01' }]\n\
                 disk = [{ target = 'vda:web', vdev = 'xvda', mode = 'r' }]\n";
    std::fs::write(&config, [DRIVERS, guest].concat())?;
    let mut machine = boot(setting, &config)?.machine;
    let mut before = None;
    for round in 0..=ROUNDS {
        once(&mut machine).with_context(|| format!("round {round}"))?;
        // The first one may make the heaps of the core and of the drivers grow.
        if round == 0 {
            before = Some(settled(&mut machine, 3, PATIENCE)?);
        }
    }
    let after = Some(settled(&mut machine, 3, PATIENCE)?);
    ensure!(before == after, "before {ROUNDS} guests {before:?}, after them {after:?}");
    audited(&mut machine)?;
    power_off(machine)
}

/// Makes the guest, waits until both its devices work, and destroys it.
fn once(machine: &mut Running) -> Result<()> {
    let from = machine.lines().len();
    tell(machine, "create guest")?;
    for what in ["vif 0: connected", "vbd 51712: connected"] {
        let wanted =
            |line: &str| Entry::parse(line).is_some_and(|entry| entry.who == "guest" && entry.what.contains(what));
        machine.wait_line(from, PATIENCE, wanted).with_context(|| format!("the log does not say {what:?}"))?;
    }
    tell(machine, "destroy guest")?;
    let end = std::time::Instant::now() + PATIENCE;
    while has(&tell(machine, "list")?, "guest") {
        ensure!(std::time::Instant::now() < end, "guest does not go");
    }
    Ok(())
}

/// A guest with two disks serves the file system in the first partition of the whole disk it sees.
fn example_two_disks(setting: &Setting<'_>) -> Result<()> {
    let mut system = boot(setting, &example(setting, "two-disks.toml"))?;
    let port = system.port_of("web")?;
    let small = fetch(port, "/deep/er/file.txt", PATIENCE)?;
    system.verify(&small, "/deep/er/file.txt")?;
    let list = tell(&mut system.machine, "block-list web")?;
    // `web` uses its first disk; the other is offered.
    let states = |disk: &str| list.iter().find(|line| line.contains(disk)).cloned().unwrap_or_default();
    ensure!(states("xvda").contains("Connected / Connected") && states("xvdb").contains("vda:2"), "disks: {list:?}");
    power_off(system.machine)
}

/// A guest checks a disk in memory, with no other device on the machine.
fn example_ramdisk(setting: &Setting<'_>) -> Result<()> {
    let mut system = boot(setting, &example(setting, "ramdisk.toml"))?;
    expect_log(&mut system.machine, "scratch", "console: ok   client's disk   2097152 bytes written and read back")?;
    expect_log(&mut system.machine, "scratch", "console: client: SUCCESS")?;
    power_off(system.machine)
}

/// The split driver of docs/adding-a-driver.md: ten thousand messages there and back, ten an event and more.
fn example_echo(setting: &Setting<'_>) -> Result<()> {
    let mut machine = boot(setting, &example(setting, "echo.toml"))?.machine;
    expect_log(&mut machine, "echo", "console: echo: 10000 messages came back")?;
    expect_log(&mut machine, "echo", "console: echo: SUCCESS")?;
    let said = machine.lines().iter().find_map(|line| number_before(&line.text, "events"));
    ensure!(said.is_some_and(|events| events < 1000.0), "echo sent {said:?} events");
    expect_log(&mut machine, "echoback", "console: echoback: up")?;
    power_off(machine)
}

/// Each manifest in examples/ runs by the command its page names, and each guest there boots.
fn examples(setting: &Setting<'_>) -> Result<()> {
    let page = std::fs::read_to_string(example(setting, "README.md"))?;
    let names = |folder: &str| -> Result<Vec<String>> {
        let entries = std::fs::read_dir(example(setting, folder))?.flatten();
        Ok(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    let dir = shown(&setting.dir());
    for name in names("")?.into_iter().filter(|name| name.ends_with(".toml")) {
        ensure!(page.contains(&format!("({name})")), "examples/README.md does not know {name}");
        let config = shown(&example(setting, &name));
        if crate::check::read(Path::new(&config))?.machine.disks.iter().any(|disk| disk != IMAGE) {
            // One with a disk of its own takes minutes to make and to boot: by hand.
            continue;
        }
        let said = run(setting, &["run", "--http-port", "0", "--dir", &dir, "--config", &config])?;
        said.expect(0, &["dom0"]).with_context(|| name.clone())?;
        expect_nothing_left(&setting.dir())?;
    }
    for name in names("guests")? {
        ensure!(page.contains(&format!("(guests/{name})")), "examples/README.md does not know guests/{name}");
        let image = built(setting.place, Part::Domains, &name).with_context(|| format!("{name} did not build"))?;
        let mut running = setting.start(&setting.machine("", &shown(&image)))?;
        expect_line(&mut running, &format!("{name}: "))?;
        expect_ending(running, Ending::PowerOff)?;
    }
    Ok(())
}
