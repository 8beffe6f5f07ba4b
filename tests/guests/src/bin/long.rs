//! Long calls, each made many times with the vCPU's timer about to go off in the middle: what is left is done when the
//! call goes on, everything once, and nobody sees that it was interrupted.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::domctl::{DomctlOp, MaxMem};
use conformance_guests::abi::event::{AllocUnbound, BindVirq, EvtchnOp, PortArg, Reset};
use conformance_guests::abi::grant::{Copy, CopyPtr, GrantOp};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::layout::FLAT_RING3_CS64;
use conformance_guests::abi::memory::{MemoryDomain, MemoryOp, MemoryReservation};
use conformance_guests::abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp};
use conformance_guests::abi::trap::TrapInfo;
use conformance_guests::abi::{DomId, Port, Pte, Vaddr, VcpuId, Virq};
use conformance_guests::child::{self, create, destroy, domctl};
use conformance_guests::domain_rt::probe::{self, call, page};
use conformance_guests::ops::{READ, TABLE, evtchn, memory, mmu_update_for, mmuext, system_time};
use conformance_guests::{Test, guest};

guest!(run);

/// Tries a call: the timer goes off so many steps after it begins.
const TRIES: u64 = 32;
/// The first word of the pending bits in shared_info.
const PENDING: u64 = 256;
const US: u64 = 1000;
/// Entries of a batch.
const MANY: usize = 512;

fn run(t: &mut Test) {
    // One tick in the middle, not the periodic ones.
    call(Hypercall::VCPU_OP, &[7, 0, 0]);
    handlers(t);
    updates(t);
    requests(t);
    copies(t);
    reservations(t);
    text(t);
    ports(t);
    tables(t);
    domain(t);
}

fn now() -> u64 {
    system_time(probe::vcpu_info())
}

/// Makes a call again and again until the timer has gone off, each time after another while. However late a busy host lets
/// it go off, that is while calls are made.
fn under_timer(step: u64, mut once: impl FnMut()) {
    let mut timer = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
    assert_eq!(evtchn(EvtchnOp::BIND_VIRQ, &mut timer), 0, "bind timer");
    let (word, bit) = (u64::from(timer.port.0 / 64), 1 << (timer.port.0 % 64));
    let pending = probe::shared_info() + 8 * (PENDING + word);
    for delay in 0..TRIES {
        probe::poke(pending, probe::peek(pending) & !bit);
        call(Hypercall::SET_TIMER_OP, &[now() + delay * step]);
        once();
        while probe::peek(pending) & bit == 0 {
            once();
        }
    }
    assert_eq!(evtchn(EvtchnOp::CLOSE, &mut PortArg { port: timer.port }), 0, "close timer");
}

fn handlers(t: &mut Test) {
    let entry = TrapInfo { vector: 0x81, cs: FLAT_RING3_CS64, address: Vaddr(0x1000), ..TrapInfo::default() };
    let mut table = [entry; 257];
    let [.., last] = &mut table;
    *last = TrapInfo::default();
    let at = table.as_mut_ptr() as u64;
    under_timer(2 * US, || t.ok("set_trap_table", call(Hypercall::SET_TRAP_TABLE, &[at])));
}

/// Writes of page-table entries: each different, so that each is seen.
fn updates(t: &mut Test) {
    let (table, leaf) = (page(), page());
    t.ok("protect", table.protect(false));
    t.ok("pin", mmuext(MmuextCmd::PIN_L1_TABLE, table.mfn.0, 0));
    // The frame, and the bits that are the guest's own; Xen adds GLOBAL.
    let own = !0 << 9;
    let bits = |round: u64, i: u64| Pte::new(leaf.mfn, READ).0 | ((round + i) & 7) << 9;
    let mut round = 0;
    under_timer(10 * US, || {
        round += 1;
        let mut list = [MmuUpdate { ptr: 0, val: 0 }; MANY];
        for (i, update) in (0..).zip(&mut list) {
            *update = MmuUpdate { ptr: table.slot(i as usize), val: bits(round, i) };
        }
        let (ret, done) = mmu_update_for(&mut list, DomId::SELF);
        t.eq("mmu_update", (ret, done), (0, MANY as u32));
        let written = |i: &u64| (table.get(*i as usize) ^ bits(round, *i)) & own == 0;
        t.eq("all are written", (0..MANY as u64).filter(written).count(), MANY);
    });
    t.ok("unpin", mmuext(MmuextCmd::UNPIN_TABLE, table.mfn.0, 0));
}

fn requests(t: &mut Test) {
    let to = page();
    let mut list = [MmuextOp::new(MmuextCmd::CLEAR_PAGE, to.mfn.0, 0); MANY / 4];
    under_timer(10 * US, || {
        let mut done = 0u32;
        let args = [list.as_mut_ptr() as u64, list.len() as u64, &raw mut done as u64, DomId::SELF.0.into()];
        t.ok("mmuext_op", call(Hypercall::MMUEXT_OP, &args));
        t.eq("all done", core::hint::black_box(done), MANY as u32 / 4);
    });
}

/// Copies of a word to the next word, one after the other: what was at the beginning comes out at the end.
fn copies(t: &mut Test) {
    let words = page();
    let end =
        |index: u64| CopyPtr { frame: words.mfn.0, domid: DomId::SELF, offset: 8 * index as u16, ..CopyPtr::default() };
    let mut round = 0;
    under_timer(10 * US, || {
        round += 1;
        words.set(0, round);
        let mut list: [Copy; 256] = core::array::from_fn(|i| Copy {
            source: end(i as u64),
            dest: end(i as u64 + 1),
            len: 8,
            ..Copy::default()
        });
        let args = [u64::from(GrantOp::COPY.0), list.as_mut_ptr() as u64, list.len() as u64];
        t.ok("copy", call(Hypercall::GRANT_TABLE_OP, &args));
        t.yes("each okay", core::hint::black_box(&list).iter().all(|copy| copy.status.0 == 0));
        t.eq("the last", words.get(256), round);
    });
}

fn new_domain(t: &mut Test) -> Option<DomId> {
    let id = create(DomId(0), &child::plain()).ok();
    t.yes("createdomain", id.is_some());
    let id = id?;
    t.ok("max_mem", domctl(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb: 32 << 10 }).0);
    Some(id)
}

/// So many frames in a list, for a domain.
fn reservation(domid: DomId, list: &mut [u64]) -> MemoryReservation {
    let (extent_start, nr_extents) = (Vaddr(list.as_mut_ptr() as u64), list.len() as u64);
    MemoryReservation { extent_start, nr_extents, domid, ..MemoryReservation::default() }
}

fn reservations(t: &mut Test) {
    let Some(domid) = new_domain(t) else { return };
    let pages = || memory(MemoryOp::CURRENT_RESERVATION, &mut MemoryDomain { domid });
    under_timer(20 * US, || {
        let mut list = [0u64; MANY];
        let mut want = reservation(domid, &mut list);
        t.returns("increase", memory(MemoryOp::INCREASE_RESERVATION, &mut want), MANY as i64);
        t.returns("so many", pages(), MANY as i64);
        t.returns("decrease", memory(MemoryOp::DECREASE_RESERVATION, &mut want), MANY as i64);
        t.returns("none", pages(), 0);
    });
    t.ok("destroydomain", destroy(domid));
}

/// Of many pieces.
fn text(t: &mut Test) {
    let mut blank = [b' '; 2048];
    let [.., last] = &mut blank;
    *last = b'\n';
    under_timer(20 * US, || {
        t.ok("console write", call(Hypercall::CONSOLE_IO, &[0, blank.len() as u64, blank.as_ptr() as u64]));
    });
}

/// A reset of a thousand ports.
fn ports(t: &mut Test) {
    for delay in 0..TRIES {
        let mut ports = AllocUnbound { dom: DomId::SELF, remote_dom: DomId::SELF, port: Port(0) };
        let made = (0..1000).filter(|_| evtchn(EvtchnOp::ALLOC_UNBOUND, &mut ports) == 0).count();
        t.eq("ports", made, 1000);
        call(Hypercall::SET_TIMER_OP, &[now() + delay * 4 * US]);
        t.ok("reset", evtchn(EvtchnOp::RESET, &mut Reset { dom: DomId::SELF }));
        t.ok("the first is free", evtchn(EvtchnOp::ALLOC_UNBOUND, &mut ports));
        t.eq("again", ports.port, Port(1));
        t.ok("reset", evtchn(EvtchnOp::RESET, &mut Reset { dom: DomId::SELF }));
    }
}

/// A directory of full tables, pinned and let go.
fn tables(t: &mut Test) {
    let (leaf, directory) = (page(), page());
    for slot in 0..16 {
        let table = page();
        (0..MANY).for_each(|i| table.set(i, Pte::new(leaf.mfn, READ).0));
        t.ok("protect", table.protect(false));
        directory.set(slot, Pte::new(table.mfn, TABLE).0);
    }
    t.ok("protect", directory.protect(false));
    under_timer(20 * US, || {
        t.ok("pin", mmuext(MmuextCmd::PIN_L2_TABLE, directory.mfn.0, 0));
        t.ok("unpin", mmuext(MmuextCmd::UNPIN_TABLE, directory.mfn.0, 0));
    });
    t.ok("nothing holds it", directory.protect(true));
}

/// The end of a domain of some thousand pages.
fn domain(t: &mut Test) {
    for delay in 1..5 {
        let Some(id) = new_domain(t) else { return };
        let mut list = [0u64; MANY];
        for _ in 0..8 {
            let got = memory(MemoryOp::INCREASE_RESERVATION, &mut reservation(id, &mut list));
            t.returns("its memory", got, MANY as i64);
        }
        call(Hypercall::SET_TIMER_OP, &[now() + delay * 100 * US]);
        t.ok("destroydomain", destroy(id));
        t.yes("is gone", child::info(id).1.domain != id);
    }
}
