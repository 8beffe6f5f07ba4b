//! The toolstack: the domains there are, and what is done to them. It stands on [`Control`], the store and a source of
//! files; rings and events are the program's around it.

pub mod devices;
pub mod layout;
pub mod supervisor;
#[cfg(test)]
mod tests;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use abi::sched::ShutdownReason;
use abi::{DomId, Errno};
use ring_proto::path::Class;

use crate::builder::{self, BuildError, Built, Recipe};
use crate::bzimage::{self, BzError, Unpacking};
use crate::control::{Control, Status};
use crate::cpio;
use crate::manifest::Domain as Config;
use crate::store::Store;
use devices::Link;
use supervisor::Restarts;

/// Least memory that a domain can be asked to make do with, in MiB: the least of a manifest.
const LEAST_MEMORY: u32 = 4;

/// A domain the toolstack made.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it was made from.
    pub config: Config,
    /// Its number, rings and ports.
    pub built: Built,
    /// Its devices.
    pub devices: Vec<Link>,
    /// How it ended, once that has been seen.
    pub ended: Option<ShutdownReason>,
    /// When it was started, nanoseconds.
    pub since: u64,
}

/// Why the toolstack would not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such domain.
    NoDomain(String),
    /// There is one of that name already.
    NameTaken(String),
    /// There is no such file in the ramdisk.
    NoFile(String),
    /// No running domain serves that class, or not the one named.
    NoBackend(Class, Option<String>),
    /// A PCI function that another domain has.
    FunctionTaken(String),
    /// The kernel's file could not be unpacked.
    Kernel(String, BzError),
    /// The domain has ended and is only kept to be looked at.
    Ended,
    /// The domain does not watch for requests.
    Deaf,
    /// The domain does not watch for how much memory it is to have.
    NoBalloon,
    /// More memory than the manifest gives it, in MiB, or too little.
    Memory(u32),
    /// The domain could not be built.
    Build(BuildError),
    /// The hypervisor's answer.
    Hypervisor(Errno),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDomain(name) => write!(f, "no domain {name}"),
            Self::NameTaken(name) => write!(f, "there is a domain {name} already"),
            Self::NoFile(name) => write!(f, "no file {name} in the ramdisk"),
            Self::NoBackend(class, None) => write!(f, "no running domain serves {}", class.name()),
            Self::NoBackend(class, Some(name)) => write!(f, "no running domain {name} that serves {}", class.name()),
            Self::FunctionTaken(function) => write!(f, "PCI function {function} belongs to another domain"),
            Self::Kernel(name, error) => write!(f, "kernel {name}: {error}"),
            Self::Ended => f.write_str("it has ended already; destroy removes it"),
            Self::Deaf => f.write_str("it does not watch control/shutdown; destroy ends it"),
            Self::NoBalloon => {
                f.write_str("it does not watch memory/target: its kernel has no balloon driver, or not yet")
            }
            Self::Memory(most) => write!(f, "from {LEAST_MEMORY} to {most} MiB: it has no room for more"),
            Self::Build(error) => write!(f, "{error}"),
            Self::Hypervisor(errno) => write!(f, "the hypervisor refused: {errno:?}"),
        }
    }
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Hypervisor(errno)
    }
}

/// The domains, and the means to change them.
#[derive(Debug)]
pub struct Toolstack<C> {
    /// The hypervisor.
    pub control: C,
    /// The store.
    pub store: Store,
    /// The ramdisk, a cpio archive.
    pub files: &'static [u8],
    domains: BTreeMap<DomId, Running>,
    restarts: Restarts,
    /// Kernels that were unpacked, by their file's name: the next domain of the kind starts as fast as from an ELF.
    unpacked: BTreeMap<String, Vec<u8>>,
}

impl<C: Control> Toolstack<C> {
    /// No domains but this one.
    pub fn new(control: C, files: &'static [u8]) -> Self {
        let mut store = Store::default();
        layout::prepare(&mut store);
        Self {
            control,
            store,
            files,
            domains: BTreeMap::new(),
            restarts: Restarts::default(),
            unpacked: BTreeMap::new(),
        }
    }

    /// The domains, by number.
    pub fn domains(&self) -> impl Iterator<Item = &Running> {
        self.domains.values()
    }

    /// The domain of that number.
    pub fn get(&self, domain: DomId) -> Option<&Running> {
        self.domains.get(&domain)
    }

    /// The domain of that name, or number.
    pub fn find(&self, name: &str) -> Result<DomId, Refusal> {
        let number = ring_proto::path::decimal(name).map(DomId);
        let found = self.domains.iter().find(|(id, running)| running.config.name == name || number == Some(**id));
        found.map(|(id, _)| *id).ok_or_else(|| Refusal::NoDomain(name.to_owned()))
    }

    /// Makes a domain and all that belongs to it; it is still paused, so that its rings can be set up first.
    ///
    /// # Errors
    /// Why not; then nothing of it is left.
    pub fn create(&mut self, config: &Config, now: u64) -> Result<Built, Refusal> {
        self.check(config)?;
        if let Some(mut unpacking) = self.unpack(&config.kernel)? {
            let refusal = |error| Refusal::Kernel(config.kernel.clone(), error);
            while unpacking.step().map_err(refusal)? {}
            self.keep_unpacked(&config.kernel, unpacking.finish());
        }
        let ramdisk = config.ramdisk.as_ref().map(|name| self.file(name)).transpose()?;
        let links = devices::plan(config, &self.domains)?;
        let Config { memory, vcpus, cmdline, .. } = config;
        let kernel = match self.unpacked.get(&config.kernel) {
            Some(unpacked) => unpacked,
            None => self.file(&config.kernel)?,
        };
        let recipe = Recipe { kernel, ramdisk, cmdline, memory: *memory, vcpus: *vcpus };
        let built = builder::build(&mut self.control, &recipe)?;
        if let Err(refusal) = devices::give_functions(&mut self.control, built.domain, &config.pci) {
            let _ = self.control.destroy(built.domain);
            return Err(refusal);
        }
        layout::make_domain(&mut self.store, config, &built);
        let devices: Vec<Link> = links.into_iter().map(|link| link.to(built.domain)).collect();
        devices.iter().for_each(|link| devices::make(&mut self.store, link, config));
        let running = Running { config: config.clone(), built, devices, ended: None, since: now };
        self.domains.insert(built.domain, running);
        self.store.introduce(built.domain);
        self.reconnect(built.domain);
        Ok(built)
    }

    /// Whether a domain could be made, as far as that is known without its kernel.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, config: &Config) -> Result<(), Refusal> {
        if self.domains.values().any(|running| running.config.name == config.name) {
            return Err(Refusal::NameTaken(config.name.clone()));
        }
        self.file(&config.kernel)?;
        config.ramdisk.as_ref().map(|name| self.file(name)).transpose()?;
        devices::plan(config, &self.domains).map(drop)
    }

    /// Whether a kernel's file is packed, and was not unpacked before.
    ///
    /// # Errors
    /// There is no such file, or nothing can be unpacked from it.
    pub fn is_packed(&self, kernel: &str) -> Result<bool, Refusal> {
        let refusal = |error| Refusal::Kernel(kernel.to_owned(), error);
        let found = bzimage::packed(self.file(kernel)?).map_err(refusal)?;
        Ok(found.is_some() && !self.unpacked.contains_key(kernel))
    }

    /// Begins to unpack a kernel's file; nothing if that is not to be done. `create` does it at one go: whoever has other
    /// things to do meanwhile does it first, and gives what comes of it to [`keep_unpacked`](Self::keep_unpacked).
    ///
    /// # Errors
    /// As [`is_packed`](Self::is_packed), or there is no memory for it.
    pub fn unpack(&self, kernel: &str) -> Result<Option<Unpacking<'static>>, Refusal> {
        if !self.is_packed(kernel)? {
            return Ok(None);
        }
        Unpacking::begin(self.file(kernel)?).map_err(|error| Refusal::Kernel(kernel.to_owned(), error))
    }

    /// Keeps what was unpacked of a kernel's file, for all domains of the kind; its bytes.
    pub fn keep_unpacked(&mut self, kernel: &str, unpacked: Vec<u8>) -> usize {
        let bytes = unpacked.len();
        self.unpacked.insert(kernel.to_owned(), unpacked);
        bytes
    }

    fn file(&self, name: &str) -> Result<&'static [u8], Refusal> {
        cpio::find(self.files, name).ok_or_else(|| Refusal::NoFile(name.to_owned()))
    }

    /// Gives the devices of all domains whose backend was of this name to the new domain of the name.
    fn reconnect(&mut self, backend: DomId) {
        let Some(new) = self.domains.get(&backend) else { return };
        let (name, serves) = (new.config.name.clone(), new.config.serves.clone());
        for running in self.domains.values_mut().filter(|running| running.ended.is_none()) {
            for link in running.devices.iter_mut().filter(|link| link.backend_name == name) {
                if serves.contains(&link.device.class) && link.device.back != backend {
                    link.device.back = backend;
                    devices::make(&mut self.store, link, &running.config);
                }
            }
        }
    }

    /// Removes a domain and all that belongs to it.
    ///
    /// # Errors
    /// There is no such domain, or the hypervisor would not; then it is as before.
    pub fn destroy(&mut self, domain: DomId) -> Result<(), Refusal> {
        let running = self.domains.get(&domain).ok_or_else(|| Refusal::NoDomain(format!("{}", domain.0)))?;
        // A device that goes on writing would write into memory that others get.
        running.config.pci.iter().for_each(|function| self.control.silence(*function));
        self.control.destroy(domain)?;
        devices::take_functions(&mut self.control, domain, &running.config.pci);
        let links = running.devices.clone();
        self.domains.remove(&domain);
        // Those that it was backend of keep their links, for the domain that comes after it.
        links.iter().for_each(|link| devices::remove(&mut self.store, link));
        layout::remove_domain(&mut self.store, domain);
        self.store.release(domain);
        Ok(())
    }

    /// Asks a domain to power off or reboot by itself (`control/shutdown`).
    ///
    /// # Errors
    /// There is no such domain, it has ended, or it does not watch for requests.
    pub fn ask(&mut self, domain: DomId, request: &str) -> Result<(), Refusal> {
        let running = self.get(domain).ok_or_else(|| Refusal::NoDomain(format!("{}", domain.0)))?;
        let node = format!("/local/domain/{}/control/shutdown", domain.0);
        if running.ended.is_some() {
            return Err(Refusal::Ended);
        }
        if !self.store.is_watched(domain, &node) {
            return Err(Refusal::Deaf);
        }
        let _ = self.store.put(&node, request);
        Ok(())
    }

    /// Asks a domain to make do with so many MiB, or to take them back (`memory/target`, in KiB), and lets it have no more.
    ///
    /// # Errors
    /// There is no such domain, it has ended or does not watch for this, or the manifest gives it less.
    pub fn set_memory(&mut self, domain: DomId, mib: u32) -> Result<(), Refusal> {
        let running = self.get(domain).ok_or_else(|| Refusal::NoDomain(format!("{}", domain.0)))?;
        let node = format!("/local/domain/{}/memory/target", domain.0);
        let (most, ended) = (running.config.memory, running.ended.is_some());
        if ended {
            return Err(Refusal::Ended);
        }
        if !(LEAST_MEMORY..=most).contains(&mib) {
            return Err(Refusal::Memory(most));
        }
        if !self.store.is_watched(domain, &node) {
            return Err(Refusal::NoBalloon);
        }
        self.control.limit(domain, u64::from(mib) << 8)?;
        let _ = self.store.put(&node, &format!("{}", u64::from(mib) * 1024));
        Ok(())
    }

    /// How much memory a domain is to have, in MiB: what its manifest gives it, unless it was asked for other.
    pub fn memory_target(&mut self, domain: DomId) -> Option<u32> {
        let target = self.store.get(&format!("/local/domain/{}/memory/target", domain.0))?;
        ring_proto::path::decimal::<u32>(&target).map(|kib| kib >> 10)
    }

    /// The domains that have devices whose backend is `domain`, by name.
    pub fn served_by(&self, domain: DomId) -> Vec<&str> {
        let is_served = |running: &&Running| running.devices.iter().any(|link| link.device.back == domain);
        self.domains.values().filter(is_served).map(|running| running.config.name.as_str()).collect()
    }

    /// How a domain is.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn status(&mut self, domain: DomId) -> Result<Status, Refusal> {
        Ok(self.control.status(domain)?)
    }
}
