//! Lines, pirqs and messages; what physdev_op makes of them is in `hypercall/tests.rs`.

use std::boxed::Box;
use std::vec::Vec;

use super::*;
use crate::lifecycle::NewDomain;
use crate::testing::{self, LineEvent, TestCore, TestMachine};

const DEVICE: PciDevice = PciDevice { seg: 0, bus: 3, devfn: 8 };

/// Two domains that have line 9, as pirq 9.
fn machine() -> (Box<TestCore>, [Arc<Domain<TestMachine>>; 2]) {
    let core = testing::core(512, 1);
    let domains = [(); 2].map(|()| {
        let domain = core.create_domain(&NewDomain::ordinary(1)).unwrap();
        domain.devices.lock().lines.set(9..10, true).unwrap();
        core.map_gsi(&domain, 9, None).unwrap();
        domain
    });
    (core, domains)
}

/// What was done to lines since this was asked last.
fn events(core: &TestCore) -> Vec<(Line, LineEvent)> {
    core::mem::take(&mut *core.platform.lines.lock().unwrap())
}

#[test]
fn a_line_is_given_without_its_neighbours() {
    let (core, [domain, _]) = machine();
    let has = [8, 9, 10, 11].map(|gsi| core.may_have_line(&domain, gsi));
    assert_eq!(has, [false, true, false, false]);
    assert!(!domain.devices.lock().lines.is_empty() && domain.devices.lock().ports.is_empty());
}

#[test]
fn who_does_not_share_a_line_has_it_until_he_closes_his_port() {
    let (core, [one, two]) = machine();
    let port = core.bind_pirq(&one, 9, false).unwrap();
    assert_eq!(core.bind_pirq(&one, 9, false), Err(Errno::EEXIST));
    for shares in [false, true] {
        assert_eq!(core.bind_pirq(&two, 9, shares), Err(Errno::EBUSY));
    }
    events(&core);
    core.close(&one, port).unwrap();
    assert_eq!(events(&core), [(Line(9), LineEvent::Masked)]);
    core.bind_pirq(&two, 9, true).unwrap();
    assert_eq!(events(&core), [(Line(9), LineEvent::Unmasked)]);
    assert_eq!(core.bind_pirq(&one, 9, false), Err(Errno::EBUSY));
    // Another of one's own is another matter.
    two.devices.lock().lines.set(10..11, true).unwrap();
    core.map_gsi(&two, 10, None).unwrap();
    assert!(core.bind_pirq(&two, 10, false).is_ok());
}

#[test]
fn a_sharer_who_owes_nothing_leaves_the_line_as_it_is() {
    let (core, [one, two]) = machine();
    let ports = [&one, &two].map(|domain| core.bind_pirq(domain, 9, true).unwrap());
    events(&core);
    core.close(&one, ports[0]).unwrap();
    assert_eq!(events(&core), []);
    core.close(&two, ports[1]).unwrap();
    assert_eq!(events(&core), [(Line(9), LineEvent::Masked)]);
}

/// One vCPU closes the port and another binds the pirq again, before the first has left the line.
#[test]
fn who_leaves_a_line_late_does_not_take_it_from_the_next_port() {
    let (core, [one, _]) = machine();
    let first = core.bind_pirq(&one, 9, false).unwrap();
    core.close(&one, first).unwrap();
    core.alloc_unbound(&one, one.id).unwrap();
    let second = core.bind_pirq(&one, 9, false).unwrap();
    assert_ne!(first, second);
    events(&core);
    core.close_pirq(&one, 9, first);
    core.line_interrupt(Line(9));
    assert!(core.port_is(&one, second, abi::event::fifo::PENDING));
    core.close(&one, second).unwrap();
    assert_eq!(events(&core), [(Line(9), LineEvent::Masked)]);
    // The next one may well be of the same number.
    assert_eq!(core.bind_pirq(&one, 9, false), Ok(second));
    events(&core);
    core.close_pirq(&one, 9, second);
    assert_eq!(events(&core), []);
}

#[test]
fn a_message_keeps_its_pirq() {
    let (core, [domain, _]) = machine();
    let map = |entry, wanted| core.map_message(&domain, DEVICE, Some(entry), wanted);
    let first = map(0, None).unwrap();
    assert_eq!((map(0, None), map(0, Some(first))), (Ok(first), Ok(first)));
    assert_eq!(map(0, Some(first + 1)), Err(Errno::EEXIST), "it has one");
    assert_eq!(map(1, Some(first)), Err(Errno::EEXIST), "which is taken");
    assert_eq!(map(1, Some(PIRQS)), Err(Errno::ENOSPC));
    assert_eq!(map(1, Some(PIRQS - 1)), Ok(PIRQS - 1));
    // Those of a domain that is gone are given back, and it gets no more.
    core.destroy(&domain).unwrap();
    assert_eq!((map(0, None), core.lines.lock().lines.len()), (Err(Errno::ESRCH), 0));
}

/// Ring 3 may use `int 0x80`, and no device may look like it: line 0 is vector 0x30.
#[test]
fn messages_have_all_vectors_from_0x70_on_but_that_of_int_0x80() {
    let (core, [domain, _]) = machine();
    let map = |entry| core.map_message(&domain, DEVICE, Some(entry), None);
    let count = (0..).take_while(|entry| map(*entry).is_ok()).count() as u16;
    assert_eq!(map(count), Err(Errno::ENOSPC));
    let vectors =
        events(&core).into_iter().filter(|(_, event)| *event == LineEvent::Enabled).map(|(line, _)| line.0 + 0x30);
    assert_eq!(vectors.collect::<Vec<_>>(), (0x70..0xf0).filter(|vector| *vector != 0x80).collect::<Vec<_>>());
}
