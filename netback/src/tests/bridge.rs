//! What the table remembers, and for whom.

use crate::bridge::{Bridge, Port};
use ring_proto::net::Mac;

fn address(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([2, 1, a, b, c, d])
}

const A: Port = Port::Vif(0);
const B: Port = Port::Vif(1);
const MINUTE: u64 = 60_000_000_000;

#[test]
fn addresses_are_learned_move_and_are_forgotten() {
    let mut bridge = Bridge::default();
    assert_eq!(bridge.find(address(1), 0), None);
    assert!(bridge.learn(address(1), A, 0));
    assert_eq!(bridge.find(address(1), 0), Some(A));
    assert!(bridge.learn(address(1), Port::Nic, 1));
    assert_eq!(bridge.find(address(1), 4 * MINUTE), Some(Port::Nic));
    assert_eq!(bridge.find(address(1), 6 * MINUTE), None);
    assert!(bridge.learn(address(1), Port::Nic, 6 * MINUTE));
    bridge.forget(Port::Nic);
    assert_eq!(bridge.find(address(1), 6 * MINUTE), None);
}

#[test]
fn a_given_address_is_nobody_elses() {
    let mut bridge = Bridge::default();
    assert!(bridge.learn(address(1), B, 0), "squatted before");
    assert!(bridge.give(address(1), A));
    assert!(!bridge.give(address(1), B));
    assert!(!bridge.learn(address(1), B, 0), "a forgery");
    assert!(!bridge.learn(address(1), Port::Nic, 0));
    assert!(bridge.learn(address(1), A, 0));
    assert_eq!(bridge.find(address(1), u64::MAX), Some(A));
    assert!(!bridge.learn(Mac::BROADCAST, A, 0), "a group sends nothing");
    bridge.forget(A);
    assert!(bridge.give(address(1), B));
}

#[test]
fn a_flood_of_addresses_costs_its_sender_only() {
    let mut bridge = Bridge::default();
    assert!(bridge.give(address(1), A));
    assert!(bridge.learn(address(2), A, 0));
    for n in 100..100_000 {
        assert!(bridge.learn(address(n), B, 1));
    }
    assert_eq!(bridge.find(address(1), 1), Some(A));
    assert_eq!(bridge.find(address(2), 1), Some(A));
    let learned = (100..100_000).filter(|n| bridge.find(address(*n), 1) == Some(B)).count();
    assert_eq!(learned, 32);
    for n in 0..1_000_000 {
        bridge.learn(address(200_000 + n), Port::Nic, 2);
    }
    assert_eq!(bridge.find(address(1), 2), Some(A), "the outside does not push it out either");
}
