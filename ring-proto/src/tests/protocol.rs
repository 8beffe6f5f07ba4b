//! Paths and keys.

use crate::blk_keys;
use crate::keys::{BadKey, Keys};
use crate::net::Mac;
use crate::net_keys::{self, Events, Offloads};
use crate::path::*;
use abi::{DomId, GrantRef, Port};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::string::{String, ToString};

impl Keys for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).map(String::as_str)
    }
}

fn collect(publish: impl Fn(crate::keys::Put<'_>)) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    publish(&mut |key, value| {
        assert!(keys.insert(key.to_string(), value.to_string()).is_none(), "{key} twice");
    });
    keys
}

#[test]
fn paths() {
    let device = Device { class: Class::VIF, back: DomId(2), front: DomId(7), handle: 51712 };
    assert_eq!(FrontDir(device).to_string(), "/local/domain/7/device/vif/51712");
    assert_eq!(BackDir(device).to_string(), "/local/domain/2/backend/vif/7/51712");
    for path in ["/local/domain/2/backend/vif/7/51712", "backend/vif/7/51712/state", "backend/vif/7/51712"] {
        assert_eq!(Device::from_backend_path(DomId(2), path), Some(device), "{path}");
    }
    let wrong = [
        "/local/domain/3/backend/vif/7/51712",
        "backend/vif/7",
        "backend/vif",
        "backend/Usb/7/0",
        "backend/vif/-7/0",
        "backend/vif/65536/0",
        "",
        "/",
        "device/vif/0",
        "backend/vif//0",
    ];
    for path in wrong {
        assert_eq!(Device::from_backend_path(DomId(2), path), None, "{path}");
    }
}

#[test]
fn classes() {
    for name in ["a", "vif", "9pfs", "my-class-of-16-b"] {
        let class = Class::parse(name).unwrap();
        assert_eq!((class.name(), class), (name, Class::new(name)));
    }
    for name in ["", "Vif", "v_if", "a/b", "a\0", "\u{e9}", "seventeen-letters"] {
        assert_eq!(Class::parse(name), None, "{name}");
    }
    assert_eq!(Class::parse("vif"), Some(Class::VIF));
    assert_eq!(std::format!("{:?}", Class::VIF), "vif");
}

#[test]
fn mac_addresses() {
    let mac = Mac([0, 0x16, 0x3e, 0xab, 1, 2]);
    assert_eq!(Mac::parse("00:16:3e:AB:01:02"), Some(mac));
    assert_eq!(mac.to_string(), "00:16:3e:ab:01:02");
    for bad in
        ["", "00:16:3e:ab:01", "00:16:3e:ab:01:02:03", "0:16:3e:ab:1:2", "+1:16:3e:ab:01:02", "gg:16:3e:ab:01:02"]
    {
        assert_eq!(Mac::parse(bad), None, "{bad}");
    }
}

fn net_front(queues: u32, split: bool) -> net_keys::FrontKeys {
    let queue = |n: u32| net_keys::QueueKeys {
        tx_ring: GrantRef(10 + n),
        rx_ring: GrantRef(20 + n),
        events: if split { Events::Split { tx: Port(30 + n), rx: Port(40 + n) } } else { Events::Shared(Port(50 + n)) },
    };
    let offloads = Offloads { scatter_gather: true, gso_tcpv4: true, checksum_v4: true, ..Offloads::default() };
    let queues = (0..queues).map(queue).collect();
    net_keys::FrontKeys { queues, offloads, rx_notify: true, multicast_control: false }
}

/// All that a network backend can offer.
const OFFERED: net_keys::BackKeys = net_keys::BackKeys {
    offloads: Offloads { scatter_gather: true, gso_tcpv4: true, gso_tcpv6: true, checksum_v4: true, checksum_v6: true },
    split_events: true,
    multicast_control: true,
    max_queues: 8,
};
const ONE_QUEUE: net_keys::BackKeys = net_keys::BackKeys { max_queues: 1, ..OFFERED };

#[test]
fn net_keys_are_read_as_written() {
    for queues in [1, 2, 8] {
        for split in [false, true] {
            let keys = net_front(queues, split);
            let written = collect(|put| keys.publish(put));
            assert_eq!(net_keys::FrontKeys::parse(&written, &OFFERED), Ok(keys));
            assert_eq!(written.contains_key("tx-ring-ref"), queues == 1);
            assert_eq!(written.contains_key("queue-1/rx-ring-ref"), queues > 1);
            if queues > 1 {
                let few = net_keys::FrontKeys::parse(&written, &ONE_QUEUE);
                assert_eq!(few, Err(BadKey("multi-queue-num-queues")));
            }
        }
    }
    let back = net_keys::BackKeys {
        offloads: Offloads { scatter_gather: true, ..Offloads::default() },
        split_events: true,
        multicast_control: true,
        max_queues: 2,
    };
    assert_eq!(net_keys::BackKeys::parse(&collect(|put| back.publish(put))), Ok(back));
    // What a frontend that says nothing gets: IPv4 checksums offloaded, no more.
    let bare = [("request-rx-copy", "1"), ("tx-ring-ref", "8"), ("rx-ring-ref", "9"), ("event-channel", "3")];
    let parsed = net_keys::FrontKeys::parse(&bare[..], &ONE_QUEUE).unwrap();
    assert_eq!(parsed.offloads, Offloads { checksum_v4: true, ..Offloads::default() });
    for missing in 0..bare.len() {
        let rest: std::vec::Vec<_> = (0..bare.len()).filter(|n| *n != missing).map(|n| bare[n]).collect();
        assert_eq!(net_keys::FrontKeys::parse(&rest[..], &ONE_QUEUE), Err(BadKey(bare[missing].0)));
    }
}

const FEATURES: blk_keys::Features = blk_keys::Features {
    flush: true,
    discard: true,
    persistent: true,
    indirect_segments: 64,
    max_ring_order: 2,
    max_queues: 4,
};

#[test]
fn blk_keys_are_read_as_written() {
    assert_eq!(blk_keys::Features::parse(&collect(|put| FEATURES.publish(put))), Ok(FEATURES));
    let disk = blk_keys::Properties { sectors: 1 << 33, info: 4, physical_sector: 4096 };
    assert_eq!(blk_keys::Properties::parse(&collect(|put| disk.publish(put))), Ok(disk));
    for queues in [1u32, 3] {
        for pages in [1u32, 4] {
            let queue = |q: u32| blk_keys::QueueKeys {
                ring: (0..pages).map(|p| GrantRef(100 * q + p)).collect(),
                event: Port(q),
            };
            let keys = blk_keys::FrontKeys { queues: (0..queues).map(queue).collect(), persistent: true };
            let written = collect(|put| keys.publish(put));
            assert_eq!(blk_keys::FrontKeys::parse(&written, &FEATURES), Ok(keys));
            let small = blk_keys::Features { max_ring_order: 0, ..FEATURES };
            assert_eq!(blk_keys::FrontKeys::parse(&written, &small).is_err(), pages > 1);
        }
    }
    let i386 = [("ring-ref", "8"), ("event-channel", "3"), ("protocol", "x86_32-abi")];
    assert_eq!(blk_keys::FrontKeys::parse(&i386[..], &FEATURES), Err(BadKey("protocol")));
    assert!(blk_keys::FrontKeys::parse(&i386[..2], &FEATURES).is_ok());
}

/// A manifest turns off what there is, one by one, and on only what is there; queues it sets.
#[test]
fn the_toolstack_narrows_what_is_offered() {
    let none: [(&str, &str); 0] = [];
    let on = FEATURES.wanted(&none[..], true).unwrap();
    assert_eq!(on, FEATURES);
    let off = |name| FEATURES.wanted(&[(name, "0")][..], true).unwrap();
    assert_eq!(off("offer-flush"), blk_keys::Features { flush: false, ..FEATURES });
    assert_eq!(off("offer-discard"), blk_keys::Features { discard: false, ..FEATURES });
    assert_eq!(off("offer-persistent"), blk_keys::Features { persistent: false, ..FEATURES });
    assert_eq!(off("offer-indirect"), blk_keys::Features { indirect_segments: 0, ..FEATURES });
    assert_eq!(off("offer-multi_page"), blk_keys::Features { max_ring_order: 0, ..FEATURES });
    let queues = |text| FEATURES.wanted(&[("offer-queues", text)][..], true).map(|features| features.max_queues);
    assert_eq!((queues("8"), queues("99"), queues("x")), (Ok(8), Ok(8), Err(BadKey("offer-queues"))));
    assert!(!FEATURES.wanted(&none[..], false).unwrap().persistent);
    let without = blk_keys::Features { persistent: false, ..FEATURES };
    assert!(!without.wanted(&[("offer-persistent", "1")][..], true).unwrap().persistent);
    // Each name of the manifest's is one that is read.
    for feature in blk_keys::FEATURES.iter().chain(&net_keys::FEATURES) {
        let key = ["offer-", feature.name].concat();
        let keys = [(key.as_str(), "x")];
        let read = FEATURES.wanted(&keys[..], true).is_err() || OFFERED.wanted(&keys[..]).is_err();
        assert!(read, "{key}");
    }

    let all = OFFERED.offloads;
    let off = |name| OFFERED.wanted(&[(name, "0")][..]).unwrap();
    let plain = Offloads { scatter_gather: false, gso_tcpv4: false, gso_tcpv6: false, ..all };
    assert_eq!(off("offer-sg").offloads, plain);
    assert_eq!(off("offer-gso").offloads, Offloads { scatter_gather: true, ..plain });
    assert_eq!(off("offer-checksum").offloads, Offloads { checksum_v4: false, checksum_v6: false, ..all });
    assert_eq!(off("offer-split_events"), net_keys::BackKeys { split_events: false, ..OFFERED });
    assert_eq!(off("offer-multicast"), net_keys::BackKeys { multicast_control: false, ..OFFERED });
    // What was not offered is not had by asking.
    let asked = net_keys::FrontKeys { multicast_control: true, ..net_front(1, false) };
    let written = collect(|put| asked.publish(put));
    assert_eq!(net_keys::FrontKeys::parse(&written, &off("offer-multicast")), Ok(net_front(1, false)));
    let split = collect(|put| net_front(1, true).publish(put));
    assert_eq!(net_keys::FrontKeys::parse(&split, &off("offer-split_events")), Err(BadKey("event-channel")));
}

proptest! {
    /// Whatever a guest writes into its directory, the parsers answer, and what they accept is within bounds.
    #[test]
    fn any_keys_are_survived(values in prop::collection::vec("[0-9]{0,12}|[ -~]{0,6}", 24)) {
        const NAMES: [&str; 24] = [
            "multi-queue-num-queues", "tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx",
            "event-channel-rx", "request-rx-copy", "feature-sg", "feature-gso-tcpv4", "feature-no-csum-offload",
            "queue-0/tx-ring-ref", "queue-1/tx-ring-ref", "queue-0/rx-ring-ref", "ring-ref", "ring-ref0", "ring-ref1",
            "ring-page-order", "num-ring-pages", "protocol", "feature-persistent", "sectors", "sector-size", "info",
            "feature-max-indirect-segments",
        ];
        let keys: BTreeMap<String, String> =
            NAMES.iter().zip(values).filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_string(), v)).collect();
        if let Ok(front) = net_keys::FrontKeys::parse(&keys, &net_keys::BackKeys { max_queues: 4, ..OFFERED }) {
            prop_assert!((1..=4).contains(&front.queues.len()));
        }
        if let Ok(front) = blk_keys::FrontKeys::parse(&keys, &FEATURES) {
            prop_assert!(front.queues.iter().all(|q| q.ring.len().is_power_of_two() && q.ring.len() <= 4));
        }
        let _ = (blk_keys::Features::parse(&keys), blk_keys::Properties::parse(&keys), net_keys::BackKeys::parse(&keys));
    }
}
