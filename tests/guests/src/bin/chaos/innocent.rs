//! The domain that must not be harmed: it computes, and looks whether its memory, its events and its grants are as it left
//! them, again and again.

use conformance_guests::abi::event::{AllocUnbound, BindIpi, EvtchnOp, PortArg};
use conformance_guests::abi::grant::{GrantEntryV1, GrantOp, SetupTable};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::memory::{MemoryDomain, MemoryOp};
use conformance_guests::abi::{DomId, Mfn, Port, Pte, Vaddr, VcpuId};
use conformance_guests::domain_rt::probe::{call, peek, poke};
use conformance_guests::ops::{MAP, evtchn, grant, memory, update_va};

use crate::domain::{GRANTS, PAGES, PLAY, SHARED, WORDS, at, word};

/// The entry by which the parent has its first page, and the one it copies the second from.
pub const GREF: u32 = 8;
/// See [`GREF`].
pub const GREF_READ: u32 = 9;

fn get(index: u64) -> u64 {
    peek(at(WORDS) + 8 * index)
}

fn set(index: u64, value: u64) {
    poke(at(WORDS) + 8 * index, value);
}

/// Notes the first thing that is wrong.
fn check(what: u64, holds: bool) {
    if !holds && get(word::WRONG) == 0 {
        set(word::WRONG, what);
    }
}

/// What a word of its memory is in a round.
fn pattern(round: u64, page: u64, index: u64) -> u64 {
    (round << 20 | page << 10 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn pending(port: Port) -> bool {
    peek(at(SHARED) + 2048 + 8 * u64::from(port.0 / 64)) >> (port.0 % 64) & 1 != 0
}

/// Where its one vCPU starts.
pub extern "C" fn main(_: u64) -> ! {
    poke(at(SHARED), 1 << 8);
    let mut frames = [0u64];
    let list = Vaddr(frames.as_mut_ptr() as u64);
    let mut setup = SetupTable { dom: DomId::SELF, nr_frames: 1, frame_list: list, ..SetupTable::default() };
    check(1, grant(GrantOp::SETUP_TABLE, &mut setup) == 0 && setup.status.0 == 0);
    let [table] = core::hint::black_box(frames);
    check(2, update_va(at(GRANTS), Pte::new(Mfn(table), MAP), 2) == 0);
    let entry = |gref: u32, page: u64, flags: u16| {
        let frame = get(word::PLAY + page);
        poke(at(GRANTS) + 8 * u64::from(gref), u64::from(flags) | frame << 32);
    };
    entry(GREF, 0, GrantEntryV1::GTF_PERMIT_ACCESS);
    entry(GREF_READ, 1, GrantEntryV1::GTF_PERMIT_ACCESS | GrantEntryV1::GTF_READONLY);
    let mut parent = AllocUnbound { dom: DomId::SELF, remote_dom: DomId(0), port: Port(0) };
    check(3, evtchn(EvtchnOp::ALLOC_UNBOUND, &mut parent) == 0);
    let mut own = BindIpi { vcpu: VcpuId(0), port: Port(0) };
    check(4, evtchn(EvtchnOp::BIND_IPI, &mut own) == 0);
    set(word::PORT, parent.port.0.into());
    let reservation = || memory(MemoryOp::CURRENT_RESERVATION, &mut MemoryDomain { domid: DomId::SELF });
    let pages = reservation();
    let mut acknowledged = 0;
    let fill = |round: u64, page: u64| {
        (0..512).for_each(|index| poke(at(PLAY + page) + 8 * index, pattern(round, page, index)));
    };
    (2..PAGES as u64).for_each(|page| fill(0, page));
    for round in 1u64.. {
        for page in 2..PAGES as u64 {
            let same = (0..512).all(|index| peek(at(PLAY + page) + 8 * index) == pattern(round - 1, page, index));
            check(5, same);
            fill(round, page);
        }
        // The parent answers in the second word of the page that it maps: never more than was said, never less than before.
        poke(at(PLAY), round);
        let answer = peek(at(PLAY) + 8);
        check(6, answer <= round && answer >= acknowledged);
        acknowledged = answer;
        poke(at(PLAY + 1), pattern(round, 1, 0));
        check(7, peek(at(PLAY + 1)) == pattern(round, 1, 0));
        // An event of its own, and one for the parent.
        let word = at(SHARED) + 2048 + 8 * u64::from(own.port.0 / 64);
        poke(word, peek(word) & !(1 << (own.port.0 % 64)));
        check(8, evtchn(EvtchnOp::SEND, &mut PortArg { port: own.port }) == 0);
        check(9, pending(own.port));
        check(10, evtchn(EvtchnOp::SEND, &mut PortArg { port: parent.port }) == 0);
        check(11, reservation() == pages);
        check(12, call(Hypercall::XEN_VERSION, &[7, 0]) == 4096);
        set(word::ROUNDS, round);
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    loop {
        call(Hypercall::SCHED_OP, &[1, 0]);
    }
}
