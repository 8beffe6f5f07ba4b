//! Machines with Debian guests, each on a disk of its own that is a fresh copy of the one `cargo xtask guest debian` made.

use super::Sitting;
use crate::guest;
use crate::process::{quiet, stdout_of};
use crate::qemu::{Ending, Machine, Running, free_port};
use crate::run::console::{attach, command};
use crate::run::log::Entry;
use crate::run::ssh::Guest;
use crate::run::system::{Plan, assemble};
use anyhow::{Context, Result, ensure};
use dom0::manifest::Forward;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long dom0 may take to its prompt, and a guest to its login.
const BOOT: Duration = Duration::from_secs(600);
/// How long a command of dom0's shell may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Ports of a guest that the host reaches.
const PORTS: [u16; 4] = [22, 80, 5432, 5201];
/// The image of a blkback that ignores flushes.
pub const BROKEN_BLKBACK: &str = "blkback-broken";

/// What to start.
#[derive(Clone, Debug)]
pub struct Shape {
    /// CPUs of the machine.
    pub smp: u32,
    /// Debian guests.
    pub guests: usize,
    /// vCPUs of each.
    pub vcpus: u32,
    /// MiB of each.
    pub memory: u32,
    /// More disks of the first: xvdb and so on.
    pub more: Vec<PathBuf>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { smp: 2, guests: 1, vcpus: 2, memory: 512, more: Vec::new() }
    }
}

/// A machine that runs them.
pub struct Debian {
    /// The machine, dom0's shell at its serial line.
    pub machine: Running,
    /// How each is reached, in order.
    pub guests: Vec<Guest>,
    forwards: Vec<Forward>,
    disks: Vec<PathBuf>,
}

/// The address of a guest on the bridge.
pub fn address(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, 21 + at as u8)
}

fn name(at: usize) -> String {
    if at == 0 { "debian".to_string() } else { format!("debian{}", at + 1) }
}

/// The manifest, with the names of all disks in the order of the machine's functions.
fn manifest(shape: &Shape, disks: &[String], blkback: &str) -> String {
    let mut text = format!("[machine]\ndisks = {disks:?}\n");
    let functions: Vec<String> = (0..disks.len()).map(|at| format!("00:{:02x}.0", at + 3)).collect();
    let _ = write!(
        text,
        "[[domain]]\nname = \"netback\"\nkernel = \"netback\"\nmemory = 16\npci = [\"00:02.0\"]\nserves = [\"vif\"]\n\
         [[domain]]\nname = \"blkback\"\nkernel = \"{blkback}\"\nmemory = 16\npci = {functions:?}\nserves = [\"vbd\"]\n"
    );
    for at in 0..shape.guests {
        let disk = |machine: usize, guest: usize| {
            let letter = |n: usize| char::from(b'a' + n as u8);
            format!("{{ target = \"vd{}\", vdev = \"xvd{}\", mode = \"w\" }}", letter(machine), letter(guest))
        };
        let mut own = vec![disk(at, 0)];
        if at == 0 {
            own.extend((0..shape.more.len()).map(|more| disk(shape.guests + more, more + 1)));
        }
        let (name, address, number) = (name(at), address(at), at + 1);
        let _ = write!(
            text,
            "[[domain]]\nname = \"{name}\"\nkernel = \"debian.vmlinuz\"\nramdisk = \"debian.initrd\"\n\
             cmdline = \"root=/dev/xvda ro console=hvc0 ip={address}::10.0.2.2:255.255.255.0:{name}:enX0:none\"\n\
             memory = {}\nvcpus = {}\nvif = [{{ mac = \"00:16:3e:00:00:{number:02x}\" }}]\ndisk = [{}]\n",
            shape.memory,
            shape.vcpus,
            own.join(", ")
        );
    }
    text
}

impl Debian {
    /// Boots them as far as their logins. `change` may add to the machine.
    pub fn boot(sitting: &Sitting, row: &str, shape: &Shape, change: impl FnOnce(&mut Machine)) -> Result<Debian> {
        let dir = sitting.dir.join(row);
        std::fs::create_dir_all(&dir)?;
        let original = guest::file(&sitting.place, guest::debian::FILES[0])?.context("no disk of Debian")?;
        let mut disks = Vec::new();
        for at in 0..shape.guests {
            let disk = dir.join(format!("{}.img", name(at)));
            stdout_of(Command::new("cp").arg("--sparse=always").arg(&original).arg(&disk))?;
            disks.push(disk);
        }
        let all: Vec<String> = disks.iter().chain(&shape.more).map(|path| file_name(path)).collect();
        let blkback = if sitting.options.ignore_flush { BROKEN_BLKBACK } else { "blkback" };
        if sitting.options.ignore_flush {
            std::fs::copy(sitting.dir.join(BROKEN_BLKBACK), dir.join(BROKEN_BLKBACK))?;
        }
        let config = dir.join("manifest.toml");
        std::fs::write(&config, manifest(shape, &all, blkback))?;
        let mut forwards = Vec::new();
        for at in 0..shape.guests {
            for port in PORTS {
                forwards.push(Forward { host: free_port()?, guest: Some(address(at)), port });
            }
        }
        let plan = Plan { forwards: &forwards, ..Plan::of(&config, &dir) };
        let (mut machine, _) = assemble(&sitting.place, &plan)?;
        machine.smp = shape.smp;
        machine.mem = 192 + shape.guests as u32 * shape.memory + 32;
        change(&mut machine);
        let mut machine = machine.start(&dir.join("serial.log"))?;
        attach(&mut machine, BOOT)?;
        let mut guests = Vec::new();
        for at in 0..shape.guests {
            let own: Vec<Forward> =
                forwards.iter().copied().filter(|forward| forward.guest == Some(address(at))).collect();
            let guest = Guest::of(&sitting.place, &own).context("no key of Debian's disk")?;
            await_log(&mut machine, &name(at), "console: Debian GNU/Linux", BOOT)?;
            guest.wait(BOOT)?;
            guests.push(guest);
        }
        Ok(Debian { machine, guests, forwards, disks })
    }

    /// The only guest, or the first.
    pub fn first(&self) -> &Guest {
        &self.guests[0]
    }

    /// The host's port that leads to a port of a guest.
    pub fn port(&self, at: usize, port: u16) -> Result<u16> {
        let to = |forward: &&Forward| forward.guest == Some(address(at)) && forward.port == port;
        self.forwards.iter().find(to).map(|forward| forward.host).with_context(|| format!("no way to port {port}"))
    }

    /// Every guest powers off when told to, the machine ends, and `e2fsck` finds nothing on any of their disks, which are
    /// removed then.
    pub fn end(mut self) -> Result<()> {
        for at in 0..self.guests.len() {
            command(&mut self.machine, &format!("shutdown {}", name(at)), PATIENCE)?;
            await_log(&mut self.machine, &name(at), "ended: poweroff", BOOT)?;
        }
        self.machine.send(b"poweroff\n")?;
        let ending = self.machine.finish(PATIENCE)?;
        ensure!(ending == Ending::PowerOff, "the machine ended as {ending:?}");
        for disk in &self.disks {
            let check = quiet(Command::new("e2fsck").arg("-fn").arg(disk), PATIENCE)?;
            ensure!(check.ok, "e2fsck -fn {}: {}", disk.display(), check.text.trim());
            std::fs::remove_file(disk)?;
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The log must say this of a domain; an error at once where it says that it could not be made.
pub fn await_log(machine: &mut Running, who: &str, what: &str, limit: Duration) -> Result<()> {
    let says =
        |line: &str, what: &str| Entry::parse(line).is_some_and(|entry| entry.who == who && entry.what.contains(what));
    let found = machine.wait_line(0, limit, |line| says(line, what) || says(line, "not created"));
    let log = machine.log.display().to_string();
    let line = found.and_then(|found| machine.lines().get(found));
    let line = line.with_context(|| format!("{who} does not say {what:?} within {} s: {log}", limit.as_secs()))?;
    ensure!(says(&line.text, what), "{}: {log}", line.text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_two_guests_and_a_third_disk_is_one_that_dom0_reads() {
        let shape = Shape { guests: 2, more: vec!["c.img".into()], ..Shape::default() };
        let text = manifest(&shape, &["a.img", "b.img", "c.img"].map(str::to_string), "blkback");
        let manifest = dom0::manifest::parse(&text).unwrap();
        let names: Vec<&str> = manifest.domains.iter().map(|domain| domain.name.as_str()).collect();
        assert_eq!(names, ["netback", "blkback", "debian", "debian2"]);
        assert_eq!(manifest.domains[2].disks.len(), 2);
    }
}
