//! The machine's clocks against a reference that nothing here was calibrated with: the HPET, whose rate the hardware
//! states. Over ten seconds system time (the TSC) keeps pace with it to 0.1 %, and a timer (the APIC's) set ten seconds
//! ahead is not late by more. For Ferrule only: Xen keeps the HPET to itself.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::{BindVirq, EvtchnOp};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::{Mfn, Port, Pte, PteFlags, VcpuId, Virq};
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe::{self, call, peek, poke};
use conformance_guests::ops::{MAP, evtchn, system_time, update_va};
use conformance_guests::{Test, guest};

guest!(run);

/// Where every PC has it.
const HPET: Mfn = Mfn(0xfed00);
/// Its registers: capabilities (period in femtoseconds in the upper half), configuration, main counter.
const CAPABILITIES: u64 = 0;
const CONFIGURATION: u64 = 0x10;
const COUNTER: u64 = 0xf0;
const SECOND: u64 = 1_000_000_000;
/// How long is measured.
const SPAN: u64 = 10 * SECOND;
/// 0.1 % of that.
const MARGIN: u64 = SPAN / 1000;

fn now() -> u64 {
    system_time(probe::vcpu_info())
}

fn run(t: &mut Test) {
    call(Hypercall::VCPU_OP, &[7, 0, 0]);
    let at = probe::spare_va();
    t.ok("map the HPET", update_va(at, Pte::new(HPET, MAP | PteFlags::PCD | PteFlags::PWT), 2));
    let period = peek(at + CAPABILITIES) >> 32;
    t.yes("a period", (1..=100_000_000).contains(&period));
    poke(at + CONFIGURATION, peek(at + CONFIGURATION) | 1);
    let reference = || (u128::from(peek(at + COUNTER)) * u128::from(period) / 1_000_000) as u64;
    let mut timer = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind timer", evtchn(EvtchnOp::BIND_VIRQ, &mut timer));
    probe::mask_events(true);

    let (start, began) = (now(), reference());
    t.ok("set_timer_op", call(Hypercall::SET_TIMER_OP, &[start + SPAN]));
    t.ok("block", call(Hypercall::SCHED_OP, &[1, 0]));
    let (system, real) = (now() - start, reference() - began);
    println!("rates: {system} ns of system time, {real} ns by the HPET");
    t.yes("the timer was not early", system >= SPAN);
    t.yes("the timer was not late by 0.1 %", system - SPAN.min(system) <= MARGIN);
    t.yes("system time keeps pace to 0.1 %", system.abs_diff(real) <= MARGIN);
}
