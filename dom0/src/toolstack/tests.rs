//! The toolstack against the mock hypervisor: devices in the store, deaths and restarts.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use pvimage::testing::ImageMaker;

use super::*;
use crate::manifest::{self, Action};
use crate::mock::Mock;

const SECOND: u64 = 1_000_000_000;
const MANIFEST: &str = r#"
[[domain]]
name = "netback"
kernel = "k"
memory = 8
pci = ["00:02.0"]
serves = ["vif", "vbd", "echo"]
[[domain]]
name = "web"
kernel = "k"
memory = 8
vif = [{ mac = "00:16:3e:00:00:01" }]
disk = [{ target = "ram:16M", vdev = "xvda", mode = "r" }]
device = [{ class = "echo", params = "upper" }]
on_crash = "restart"
on_reboot = "restart"
"#;

/// An archive with one kernel, `k`.
fn archive() -> &'static [u8] {
    let kernel = ImageMaker::small(0xffff_ffff_8000_0000).build();
    let numbers = [0, 0o100_644, 0, 0, 1, 0, kernel.len(), 0, 0, 0, 0, 2, 0];
    let head = numbers.iter().fold("070701".to_string(), |head, number| head + &format!("{number:08x}"));
    Box::leak([head.as_bytes(), b"k\0", &kernel].concat().into_boxed_slice())
}

fn toolstack() -> (Toolstack<Mock>, Vec<Config>) {
    (Toolstack::new(Mock::new(100_000), archive()), manifest::parse(MANIFEST).unwrap().domains)
}

fn started() -> (Toolstack<Mock>, Vec<Config>, DomId, DomId) {
    let (mut tools, configs) = toolstack();
    let netback = tools.create(&configs[0], 0).unwrap().domain;
    let web = tools.create(&configs[1], 0).unwrap().domain;
    for domain in [netback, web] {
        tools.control.unpause(domain).unwrap();
    }
    (tools, configs, netback, web)
}

#[test]
fn devices_meet_in_the_store() {
    let (mut tools, _, netback, web) = started();
    assert_eq!((netback, web), (DomId(1), DomId(2)));
    let back = tools.store.read_directory("/local/domain/1/backend/vif/2/0").0;
    assert_eq!(
        (back["mac"].as_str(), back["bridge"].as_str(), back["state"].as_str()),
        ("00:16:3e:00:00:01", "xenbr0", "1")
    );
    assert_eq!(back["frontend"], "/local/domain/2/device/vif/0");
    let front = tools.store.read_directory("/local/domain/2/device/vif/0").0;
    assert_eq!((front["backend"].as_str(), front["backend-id"].as_str()), ("/local/domain/1/backend/vif/2/0", "1"));
    let disk = tools.store.read_directory("/local/domain/1/backend/vbd/2/51712").0;
    assert_eq!((disk["params"].as_str(), disk["mode"].as_str(), disk["dev"].as_str()), ("ram:16M", "r", "xvda"));
    assert_eq!(tools.store.get("/local/domain/1/backend/echo/2/0/params").as_deref(), Some("upper"));
    let pci = tools.store.read_directory("/local/domain/0/backend/pci/1/0").0;
    assert_eq!((pci["num_devs"].as_str(), pci["dev-0"].as_str()), ("1", "0000:00:02.0"));
    assert_eq!(tools.store.perms_text("/local/domain/1/backend/vif/2/0").unwrap(), "n1 r2");
    assert_eq!(tools.store.perms_text("/local/domain/2/device/vif/0").unwrap(), "n2 r1");
    assert_eq!(tools.store.perms_text("/local/domain/2").unwrap(), "n0 r2");
    assert_eq!(tools.control.domain(netback).unwrap().functions.len(), 1);
}

#[test]
fn memory_is_asked_of_those_who_listen_and_within_what_is_theirs() {
    let (mut tools, _, _, web) = started();
    assert_eq!(tools.memory_target(web), Some(8));
    for mib in [0, 3, 9, u32::MAX] {
        assert_eq!(tools.set_memory(web, mib), Err(Refusal::Memory(8)), "{mib}");
    }
    assert_eq!(tools.set_memory(web, 4), Err(Refusal::NoBalloon));
    assert_eq!(tools.set_memory(DomId(77), 4), Err(Refusal::NoDomain("77".into())));
    let pages = |tools: &mut Toolstack<Mock>| tools.control.domain(web).unwrap().limits.unwrap().pages;
    assert_eq!((pages(&mut tools), tools.memory_target(web)), (2048, Some(8)), "nothing has changed");
    // Its kernel watches now.
    tools.store.watch_of(web, "memory/target", "target").unwrap();
    tools.set_memory(web, 4).unwrap();
    assert_eq!((pages(&mut tools), tools.memory_target(web)), (1024, Some(4)));
    tools.set_memory(web, 8).unwrap();
    assert_eq!((pages(&mut tools), tools.memory_target(web)), (2048, Some(8)));
}

#[test]
fn refusals_leave_nothing() {
    let (mut tools, configs) = toolstack();
    assert_eq!(tools.create(&configs[1], 0), Err(Refusal::NoBackend(Class::VIF, None)));
    tools.create(&configs[0], 0).unwrap();
    assert_eq!(tools.create(&configs[0], 0), Err(Refusal::NameTaken("netback".into())));
    let twin = Config { name: "twin".into(), ..configs[0].clone() };
    assert_eq!(tools.create(&twin, 0), Err(Refusal::FunctionTaken("0000:00:02.0".into())));
    let missing = Config { kernel: "x".into(), ..configs[1].clone() };
    assert_eq!(tools.create(&missing, 0), Err(Refusal::NoFile("x".into())));
    assert_eq!(tools.find("web"), Err(Refusal::NoDomain("web".into())));
    assert_eq!((tools.control.domains.len(), tools.domains().count()), (1, 1));
    // Every call on the way fails once.
    for at in 0..40 {
        let (mut tools, configs) = toolstack();
        tools.control.fail = Some((at, Errno::EBUSY));
        if tools.create(&configs[0], 0).is_err() {
            assert!(tools.control.domains.is_empty() && tools.domains().next().is_none(), "call {at}");
            assert!(tools.store.list("/local/domain").iter().all(|id| id == "0"));
        }
    }
}

#[test]
fn create_and_destroy_leaves_no_trace() {
    let (mut tools, configs) = toolstack();
    tools.create(&configs[0], 0).unwrap();
    let (free, mut nodes) = (tools.control.free, None);
    for round in 0..50 {
        let domain = tools.create(&configs[1], round).unwrap().domain;
        tools.destroy(domain).unwrap();
        assert_eq!(tools.control.free, free);
        let owned = tools.store.nodes_of(DomId(1)) + tools.store.nodes_of(DomId(0));
        assert_eq!(*nodes.get_or_insert(owned), owned, "round {round}");
        assert!(!tools.store.list("/local/domain").contains(&domain.0.to_string()));
        assert!(
            tools
                .store
                .list("/local/domain/1/backend/vif")
                .iter()
                .all(|id| tools.store.list(&format!("/local/domain/1/backend/vif/{id}")).is_empty())
        );
    }
}

#[test]
fn endings_do_what_the_manifest_says() {
    let (mut tools, _, _, web) = started();
    assert_eq!(tools.bury(SECOND), []);
    tools.control.end(web, ShutdownReason::CRASH);
    let endings = tools.bury(2 * SECOND);
    assert_eq!((endings.len(), endings[0].action, endings[0].restart_at), (1, Action::Restart, Some(2 * SECOND)));
    assert_eq!(tools.find("web"), Err(Refusal::NoDomain("web".into())));
    let due = tools.due(2 * SECOND);
    assert_eq!((due.len(), due[0].name.as_str(), tools.next_due()), (1, "web", None));
    let again = tools.create(&due[0], 2 * SECOND).unwrap().domain;
    tools.control.end(again, ShutdownReason::POWEROFF);
    assert_eq!(tools.bury(3 * SECOND)[0].action, Action::Destroy);
    assert_eq!((tools.due(u64::MAX).len(), tools.control.domains.len()), (0, 1));
}

#[test]
fn restarts_back_off_and_recover() {
    let (mut tools, configs) = toolstack();
    tools.create(&configs[0], 0).unwrap();
    let (mut now, mut delays) = (0, Vec::new());
    for _ in 0..10 {
        let domain = tools.create(&configs[1], now).unwrap().domain;
        tools.control.end(domain, ShutdownReason::CRASH);
        let at = tools.bury(now)[0].restart_at.unwrap();
        delays.push((at - now) / SECOND);
        now = at;
        assert_eq!(tools.due(now).len(), 1);
    }
    assert_eq!(delays, [0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
    let domain = tools.create(&configs[1], now).unwrap().domain;
    tools.control.end(domain, ShutdownReason::CRASH);
    now += 61 * SECOND;
    assert_eq!(tools.bury(now)[0].restart_at, Some(now), "it had run for a minute");
}

#[test]
fn guests_are_given_to_the_new_driver_domain() {
    let (mut tools, configs, netback, web) = started();
    tools.control.end(netback, ShutdownReason::CRASH);
    assert_eq!(tools.bury(SECOND)[0].action, Action::Restart, "a driver domain's default");
    assert!(tools.store.get("/local/domain/1/backend/vif/2/0/state").is_none(), "its guests see it gone");
    let due = tools.due(SECOND);
    let new = tools.create(&due[0], SECOND).unwrap().domain;
    assert_eq!(new, DomId(3));
    assert_eq!(tools.store.get("/local/domain/2/device/vif/0/backend-id").as_deref(), Some("3"));
    assert_eq!(tools.store.get("/local/domain/3/backend/vif/2/0/state").as_deref(), Some("1"));
    assert_eq!(tools.store.perms_text("/local/domain/2/device/vbd/51712").as_deref(), Some("n2 r3"));
    for key in ["state", "backend", "virtual-device"] {
        let path = format!("/local/domain/2/device/vbd/51712/{key}");
        assert_eq!(tools.store.perms_text(&path).as_deref(), Some("n2 r3"), "{key}");
    }
    assert_eq!(tools.get(web).unwrap().devices[0].device.back, new);
    assert_eq!(configs[0].name, "netback");
}

#[test]
fn a_preserved_domain_stays_to_be_looked_at() {
    let (mut tools, configs) = toolstack();
    let config = Config { on_crash: Action::Preserve, ..configs[0].clone() };
    let domain = tools.create(&config, 0).unwrap().domain;
    tools.control.end(domain, ShutdownReason::CRASH);
    assert_eq!(tools.bury(1)[0].action, Action::Preserve);
    assert_eq!(tools.bury(2), [], "told once");
    assert_eq!(tools.get(domain).unwrap().ended, Some(ShutdownReason::CRASH));
    tools.destroy(domain).unwrap();
}
