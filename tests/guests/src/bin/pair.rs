//! Two domains: one that this one builds by domctl, without any privilege, and what passes between them.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::domctl::{DomctlOp, GetDomainInfo};
use conformance_guests::abi::event::*;
use conformance_guests::abi::grant::*;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::memory::{E820Entry, ForeignMemoryMap, MemoryDomain, MemoryMap, MemoryOp};
use conformance_guests::abi::mmu::{MmuextCmd, MmuextOp};
use conformance_guests::abi::sched::{RemoteShutdown, SchedOp, ShutdownReason};
use conformance_guests::abi::vcpu::VcpuGuestContext;
use conformance_guests::abi::version::{FeatureInfo, features};
use conformance_guests::abi::{DomId, Errno, GrantRef, Maddr, Mfn, Port, Pte, Vaddr, VcpuId, Virq};
use conformance_guests::child::{self, Child, control, map_foreign};
use conformance_guests::domain_rt::probe::{self, call, call_with};
use conformance_guests::ops::{MAP, READ, evtchn, grant, memory, mmu_update_for, sched, system_time, update_va};
use conformance_guests::{Test, guest};

guest!(run);

const DOM0: DomId = DomId(0);
const MS: u64 = 1_000_000;

fn run(t: &mut Test) {
    let Some(child) = Child::build(t) else { return };
    life(t, &child);
    refusals(t, &child);
    foreign(t, &child);
    memory_map(t, &child);
    events(t, &child);
    its_grants(t, &child);
    our_grants(t, &child);
    context(t, &child);
    suspend(t, &child);
    end(t, &child);
    crash(t);
}

fn flags(id: DomId) -> u32 {
    child::info(id).1.flags
}

/// Paused until it is let go, and whenever it is paused again.
fn life(t: &mut Test, child: &Child) {
    let (ret, info) = child::info(child.id);
    t.ok("getdomaininfo", ret);
    t.eq("is paused", info.flags & 0xff & !GetDomainInfo::DOMINF_BLOCKED, GetDomainInfo::DOMINF_PAUSED);
    t.eq("pages, vCPUs", (info.tot_pages, info.max_pages, info.nr_online_vcpus, info.max_vcpu_id), (8, 256, 1, 0));
    child.ask(Hypercall::XEN_VERSION, &[0]);
    t.eq("does not run", child.wait(20 * MS), None);
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    t.eq("runs", child.wait(2000 * MS), Some(0x4_0011));
    t.err("unpause once too often", control(DomctlOp::UNPAUSEDOMAIN, child.id), Errno::EINVAL);
    t.ok("pause", control(DomctlOp::PAUSEDOMAIN, child.id));
    t.ok("and again", control(DomctlOp::PAUSEDOMAIN, child.id));
    child.ask(Hypercall::XEN_VERSION, &[7]);
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    t.eq("still paused", child.wait(20 * MS), None);
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    t.eq("goes on", child.wait(2000 * MS), Some(4096));
    t.yes("has used time", child::info(child.id).1.cpu_time > 0);
}

/// What a domain without privileges may not do to others, and may do to itself.
fn refusals(t: &mut Test, child: &Child) {
    let mut info = [0u8; 144];
    for (at, byte) in [(0, 5), (4, 0x15)] {
        info.get_mut(at).into_iter().for_each(|slot| *slot = byte);
    }
    t.err("domctl", child.call_with(Hypercall::DOMCTL, &[], &mut info), Errno::EPERM);
    let mut info = [0u8; 136];
    for (at, byte) in [(0, 3), (4, 0x15)] {
        info.get_mut(at).into_iter().for_each(|slot| *slot = byte);
    }
    t.err("sysctl", child.call_with(Hypercall::SYSCTL, &[], &mut info), Errno::EPERM);
    let mut of = MemoryDomain { domid: DOM0 };
    let op = |op: MemoryOp| [u64::from(op.0)];
    t.err(
        "memory of dom0",
        child.call_with(Hypercall::MEMORY_OP, &op(MemoryOp::CURRENT_RESERVATION), &mut of),
        Errno::EPERM,
    );
    let mut of = MemoryDomain { domid: DomId(77) };
    t.err(
        "of nobody",
        child.call_with(Hypercall::MEMORY_OP, &op(MemoryOp::CURRENT_RESERVATION), &mut of),
        Errno::ESRCH,
    );
    let mut of = MemoryDomain { domid: DomId::SELF };
    t.returns("of itself", child.call_with(Hypercall::MEMORY_OP, &op(MemoryOp::CURRENT_RESERVATION), &mut of), 8);
    t.err("machine_memory_map", child.call(Hypercall::MEMORY_OP, &[10, child::DATA]), Errno::EPERM);
    let mut end = RemoteShutdown { domain_id: DOM0, reason: ShutdownReason::REBOOT, ..RemoteShutdown::default() };
    t.err(
        "remote_shutdown",
        child.call_with(Hypercall::SCHED_OP, &[SchedOp::REMOTE_SHUTDOWN.0.into()], &mut end),
        Errno::EPERM,
    );
    t.err("console read", child.call(Hypercall::CONSOLE_IO, &[1, 16, child::DATA]), Errno::EPERM);
    let mut status = Status { dom: DOM0, port: Port(1), ..Status::default() };
    let op = |op: EvtchnOp| [u64::from(op.0)];
    t.err(
        "ports of dom0",
        child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::STATUS), &mut status),
        Errno::EPERM,
    );
    let mut ports = AllocUnbound { dom: DOM0, remote_dom: DOM0, port: Port(0) };
    t.err(
        "a port of dom0's",
        child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::ALLOC_UNBOUND), &mut ports),
        Errno::EPERM,
    );
    let mut reset = Reset { dom: DOM0 };
    t.err(
        "reset of dom0",
        child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::RESET), &mut reset),
        Errno::EPERM,
    );
    let mut size = QuerySize { dom: DOM0, ..QuerySize::default() };
    t.ok("query_size of dom0", child.call_with(Hypercall::GRANT_TABLE_OP, &[6], &mut size));
    t.eq("is denied", size.status, GrantStatus::PERMISSION_DENIED);
    // update_va_mapping_otherdomain, mmu_update and mmuext_op for others.
    let ours = probe::page();
    let entry = Pte::new(ours.mfn, MAP).0;
    let other = |who: u64| child.call(Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN, &[child::HOLE, entry, 2, who]);
    t.err("a page of dom0's, as dom0's", other(0), Errno::EPERM);
    t.err("of nobody's", other(77), Errno::ESRCH);
    let own = |entry| child.call(Hypercall::UPDATE_VA_MAPPING, &[child::HOLE, entry, 2]);
    t.err("a page of dom0's, as its own", own(entry), Errno::EBUSY);
    t.err("a frame past all memory", own(Pte::new(Mfn(1 << 30), MAP).0), Errno::EPERM);
    t.err("pins in dom0", child.call(Hypercall::MMUEXT_OP, &[child::DATA, 1, 0, 0]), Errno::EPERM);
    t.err(
        "mmu_update in dom0",
        child.call(Hypercall::MMU_UPDATE, &[child::DATA, 1, 0, 1 << 16 | 0x7ff0]),
        Errno::EPERM,
    );
    // Devices.
    t.err("a bound of ports it was not given", child.call_with(Hypercall::PHYSDEV_OP, &[6], &mut 4u32), Errno::EINVAL);
    t.ok("an IOPL", child.call_with(Hypercall::PHYSDEV_OP, &[6], &mut 1u32));
    let mut pirq = BindPirq { pirq: 1, flags: 0, port: Port(0) };
    t.err(
        "an interrupt it was not given",
        child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::BIND_PIRQ), &mut pirq),
        Errno::EPERM,
    );
    t.err("a PCI device", child.call_with(Hypercall::PHYSDEV_OP, &[25], &mut [0u64; 2]), Errno::EPERM);
    t.err("build_id", child.call(Hypercall::XEN_VERSION, &[10, 0]), Errno::EPERM);
    let (mut its, mut ours) = (FeatureInfo::default(), FeatureInfo::default());
    t.ok("its features", child.call_with(Hypercall::XEN_VERSION, &[6], &mut its));
    t.ok("ours", call_with(Hypercall::XEN_VERSION, &[6], &mut ours));
    t.eq("are the same, without the initial domain's", its.submap | 1 << features::DOM0, ours.submap);
    t.eq("which it is not", its.submap >> features::DOM0 & 1, 0);
    t.ok("commandline", child.call(Hypercall::XEN_VERSION, &[9, child::DATA]));
    t.eq("is denied", probe::peek(child.data), u64::from_le_bytes(*b"<denied>"));
}

/// The builder's view of its frames and tables.
fn foreign(t: &mut Test, child: &Child) {
    let va = probe::spare_va();
    probe::poke(child.gift, 0x61f7);
    t.err("its frame as ours", update_va(va, Pte::new(child.gift_frame(), MAP), 2), Errno::EBUSY);
    t.ok("as its own", map_foreign(va, Pte::new(child.gift_frame(), MAP), child.id));
    t.eq("is the same", probe::peek(va), 0x61f7);
    t.err("its root, writable", map_foreign(va, Pte::new(child.root_frame(), MAP), child.id), Errno::EBUSY);
    t.ok("its root, read-only", child.map_root(va));
    t.yes("is a root", probe::peek(va) & 1 == 1);
    t.ok("unmap", map_foreign(va, Pte::EMPTY, child.id));
    let pin = |cmd, mfn: Mfn, who: DomId| {
        let mut op = MmuextOp::new(cmd, mfn.0, 0);
        call(Hypercall::MMUEXT_OP, &[&raw mut op as u64, 1, 0, who.0.into()])
    };
    t.ok("pin its root", pin(MmuextCmd::PIN_L4_TABLE, child.root_frame(), child.id));
    t.err("again", pin(MmuextCmd::PIN_L4_TABLE, child.root_frame(), child.id), Errno::EINVAL);
    t.err("a frame of ours in it", pin(MmuextCmd::PIN_L1_TABLE, probe::page().mfn, child.id), Errno::EINVAL);
    t.ok("unpin", pin(MmuextCmd::UNPIN_TABLE, child.root_frame(), child.id));
    t.err("its TLB", pin(MmuextCmd::TLB_FLUSH_LOCAL, Mfn(0), child.id), Errno::EPERM);
    t.err("of nobody", pin(MmuextCmd::UNPIN_TABLE, child.root_frame(), DomId(77)), Errno::ESRCH);
    let slot = probe::pte_slot(Vaddr(va), 1).map_or(0, |(at, _)| at.0);
    let update = |ptr, val| mmu_update_for(&mut [conformance_guests::abi::mmu::MmuUpdate { ptr, val }], child.id).0;
    t.ok("mmu_update with its frame", update(slot, Pte::new(child.gift_frame(), READ).0));
    t.eq("is the same", probe::peek(va), 0x61f7);
    t.err("mmu_update with ours as its", update(slot, Pte::new(probe::page().mfn, READ).0), Errno::EBUSY);
    t.ok("unmap", update_va(va, Pte::EMPTY, 2));
    let mut of = MemoryDomain { domid: child.id };
    t.returns("its memory", memory(MemoryOp::CURRENT_RESERVATION, &mut of), 8);
    t.returns("its most", memory(MemoryOp::MAXIMUM_RESERVATION, &mut of), 256);
}

/// The memory map that the builder gives it.
fn memory_map(t: &mut Test, child: &Child) {
    let region = |addr, size, kind| E820Entry { addr, size, kind };
    let regions = [region(0, 0x8000, E820Entry::RAM), region(0x8000, 0x1000, E820Entry::RESERVED)];
    let set = |domid, nr_entries, buffer| {
        let map = MemoryMap { nr_entries, _pad: 0, buffer: Vaddr(buffer) };
        memory(MemoryOp::SET_MEMORY_MAP, &mut ForeignMemoryMap { domid, map, ..ForeignMemoryMap::default() })
    };
    let at = regions.as_ptr() as u64;
    t.ok("set_memory_map", set(child.id, 2, at));
    t.err("of nobody", set(DomId(77), 2, at), Errno::ESRCH);
    t.err("from nowhere", set(child.id, 2, 0x1000), Errno::EFAULT);
    t.err("too long", set(child.id, 1025, at), Errno::EINVAL);
    let ask = |nr_entries| {
        let mut map = MemoryMap { nr_entries, _pad: 0, buffer: Vaddr(child::GIFT) };
        let ret = child.call_with(Hypercall::MEMORY_OP, &[MemoryOp::MEMORY_MAP.0.into()], &mut map);
        (ret, map.nr_entries)
    };
    t.eq("it asks", ask(8), (0, 2));
    t.eq("first", (probe::peek(child.gift), probe::peek(child.gift + 8)), (0, 0x8000));
    t.eq("room for one", ask(1), (0, 1));
}

fn one(op: EvtchnOp, port: Port) -> i64 {
    evtchn(op, &mut PortArg { port })
}

fn status(dom: DomId, port: Port) -> Status {
    let mut arg = Status { dom, port, ..Status::default() };
    let ret = evtchn(EvtchnOp::STATUS, &mut arg);
    if ret == 0 { arg } else { Status { status: PortStatus(99), ..arg } }
}

/// Whether a port is pending in the shared-info page at an address.
fn pending(shared: u64, port: Port) -> bool {
    probe::peek(shared + 2048 + 8 * u64::from(port.0 / 64)) >> (port.0 % 64) & 1 != 0
}

fn events(t: &mut Test, child: &Child) {
    let op = |op: EvtchnOp| [u64::from(op.0)];
    let mut alloc = AllocUnbound { dom: DomId::SELF, remote_dom: DOM0, port: Port(0) };
    t.ok("its port for us", child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::ALLOC_UNBOUND), &mut alloc));
    let theirs = alloc.port;
    let seen = status(child.id, theirs);
    t.eq("waits", (seen.status, seen.detail & 0xffff), (PortStatus::UNBOUND, 0));
    let mut bind = BindInterdomain { remote_dom: child.id, remote_port: theirs, ..BindInterdomain::default() };
    t.ok("bind to it", evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut bind));
    let ours = bind.local_port;
    t.err("twice", evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut bind), Errno::EINVAL);
    let seen = status(child.id, theirs);
    let far = (seen.status, seen.detail & 0xffff, seen.remote_port);
    t.eq("its half", far, (PortStatus::INTERDOMAIN, 0, ours));
    t.yes("ours is pending", pending(probe::shared_info(), ours));
    t.ok("send", one(EvtchnOp::SEND, ours));
    t.yes("arrives", pending(child.shared, theirs));
    t.eq("its selector and byte", (probe::peek(child.shared + 8), probe::peek(child.shared) & 0xff), (1, 1));
    let mut send = PortArg { port: theirs };
    probe::poke(probe::shared_info() + 2048, 0);
    t.ok("it sends", child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::SEND), &mut send));
    t.yes("arrives", pending(probe::shared_info(), ours));
    probe::poke(probe::shared_info() + 2048, 0);
    probe::poke(child.shared + 2048, 0);
    // A port that waits for another than who binds.
    let mut other = AllocUnbound { dom: child.id, remote_dom: DomId(77), port: Port(0) };
    t.ok("we make it a port", evtchn(EvtchnOp::ALLOC_UNBOUND, &mut other));
    let mut wrong = BindInterdomain { remote_dom: child.id, remote_port: other.port, ..BindInterdomain::default() };
    t.err("that is not for us", evtchn(EvtchnOp::BIND_INTERDOMAIN, &mut wrong), Errno::EINVAL);
    // It closes: our half waits for it again. And the other way round.
    t.ok("it closes", child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::CLOSE), &mut send));
    let mine = status(DomId::SELF, ours);
    t.eq("ours waits", (mine.status, mine.detail & 0xffff), (PortStatus::UNBOUND, child.id.0.into()));
    t.ok("sending is no error", one(EvtchnOp::SEND, ours));
    let mut back = BindInterdomain { remote_dom: DOM0, remote_port: ours, ..BindInterdomain::default() };
    let bound = child.call_with(Hypercall::EVENT_CHANNEL_OP, &op(EvtchnOp::BIND_INTERDOMAIN), &mut back);
    t.ok("it binds to ours", bound);
    t.yes("and is pending", pending(child.shared, back.local_port));
    t.ok("we close", one(EvtchnOp::CLOSE, ours));
    t.eq("its half waits", status(child.id, back.local_port).status, PortStatus::UNBOUND);
    // reset of another.
    t.err("reset while it runs", evtchn(EvtchnOp::RESET, &mut Reset { dom: child.id }), Errno::EINVAL);
    t.ok("pause", control(DomctlOp::PAUSEDOMAIN, child.id));
    t.ok("reset", evtchn(EvtchnOp::RESET, &mut Reset { dom: child.id }));
    t.eq("all closed", status(child.id, back.local_port).status, PortStatus::CLOSED);
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    t.eq("it answers", child.call(Hypercall::XEN_VERSION, &[7]), 4096);
}

/// The first frame of its grant table, where we see it.
fn its_table(t: &mut Test, child: &Child) -> u64 {
    let mut frame = [0u64];
    let list = Vaddr(frame.as_mut_ptr() as u64);
    let mut setup = SetupTable { dom: child.id, nr_frames: 1, frame_list: list, ..SetupTable::default() };
    t.ok("setup_table for it", grant(GrantOp::SETUP_TABLE, &mut setup));
    t.eq("okay", setup.status, GrantStatus::OKAY);
    let [mfn] = core::hint::black_box(frame).map(Mfn);
    let va = probe::spare_va();
    t.ok("map its grant table", map_foreign(va, Pte::new(mfn, MAP), child.id));
    va
}

fn entry(table: u64, index: u64, flags: u16, to: DomId, mfn: Mfn) {
    probe::poke(table + 8 * index, u64::from(flags) | u64::from(to.0) << 16 | mfn.0 << 32);
}

fn in_use(table: u64, index: u64) -> u64 {
    probe::peek(table + 8 * index) & 0x18
}

const ACCESS: u16 = GrantEntryV1::GTF_PERMIT_ACCESS;
const ACCESS_RO: u16 = ACCESS | GrantEntryV1::GTF_READONLY;

/// It grants, we map and copy.
fn its_grants(t: &mut Test, child: &Child) {
    let table = its_table(t, child);
    let va = probe::spare_va();
    let map = |gref: u32, flags| {
        let mut arg =
            MapGrantRef { host_addr: va, flags, gref: GrantRef(gref), dom: child.id, ..MapGrantRef::default() };
        match grant(GrantOp::MAP_GRANT_REF, &mut arg) {
            0 => arg,
            _ => MapGrantRef { status: GrantStatus(0x7fff), ..arg },
        }
    };
    let unmap = |handle| {
        let mut arg = UnmapGrantRef { host_addr: va, handle, ..UnmapGrantRef::default() };
        (grant(GrantOp::UNMAP_GRANT_REF, &mut arg), arg.status)
    };
    probe::poke(child.gift, 0x61f7);
    entry(table, 8, ACCESS, DOM0, child.gift_frame());
    let got = map(8, gntmap::HOST_MAP);
    t.eq("map", (got.status, got.dev_bus_addr), (GrantStatus::OKAY, child.gift_frame().maddr()));
    t.eq("seen", probe::peek(va), 0x61f7);
    t.eq("in use", in_use(table, 8), 0x18);
    probe::poke(va, 0x61f8);
    t.eq("written", probe::peek(child.gift), 0x61f8);
    t.eq("unmap", unmap(got.handle), (0, GrantStatus::OKAY));
    t.eq("no more in use", in_use(table, 8), 0);
    entry(table, 8, ACCESS_RO, DOM0, child.gift_frame());
    t.eq("writable, of a read-only one", map(8, gntmap::HOST_MAP).status, GrantStatus::GENERAL_ERROR);
    let got = map(8, gntmap::HOST_MAP | gntmap::READONLY);
    t.eq("read-only", got.status, GrantStatus::OKAY);
    t.eq("read", in_use(table, 8), 8);
    t.eq("unmap", unmap(got.handle), (0, GrantStatus::OKAY));
    entry(table, 8, ACCESS, DomId(77), child.gift_frame());
    t.eq("for another", map(8, gntmap::HOST_MAP).status, GrantStatus::GENERAL_ERROR);
    entry(table, 8, ACCESS, DOM0, probe::page().mfn);
    t.eq("a frame of ours", map(8, gntmap::HOST_MAP).status, GrantStatus::BAD_PAGE);
    entry(table, 8, ACCESS, DOM0, child.root_frame());
    t.eq("its root, writable", map(8, gntmap::HOST_MAP).status, GrantStatus::GENERAL_ERROR);
    let got = map(8, gntmap::HOST_MAP | gntmap::READONLY);
    t.eq("its root, to be read", got.status, GrantStatus::OKAY);
    t.eq("unmap", unmap(got.handle), (0, GrantStatus::OKAY));
    t.eq("nothing is left over", in_use(table, 8), 0);
    // Copies.
    entry(table, 9, ACCESS_RO, DOM0, child.gift_frame());
    let to = probe::page();
    let its = CopyPtr { frame: 9, domid: child.id, offset: 0, _pad: 0 };
    let mine = CopyPtr { frame: to.mfn.0, domid: DomId::SELF, offset: 8, _pad: 0 };
    let run = |source, dest, flags| {
        let mut arg = Copy { source, dest, len: 8, flags, ..Copy::default() };
        (grant(GrantOp::COPY, &mut arg), arg.status)
    };
    t.eq("copy", run(its, mine, Copy::SOURCE_GREF), (0, GrantStatus::OKAY));
    t.eq("arrived", to.get(1), 0x61f8);
    t.eq("into a read-only one", run(mine, its, Copy::DEST_GREF), (0, GrantStatus::GENERAL_ERROR));
    let frame = CopyPtr { frame: child.gift_frame().0, ..its };
    t.eq("its frame, not granted", run(frame, mine, 0), (0, GrantStatus::PERMISSION_DENIED));
    t.eq("nothing is left over", in_use(table, 9), 0);
}

/// We grant, it maps.
fn our_grants(t: &mut Test, child: &Child) {
    let mut frame = [0u64];
    let list = Vaddr(frame.as_mut_ptr() as u64);
    let mut setup = SetupTable { dom: DomId::SELF, nr_frames: 1, frame_list: list, ..SetupTable::default() };
    t.ok("setup_table", grant(GrantOp::SETUP_TABLE, &mut setup));
    let [mfn] = core::hint::black_box(frame).map(Mfn);
    let table = probe::spare_va();
    t.ok("map the table", update_va(table, Pte::new(mfn, MAP), 2));
    let page = probe::page();
    page.set(0, 0xabba);
    entry(table, 9, ACCESS, child.id, page.mfn);
    let mut arg = MapGrantRef {
        host_addr: child::HOLE,
        flags: gntmap::HOST_MAP,
        gref: GrantRef(9),
        dom: DOM0,
        ..MapGrantRef::default()
    };
    t.ok("it maps", child.call_with(Hypercall::GRANT_TABLE_OP, &[0], &mut arg));
    t.eq("okay", (arg.status, in_use(table, 9)), (GrantStatus::OKAY, 0x18));
    // It copies from there to where we see it: console_io's buffer would do as well.
    let mut copy = Copy {
        source: CopyPtr { frame: 9, domid: DOM0, offset: 0, _pad: 0 },
        dest: CopyPtr { frame: child.gift_frame().0, domid: DomId::SELF, offset: 0, _pad: 0 },
        len: 8,
        flags: Copy::SOURCE_GREF,
        ..Copy::default()
    };
    t.ok("it copies", child.call_with(Hypercall::GRANT_TABLE_OP, &[5], &mut copy));
    t.eq("okay", (copy.status, probe::peek(child.gift)), (GrantStatus::OKAY, 0xabba));
    let mut gone = UnmapGrantRef {
        host_addr: child::HOLE,
        dev_bus_addr: Maddr(0),
        handle: arg.handle,
        ..UnmapGrantRef::default()
    };
    t.ok("it unmaps", child.call_with(Hypercall::GRANT_TABLE_OP, &[1], &mut gone));
    t.eq("okay", (gone.status, in_use(table, 9)), (GrantStatus::OKAY, 0));
    entry(table, 9, ACCESS, DOM0, page.mfn);
    t.ok("one that is not for it", child.call_with(Hypercall::GRANT_TABLE_OP, &[0], &mut arg));
    t.eq("is refused", arg.status, GrantStatus::GENERAL_ERROR);
}

/// Its registers, read and changed from outside.
fn context(t: &mut Test, child: &Child) {
    let mut context = VcpuGuestContext::default();
    t.ok("pause", control(DomctlOp::PAUSEDOMAIN, child.id));
    t.ok("getvcpucontext", child.get_context(&mut context));
    let code = child::BASE..child::BASE + 0x1000;
    t.yes("rip is in its code", code.contains(&context.user_regs.rip));
    t.eq("rbx", context.user_regs.rbx, child::BASE + 0x1000);
    t.eq("cr3", context.ctrlreg.get(3).copied(), Some(child.root_frame().maddr().0));
    t.eq("in kernel mode", context.flags & VcpuGuestContext::VGCF_IN_KERNEL, VcpuGuestContext::VGCF_IN_KERNEL);
    context.user_regs.rip = child::BASE;
    t.ok("setvcpucontext", child.set_context(&context));
    let mut bad = child.context();
    bad.user_regs.rip = 1 << 63;
    t.err("an address that is none", child.set_context(&bad), Errno::EINVAL);
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    t.eq("it goes on", child.call(Hypercall::XEN_VERSION, &[7]), 4096);
}

fn suspend(t: &mut Test, child: &Child) {
    let mut virq = BindVirq { virq: Virq::DOM_EXC, vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind dom_exc", evtchn(EvtchnOp::BIND_VIRQ, &mut virq));
    probe::poke(probe::shared_info() + 2048, 0);
    t.ok("resume of one that runs", control(DomctlOp::RESUMEDOMAIN, child.id));
    probe::poke(child.data, ShutdownReason::SUSPEND.0.into());
    child.ask(Hypercall::SCHED_OP, &[SchedOp::SHUTDOWN.0.into(), child::DATA]);
    t.eq("it does not come back", child.wait(20 * MS), None);
    let mask = GetDomainInfo::DOMINF_SHUTDOWN | 0xff << GetDomainInfo::SHUTDOWN_SHIFT;
    let want = GetDomainInfo::DOMINF_SHUTDOWN | ShutdownReason::SUSPEND.0 << GetDomainInfo::SHUTDOWN_SHIFT;
    t.eq("is suspended", flags(child.id) & mask, want);
    t.yes("dom_exc says so", pending(probe::shared_info(), virq.port));
    t.ok("resume", control(DomctlOp::RESUMEDOMAIN, child.id));
    t.eq("goes on", child.wait(2000 * MS), Some(0));
    t.eq("is not any more", flags(child.id) & GetDomainInfo::DOMINF_SHUTDOWN, 0);
    let mut end = RemoteShutdown { domain_id: child.id, reason: ShutdownReason::REBOOT, ..RemoteShutdown::default() };
    t.ok("remote_shutdown", sched(SchedOp::REMOTE_SHUTDOWN, &mut end));
    let want = GetDomainInfo::DOMINF_SHUTDOWN | ShutdownReason::REBOOT.0 << GetDomainInfo::SHUTDOWN_SHIFT;
    t.eq("is over", flags(child.id) & mask, want);
    t.err(
        "remote_shutdown of nobody",
        sched(SchedOp::REMOTE_SHUTDOWN, &mut RemoteShutdown { domain_id: DomId(77), ..end }),
        Errno::ESRCH,
    );
    t.ok("close dom_exc", one(EvtchnOp::CLOSE, virq.port));
}

/// Its death: what others map of it stays, as a zombie's.
fn end(t: &mut Test, child: &Child) {
    let va = probe::spare_va();
    t.ok("a page of it", map_foreign(va, Pte::new(child.gift_frame(), MAP), child.id));
    probe::poke(va, 0xdead);
    t.ok("destroydomain", child::destroy(child.id));
    t.yes("is dying", flags(child.id) & GetDomainInfo::DOMINF_DYING != 0);
    t.eq("its page is there", probe::peek(va), 0xdead);
    t.ok("unmap it", update_va(va, Pte::EMPTY, 2));
}

/// One that runs into nothing.
fn crash(t: &mut Test) {
    let Some(child) = Child::build(t) else { return };
    let mut context = child.context();
    context.user_regs.rip = child::HOLE;
    t.ok("setvcpucontext", child.set_context(&context));
    child.ask(Hypercall::XEN_VERSION, &[0]);
    t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
    t.eq("does not answer", child.wait(20 * MS), None);
    // Xen prints its story first.
    let end = system_time(probe::vcpu_info()) + 2000 * MS;
    while flags(child.id) & GetDomainInfo::DOMINF_SHUTDOWN == 0 && system_time(probe::vcpu_info()) < end {
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    let reason = flags(child.id) >> GetDomainInfo::SHUTDOWN_SHIFT & 0xff;
    t.eq(
        "has crashed",
        (flags(child.id) & GetDomainInfo::DOMINF_SHUTDOWN, reason),
        (GetDomainInfo::DOMINF_SHUTDOWN, ShutdownReason::CRASH.0),
    );
    t.ok("destroydomain", child::destroy(child.id));
}
