//! What operations cost, in TSC ticks: instructions, under icount. `BENCH name row value` a line, the median of many.
//!
//! Each measurement is marked (`probe::mark`), so that a plugin of QEMU can say what a row is made of.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

mod clock;
mod events;
mod grants;
mod tables;
mod traps;

use clock::Clock;
use conformance_guests::abi::hypercall::Hypercall as H;
use conformance_guests::abi::multicall::MulticallEntry;
use conformance_guests::abi::{Errno, Vaddr};
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::{Test, guest};

guest!(run);

fn run(t: &mut Test) {
    let mut clock = Clock::new();
    hypercalls(t, &mut clock);
    tables::measure(t, &mut clock);
    grants::measure(t, &mut clock);
    events::measure(t, &mut clock);
    // Last: it leaves handlers behind that only it can use.
    traps::measure(t, &mut clock);
    probe::mark(probe::DONE);
}

fn hypercalls(t: &mut Test, clock: &mut Clock) {
    // Once more without the clock, for what it returns: both sides must have done the same.
    let mut timed = |name, number, args: &[u64], returns| {
        clock.median(name, || {
            call(number, args);
        });
        t.returns(name, call(number, args), returns);
    };
    timed("null_hypercall", H::XEN_VERSION, &[0, 0], 4 << 16 | 17);
    timed("hypercall_unknown", H(60), &[], Errno::ENOSYS.code());
    let mut hc = |name, number, args: &[u64]| timed(name, number, args, 0);
    hc("stack_switch", H::STACK_SWITCH, &[0xe02b, probe::user_stack_top()]);
    hc("set_segment_base", H::SET_SEGMENT_BASE, &[0, 0]);
    hc("fpu_taskswitch", H::FPU_TASKSWITCH, &[0]);
    hc("set_timer_off", H::SET_TIMER_OP, &[0]);
    hc("set_timer_far", H::SET_TIMER_OP, &[1 << 50]);
    hc("set_timer_off_again", H::SET_TIMER_OP, &[0]);
    hc("yield", H::SCHED_OP, &[0, 0]);
    let entry = MulticallEntry { op: H::XEN_VERSION.0.into(), ..MulticallEntry::default() };
    let mut batch = [entry; 32];
    let at = batch.as_mut_ptr() as u64;
    let mut row = clock.row("multicall_per_entry");
    row.repeat(|| {
        call(H::MULTICALL, &[at, 32]);
    });
    row.each_of(32);
    let done = core::hint::black_box(batch).iter().filter(|entry| entry.result == 4 << 16 | 17).count();
    t.eq("each of 32", done, 32);
}

/// Machine address of the entry that maps an address.
fn slot(va: u64) -> u64 {
    probe::pte_slot(Vaddr(va), 1).map_or(0, |(at, _)| at.0)
}
