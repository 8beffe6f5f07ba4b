//! Tests of event channels: the lessons of the field, the interface's answers, and models.

mod fifo;
mod lessons;
mod model;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use abi::{VcpuId, Virq};

use super::{Bound, Channel, layout};
use crate::lifecycle::NewDomain;
use crate::testing::{self, TestCore, TestMachine};
use crate::{Domain, Platform};

/// A domain that runs.
fn domain(core: &TestCore, vcpus: u32) -> Arc<Domain<TestMachine>> {
    let domain = core.create_domain(&NewDomain::ordinary(vcpus)).unwrap();
    core.unpause_from_outside(&domain).unwrap();
    domain
}

/// The audit follows each channel there and back, and looks for the slot of each virtual interrupt.
#[test]
fn the_audit_complains_of_what_does_not_correspond() {
    let core = testing::core(512, 1);
    let domain = domain(&core, 3);
    let complaints = || {
        let mut found = Vec::new();
        core.audit_ports(&domain, |port| found.push(port));
        found
    };
    let channel = || {
        let near = core.alloc_unbound(&domain, domain.id).unwrap();
        (near, core.bind_interdomain(&domain, &domain, near).unwrap())
    };
    let ((near, far), (_, other)) = (channel(), channel());
    let timer = core.bind_virq(&domain, Virq::TIMER, VcpuId(1)).unwrap();
    domain.devices.lock().lines.set(9..10, true).unwrap();
    core.map_gsi(&domain, 9, None).unwrap();
    core.bind_pirq(&domain, 9, false).unwrap();
    assert_eq!(complaints(), []);
    if let Some(Channel { bound: Bound::Interdomain(peer), .. }) = domain.events.ports.lock().get_mut(near) {
        peer.port = other;
    }
    assert_eq!(complaints(), [near, far]);
    domain.vcpus[2].events.virq(Virq::TIMER).unwrap().store(timer.0, SeqCst);
    assert_eq!(complaints(), [near, far, timer]);
}

/// A word of a domain's `shared_info`.
fn shared(core: &TestCore, domain: &Domain<TestMachine>, word: usize) -> u64 {
    core.platform.word(domain.shared_info, word).load(SeqCst)
}

/// The pending word of ports 0 to 63.
fn pending(core: &TestCore, domain: &Domain<TestMachine>) -> u64 {
    shared(core, domain, layout::PENDING)
}
