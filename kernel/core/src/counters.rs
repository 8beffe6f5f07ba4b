//! What happened, counted: by CPU, for a debug key; and by hypercall, for those who ask which ways a run took.

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::hypercall::Hypercall;

use crate::dispatch::Handler;
use crate::{Args, Caller, Core, HcResult, Lock, Platform, Stop};

/// Things that a CPU counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// Another vCPU than before was put on the CPU.
    Switch,
    /// Another CPU was interrupted to look at its flags.
    Kick,
    /// The timer went off.
    Timer,
}

/// One CPU's counters. Only that CPU adds to them, so no locked instruction is needed; anybody reads.
#[derive(Default)]
pub struct Counters([AtomicU64; 3]);

impl Counters {
    /// One more.
    pub fn add(&self, what: Event) {
        let slot = &self.0[what as usize];
        slot.store(slot.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// How often it has happened here.
    pub fn get(&self, what: Event) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }
}

/// Hypercalls by number, operation and outcome: counted where the core's option `tally` asks for it.
pub type Tally<P> = Option<Lock<P, BTreeMap<(u32, u32, i64), u64>>>;

/// Outcome, other than 0 for success and an error's code: to be made again.
const CONTINUED: i64 = 1;
/// Outcome of a grant operation that failed: this, and its status, which is negative.
const STATUS: i64 = -1000;
/// Operations that are not told apart: above all numbers, and arrays of another length than 1.
const OTHER: u32 = 255;
/// Calls whose first argument is the operation, but for those that the code below names.
const WITH_OPERATION: u64 = 1 << 17 | 1 << 18 | 1 << 24 | 1 << 25 | 1 << 28 | 1 << 29 | 1 << 30 | 3 << 32;

/// The operation that a call asks for, 0 where it has none; and where the status will be of a grant operation.
fn operation<P: Platform>(c: &Caller<'_, P>, number: u32, a: &Args) -> (u32, Option<u64>) {
    let [first, second, third, ..] = a.0;
    let read = || c.get(first).unwrap_or(OTHER);
    let op = match Hypercall(number) {
        Hypercall::MMU_UPDATE | Hypercall::MMUEXT_OP if second as u32 != 1 => OTHER,
        Hypercall::MMU_UPDATE => read() & 3,
        Hypercall::MMUEXT_OP | Hypercall::SYSCTL | Hypercall::DOMCTL => read(),
        Hypercall::MEMORY_OP => first as u32 & 0x3f,
        Hypercall::VM_ASSIST => second as u32,
        Hypercall::GRANT_TABLE_OP => {
            let at = [18, 20, 8, 2, 16, 36, 12, 20].get(first as u32 as usize).filter(|_| third as u32 == 1);
            return ((first as u32).min(OTHER), at.map(|at| second.wrapping_add(*at)));
        }
        _ => first as u32 * (WITH_OPERATION >> number & 1) as u32,
    };
    (op.min(OTHER), None)
}

/// Makes a hypercall, and counts how it went.
#[cold]
pub fn tallied<P: Platform>(c: &mut Caller<'_, P>, number: u32, a: &mut Args, handler: Handler<P>) -> HcResult {
    let (op, status) = operation(c, number, a);
    let result = handler(c, a);
    let status = status.map_or(0, |at| c.get::<i16>(at).unwrap_or(0)).min(0);
    let outcome = match result {
        Ok(_) if status != 0 => STATUS + i64::from(status),
        Ok(value) => value.clamp(-999, 0),
        Err(Stop::Error(errno)) => errno.code(),
        Err(Stop::Preempted) => CONTINUED,
        Err(Stop::Replaced) => 0,
    };
    c.core.tally.iter().for_each(|tally| *tally.lock().entry((number, op, outcome)).or_default() += 1);
    result
}

impl<P: Platform> Core<P> {
    /// One line for each hypercall, operation and outcome, and how often.
    pub fn dump_tally(&self) {
        for ((number, op, outcome), count) in self.tally.iter().flat_map(|tally| tally.lock().clone()) {
            self.log(format_args!("tally: {number} {op} {outcome} {count}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_own_place() {
        let c = Counters::default();
        [Event::Switch, Event::Timer, Event::Timer].iter().for_each(|event| c.add(*event));
        assert_eq!([Event::Switch, Event::Kick, Event::Timer].map(|event| c.get(event)), [1, 0, 2]);
    }
}
