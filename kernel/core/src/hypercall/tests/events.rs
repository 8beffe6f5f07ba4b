//! Each operation of `event_channel_op`, by the hypercall; and grants asked of others.

use std::sync::atomic::Ordering::SeqCst;

use abi::event::*;
use abi::grant::{GetVersion, GrantOp, GrantStatus, MapGrantRef, QuerySize, SetupTable, gntmap};
use abi::hypercall::Hypercall;
use abi::{DomId, Errno, GrantRef, Port, VcpuId, Virq};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::{Setup, setup};
use crate::{Platform, Privilege, testing};

impl Setup {
    /// An operation on a structure, and what comes back in it.
    fn event<T: FromBytes + IntoBytes + Immutable>(&self, op: EvtchnOp, it: T) -> Result<T, Errno> {
        self.with(Hypercall::EVENT_CHANNEL_OP, op.0, &it)?;
        Ok(self.peek())
    }

    fn status(&self, port: Port) -> Status {
        let ask = Status { dom: DomId::SELF, port, ..Status::new_zeroed() };
        self.event(EvtchnOp::STATUS, ask).unwrap()
    }
}

#[test]
fn every_kind_of_port_is_bound_and_says_so() {
    let s = setup(Privilege::all());
    let own = s.guest.domain.id;
    let unbound = |remote_dom| {
        let it = AllocUnbound { dom: DomId::SELF, remote_dom, port: Port(0) };
        s.event(EvtchnOp::ALLOC_UNBOUND, it).map(|it| it.port)
    };
    // DOMID_SELF is the caller, on either side; a number is that domain.
    let port = unbound(DomId::SELF).unwrap();
    assert_eq!((s.status(port).status, s.status(port).detail), (PortStatus::UNBOUND, own.0.into()));
    assert_eq!(s.status(unbound(DomId(7)).unwrap()).detail, 7);
    // What was asked comes back as it was.
    let asked = s.event(EvtchnOp::STATUS, Status { dom: DomId::SELF, _pad: 5, port, ..Status::new_zeroed() }).unwrap();
    assert_eq!((asked.dom, asked._pad, asked.port), (DomId::SELF, 5, port));
    let bind = |remote_dom, remote_port| {
        s.event(EvtchnOp::BIND_INTERDOMAIN, BindInterdomain { remote_dom, _pad: 0, remote_port, local_port: Port(0) })
    };
    assert_eq!(bind(DomId(99), port).map(|_| ()), Err(Errno::ESRCH));
    let local = bind(DomId::SELF, port).unwrap().local_port;
    let status = s.status(local);
    assert_eq!((status.status, status.detail, status.remote_port), (PortStatus::INTERDOMAIN, own.0.into(), port));
    let other = testing::guest(&s.core, Privilege::empty(), 4);
    let theirs = s.core.alloc_unbound(&other.domain, own).unwrap();
    let local = bind(other.domain.id, theirs).unwrap().local_port;
    assert_eq!(s.status(local).detail, other.domain.id.0.into());

    s.core.map_gsi(&s.guest.domain, 9, None).unwrap();
    let pirq = |flags| s.event(EvtchnOp::BIND_PIRQ, BindPirq { pirq: 9, flags, port: Port(0) });
    let bound = pirq(BindPirq::WILL_SHARE).unwrap().port;
    assert_eq!((s.status(bound).status, s.status(bound).detail), (PortStatus::PIRQ, 9));
    // A line that its user will not share is nobody else's.
    for (flags, others) in [(0, Err(Errno::EBUSY)), (BindPirq::WILL_SHARE, Ok(()))] {
        let s = setup(Privilege::all());
        let other = testing::guest(&s.core, Privilege::all() - Privilege::INITIAL, 4);
        for domain in [&s.guest.domain, &other.domain] {
            s.core.map_gsi(domain, 9, None).unwrap();
        }
        s.event(EvtchnOp::BIND_PIRQ, BindPirq { pirq: 9, flags, port: Port(0) }).unwrap();
        assert_eq!(s.core.bind_pirq(&other.domain, 9, true).map(|_| ()), others);
    }
    let virq = s.event(EvtchnOp::BIND_VIRQ, BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) }).unwrap();
    assert_eq!(s.status(virq.port).status, PortStatus::VIRQ);
    let ipi = s.event(EvtchnOp::BIND_IPI, BindIpi { vcpu: VcpuId(0), port: Port(0) }).unwrap();
    assert_eq!(s.status(ipi.port).status, PortStatus::IPI);
    assert_eq!(s.event(EvtchnOp::CLOSE, PortArg { port: ipi.port }).map(|_| ()), Ok(()));
    assert_eq!(s.status(ipi.port).status, PortStatus::CLOSED);
    assert_eq!(s.event(EvtchnOp::BIND_VCPU, BindVcpu { port, vcpu: VcpuId(0) }).map(|_| ()), Ok(()));
    assert_eq!(s.event(EvtchnOp::BIND_VCPU, BindVcpu { port, vcpu: VcpuId(1) }).map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(s.event(EvtchnOp(99), 0u64), Err(Errno::ENOSYS));
}

#[test]
fn queues_of_events_are_set_up_and_ports_get_a_priority() {
    let s = setup(Privilege::empty());
    let control =
        InitControl { control_gfn: s.guest.frames[3].mfn(), offset: 0, vcpu: VcpuId(0), ..InitControl::new_zeroed() };
    let array = ExpandArray { array_gfn: s.guest.frames[4].mfn() };
    assert_eq!(s.event(EvtchnOp::EXPAND_ARRAY, array).map(|_| ()), Err(Errno::EOPNOTSUPP), "before there is control");
    assert_eq!(s.event(EvtchnOp::INIT_CONTROL, control).map(|it| it.link_bits), Ok(17));
    assert_eq!(s.event(EvtchnOp::EXPAND_ARRAY, array).map(|_| ()), Ok(()));
    let port = s.core.alloc_unbound(&s.guest.domain, DomId(0)).unwrap();
    for (priority, done) in [(0, Ok(())), (15, Ok(())), (16, Err(Errno::EINVAL))] {
        assert_eq!(s.event(EvtchnOp::SET_PRIORITY, SetPriority { port, priority }).map(|_| ()), done);
    }
}

/// A table is the domain's own affair, and a builder's.
#[test]
fn whose_grant_table_may_be_asked_for() {
    let s = setup(Privilege::empty());
    let other = testing::guest(&s.core, Privilege::empty(), 4).domain.id;
    let op = |op: GrantOp, count: u64| s.call(Hypercall::GRANT_TABLE_OP, &[op.0.into(), s.guest.va(0).0, count]);
    for (dom, status) in [
        (DomId::SELF, GrantStatus::OKAY),
        (s.guest.domain.id, GrantStatus::OKAY),
        (other, GrantStatus::PERMISSION_DENIED),
        (DomId(999), GrantStatus::BAD_DOMAIN),
    ] {
        let table = SetupTable { dom, nr_frames: 1, frame_list: s.guest.va(1), ..SetupTable::new_zeroed() };
        s.guest.poke(&s.core, 0, 0, table.as_bytes());
        assert_eq!((op(GrantOp::SETUP_TABLE, 1), s.peek::<SetupTable>().status), (Ok(0), status));
        s.guest.poke(&s.core, 0, 0, QuerySize { dom, ..QuerySize::new_zeroed() }.as_bytes());
        assert_eq!((op(GrantOp::QUERY_SIZE, 1), s.peek::<QuerySize>().status), (Ok(0), status));
    }
    s.guest.poke(&s.core, 0, 0, GetVersion { dom: other, ..GetVersion::new_zeroed() }.as_bytes());
    assert_eq!(op(GrantOp::GET_VERSION, 1), Err(Errno::EPERM));
    // Nothing asked for is nothing done; a count that is negative is none.
    assert_eq!(op(GrantOp::MAP_GRANT_REF, 0), Ok(0));
    assert_eq!(op(GrantOp::SETUP_TABLE, 0), Err(Errno::EINVAL));
    assert_eq!(op(GrantOp::MAP_GRANT_REF, 1 << 31), Err(Errno::EINVAL));
}

/// Each grant of a batch is looked for in the table of the domain that it names.
#[test]
fn a_batch_maps_grants_of_several_domains() {
    let s = setup(Privilege::empty());
    let granters = [(); 2].map(|()| testing::guest(&s.core, Privilege::empty(), 4));
    for (n, granter) in granters.iter().enumerate() {
        s.core.grow_grant_table(&granter.domain, 1).unwrap();
        let table = granter.domain.grants.table.lock().frames[0];
        // Entry 8: permit_access for us, of page 1 + n.
        let entry = 1 | u64::from(s.guest.domain.id.0) << 16 | granter.frames[1 + n].mfn().0 << 32;
        s.core.platform.word(table, 8).store(entry, SeqCst);
    }
    let op = |n: usize, at: usize| MapGrantRef {
        host_addr: s.guest.va(at).0,
        flags: gntmap::HOST_MAP,
        gref: GrantRef(8),
        dom: granters[n].domain.id,
        ..MapGrantRef::new_zeroed()
    };
    s.guest.poke(&s.core, 0, 0, [op(0, 20), op(1, 21), op(0, 22)].as_bytes());
    assert_eq!(s.call(Hypercall::GRANT_TABLE_OP, &[GrantOp::MAP_GRANT_REF.0.into(), s.guest.va(0).0, 3]), Ok(0));
    let done: [MapGrantRef; 3] = s.peek();
    assert_eq!(done.map(|op| op.status), [GrantStatus::OKAY; 3]);
    let frames = [granters[0].frames[1], granters[1].frames[2], granters[0].frames[1]];
    assert_eq!(done.map(|op| op.dev_bus_addr.0 >> 12), frames.map(|frame| frame.mfn().0));
}
