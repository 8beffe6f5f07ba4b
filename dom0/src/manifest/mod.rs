//! Manifests: which domains there are and what each is made of, in TOML with the keys of xl.cfg.
//!
//! A file is either one domain, its keys at the top, or any number of them, each under `[[domain]]`:
//! ```toml
//! [[domain]]
//! name = "web"
//! kernel = "web.elf"                    # a file of the ramdisk
//! memory = 32                           # MiB
//! vif = [{ mac = "00:16:3e:00:00:01", bridge = "xenbr0" }]
//! disk = [{ target = "disk0:web", vdev = "xvda", mode = "r" }]
//! on_crash = "restart"
//! ```
//! What a backend offers on a vif or a disk can be narrowed, feature by feature, and its number of queues set:
//! `features = { gso = false, queues = 2 }` in it. The names are in docs/rings.md.
//!
//! A device of any other class has a class and, if its backend wants that, parameters:
//! `device = [{ class = "echo", params = "upper" }]`. A driver domain says which devices it is given and which class it
//! serves: `pci = ["00:02.0"]`, `serves = ["vif"]`. `[machine]` is for `cargo xtask run`: memory, disk and forwarded ports
//! of the machine itself.

mod device;
mod error;
mod fields;
mod machine;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ring_proto::keys::Feature;
use ring_proto::{blk_keys, net_keys};
use toml::de::DeTable;

use crate::nearest::nearest;

pub use device::{Mac, PciFunction, Vdev};
pub use error::{ManifestError, Mistake};
use fields::{Fields, Mistakes, Placed};
pub use machine::{Forward, Machine};
pub use ring_proto::path::Class;

/// Domains, in the order in which they are to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// What they are to run on.
    pub machine: Machine,
    /// The domains.
    pub domains: Vec<Domain>,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name, unique among all domains.
    pub name: String,
    /// Its kernel, a file.
    pub kernel: String,
    /// Its ramdisk, a file.
    pub ramdisk: Option<String>,
    /// Its kernel's command line.
    pub cmdline: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Network interfaces.
    pub vifs: Vec<Vif>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Devices of other classes.
    pub others: Vec<Other>,
    /// PCI functions given to it.
    pub pci: Vec<PciFunction>,
    /// The device classes it is a backend for: `vif`, `vbd`, or those of `others`.
    pub serves: Vec<Class>,
    /// What follows a power-off.
    pub on_poweroff: Action,
    /// What follows a reboot.
    pub on_reboot: Action,
    /// What follows a crash.
    pub on_crash: Action,
    /// Whether dom0 starts it of its own accord.
    pub autostart: bool,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// Its address; made from the domain's name if the manifest has none.
    pub mac: Mac,
    /// The bridge it is put on.
    pub bridge: String,
    /// The driver domain by name; the one that serves `vif` if there is none here.
    pub backend: Option<String>,
    /// What it is to offer, by name; features that are not here are as the backend likes.
    pub features: Vec<(&'static str, u32)>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `ram:SIZE`, `DISK`, or `DISK:PARTITION` with a partition's number or name.
    pub target: String,
    /// Its name in the guest.
    pub vdev: Vdev,
    /// `r`, `w`, or `w!` for a disk that others write too.
    pub mode: &'static str,
    /// The driver domain by name; the one that serves `vbd` if there is none here.
    pub backend: Option<String>,
    /// What it is to offer, by name; features that are not here are as the backend likes.
    pub features: Vec<(&'static str, u32)>,
}

/// A device of a class that dom0 knows nothing of but its name. Its number is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its class.
    pub class: Class,
    /// What its backend is told, under the key `params`.
    pub params: String,
    /// The driver domain by name; the one that serves the class if there is none here.
    pub backend: Option<String>,
}

/// What is done with a domain that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is removed.
    Destroy,
    /// It is removed and started anew.
    Restart,
    /// It stays as it is, to be looked at.
    Preserve,
}

const ACTIONS: [(&str, Action); 3] =
    [("destroy", Action::Destroy), ("restart", Action::Restart), ("preserve", Action::Preserve)];
const MODES: [(&str, &str); 6] = [("r", "r"), ("ro", "r"), ("w", "w"), ("rw", "w"), ("w!", "w!"), ("r!", "r!")];
/// Bytes of a name; it is a path component in the store too.
const NAME_MAX: usize = 64;

/// Reads a manifest.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(source: &str) -> Result<Manifest, ManifestError> {
    let (root, errors) = DeTable::parse_recoverable(source);
    let mut mistakes = Mistakes { source, found: Vec::new() };
    for error in errors {
        mistakes.add(error.span().unwrap_or(0..0), error.message());
    }
    // What a parser made of a broken file is not worth judging.
    if mistakes.found.is_empty() {
        let manifest = whole(Fields::new(root.get_ref(), 0..0), &mut mistakes);
        if mistakes.found.is_empty() {
            return Ok(manifest);
        }
    }
    mistakes.found.sort_by_key(|mistake| (mistake.line, mistake.column));
    Err(ManifestError { mistakes: mistakes.found })
}

fn whole(mut root: Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Manifest {
    let machine = root.table(mistakes, "machine").map(|table| machine::machine(table, mistakes)).unwrap_or_default();
    let domains = all_domains(root, mistakes);
    Manifest { machine, domains: domains.into_iter().flatten().map(|(domain, _)| domain).collect() }
}

fn all_domains(mut root: Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Vec<Option<Placed<Domain>>> {
    if !root.has("domain") {
        return Vec::from([domain(root, mistakes)]);
    }
    let domains: Vec<_> = root.tables(mistakes, "domain").into_iter().map(|table| domain(table, mistakes)).collect();
    root.finish(mistakes);
    let mut names: Vec<&str> = Vec::new();
    for (domain, place) in domains.iter().flatten() {
        if names.contains(&domain.name.as_str()) {
            mistakes.add(place.clone(), format!("a second domain `{}`", domain.name));
        }
        names.push(&domain.name);
    }
    check_classes(&domains, mistakes);
    domains
}

/// A class that a device has and nobody here serves, where somebody serves one of almost the same name. Otherwise that is
/// no mistake: who serves it may be running already, and be named as the device's backend.
fn check_classes(domains: &[Option<Placed<Domain>>], mistakes: &mut Mistakes<'_>) {
    let served: Vec<&str> = domains.iter().flatten().flat_map(|(domain, _)| &domain.serves).map(Class::name).collect();
    for (domain, place) in domains.iter().flatten() {
        let vifs = domain.vifs.iter().map(|vif| (Class::VIF, &vif.backend));
        let disks = domain.disks.iter().map(|disk| (Class::VBD, &disk.backend));
        let others = domain.others.iter().map(|other| (other.class, &other.backend));
        for (class, _) in vifs.chain(disks).chain(others).filter(|(_, backend)| backend.is_none()) {
            let name = class.name();
            if let Some(near) = nearest(name, &served).filter(|near| *near != name) {
                mistakes.add(place.clone(), format!("no domain here serves `{name}`, but one serves `{near}`"));
            }
        }
    }
}

/// One domain, with the place of its name.
fn domain(mut table: Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<Placed<Domain>> {
    let name = table.required(mistakes, "name");
    if let Some((name, place)) = name.as_ref().filter(|(name, _)| !is_name(name)) {
        let what = format!("`{name}` is no name: letters, digits, `-` and `_`, at most {NAME_MAX}, not `dom0`");
        mistakes.add(place.clone(), what);
    }
    let known = name.as_ref().map_or("", |(name, _)| name);
    let kernel = table.required(mistakes, "kernel").map(|(kernel, _)| kernel);
    let ramdisk = table.string(mistakes, "ramdisk").map(|(ramdisk, _)| ramdisk);
    let cmdline = table.parsed(mistakes, "cmdline", "at most 1023 bytes and none of them zero", cmdline);
    let memory = table.integer(mistakes, "memory", 4..=1 << 20);
    let vcpus = table.integer(mistakes, "vcpus", 1..=32);
    let vifs = table.tables(mistakes, "vif").into_iter().enumerate();
    let vifs = vifs.map(|(index, table)| vif(table, mistakes, known, index)).collect();
    let disks = disks(&mut table, mistakes);
    let others = table.tables(mistakes, "device").into_iter().filter_map(|table| other(table, mistakes)).collect();
    let pci = listed(&mut table, mistakes, "pci", "no PCI function, as in 00:02.0", PciFunction::parse);
    let serves =
        listed(&mut table, mistakes, "serves", "no device class: vif, vbd, or a driver's own, as in echo", served);
    // Who depends on a driver domain waits for it to come back.
    let after_crash = if serves.is_empty() { Action::Destroy } else { Action::Restart };
    let built = Domain {
        name: name.as_ref().map(|(name, _)| name.clone()).unwrap_or_default(),
        kernel: kernel.unwrap_or_default(),
        ramdisk,
        cmdline: cmdline.map(|(cmdline, _)| cmdline).unwrap_or_default(),
        memory: memory.unwrap_or(32),
        vcpus: vcpus.unwrap_or(1),
        vifs,
        disks,
        others,
        pci,
        serves,
        on_poweroff: table.choice(mistakes, "on_poweroff", &ACTIONS).unwrap_or(Action::Destroy),
        on_reboot: table.choice(mistakes, "on_reboot", &ACTIONS).unwrap_or(Action::Restart),
        on_crash: table.choice(mistakes, "on_crash", &ACTIONS).unwrap_or(after_crash),
        autostart: table.boolean(mistakes, "autostart").unwrap_or(true),
    };
    table.finish(mistakes);
    Some((built, name?.1))
}

fn vif(mut table: Fields<'_, '_>, mistakes: &mut Mistakes<'_>, domain: &str, index: usize) -> Vif {
    let mac = table.parsed(mistakes, "mac", "an address like 00:16:3e:00:00:01", Mac::parse);
    let bridge = table.parsed(mistakes, "bridge", "a name", |name| is_name(name).then(|| name.into()));
    let vif = Vif {
        mac: mac.map_or_else(|| Mac::derived(domain, index), |(mac, _)| mac),
        bridge: bridge.map_or_else(|| "xenbr0".into(), |(bridge, _)| bridge),
        backend: table.string(mistakes, "backend").map(|(backend, _)| backend),
        features: features(&mut table, mistakes, &net_keys::FEATURES),
    };
    table.finish(mistakes);
    vif
}

/// What a device says of features.
fn features(table: &mut Fields<'_, '_>, mistakes: &mut Mistakes<'_>, known: &[Feature]) -> Vec<(&'static str, u32)> {
    let Some(mut table) = table.table(mistakes, "features") else { return Vec::new() };
    let mut found = Vec::new();
    for Feature { name, range } in known {
        let value = match *range {
            None => table.boolean(mistakes, name).map(u32::from),
            Some((least, most)) => table.integer(mistakes, name, least..=most),
        };
        found.extend(value.map(|value| (*name, value)));
    }
    table.finish(mistakes);
    found
}

fn disks(table: &mut Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for mut table in table.tables(mistakes, "disk") {
        let what = "`ram:SIZE` (K, M or G), a disk, or `DISK:PARTITION`";
        table.required_key(mistakes, "target");
        table.required_key(mistakes, "vdev");
        let target = table.parsed(mistakes, "target", what, |target| is_target(target).then(|| target.into()));
        let vdev = table.parsed(mistakes, "vdev", "xvda to xvdp, or one with a partition's number", Vdev::parse);
        let mode = table.choice(mistakes, "mode", &MODES).unwrap_or("w");
        let backend = table.string(mistakes, "backend").map(|(backend, _)| backend);
        let features = features(&mut table, mistakes, &blk_keys::FEATURES);
        table.finish(mistakes);
        let (Some((target, _)), Some((vdev, place))) = (target, vdev) else { continue };
        if disks.iter().any(|disk| disk.vdev == vdev) {
            mistakes.add(place, format!("a second disk `{vdev}`"));
        }
        disks.push(Disk { target, vdev, mode, backend, features });
    }
    disks
}

fn other(mut table: Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<Other> {
    table.required_key(mistakes, "class");
    let class = table.parsed(mistakes, "class", "a class without a key of its own, as in echo", |name| {
        served(name).filter(|class| !has_a_key(*class))
    });
    let params = table.string(mistakes, "params").map(|(params, _)| params).unwrap_or_default();
    let backend = table.string(mistakes, "backend").map(|(backend, _)| backend);
    table.finish(mistakes);
    Some(Other { class: class?.0, params, backend })
}

/// An array of strings that `parse` understands.
fn listed<T>(
    table: &mut Fields<'_, '_>,
    mistakes: &mut Mistakes<'_>,
    key: &'static str,
    complaint: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for (text, place) in table.strings(mistakes, key) {
        match parse(&text) {
            Some(value) => found.push(value),
            None => mistakes.add(place, format!("`{text}` is {complaint}")),
        }
    }
    found
}

/// Whether a domain can have this name. `dom0` and a mere number mean something to the shell already.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let taken = name == "dom0" || name == "Domain-0" || name.bytes().all(|byte| byte.is_ascii_digit());
    !taken && name.len() <= NAME_MAX && name.bytes().all(allowed)
}

fn cmdline(text: &str) -> Option<String> {
    (text.len() < abi::start_info::MAX_GUEST_CMDLINE && !text.contains('\0')).then(|| text.into())
}

/// A class that driver domains serve.
fn served(class: &str) -> Option<Class> {
    Class::parse(class).filter(|class| !matches!(*class, Class::PCI | Class::CONSOLE))
}

/// Whether its devices stand under a key of their own.
fn has_a_key(class: Class) -> bool {
    matches!(class, Class::VIF | Class::VBD)
}

/// Whether blkback can make something of it; which disks there are it alone knows.
fn is_target(target: &str) -> bool {
    let (disk, part) = target.split_once(':').unwrap_or((target, "-"));
    let size = |text: &str| {
        let digits = text.trim_end_matches(['K', 'M', 'G']);
        text.len() - digits.len() <= 1 && ring_proto::path::decimal::<u32>(digits).is_some_and(|size| size > 0)
    };
    match disk {
        "ram" => size(part),
        disk => !disk.is_empty() && !part.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic()),
    }
}
