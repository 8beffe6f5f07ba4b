//! What the store holds of a domain, besides its devices: the paths that xenstore-paths documents.

use alloc::format;

use abi::DomId;

use crate::builder::Built;
use crate::manifest::Domain as Config;
use crate::store::Store;
use crate::store::perms::{Access, Perms};

/// dom0's own directory, and the places everything else is put in.
pub(super) fn prepare(store: &mut Store) {
    for (path, value) in [("/tool", ""), ("/local/domain/0/name", "Domain-0"), ("/local/domain/0/domid", "0")] {
        put(store, path, value);
    }
    make(store, "/local/domain/0/backend", Perms::owned(DomId::DOM0, Access::READ));
}

/// The paths are the toolstack's own and right; there is nobody to tell of an error.
pub(super) fn put(store: &mut Store, path: &str, value: &str) {
    let _ = store.put(path, value);
}

pub(super) fn make(store: &mut Store, path: &str, perms: Perms) {
    let _ = store.make(path, perms);
}

/// The directory of a new domain.
pub(super) fn make_domain(store: &mut Store, config: &Config, built: &Built) {
    let domain = built.domain;
    let home = format!("/local/domain/{}", domain.0);
    // The domain may read all of it, and write where a kernel or a driver domain writes.
    make(store, &home, Perms::shared_with(DomId::DOM0, domain));
    for (key, value) in [
        ("name", config.name.clone()),
        ("domid", format!("{}", domain.0)),
        ("memory/target", format!("{}", u64::from(config.memory) * 1024)),
        ("memory/static-max", format!("{}", u64::from(config.memory) * 1024)),
        ("store/ring-ref", format!("{}", built.store.0.0)),
        ("store/port", format!("{}", built.store.1.0)),
        ("console/ring-ref", format!("{}", built.console.0.0)),
        ("console/port", format!("{}", built.console.1.0)),
        ("console/limit", "1048576".into()),
        ("console/type", "ferrule".into()),
        ("control/platform-feature-xs_reset_watches", "1".into()),
    ] {
        put(store, &format!("{home}/{key}"), &value);
    }
    for vcpu in 0..config.vcpus {
        put(store, &format!("{home}/cpu/{vcpu}/availability"), "online");
    }
    let control = ["shutdown", "sysrq", "feature-poweroff", "feature-reboot", "feature-suspend"];
    for key in control {
        make(store, &format!("{home}/control/{key}"), Perms::owned(domain, Access::NONE));
    }
    for own in ["data", "device", "backend", "error", "drivers", "attr"] {
        make(store, &format!("{home}/{own}"), Perms::owned(domain, Access::NONE));
    }
}

/// Removes what is left of a domain.
pub(super) fn remove_domain(store: &mut Store, domain: DomId) {
    let _ = store.delete(&format!("/local/domain/{}", domain.0));
}
