//! Devices: which backend serves which frontend, their directories in the store, and PCI functions given away.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::DomId;
use ring_proto::path::{BackDir, Class, Device, FrontDir};
use ring_proto::xenbus::State;

use super::layout::{make as directory, put};
use super::{Refusal, Running};
use crate::control::Control;
use crate::manifest::{Domain as Config, PciFunction};
use crate::store::Store;
use crate::store::perms::Perms;

/// A device of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Class, both ends and number.
    pub device: Device,
    /// Its place in the manifest's list of its class.
    pub index: usize,
    /// The backend's name, by which its successor is known.
    pub backend_name: String,
}

impl Link {
    pub(super) fn to(mut self, front: DomId) -> Self {
        self.device.front = front;
        self
    }
}

/// Finds a backend for every device of a domain that does not exist yet.
pub(super) fn plan(config: &Config, domains: &BTreeMap<DomId, Running>) -> Result<Vec<Link>, Refusal> {
    let vifs = config.vifs.iter().enumerate().map(|(at, vif)| (Class::VIF, at as u32, at, &vif.backend));
    let vbds = config.disks.iter().enumerate().map(|(at, disk)| (Class::VBD, disk.vdev.handle(), at, &disk.backend));
    let others = config.others.iter().enumerate().map(|(at, other)| (other.class, at as u32, at, &other.backend));
    let mut links = Vec::new();
    for (class, handle, index, wanted) in vifs.chain(vbds).chain(others) {
        let serves = |running: &&Running| {
            let named = wanted.as_ref().is_none_or(|name| *name == running.config.name);
            named && running.ended.is_none() && running.config.serves.contains(&class)
        };
        let backend = domains.values().find(serves).ok_or_else(|| Refusal::NoBackend(class, wanted.clone()))?;
        let device = Device { class, back: backend.built.domain, front: DomId::INVALID, handle };
        links.push(Link { device, index, backend_name: backend.config.name.clone() });
    }
    for function in &config.pci {
        let taken = domains.values().any(|running| running.config.pci.contains(function));
        if taken {
            return Err(Refusal::FunctionTaken(function.to_string()));
        }
    }
    if !config.pci.is_empty() {
        let device = Device { class: Class::PCI, back: DomId::DOM0, front: DomId::INVALID, handle: 0 };
        links.push(Link { device, index: 0, backend_name: "dom0".to_owned() });
    }
    Ok(links)
}

/// Gives PCI functions to a domain; all or none.
pub(super) fn give_functions<C: Control>(
    control: &mut C,
    domain: DomId,
    functions: &[PciFunction],
) -> Result<(), Refusal> {
    for (at, function) in functions.iter().enumerate() {
        if let Err(errno) = control.assign(domain, *function, true) {
            take_functions(control, domain, functions.get(..at).unwrap_or_default());
            return Err(errno.into());
        }
    }
    Ok(())
}

/// Takes them back. A domain that is gone has none any more, so an error says nothing.
pub(super) fn take_functions<C: Control>(control: &mut C, domain: DomId, functions: &[PciFunction]) {
    for function in functions {
        let _ = control.assign(domain, *function, false);
    }
}

/// Writes the two directories of a device, each its end's own and readable by the other; both ends start anew.
pub(super) fn make(store: &mut Store, link: &Link, config: &Config) {
    let Device { back, front, handle, class } = link.device;
    let (back_dir, front_dir) = (BackDir(link.device).to_string(), FrontDir(link.device).to_string());
    let initialising = State::Initialising.to_string();
    let mut backend: Vec<(String, String)> = Vec::from([
        ("frontend".into(), front_dir.clone()),
        ("frontend-id".into(), front.0.to_string()),
        ("online".into(), "1".into()),
        ("domain".into(), config.name.clone()),
    ]);
    let mut frontend: Vec<(String, String)> =
        Vec::from([("backend".into(), back_dir.clone()), ("backend-id".into(), back.0.to_string())]);
    match class {
        Class::VIF => {
            let Some(vif) = config.vifs.get(link.index) else { return };
            for keys in [&mut backend, &mut frontend] {
                keys.extend([("handle".into(), handle.to_string()), ("mac".into(), vif.mac.to_string())]);
            }
            backend.push(("bridge".into(), vif.bridge.clone()));
            backend.extend(offers(&vif.features));
        }
        Class::VBD => {
            let Some(disk) = config.disks.get(link.index) else { return };
            frontend.extend([("virtual-device".into(), handle.to_string()), ("device-type".into(), "disk".into())]);
            for (key, value) in [
                ("params", disk.target.as_str()),
                ("mode", disk.mode),
                ("type", "phy"),
                ("device-type", "disk"),
                ("removable", "0"),
                ("bootable", "1"),
            ] {
                backend.push((key.into(), value.into()));
            }
            backend.push(("dev".into(), disk.vdev.to_string()));
            backend.extend(offers(&disk.features));
        }
        Class::PCI => {
            backend.push(("num_devs".into(), config.pci.len().to_string()));
            for (at, function) in config.pci.iter().enumerate() {
                backend.push((format!("dev-{at}"), function.to_string()));
                backend.push((format!("vdev-{at}"), function.to_string()));
                backend.push((format!("state-{at}"), initialising.clone()));
            }
        }
        _ => {
            let Some(other) = config.others.get(link.index) else { return };
            backend.push(("params".into(), other.params.clone()));
        }
    }
    for (dir, owner, reader, keys) in [(&back_dir, back, front, backend), (&front_dir, front, back, frontend)] {
        // What a device before it left has other permissions.
        let _ = store.delete(dir);
        directory(store, dir, Perms::shared_with(owner, reader));
        keys.iter().for_each(|(key, value)| put(store, &format!("{dir}/{key}"), value));
    }
    // Whoever watches finds everything there when its own half appears.
    put(store, &format!("{front_dir}/state"), &initialising);
    put(store, &format!("{back_dir}/state"), &initialising);
}

/// What a backend is told of features.
fn offers(features: &[(&'static str, u32)]) -> impl Iterator<Item = (String, String)> {
    features.iter().map(|(name, value)| (format!("offer-{name}"), value.to_string()))
}

/// Removes both directories, and the one above the backend's if it was the last device of the frontend's domain.
pub(super) fn remove(store: &mut Store, link: &Link) {
    for dir in [FrontDir(link.device).to_string(), BackDir(link.device).to_string()] {
        let _ = store.delete(&dir);
        if let Some((above, _)) = dir.rsplit_once('/')
            && store.list(above).is_empty()
        {
            let _ = store.delete(above);
        }
    }
}
