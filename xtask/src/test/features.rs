//! What backends offer, turned on and off by the manifest: an unmodified Linux says what it was given, its data arrive all
//! the same, and the backends' counts show that they went that way.

use super::copies::Figures;
use super::e2e::{Case, PATIENCE, Setting};
use super::shell::{expect_log, power_off, tell};
use super::system::DRIVERS;
use super::tool::WHOLE;
use crate::qemu::{Running, free_port};
use crate::run::console::attach;
use crate::run::http::fetch;
use crate::run::log::Entry;
use crate::run::offer::Offer;
use crate::run::system::{Plan, assemble};
use crate::run::world::{Disk, FILES, FIRST};
use anyhow::{Context, Result, ensure};
use dom0::manifest::Forward;

pub const CASES: &[Case] = &[("features", all_or_none)];
pub const ASKED: &[Case] = &[("each-feature", one_by_one)];

/// The host's addresses of the guests, in the order in which they ask.
fn address(guest: usize) -> String {
    format!("10.0.2.{}", 15 + guest)
}

/// One way to run Linux: what its manifest says of features, what it must say itself, and what must have been counted.
struct Way {
    name: &'static str,
    disk: &'static str,
    vif: &'static str,
    /// `RAM`: its disk is one in memory.
    ram: bool,
    says: &'static [&'static str],
    /// Keys that it has written, and what is in them; `None`: not there.
    keys: &'static [(&'static str, Option<&'static str>)],
    counts: &'static [(&'static str, Count)],
}

/// What a count must be.
#[derive(Clone, Copy)]
enum Count {
    None,
    Some,
    /// More than another one.
    Above(&'static str),
}
use Count::{Above, None as Zero, Some as Many};

const BOTH: [Way; 2] = [
    Way {
        name: "all",
        disk: "persistent = true, queues = 2",
        vif: "queues = 2",
        ram: false,
        says: &[
            "flush diskcache: enabled; persistent grants: enabled; indirect descriptors: enabled;",
            " 2 queues, discard 0; eth0: 2 queues, events vif0-q0-tx vif0-q0-rx vif0-q1-tx vif0-q1-rx",
        ],
        keys: &[("vbd/51712/ring-page-order", Some("3")), ("vif/0/multi-queue-num-queues", Some("2"))],
        counts: &[
            ("flushes", Many),
            ("list-bytes", Many),
            ("pages-mapped", Many),
            ("pages-kept", Above("pages-mapped")),
            ("segments", Many),
            ("checksums", Many),
        ],
    },
    Way {
        name: "none",
        disk: "flush = false, indirect = false, multi_page = false, discard = false",
        vif: "sg = false, checksum = false, split_events = false, multicast = false",
        ram: false,
        says: &[
            "barrier or flush: disabled; persistent grants: disabled; indirect descriptors: disabled;",
            " 1 queues, discard 0; eth0: 1 queues, events eth0",
        ],
        keys: &[("vbd/51712/ring-page-order", None), ("vif/0/multi-queue-num-queues", Some("1"))],
        counts: &[
            ("flushes", Zero),
            ("list-bytes", Zero),
            ("pages-kept", Zero),
            ("pages-mapped", Many),
            ("segments", Zero),
        ],
    },
];

/// Each on or off by itself, all else as it is by default.
const EACH: [Way; 9] = [
    Way { name: "default", counts: &[("pages-kept", Zero), ("list-bytes", Many), ("segments", Many)], ..PLAIN },
    Way {
        name: "no-flush",
        disk: "flush = false",
        says: &["barrier or flush: disabled; persistent grants: disabled; indirect descriptors: enabled;"],
        counts: &[("flushes", Zero), ("list-bytes", Many)],
        ..PLAIN
    },
    Way {
        name: "persistent",
        disk: "persistent = true",
        says: &["flush diskcache: enabled; persistent grants: enabled; indirect descriptors: enabled;", " 1 queues"],
        counts: &[("pages-kept", Above("pages-mapped")), ("flushes", Many)],
        ..PLAIN
    },
    Way {
        name: "direct",
        disk: "indirect = false",
        says: &["flush diskcache: enabled; persistent grants: disabled; indirect descriptors: disabled;"],
        counts: &[("list-bytes", Zero), ("flushes", Many)],
        ..PLAIN
    },
    Way {
        name: "one-page",
        disk: "multi_page = false",
        keys: &[("vbd/51712/ring-page-order", None)],
        counts: &[("list-bytes", Many)],
        ..PLAIN
    },
    Way { name: "discard", ram: true, says: &[" 1 queues, discard 16777216;"], ..PLAIN },
    Way { name: "no-discard", ram: true, disk: "discard = false", says: &[" 1 queues, discard 0;"], ..PLAIN },
    Way {
        name: "no-gso",
        vif: "gso = false",
        says: &["events vif0-q0-tx vif0-q0-rx"],
        counts: &[("segments", Zero), ("checksums", Many)],
        ..PLAIN
    },
    Way {
        name: "one-event",
        vif: "split_events = false, queues = 2",
        says: &["eth0: 2 queues, events eth0 eth0"],
        counts: &[("segments", Many)],
        ..PLAIN
    },
];

const PLAIN: Way = Way {
    name: "",
    disk: "",
    vif: "",
    ram: false,
    says: &[" 1 queues, discard"],
    keys: &[],
    counts: &[("errors", Zero), ("tx-errors", Zero)],
};

fn all_or_none(setting: &Setting<'_>) -> Result<()> {
    ways(setting, &BOTH)
}

fn one_by_one(setting: &Setting<'_>) -> Result<()> {
    ways(setting, &EACH)
}

/// Starts Linux in each way in turn.
fn ways(setting: &Setting<'_>, ways: &[Way]) -> Result<()> {
    let dir = setting.dir();
    std::fs::create_dir_all(dir.join(FILES))?;
    let config = dir.join("features.toml");
    std::fs::write(&config, manifest(ways))?;
    let offer = Offer::of(dir.join(FILES))?;
    let forward = |guest: usize| -> Result<Forward> {
        Ok(Forward { host: free_port()?, guest: address(guest).parse().ok(), port: 80 })
    };
    let forwards = (0..ways.len()).map(forward).collect::<Result<Vec<_>>>()?;
    let url = offer.url(FIRST);
    let plan = Plan { forwards: &forwards, boot_file: Some(&url), ..Plan::of(&config, &dir) };
    let (mut machine, disk) = assemble(setting.place, &plan)?;
    (machine.smp, machine.mem) = (setting.smp, 768);
    let mut machine = setting.start(&machine)?;
    attach(&mut machine, PATIENCE)?;
    expect_log(&mut machine, "netback", "console: netback: virtio-net")?;
    expect_log(&mut machine, "blkback", "console: blkback: vda")?;
    // The drivers are domains 1 and 2.
    for ((way, forward), domain) in ways.iter().zip(&forwards).zip(3..) {
        one(&mut machine, way, domain, forward.host, &disk).with_context(|| way.name)?;
    }
    power_off(machine)
}

fn manifest(ways: &[Way]) -> String {
    let guest = |(index, way): (usize, &Way)| {
        let Way { name, disk, vif, ram, .. } = way;
        let target = if *ram { "ram:16M" } else { "vda:client" };
        format!(
            "[[domain]]\nname = '{name}'\nkernel = 'linux-mini.vmlinuz'\nramdisk = 'linux-mini.initrd'\n\
             cmdline = 'console=hvc0 quiet xen_blkfront.max_ring_page_order=3'\nmemory = 192\nvcpus = 2\n\
             autostart = false\nvif = [{{ mac = '00:16:3e:00:01:{index:02x}', features = {{ {vif} }} }}]\n\
             disk = [{{ target = '{target}', vdev = 'xvda', mode = 'w', features = {{ {disk} }} }}]\n"
        )
    };
    DRIVERS.to_string() + &ways.iter().enumerate().map(guest).collect::<String>()
}

/// What a guest has reported of a step.
fn reported(machine: &mut Running, who: &str, step: &str) -> Result<String> {
    let said = |line: &str| {
        let entry = Entry::parse(line).filter(|entry| entry.who == who)?;
        let text = entry.console()?;
        let (ok, rest) = (text.starts_with("ok "), text.split_once("   ")?.1.strip_prefix(step)?);
        Some((ok, rest.trim_start_matches(' ').to_string()))
    };
    machine.wait_line(0, WHOLE, |line| said(line).is_some()).with_context(|| format!("{step}: not reported"))?;
    let (ok, text) = machine.lines().iter().find_map(|line| said(&line.text)).context("it was there")?;
    ensure!(ok, "{step}: {text}");
    Ok(text)
}

fn one(machine: &mut Running, way: &Way, domain: u16, port: u16, disk: &Disk) -> Result<()> {
    let name = way.name;
    tell(machine, &format!("create {name}"))?;
    reported(machine, name, "linux's disk")?;
    let served = disk.served.first().context("a file on the disk")?;
    let fetched = reported(machine, name, "linux fetches from the host")?;
    ensure!(fetched.ends_with(&served.sha256), "fetched {fetched}, in the image {}", served.sha256);
    let drivers = reported(machine, name, "linux's drivers")?;
    for words in way.says {
        ensure!(drivers.contains(words), "Linux does not say {words:?}: {drivers}");
    }
    for (key, wanted) in way.keys {
        let found = tell(machine, &format!("store read /local/domain/{domain}/device/{key}"));
        let found = found.ok().and_then(|lines| lines.into_iter().next());
        ensure!(found.as_deref() == *wanted, "{key} is {found:?}, not {wanted:?}");
    }
    reported(machine, name, "linux serves")?;
    let fetched = fetch(port, "/fetched", PATIENCE)?;
    ensure!(fetched.status == 200 && fetched.sha256 == served.sha256, "the host got something else: {fetched:?}");
    for (list, device) in [("block-list -v", "xvda"), ("network-list -v", "0")] {
        let who = format!("{name} {device}");
        Figures::settled(machine, list, |figures| {
            way.counts.iter().try_for_each(|(name, count)| match figures.of(&who, name) {
                Ok(found) => count.holds(name, found, |other| figures.of(&who, other)),
                // The other list has it.
                Err(_) => figures.of(&who, "notifications").map(drop),
            })
        })?;
    }
    tell(machine, &format!("destroy {name}"))?;
    Ok(())
}

impl Count {
    fn holds(self, name: &str, found: f64, of: impl Fn(&str) -> Result<f64>) -> Result<()> {
        let good = match self {
            Zero => found == 0.0,
            Many => found > 0.0,
            Above(other) => found > of(other)?,
        };
        ensure!(good, "{name} is {found}");
        Ok(())
    }
}
