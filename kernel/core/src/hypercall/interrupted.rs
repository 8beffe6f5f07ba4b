//! Every call that can take long, interrupted wherever the core looks whether to make room for other work, one step after
//! the other (lessons 10 and 28): the audit is clean at each, what the call does is done once, and the end is the same.
//!
//! [`every_place_that_looks_was_interrupted`] compares with the sources where that was.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;

use abi::domctl::{Domctl, DomctlOp, VcpuContext};
use abi::event::{EvtchnOp, PortStatus, Reset};
use abi::grant::{
    Copy, CopyPtr, GrantEntryV1, GrantOp, GrantStatus, MapGrantRef, UnmapAndReplace, UnmapGrantRef, gntmap,
};
use abi::hypercall::Hypercall;
use abi::memory::{MemoryExchange, MemoryOp, MemoryReservation};
use abi::mmu::{MmuUpdate, MmuUpdateKind, MmuextCmd, MmuextOp};
use abi::multicall::MulticallEntry;
use abi::trap::TrapInfo;
use abi::vcpu::{VcpuGuestContext, VcpuOp};
use abi::{DomId, Errno, GrantRef, Mfn, Port, Pte, Vaddr, VcpuId, Virq};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::lifecycle::NewDomain;
use crate::testing::{self, Guest, READ_ONLY, TestCore, WRITABLE, stale_translations};
use crate::{Frame, Platform, Privilege, Stage, Stop, dispatch};

/// Tells a machine when to interrupt.
type How<'a> = &'a dyn Fn(&TestCore);
/// A machine on which something takes long: makes it, has it told when to interrupt, does it, and looks at the end.
type Work = fn(How<'_>) -> Box<TestCore>;

const SELF: u64 = DomId::SELF.0 as u64;
const DONE: i64 = 0;
/// Few: each audit looks at all of them.
const FRAMES: usize = 512;

/// What there is, and that it is asked at least so often.
const WORKS: [(&str, Work, u64); 15] = [
    ("reset", reset, 2),
    ("reset of queues, by another", reset_of_queues_by_another, 2),
    ("destruction", destruction, 24),
    ("a context set by the builder", context_by_the_builder, 8),
    ("a context set by the domain itself", context_by_itself, 8),
    ("updates of entries", updates, 3),
    ("operations on tables", extended, 20),
    ("reservations", reservations, 20),
    ("an exchange of frames", exchange, 7),
    ("grants", grants, 10),
    ("the console", console, 6),
    ("another's console", console_of_another, 6),
    ("a table of handlers", handlers, 20),
    ("a multicall", multicall, 17),
    ("a load of CR3", load_of_cr3, 8),
];

/// Nothing is wrong, and no TLB remembers what it may not.
#[track_caller]
fn sound(core: &TestCore) {
    assert_eq!(core.audit(&[]), Ok(Vec::new()));
    assert_eq!(stale_translations(core), Vec::new());
}

/// Makes a call to its end, with an audit and a look at each interruption.
#[track_caller]
fn sliced(core: &TestCore, guest: &Guest, number: Hypercall, mut args: [u64; 5], mut look: impl FnMut()) -> i64 {
    for _ in 0..10_000 {
        match guest.run(core, |c| dispatch::call(c, number.0, &mut args)) {
            Err(Stop::REPLACED) => panic!("not a way back"),
            Err(Stop::PREEMPTED) => {
                sound(core);
                look();
            }
            Ok(value) | Err(Stop(value)) => return value,
        }
    }
    panic!("no progress");
}

fn read<T: FromBytes + IntoBytes>(core: &TestCore, guest: &Guest, page: usize) -> T {
    guest.peek(core, page)
}

/// Four fresh frames of a domain's that are the tables of an address space, in which `page` is 512 times; the L2 names
/// its L1 twice.
fn tree(core: &TestCore, domain: &crate::Domain<testing::TestMachine>, page: Frame) -> [Frame; 4] {
    let tables = [(); 4].map(|()| core.alloc_domain_page(domain).unwrap());
    for index in 0..512 {
        core.platform.word(tables[0], index).store(Pte::new(page.mfn(), WRITABLE).0, SeqCst);
    }
    for level in 1..4 {
        core.platform.word(tables[level], 0).store(Pte::new(tables[level - 1].mfn(), WRITABLE).0, SeqCst);
    }
    core.platform.word(tables[1], 1).store(Pte::new(tables[0].mfn(), WRITABLE).0, SeqCst);
    tables
}

fn type_refs(core: &TestCore, frame: Frame) -> u64 {
    core.frames.info(frame).state().type_refs()
}

/// Ports of every kind, so many of each: two domains' to each other, a domain's to itself, waiting ones, and IPIs.
fn open_ports(core: &TestCore, near: &Guest, far: &Guest, each: u32) -> u32 {
    let (near, far) = (&near.domain, &far.domain);
    core.bind_virq(near, Virq::TIMER, VcpuId(0)).unwrap();
    for _ in 0..each {
        let theirs = core.alloc_unbound(far, near.id).unwrap();
        core.bind_interdomain(near, far, theirs).unwrap();
        let own = core.alloc_unbound(near, near.id).unwrap();
        core.bind_interdomain(near, near, own).unwrap();
        core.alloc_unbound(near, far.id).unwrap();
        core.bind_ipi(near, VcpuId(0)).unwrap();
    }
    1 + 5 * each
}

fn open(core: &TestCore, guest: &Guest) -> u32 {
    let ports = (1..core.valid_ports(&guest.domain)).map(Port);
    ports.filter(|port| core.port_info(&guest.domain, *port).unwrap().status != PortStatus::CLOSED).count() as u32
}

fn reset(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let (guest, far) = (testing::guest(&core, Privilege::empty(), 4), testing::guest(&core, Privilege::empty(), 4));
    let before = open_ports(&core, &guest, &far, 40);
    assert_eq!((open(&core, &guest), open(&core, &far)), (before, 40));
    guest.poke(&core, 0, 0, Reset { dom: DomId::SELF }.as_bytes());
    how(&core);
    let args = [u64::from(EvtchnOp::RESET.0), guest.va(0).0, 0, 0, 0];
    let mut left = before;
    let ended = sliced(&core, &guest, Hypercall::EVENT_CHANNEL_OP, args, || {
        let now = open(&core, &guest);
        assert!(now < left || now == 0, "{now} of {left}");
        left = now;
        let another = core.reset_ports(&guest.domain, false);
        assert_eq!(another, Err(Errno::EBUSY.into()), "one is under way");
    });
    assert_eq!((ended, open(&core, &guest)), (DONE, 0));
    let theirs = (1..41).map(|port| core.port_info(&far.domain, Port(port)).unwrap().status);
    assert!(theirs.into_iter().all(|status| status == PortStatus::UNBOUND));
    assert_eq!(core.alloc_unbound(&guest.domain, far.domain.id), Ok(Port(1)));
    sound(&core);
    core
}

fn reset_of_queues_by_another(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let (by, guest) = (testing::guest(&core, Privilege::all(), 4), testing::guest(&core, Privilege::empty(), 4));
    let refs = |page: usize| core.frames.info(guest.frames[page]).state().refs();
    let held = [refs(1), refs(2)];
    core.init_control(&guest.domain, VcpuId(0), guest.frames[1].mfn(), 0).unwrap();
    core.expand_array(&guest.domain, guest.frames[2].mfn()).unwrap();
    open_ports(&core, &guest, &by, 40);
    for port in 1..core.valid_ports(&guest.domain) {
        let _ = core.send(&guest.domain, Port(port));
    }
    by.poke(&core, 0, 0, Reset { dom: guest.domain.id }.as_bytes());
    how(&core);
    let args = [u64::from(EvtchnOp::RESET.0), by.va(0).0, 0, 0, 0];
    let ended = sliced(&core, &by, Hypercall::EVENT_CHANNEL_OP, args, || assert!(refs(1) > held[0]));
    assert_eq!((ended, open(&core, &guest), [refs(1), refs(2)]), (DONE, 0, held));
    sound(&core);
    core
}

/// A domain with tables, ports, mappings of another's frames, and a frame that another maps.
fn destruction(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let (by, other) = (testing::guest(&core, Privilege::all() - Privilege::INITIAL, 4), granter(&core));
    let free = core.free_frames();
    let victim = testing::guest_of(&core, NewDomain::ordinary(2), 90);
    core.grow_grant_table(&victim.domain, 1).unwrap();
    let user = tree(&core, &victim.domain, victim.frames[3]);
    victim.vcpu.run.lock().user_root = Some(core.take_root(&victim.domain, user[3].mfn()).unwrap());
    open_ports(&core, &victim, &other, 40);
    for n in 0..4 {
        let at = victim.va(200 + n).0;
        map_grant(&core, &victim, &other, 8, at, if n % 2 == 0 { HOST } else { HOST | DEVICE });
    }
    grant(&core, &victim, 8, &other, victim.frames[5].mfn());
    let handle = map_grant(&core, &other, &victim, 8, other.va(200).0, HOST);
    let (id, theirs) = (victim.domain.id, core.frames.info(other.frames[5]).state().refs());
    by.poke(&core, 0, 0, Domctl::new(DomctlOp::DESTROYDOMAIN, id, &0u64).as_bytes());
    how(&core);
    let ended = sliced(&core, &by, Hypercall::DOMCTL, [by.va(0).0, 0, 0, 0, 0], || {
        assert_eq!(victim.domain.stage(), Stage::Dying);
        assert!(core.alloc_unbound(&victim.domain, other.domain.id).is_err());
    });
    assert_eq!((ended, victim.domain.stage()), (DONE, Stage::Zombie));
    assert_eq!((open(&core, &victim), core.frames.info(other.frames[5]).state().refs()), (0, theirs - 6));
    assert_eq!(core.free_frames(), free - 1, "what is still mapped");
    sound(&core);
    let unmap = UnmapGrantRef { host_addr: other.va(200).0, handle, ..UnmapGrantRef::new_zeroed() };
    other.poke(&core, 0, 0, unmap.as_bytes());
    other.hypercall(&core, Hypercall::GRANT_TABLE_OP.0, [1, other.va(0).0, 1, 0, 0]);
    core.reap();
    assert_eq!((core.free_frames(), core.domains.get(id).is_none()), (free, true));
    sound(&core);
    core
}

/// A domain of two vCPUs, of which the second is to get two roots; and the context for that.
fn uninitialised(core: &TestCore) -> (Guest, [[Frame; 4]; 2], Box<VcpuGuestContext>) {
    let guest = testing::guest_of(core, NewDomain::ordinary(2), 4);
    let trees = [2, 3].map(|page| tree(core, &guest.domain, guest.frames[page]));
    let mut context = VcpuGuestContext::new_box_zeroed().unwrap();
    context.flags = VcpuGuestContext::VGCF_IN_KERNEL;
    (context.user_regs.rip, context.user_regs.rsp) = (0x4000, 0x6000);
    (context.ctrlreg[3], context.ctrlreg[1]) = (trees[0][3].mfn().maddr().0, trees[1][3].mfn().maddr().0);
    (guest, trees, context)
}

fn is_initialised(core: &TestCore, guest: &Guest, trees: [[Frame; 4]; 2]) {
    let run = guest.domain.vcpus[1].run.lock();
    assert_eq!((run.initialised, run.regs.rip), (true, 0x4000));
    assert_eq!((run.kernel_root, run.user_root), (Some(trees[0][3]), Some(trees[1][3])));
    drop(run);
    assert!(trees.iter().all(|tables| tables.map(|table| type_refs(core, table)) == [2, 1, 1, 1]));
    assert_eq!([2, 3].map(|page| type_refs(core, guest.frames[page])), [513, 513]);
    sound(core);
}

fn context_by_the_builder(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let by = testing::guest(&core, Privilege::all(), 6);
    let (guest, trees, context) = uninitialised(&core);
    by.poke(&core, 2, 0, context.as_bytes());
    let which = VcpuContext { vcpu: VcpuId(1), ctxt: by.va(2), ..VcpuContext::new_zeroed() };
    by.poke(&core, 0, 0, Domctl::new(DomctlOp::SETVCPUCONTEXT, guest.domain.id, &which).as_bytes());
    how(&core);
    let ended = sliced(&core, &by, Hypercall::DOMCTL, [by.va(0).0, 0, 0, 0, 0], || {
        assert!(!guest.domain.vcpus[1].run.lock().initialised);
    });
    assert_eq!(ended, DONE);
    is_initialised(&core, &guest, trees);
    core
}

fn context_by_itself(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let (guest, trees, context) = uninitialised(&core);
    guest.poke(&core, 0, 0, context.as_bytes());
    how(&core);
    let args = [u64::from(VcpuOp::INITIALISE.0), 1, guest.va(0).0, 0, 0];
    assert_eq!(sliced(&core, &guest, Hypercall::VCPU_OP, args, || {}), DONE);
    is_initialised(&core, &guest, trees);
    core
}

/// 30 new entries, one that is refused, and one after it.
fn updates(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, Privilege::empty(), 8);
    let entry =
        |index: usize, pte: Pte| MmuUpdate { ptr: guest.tables[0].mfn().maddr().0 + index as u64 * 8, val: pte.0 };
    let good = Pte::new(guest.frames[5].mfn(), WRITABLE);
    let mut requests: Vec<_> = (0..30).map(|n| entry(100 + n, good)).collect();
    let machphys = guest.frames[6].mfn().maddr().0 | u64::from(MmuUpdateKind::MACHPHYS_UPDATE.0);
    requests.push(MmuUpdate { ptr: machphys, val: 4711 });
    requests.push(entry(130, Pte::new(guest.tables[0].mfn(), WRITABLE)));
    requests.push(entry(131, good));
    guest.poke(&core, 0, 0, requests.as_bytes());
    guest.poke(&core, 1, 0, &100u32.to_le_bytes());
    how(&core);
    let args = [guest.va(0).0, requests.len() as u64, guest.va(1).0, SELF, 0];
    let ended = sliced(&core, &guest, Hypercall::MMU_UPDATE, args, || {
        let done = u64::from(read::<u32>(&core, &guest, 1));
        assert_eq!(type_refs(&core, guest.frames[5]), 1 + done);
    });
    assert_eq!((ended, read::<u32>(&core, &guest, 1)), (Errno::EBUSY.code(), 31));
    assert_eq!((type_refs(&core, guest.frames[5]), core.platform.m2p(guest.frames[6].mfn())), (31, 4711));
    sound(&core);
    core
}

/// Pins, roots, pages and unpins in one batch, the last of which is refused.
fn extended(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, Privilege::empty(), 8);
    let tables = tree(&core, &guest.domain, guest.frames[3]);
    let (root, page) = (tables[3].mfn().0, |page: usize| guest.frames[page].mfn().0);
    guest.poke(&core, 4, 0, &[0xaa; 4096]);
    guest.poke(&core, 5, 0, &[0xbb; 4096]);
    let requests = [
        MmuextOp::new(MmuextCmd(3), root, 0),
        MmuextOp::new(MmuextCmd::CLEAR_PAGE, page(4), 0),
        MmuextOp::new(MmuextCmd::COPY_PAGE, page(6), page(5)),
        MmuextOp::new(MmuextCmd::NEW_USER_BASEPTR, root, 0),
        MmuextOp::new(MmuextCmd::UNPIN_TABLE, root, 0),
        MmuextOp::new(MmuextCmd::NEW_USER_BASEPTR, 0, 0),
        MmuextOp::new(MmuextCmd(1), tables[1].mfn().0, 0),
        MmuextOp::new(MmuextCmd::TLB_FLUSH_ALL, 0, 0),
        MmuextOp::new(MmuextCmd::UNPIN_TABLE, tables[1].mfn().0, 0),
        MmuextOp::new(MmuextCmd::UNPIN_TABLE, tables[1].mfn().0, 0),
    ];
    guest.poke(&core, 0, 0, requests.as_bytes());
    guest.poke(&core, 1, 0, &0u32.to_le_bytes());
    how(&core);
    let args = [guest.va(0).0, requests.len() as u64, guest.va(1).0, SELF, 0];
    let ended = sliced(&core, &guest, Hypercall::MMUEXT_OP, args, || {
        // The pages behind it are in the order of the batch.
        let done = read::<u32>(&core, &guest, 1);
        assert_eq!((read::<u64>(&core, &guest, 4) == 0, read::<u8>(&core, &guest, 6) == 0xbb), (done > 1, done > 2));
    });
    assert_eq!((ended, read::<u32>(&core, &guest, 1)), (Errno::EINVAL.code(), 9));
    assert!(tables.iter().all(|table| type_refs(&core, *table) == 0));
    assert_eq!((type_refs(&core, guest.frames[3]), guest.vcpu.run.lock().user_root), (1, None));
    sound(&core);
    core
}

fn reservation(list: Vaddr, extents: u64, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: list,
        nr_extents: extents,
        extent_order: order,
        domid: DomId::SELF,
        ..MemoryReservation::default()
    }
}

fn reservations(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, Privilege::empty(), 4);
    let pages = || guest.domain.memory.lock().pages;
    let (before, free) = (pages(), core.free_frames());
    let pfns: Vec<u64> = (1000..1010).collect();
    guest.poke(&core, 1, 0, pfns.as_bytes());
    guest.poke(&core, 0, 0, reservation(guest.va(1), 10, 0).as_bytes());
    how(&core);
    let mut last = before;
    let populate = [u64::from(MemoryOp::POPULATE_PHYSMAP.0), guest.va(0).0, 0, 0, 0];
    let done = sliced(&core, &guest, Hypercall::MEMORY_OP, populate, || {
        assert!(pages() > last && pages() < before + 10);
        last = pages();
    });
    assert_eq!((done, pages(), core.free_frames()), (10, before + 10, free - 10));
    let mfns: [u64; 10] = read(&core, &guest, 1);
    assert!(mfns.iter().zip(1000..).all(|(mfn, pfn)| core.platform.m2p(Mfn(*mfn)) == pfn));
    // One of the ten is not the guest's: what comes before it is given back.
    last = pages();
    guest.poke(&core, 1, 7 * 8, &3u64.to_le_bytes());
    let give_back = [u64::from(MemoryOp::DECREASE_RESERVATION.0), guest.va(0).0, 0, 0, 0];
    let done = sliced(&core, &guest, Hypercall::MEMORY_OP, give_back, || {
        assert!(pages() < last && pages() >= before + 3);
        last = pages();
    });
    assert_eq!((done, pages()), (7, before + 3));
    let increase = [u64::from(MemoryOp::INCREASE_RESERVATION.0), guest.va(0).0, 0, 0, 0];
    assert_eq!(sliced(&core, &guest, Hypercall::MEMORY_OP, increase, || {}), 10);
    assert_eq!((pages(), core.free_frames()), (before + 13, free - 13));
    sound(&core);
    core
}

/// Sixteen single frames for eight pairs.
fn exchange(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, Privilege::empty(), 4);
    let own: Vec<u64> = (0..16).map(|_| core.alloc_domain_page(&guest.domain).unwrap().mfn().0).collect();
    guest.poke(&core, 1, 0, own.as_bytes());
    guest.poke(&core, 1, 2048, (2000..2008u64).collect::<Vec<_>>().as_bytes());
    let exchange = MemoryExchange {
        input: reservation(guest.va(1), 16, 0),
        output: reservation(Vaddr(guest.va(1).0 + 2048), 8, 1),
        ..MemoryExchange::new_zeroed()
    };
    guest.poke(&core, 0, 0, exchange.as_bytes());
    let (pages, free) = (guest.domain.memory.lock().pages, core.free_frames());
    how(&core);
    let mut last = 0;
    let done = |core: &TestCore| read::<MemoryExchange>(core, &guest, 0).nr_exchanged;
    let args = [u64::from(MemoryOp::EXCHANGE.0), guest.va(0).0, 0, 0, 0];
    let ended = sliced(&core, &guest, Hypercall::MEMORY_OP, args, || {
        assert!(done(&core) > last && done(&core).is_multiple_of(2));
        last = done(&core);
        assert_eq!((guest.domain.memory.lock().pages, core.free_frames()), (pages, free));
    });
    assert_eq!((ended, done(&core)), (DONE, 16));
    let list: [u64; 264] = read(&core, &guest, 1);
    for (mfn, pfn) in list[256..].iter().zip(2000..) {
        assert_eq!((core.platform.m2p(Mfn(*mfn)), core.platform.m2p(Mfn(*mfn + 1))), (pfn, pfn + 1));
    }
    assert_eq!((guest.domain.memory.lock().pages, core.free_frames()), (pages, free));
    sound(&core);
    core
}

const HOST: u32 = gntmap::HOST_MAP;
const DEVICE: u32 = gntmap::DEVICE_MAP;

/// A domain that grants page 5 of its own to whoever will be the next.
fn granter(core: &TestCore) -> Guest {
    let guest = testing::guest(core, Privilege::empty(), 8);
    core.grow_grant_table(&guest.domain, 1).unwrap();
    let next = DomId(guest.domain.id.0 + 1);
    grant_to(core, &guest, 8, next, guest.frames[5].mfn());
    guest
}

fn grant_to(core: &TestCore, guest: &Guest, gref: usize, to: DomId, mfn: Mfn) {
    let frame = guest.domain.grants.table.lock().frames[0];
    let word = mfn.0 << 32 | u64::from(to.0) << 16 | u64::from(GrantEntryV1::GTF_PERMIT_ACCESS);
    core.platform.word(frame, gref).store(word, SeqCst);
}

fn grant(core: &TestCore, guest: &Guest, gref: usize, to: &Guest, mfn: Mfn) {
    grant_to(core, guest, gref, to.domain.id, mfn);
}

fn map_grant(core: &TestCore, to: &Guest, from: &Guest, gref: u32, at: u64, flags: u32) -> abi::grant::GrantHandle {
    let op =
        MapGrantRef { host_addr: at, flags, gref: GrantRef(gref), dom: from.domain.id, ..MapGrantRef::new_zeroed() };
    to.poke(core, 0, 0, op.as_bytes());
    assert_eq!(to.hypercall(core, Hypercall::GRANT_TABLE_OP.0, [0, to.va(0).0, 1, 0, 0]), DONE);
    let done: MapGrantRef = read(core, to, 0);
    assert_eq!(done.status, GrantStatus::OKAY);
    done.handle
}

/// 50 mappings, copies, moves and unmappings: a batch and a bit more of each.
fn grants(how: How<'_>) -> Box<TestCore> {
    const MANY: usize = 50;
    let core = testing::core(FRAMES, 1);
    let from = granter(&core);
    let to = testing::guest(&core, Privilege::empty(), 8);
    from.poke(&core, 5, 0, &[0x77; 4096]);
    let held = core.frames.info(from.frames[5]).state().refs();
    let call = |op: GrantOp, count: usize, bytes: &[u8], look: &dyn Fn()| {
        to.poke(&core, 0, 0, bytes);
        let args = [u64::from(op.0), to.va(0).0, count as u64, 0, 0];
        assert_eq!(sliced(&core, &to, Hypercall::GRANT_TABLE_OP, args, look), DONE);
    };
    let at = |n: usize| to.va(100 + n).0;
    how(&core);
    let op = MapGrantRef { flags: HOST, gref: GrantRef(8), dom: from.domain.id, ..MapGrantRef::new_zeroed() };
    let maps: Vec<_> = (0..MANY).map(|n| MapGrantRef { host_addr: at(n), ..op }).collect();
    let refs = || (core.frames.info(from.frames[5]).state().refs() - held) as usize;
    call(GrantOp::MAP_GRANT_REF, MANY, maps.as_bytes(), &|| assert_eq!(refs(), to.domain.grants.in_use().1));
    let maps: [MapGrantRef; MANY] = read(&core, &to, 0);
    assert!(maps.iter().all(|op| op.status == GrantStatus::OKAY));
    assert_eq!((refs(), to.domain.grants.in_use().1), (MANY, MANY));
    let own = |offset| CopyPtr { frame: to.frames[6].mfn().0, domid: DomId::SELF, offset, _pad: 0 };
    let theirs = CopyPtr { frame: 8, domid: from.domain.id, offset: 0, _pad: 0 };
    let copy = |n: usize| Copy {
        source: theirs,
        dest: own(n as u16 * 16),
        len: 16,
        flags: Copy::SOURCE_GREF,
        status: GrantStatus(99),
        _pad: 0,
    };
    let copies: Vec<_> = (0..MANY).map(copy).collect();
    call(GrantOp::COPY, MANY, copies.as_bytes(), &|| ());
    let copies: [Copy; MANY] = read(&core, &to, 0);
    assert!(copies.iter().all(|op| op.status == GrantStatus::OKAY), "{:?}", copies[0]);
    let copied: [u8; MANY * 16 + 1] = read(&core, &to, 6);
    assert!(copied[..MANY * 16].iter().all(|byte| *byte == 0x77) && copied[MANY * 16] == 0);
    // Half of them give way to a page of the domain's own.
    let half = MANY / 2;
    (0..half).for_each(|n| to.map(&core, 200 + n, Pte::new(to.frames[7].mfn(), READ_ONLY)).unwrap());
    let moves: Vec<_> = (0..MANY)
        .map(|n| UnmapAndReplace {
            host_addr: at(n),
            new_addr: to.va(200 + n).0,
            handle: maps[n].handle,
            ..UnmapAndReplace::new_zeroed()
        })
        .collect();
    call(GrantOp::UNMAP_AND_REPLACE, half, moves[..half].as_bytes(), &|| {
        assert_eq!(refs(), to.domain.grants.in_use().1)
    });
    assert_eq!((refs(), core.platform.translate(to.space(), to.va(100))), (MANY - half, Some((to.frames[7], false))));
    let unmaps: Vec<_> = (0..MANY)
        .map(|n| UnmapGrantRef { host_addr: at(n), handle: maps[n].handle, ..UnmapGrantRef::new_zeroed() })
        .collect();
    call(GrantOp::UNMAP_GRANT_REF, MANY, unmaps.as_bytes(), &|| assert_eq!(refs(), to.domain.grants.in_use().1));
    let unmaps: [UnmapGrantRef; MANY] = read(&core, &to, 0);
    assert!(unmaps[half..].iter().all(|op| op.status == GrantStatus::OKAY));
    assert_eq!((refs(), to.domain.grants.in_use().1, from.domain.grants.in_use().0), (0, 0, 0));
    sound(&core);
    core
}

/// What is written in pieces comes out whole.
fn console(how: How<'_>) -> Box<TestCore> {
    written(how, Privilege::CONSOLE, |text| text.into())
}

fn console_of_another(how: How<'_>) -> Box<TestCore> {
    let marked = |text: &str| text.lines().map(|line| std::format!("(d1) {line}\n")).collect();
    written(how, Privilege::empty(), marked)
}

fn written(how: How<'_>, privilege: Privilege, shown: impl Fn(&str) -> std::string::String) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, privilege, 4);
    let text: std::string::String =
        (0..20).map(|n| std::format!("line {n} of some that are written at once....\n")).collect();
    guest.poke(&core, 0, 0, text.as_bytes());
    core.platform.take_printed();
    how(&core);
    let args = [0, text.len() as u64, guest.va(0).0, 0, 0];
    assert_eq!(sliced(&core, &guest, Hypercall::CONSOLE_IO, args, || ()), DONE);
    assert_eq!(core.platform.take_printed(), shown(&text));
    core
}

fn handlers(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, Privilege::empty(), 4);
    let entry =
        |vector: u8| TrapInfo { vector, cs: 0x10, address: Vaddr(u64::from(vector) << 12), ..TrapInfo::new_zeroed() };
    let table: Vec<TrapInfo> = (1..21).map(entry).chain([TrapInfo::new_zeroed()]).collect();
    guest.poke(&core, 0, 0, table.as_bytes());
    how(&core);
    let address = |vector: u8| guest.run(&core, |c| c.run.traps.get(vector).address.0);
    let count = || (1..21).filter(|vector| address(*vector) != 0).count();
    let mut last = 0;
    let ended = sliced(&core, &guest, Hypercall::SET_TRAP_TABLE, [guest.va(0).0, 0, 0, 0, 0], || {
        assert!(count() > last);
        last = count();
    });
    assert_eq!(ended, DONE);
    assert!((1..21).all(|vector| address(vector) == u64::from(vector) << 12));
    core
}

/// Calls that would be noticed if they were made twice, some of which can be interrupted themselves.
fn multicall(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, Privilege::CONSOLE, 8);
    let table = guest.tables[0].mfn().maddr().0;
    let page = Pte::new(guest.frames[5].mfn(), WRITABLE).0;
    let requests: Vec<_> = (0..20).map(|n| MmuUpdate { ptr: table + (100 + n) * 8, val: page }).collect();
    guest.poke(&core, 1, 0, requests.as_bytes());
    guest.poke(&core, 2, 0, reservation(guest.va(3), 6, 0).as_bytes());
    guest.poke(&core, 4, 0, &[b'x'; 300]);
    let call = |op: Hypercall, args: &[u64]| {
        let mut entry = MulticallEntry { op: op.0.into(), ..MulticallEntry::new_zeroed() };
        entry.args[..args.len()].copy_from_slice(args);
        entry
    };
    let populate = u64::from(MemoryOp::POPULATE_PHYSMAP.0);
    let calls = [
        call(Hypercall::CONSOLE_IO, &[0, 300, guest.va(4).0]),
        call(Hypercall::MMU_UPDATE, &[guest.va(1).0, 20, guest.va(4).0 + 1024, SELF]),
        call(Hypercall::MEMORY_OP, &[populate, guest.va(2).0]),
        call(Hypercall(4000), &[]),
        call(Hypercall::UPDATE_VA_MAPPING, &[guest.va(7).0, 0, 0]),
        call(Hypercall::MULTICALL, &[guest.va(0).0, 1]),
        call(Hypercall::CONSOLE_IO, &[0, 300, guest.va(4).0]),
    ];
    guest.poke(&core, 0, 0, calls.as_bytes());
    let pages = guest.domain.memory.lock().pages;
    core.platform.take_printed();
    how(&core);
    assert_eq!(sliced(&core, &guest, Hypercall::MULTICALL, [guest.va(0).0, calls.len() as u64, 0, 0, 0], || ()), DONE);
    let done: [MulticallEntry; 7] = read(&core, &guest, 0);
    let results = done.map(|entry| entry.result as i64);
    assert_eq!(results, [0, 0, 6, Errno::ENOSYS.code(), 0, Errno::EINVAL.code(), 0]);
    assert_eq!(core.platform.take_printed(), "x".repeat(600));
    assert_eq!((type_refs(&core, guest.frames[5]), type_refs(&core, guest.frames[7])), (21, 0));
    assert_eq!(guest.domain.memory.lock().pages, pages + 6);
    let made: [u32; 257] = read(&core, &guest, 4);
    assert_eq!(made[256], 20);
    sound(&core);
    core
}

/// `mov %rax, %cr3`, which is made again while it is interrupted.
fn load_of_cr3(how: How<'_>) -> Box<TestCore> {
    let core = testing::core(FRAMES, 1);
    let guest = testing::guest(&core, Privilege::empty(), 8);
    let tables = tree(&core, &guest.domain, guest.frames[3]);
    // The new root has the guest's own pages too.
    let slot = guest.va(0).table_index(4);
    let own = core.platform.word(guest.tables[3], slot).load(SeqCst);
    core.platform.word(tables[3], slot).store(own, SeqCst);
    guest.poke(
        &core,
        4,
        0,
        &[0x0f, 0x22, 0xd8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90],
    );
    let rip = guest.va(4).0;
    guest.run(&core, |c| (c.run.regs.cs, c.run.regs.rax) = (0xe033, tables[3].mfn().maddr().0));
    how(&core);
    for tries in 0.. {
        guest.run(&core, |c| c.run.regs.rip = rip);
        guest.run(&core, |c| c.core.exception(c, abi::trap::vector::GP, 0, 0));
        sound(&core);
        let (now, root) = guest.run(&core, |c| (c.run.regs.rip, c.run.kernel_root));
        if now == rip + 3 {
            assert_eq!(root, Some(tables[3]));
            break;
        }
        assert_eq!((now, root), (rip, Some(guest.tables[3])), "it is made again");
        assert!(tries < 1000);
    }
    // What the old root held, and it alone, is let go of by whoever works on tables next.
    guest.poke(&core, 0, 0, MmuextOp::new(MmuextCmd::UNPIN_TABLE, tables[3].mfn().0, 0).as_bytes());
    let args = [guest.va(0).0, 1, 0, SELF, 0];
    assert_eq!(sliced(&core, &guest, Hypercall::MMUEXT_OP, args, || ()), Errno::EINVAL.code());
    assert_eq!((type_refs(&core, guest.tables[3]), type_refs(&core, tables[3])), (0, 1));
    sound(&core);
    core
}

/// Interrupted at the first step, at the second, and so on, up to three times in a row, until it ends before that. (What
/// was being let go of is finished by the same call, unless that is interrupted as well.)
fn at_every_step(name: &str) {
    let (_, work, least) = WORKS.into_iter().find(|(known, ..)| *known == name).expect("one of them");
    for times in [1, 2, 3] {
        for step in 0.. {
            let core = work(&|core| core.platform.interrupt_during(step, times));
            let taken: u64 = core.platform.interrupted().values().sum();
            if taken == 0 {
                assert!(step >= least, "{name}: {step} steps");
                break;
            }
            assert!(taken <= times && step < 5_000, "{name}");
        }
    }
}

#[test]
fn lesson_28_a_reset_is_interrupted_at_every_step() {
    at_every_step("reset");
    at_every_step("reset of queues, by another");
}

#[test]
fn lesson_28_a_destruction_is_interrupted_at_every_step() {
    at_every_step("destruction");
}

#[test]
fn setting_a_context_is_interrupted_at_every_step() {
    at_every_step("a context set by the builder");
    at_every_step("a context set by the domain itself");
}

#[test]
fn lesson_10_batches_on_tables_are_interrupted_at_every_step() {
    at_every_step("updates of entries");
    at_every_step("operations on tables");
    at_every_step("a load of CR3");
}

#[test]
fn reservations_and_exchanges_are_interrupted_at_every_step() {
    at_every_step("reservations");
    at_every_step("an exchange of frames");
}

#[test]
fn grant_operations_are_interrupted_at_every_step() {
    at_every_step("grants");
}

#[test]
fn writes_to_the_console_and_tables_of_handlers_are_interrupted_at_every_step() {
    at_every_step("the console");
    at_every_step("another's console");
    at_every_step("a table of handlers");
}

#[test]
fn a_multicall_is_interrupted_at_every_step() {
    at_every_step("a multicall");
}

/// The lines of the core, tests left out, that ask whether to make room: file and line.
fn places() -> Vec<(std::string::String, u32)> {
    let mut found = Vec::new();
    let mut folders = std::vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if !["testing.rs", "interrupted.rs"].contains(&name) {
                let text = std::fs::read_to_string(&path).unwrap();
                let lines = (1..).zip(text.lines()).filter(|(_, line)| line.contains("platform.preempt()"));
                found.extend(lines.map(|(number, _)| (path.to_str().unwrap().into(), number)));
            }
        }
    }
    found.sort();
    found
}

/// Shows how often with `--nocapture`.
#[test]
fn every_place_that_looks_was_interrupted() {
    let mut taken: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    for (_, work, _) in WORKS {
        let core = work(&|core| core.platform.interrupt_every(1));
        for (place, times) in core.platform.interrupted() {
            *taken.entry(place).or_default() += times;
        }
    }
    let places = places();
    for (path, line) in &places {
        let times =
            taken.iter().find(|((file, at), _)| at == line && path.ends_with(file)).map_or(0, |(_, times)| *times);
        std::println!("{path}:{line}: {times}");
        assert!(times > 0, "{path}:{line} was never interrupted");
    }
    assert_eq!(places.len(), taken.len());
}
