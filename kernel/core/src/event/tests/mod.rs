//! Tests of event channels: the lessons of the field, the interface's answers, and models.

mod fifo;
mod lessons;
mod model;

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::layout;
use crate::lifecycle::NewDomain;
use crate::testing::{TestCore, TestMachine};
use crate::{Domain, Platform};

/// A domain that runs.
fn domain(core: &TestCore, vcpus: u32) -> Arc<Domain<TestMachine>> {
    let domain = core.create_domain(&NewDomain::ordinary(vcpus)).unwrap();
    core.unpause_from_outside(&domain).unwrap();
    domain
}

/// A word of a domain's `shared_info`.
fn shared(core: &TestCore, domain: &Domain<TestMachine>, word: usize) -> u64 {
    core.platform.word(domain.shared_info, word).load(SeqCst)
}

/// The pending word of ports 0 to 63.
fn pending(core: &TestCore, domain: &Domain<TestMachine>) -> u64 {
    shared(core, domain, layout::PENDING)
}
